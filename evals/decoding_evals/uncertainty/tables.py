"""What is known about answers, in lines and tables."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from rich.table import Table

from decoding_evals.showing.lines import quoted
from decoding_evals.showing.terminal import Shown, counted, number, titled
from decoding_evals.uncertainty.estimators.probabilities import OF_BOTH, OF_MODEL

PARTS = {
    "phrasing": "phrasings",
    "members": "ensemble members",
    "dropout": "dropout passes",
}


def prompt_lines(record: dict[str, Any]) -> Iterator[Shown]:
    """What is known about one prompt."""
    prompt = record["prompt"]
    if prompt is None:
        prompt = f"(prompt {record['index'] + 1}, which no row says)"
    elif record["context"] is not None:
        prompt = "…\n" + prompt
    table = titled(prompt, "", "", show_header=False)
    table.columns[0].no_wrap, table.columns[0].style = True, "dim"
    for label, text in _lines(record):
        table.add_row("  " + label, text)
    yield table
    yield ""


def _lines(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if record["greedy"] is not None:
        yield from _greedy(record)
    yield from _samples(record)
    for name, part in record["epistemic"].items():
        first, rest = part["next_token"], part["continuation"]
        yield (
            name,
            f"{part['members']} {PARTS[name]} disagree about "
            f"{first['mutual_information_nats']:.3f} of {first['total_nats']:.3f} nats at the next "
            f"token, {rest['mean_mutual_information_nats']:.3f} a token along the answer",
        )
    gain = record["context_gain"]
    if gain is not None:
        before, after = number(gain["log_prob_nats"]), number(gain["context_log_prob_nats"])
        yield (
            "context",
            f"{_share(gain['gain_nats'], '+.3f')} nats for {quoted(gain['answer'], 40)}: "
            f"log p {before} without it, {after} with it",
        )
    if record["correct"] is not None:
        verdict = "yes" if record["correct"] else "no"
        of = "" if record["greedy"] is not None else ", of the most common"
        yield "correct", f"{verdict} (quality {record['quality']:.2f}){of}"
    if record["abstained"] is not None:
        yield "abstained", "yes: this answer is too uncertain" if record["abstained"] else "no"


def _greedy(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The greedy answer, and how it may begin."""
    estimators = record["estimators"]
    yield "greedy", quoted(record["greedy"]) if record["greedy"] else "(empty)"
    yield (
        "",
        f"-log p {number(estimators['MaximumSequenceProbability'])} nats, "
        f"{number(estimators['Perplexity'])} a token; H(p) "
        f"{number(estimators['MeanTokenEntropy'])} a token, "
        f"at most {number(estimators['MaxTokenEntropy'])}",
    )
    entropy = record["next_token_entropy_nats"]
    yield "next token", f"H(p) {entropy:.3f} nats ({math.exp(entropy):.1f} choices)"
    candidates = record["next_token_candidates"]
    yield "", " · ".join(f"{quoted(t['text'], 16)} {t['probability']:.3f}" for t in candidates)


def _samples(record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """How much samples agree, and the entropy of the whole answer: the better estimate first."""
    estimators, errors = record["estimators"], record["standard_errors"]
    count = len(record["samples"])
    common = record["most_common_answer"]
    similarity = estimators["LexicalSimilarity_rougeL"]
    distinct, drawn = estimators["NumberOfDistinctAnswers"], record["settings"] or "not known"
    if distinct is None:
        yield "samples", f"drawn from q, {drawn}: one, {quoted(common['text'])}"
    else:
        yield (
            "samples",
            f"drawn from q, {drawn}: {int(distinct)} of {count} differ by "
            f"{record['clustering']}; similarity "
            f"{number(None if similarity is None else -similarity)}",
        )
        yield "", f"most common {common['share']:.2f} {quoted(common['text'])}"
    names = {
        "RaoBlackwellSequenceEntropy": "from exact entropies",
        "MonteCarloSequenceEntropy": "from surprisals",
    }
    better, cut = record["better_sequence_entropy"], record["samples_cut_off"]
    known = [name for name in names if estimators[name] is not None]
    for place, name in enumerate(sorted(known, key=lambda name: name != better)):
        figure = f"H(q) {number(estimators[name])} ± {number(errors[name])} nats {names[name]}"
        if name == better and len(known) > 1:
            figure += f" (the smaller error{'' if cut else ': read this one'})"
        yield "" if place else "entropy", figure
    if cut:
        verb = "was" if cut == 1 else "were"
        of = "all figures of answers are of their beginnings" if record["of_beginnings"] else (
            "it is the entropy up to there"
        )  # fmt: skip
        yield "", f"{cut} of {count} {'sample' if count == 1 else 'samples'} {verb} cut off: {of}"


UNITS = {
    "LexicalSimilarity_rougeL": "-1 to 0", "Margin": "-1 to 0", "LabelProb": "0 to 1",
    "DegMat": "0 to 1", "NumberOfDistinctAnswers": "answers", "EigValLaplacian": "answers",
    "Eccentricity": "distance",
}  # fmt: skip
"""Of the estimators that are not in nats."""


def estimator_table(record: dict[str, Any]) -> Table:
    """One line per estimator, with its unit and its standard error."""
    title = "Estimators: a larger value is less sure"
    table = titled(title, "estimator", ">value", ">standard\nerror", "unit", "of")
    for name, value in record["estimators"].items():
        error = record["standard_errors"].get(name)
        figures = ("-" if one is None else f"{one:.4f}" for one in (value, error))
        table.add_row(name, *figures, UNITS.get(name, "nats"), _drawn_from(name))
    drawn = record["settings"] or "not known"
    table.caption = f"p is the model's own distribution, q that of the samples: {drawn}"
    return table


def evaluation_tables(summary: dict[str, Any]) -> Iterator[Shown]:
    """One line per estimator, the best first; and notes."""
    evaluation = summary["evaluation"]
    accuracy, judged = evaluation["accuracy"], evaluation["judged"]
    name = summary["model"] or "stored answers"
    title = f"{name} · {counted(evaluation['prompts'], 'prompt')} judged"
    if evaluation["prompts_left_out"]:
        title += f", {evaluation['prompts_left_out']:,} not"
    title += f" · {accuracy:.3f} of the {judged} answers correct by {summary['correct_by']}"
    heads = ("of", ">AUROC", ">95 %", ">PRR", ">95 %", ">AURC", ">un-\ndefined")
    table = titled(title, "estimator", *heads)
    found = sorted(
        evaluation["estimators"].items(),
        key=lambda item: -1 if item[1]["auroc"] is None else -item[1]["auroc"],
    )
    nowhere = [name for name, entry in found if not entry["prompts"]]
    for name, entry in found:
        if name in nowhere:
            continue
        keys = ("auroc", "auroc_interval", "prr", "prr_interval", "aurc")
        figures = (_share(entry[key]) for key in keys)
        undefined = str(entry["prompts_undefined"])
        table.add_row(name, _drawn_from(name), *figures, undefined)
    yield table
    drawn = summary["settings"] or "not known"
    if nowhere:
        yield f"not known of any prompt: {', '.join(nowhere)}"
    yield f"p is the model's own distribution, q that of the samples: {drawn}"
    known = (entry["note"] for _, entry in found if entry["prompts"])
    yield from dict.fromkeys(filter(None, known))
    samples, cut = evaluation["samples"], evaluation["samples_cut_off"]
    if cut:
        most = ": estimators of whole answers are of their beginnings" if 2 * cut > samples else ""
        yield f"{cut:,} of {counted(samples, 'sample')} cut off at the token limit{most}"
    if len(evaluation["votes"]) > 1:
        yield from _votes(evaluation["votes"])
    if "abstention" in evaluation:
        yield ""
        yield from abstention_lines(evaluation["abstention"])


def _votes(votes: dict[str, dict[str, Any]]) -> Iterator[Shown]:
    """How often each way to choose an answer is right."""
    yield ""
    heads = (">prompts", ">accuracy", ">95 %", ">from greedy", ">95 %")
    table = titled("Which answer to give: votes by what a sample's weighs", "chosen by", *heads)
    for name, entry in votes.items():
        figures = (_share(entry[key]) for key in ("accuracy", "accuracy_interval"))
        from_greedy = (_share(entry[key], "+.3f") for key in ("difference", "difference_interval"))
        table.add_row(name, str(entry["prompts"]), *figures, *from_greedy)
    yield table


def abstention_lines(found: dict[str, Any]) -> Iterator[str]:
    """What a threshold promises."""
    promise = f"wrong at most {found['risk']:.1%} of the time, with {found['confidence']:.1%}"
    if found["threshold"] is None:
        yield f"no threshold of {found['estimator']} keeps answers {promise} confidence"
        return
    yield (
        f"answers with {found['estimator']} < {found['threshold']:.6g} are {promise} confidence: "
        f"{found['kept']:,} of {found['prompts']:,} kept ({found['coverage']:.1%}), "
        f"{found['wrong']:,} wrong, at most {found['bound']:.1%}"
    )


def _drawn_from(estimator: str) -> str:
    """Which distribution an estimator looks at."""
    if estimator in OF_BOTH:
        return "p, q"
    return "p" if estimator in OF_MODEL or estimator.startswith("MutualInformation_") else "q"


def _share(value: float | list[float] | None, form: str = ".3f") -> str:
    """A share, or an interval of shares."""
    if isinstance(value, list):
        return " to ".join(format(end, form) for end in value)
    return "-" if value is None else format(value, form)
