"""How well the estimators of uncertainty tell correct answers from wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decoding_evals.judging.selective import evaluate_estimators
from decoding_evals.showing.result import Result
from decoding_evals.showing.terminal import counted, number
from decoding_evals.uncertainty.figure import plot_risk_coverage
from decoding_evals.uncertainty.tables import evaluation_tables


def evaluate(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `evaluate_estimators` makes of records of `PromptUncertainty`."""
    names = dict.fromkeys(name for record in records for name in record["estimators"])
    return evaluate_estimators(
        {name: [record["estimators"].get(name) for record in records] for name in names},
        [record["correct"] for record in records],
        [record["quality"] for record in records],
    )


@dataclass(frozen=True)
class EstimatorEvaluation(Result):
    """How well each estimator tells correct answers of a model from wrong ones."""

    _tables = staticmethod(evaluation_tables)
    _picture = staticmethod(plot_risk_coverage)

    model: str
    settings: str
    correct_by: str
    evaluation: dict[str, Any]
    """As `evaluate` returns it."""

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        prompts = counted(self.evaluation["prompts"], "prompt")
        accuracy = f"accuracy {number(self.evaluation['accuracy'])}"
        estimators = counted(len(self.evaluation["estimators"]), "estimator")
        return repr(self.model), estimators, prompts, accuracy

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; what is undefined is None."""
        return dict(vars(self))

    def rows(self) -> list[dict[str, Any]]:
        """One row per estimator."""
        return [
            {"estimator": name}
            | {key: value for key, value in entry.items() if key != "risk_coverage"}
            for name, entry in self.evaluation["estimators"].items()
        ]
