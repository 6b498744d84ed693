"""How a mismatch is shown."""

from decoding_evals.mismatch.tables import tables
from decoding_evals.showing.view import table_view

VIEW = table_view("mismatch", "k3_nats effective_sample_share cause", tables)
VIEWS = (VIEW,)
