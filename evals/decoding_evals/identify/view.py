"""How who wrote a text is shown."""

from decoding_evals.identify.tables import tables
from decoding_evals.showing.view import table_view

VIEW = table_view("identify", "posterior log_likelihood_nats", tables)
VIEWS = (VIEW,)
