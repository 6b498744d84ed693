"""How a mismatch is shown."""

from typing import Any

from decoding_evals.mismatch.tables import tables
from decoding_evals.showing.view import table_view


def _verdict(record: dict[str, Any]) -> str:
    """In a sentence, whether the engine and the model agree, and what δ is."""
    agree = "agree" if record["agrees"] else "do not agree"
    return (
        f"The engine's log-probabilities and the model's {agree}; "
        "δ = log engine - log model, of each token."
    )


VIEW = table_view("mismatch", "k3_nats effective_sample_share cause", tables, about=_verdict)
VIEWS = (VIEW,)
