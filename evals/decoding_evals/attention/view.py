"""How the heads of a text are shown."""

from decoding_evals.attention.tables import tables
from decoding_evals.showing.view import table_view

VIEW = table_view("attention", "layers heads collapsed_heads", tables)
VIEWS = (VIEW,)
