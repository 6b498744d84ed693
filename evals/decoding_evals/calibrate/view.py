"""How a fitted temperature is shown."""

from pathlib import Path

from decoding_evals.calibrate.tables import tables
from decoding_evals.showing.view import table_view

VIEW = table_view(
    "calibrate", "map_temperature reliability_after", tables,
    script=Path(__file__).with_name("view.js"),
)  # fmt: skip
VIEWS = (VIEW,)
