"""How the checks of a set-up are shown."""

from decoding_evals.doctor.tables import tables
from decoding_evals.showing.view import table_view

VIEW = table_view("doctor", "passed checks", tables)
VIEWS = (VIEW,)
