"""How a perplexity is shown."""

from decoding_evals.perplexity.tables import result_tables
from decoding_evals.showing.view import table_view

VIEW = table_view("perplexity", "perplexity headline protocol", result_tables)
VIEWS = (VIEW,)
