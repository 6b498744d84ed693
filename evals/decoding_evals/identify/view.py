"""How who wrote a text is shown."""

from pathlib import Path

from decoding_evals.identify.tables import tables, verdict
from decoding_evals.showing.view import table_view

VIEW = table_view(
    "identify", "posterior log_likelihood_nats", tables,
    script=Path(__file__).with_name("view.js"), about=lambda record: f"Verdict: {verdict(record)}.",
)  # fmt: skip
VIEWS = (VIEW,)
