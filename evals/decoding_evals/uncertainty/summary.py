"""How well the estimators of uncertainty tell correct answers from wrong ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from decoding_evals.judging.selective import evaluate_estimators
from decoding_evals.showing.result import Result
from decoding_evals.showing.terminal import counted, number
from decoding_evals.uncertainty.figure import plot_risk_coverage
from decoding_evals.uncertainty.view import EVALUATION
from decoding_evals.uncertainty.votes import GREEDY, evaluate_votes


def evaluate(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What `evaluate_estimators` makes of records of `PromptUncertainty`, and `evaluate_votes`.

    Returns:
        The keys of `evaluate_estimators`; `judged`, which answers were: `greedy` or, of stored
        answers, `most common`; `votes`; `samples`, and how many of them hit the token limit,
        `samples_cut_off`.
    """
    names = dict.fromkeys(name for record in records for name in record["estimators"])
    correct = [record["correct"] for record in records]
    stored = any(record["greedy"] is None for record in records)
    chosen: dict[str, Sequence[bool | None]] = {} if stored else {GREEDY: correct}
    for name in dict.fromkeys(name for record in records for name in record["votes"]):
        chosen[name] = [record["votes"].get(name, {}).get("correct") for record in records]
    return {
        **evaluate_estimators(
            {name: [record["estimators"].get(name) for record in records] for name in names},
            correct,
            [record["quality"] for record in records],
        ),
        "judged": "most common" if stored else "greedy",
        "votes": evaluate_votes(chosen),
        "samples": sum(len(record["samples"]) for record in records),
        "samples_cut_off": sum(record["samples_cut_off"] for record in records),
    }


@dataclass(frozen=True)
class EstimatorEvaluation(Result):
    """How well each estimator tells correct answers of a model from wrong ones."""

    view = EVALUATION
    _picture = staticmethod(plot_risk_coverage)

    model: str | None
    settings: str | None
    correct_by: str
    evaluation: dict[str, Any]
    """As `evaluate` returns it; where a risk was asked for, with `abstention`."""

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
