"""How comparisons are shown."""

from pathlib import Path

from decoding_evals.compare.tables import model_tables, setting_tables
from decoding_evals.showing.view import table_view

SETTINGS = table_view(
    "compare", "settings kl_nats total_variation", setting_tables,
    script=Path(__file__).with_name("view.js"),
)  # fmt: skip
MODELS = table_view(
    "compare-models", "models kl_nats binoculars", model_tables,
    script=Path(__file__).with_name("models.js"),
)  # fmt: skip
VIEWS = (SETTINGS, MODELS)
