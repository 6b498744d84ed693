"""How a fitted temperature is shown."""

from pathlib import Path
from typing import Any

from decoding_evals.calibrate.tables import tables
from decoding_evals.showing.terminal import number
from decoding_evals.showing.view import table_view


def verdict(record: dict[str, Any]) -> str:
    """In a sentence, whether the model is too sure of the texts, by the interval of the fit."""
    fitted = f"The temperature {number(record['temperature'])} fits the texts best"
    low, high = record["confidence_interval"] or (None, None)
    if low is None or high is None:
        return f"{fitted}."
    if low > 1:
        sure = "above 1: as it is, the model is too sure of itself"
    elif high < 1:
        sure = "below 1: as it is, the model is less sure than it could be"
    else:
        sure = "not clearly other than 1: the model is about as sure as it should be"
    return f"{fitted} (95 %: {number(low)} to {number(high)}), {sure}."


VIEW = table_view(
    "calibrate", "map_temperature reliability_after", tables,
    script=Path(__file__).with_name("view.js"), about=verdict,
)  # fmt: skip
VIEWS = (VIEW,)
