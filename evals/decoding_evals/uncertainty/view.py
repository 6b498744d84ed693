"""How what is known about answers is shown."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from decoding.showing.texts import page_text
from decoding_evals.showing.html import plain
from decoding_evals.showing.view import RecordView
from decoding_evals.uncertainty.tables import (
    abstention_lines,
    estimator_table,
    evaluation_tables,
    prompt_lines,
)

SCRIPT = Path(__file__).with_name("view.js")


def _prompt(record: dict[str, Any]) -> dict[str, Any]:
    asked = record["prompt"]
    asked = f"prompt {record['index'] + 1}" if asked is None else asked
    about = f"{record['model'] or 'A model that no row says'}: {len(record['samples']):,} samples "
    about += f"under {record['settings'] or 'a setting that no row says'}"
    about += "." if record["seed"] is None else f", seed {record['seed']}."
    data = {
        "prompt": record["prompt"],
        "context": record["context"],
        "greedy": record["greedy"],
        "facts": facts(record),
        "clusters": clusters(record),
        "clustering": record["clustering"],
        "estimators": plain([estimator_table(record)]),
    }
    return {
        "title": f"{record['index'] + 1}: {asked[:60]}", "about": about, "data": data,
        "texts": _texts(record), "tables": plain(prompt_lines(record)),
    }  # fmt: skip


def clusters(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers by cluster, the largest first; of those that are equal, how many and the first.

    Returns:
        Of each cluster its `share` of the samples, and `answers`: `text`, `count`, and `at`, the
        place of the first among all answers, where the greedy one has the first place.
    """
    labels = record["clusters"]
    before = int(record["greedy"] is not None)
    first: dict[tuple[int, str], int] = {}
    answers = [*zip(labels, record["samples"], strict=True)]
    for at, answer in enumerate(answers, before):
        first.setdefault(answer, at)
    times = Counter(answers).most_common()
    return [
        {
            "share": count / len(labels),
            "answers": [
                {"text": own[1], "count": number, "at": first[own]}
                for own, number in times
                if own[0] == label
            ],
        }
        for label, count in Counter(labels).most_common()
    ]


def facts(record: dict[str, Any]) -> list[list[str]]:
    """What is said of the answer that counts, each as a name, a sign and words."""
    common, compared = record["most_common_answer"], record["compared"]
    said = [["most common", "", f"{_named(common['text'])}: {common['share']:.0%} of the samples"]]
    if record["correct"] is None:
        lacking = "that can be compared" if record["references"] else "is known"
        said.append(["correct", "", f"not judged: no reference {lacking}"])
    else:
        judged = "the greedy answer" if record["greedy"] is not None else "the most common answer"
        words = f"{judged} is {'correct' if record['correct'] else 'wrong'} by {compared['by']}"
        words += f", of quality {record['quality']:.2f}; the nearest reference: "
        said.append(
            ["correct", "✓" if record["correct"] else "✗", words + _named(compared["reference"])]
        )
    if record["abstained"] is not None:
        words = "yes: this answer is too uncertain" if record["abstained"] else "no"
        said.append(["abstained", "⊘" if record["abstained"] else "", words])
    return said


def _named(text: str) -> str:
    return f"“{text}”" if text else "(empty)"


def _texts(record: dict[str, Any]) -> list[dict[str, Any]]:
    """The answers, where their tokens were recorded."""
    before = int(record["greedy"] is not None)
    texts = []
    for at, answer in enumerate(record.get("page") or ()):
        name = "greedy answer" if at < before else f"sample {at - before + 1}"
        said = "".join(token["text"] for token in answer["tokens"])
        count = len(answer["tokens"])
        known = f"{count:,} token{'s' * (count != 1)}"
        if not all("id" in token for token in answer["tokens"]):
            known = "of tokens that no row says"
        about = f"{name.capitalize()}: {known}; it ended by {answer['finish_reason']}."
        texts.append(
            page_text(
                answer["tokens"],
                title=f"{name}: {said.strip()[:60]}",
                about=about,
                before=record["prompt"] or "",
                setting=record["settings"],
                page=answer["page"],
            )
        )
    return texts


def _evaluation(record: dict[str, Any]) -> dict[str, Any]:
    evaluation = record["evaluation"]
    model = record["model"] or "stored answers"
    judged = f"{evaluation['prompts']:,} prompts judged by {record['correct_by']}"
    accuracy = evaluation["accuracy"]
    about = judged if accuracy is None else f"{judged}: {accuracy:.1%} of the answers correct"
    found = evaluation.get("abstention")
    promise = [] if found is None else [*abstention_lines(found)]
    return {
        "title": f"evaluation: {model}", "about": f"{about}.",
        "data": evaluation | {"promise": promise}, "tables": plain(evaluation_tables(record)),
    }  # fmt: skip


PROMPT = RecordView(
    "uncertainty", frozenset({"greedy", "samples", "estimators"}), _prompt, SCRIPT, prompt_lines
)
EVALUATION = RecordView(
    "uncertainty-evaluation", frozenset({"correct_by", "evaluation"}), _evaluation, SCRIPT,
    evaluation_tables,
)  # fmt: skip
VIEWS = (PROMPT, EVALUATION)
