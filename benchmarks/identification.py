"""Identification: is the setting that wrote a text found, and are the posteriors calibrated?

Texts of a fixed number of tokens from each of eight settings are scored by their token ids. Two
sets of settings: one whose members differ, on the embedded model, by a mean total variation of 0.1
and more, and one of near neighbours, whose posteriors are rarely near 0 or 1.
"""

import copy
import itertools
from collections import Counter
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from results import write_section
from scipy.stats import rankdata

from decoding import DecodingSettings, generate, load_model
from decoding.inference.posterior import running_log_posterior
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import TokenDocument
from decoding.texts.prompts import encode_prompt
from decoding_evals.compare.evaluation import compare
from decoding_evals.identify.evaluation import Identification, identify
from decoding_evals.shell.options import USUAL

SHARED = Path(__file__).resolve().parents[2] / "shared"
APART = (
    "raw", "temperature=0.6", "temperature=1.4", "top_p=0.8", "top_k=5", "min_p=0.2",
    "temperature=1.4,top_p=0.85", "temperature=1.3,top_k=10",
)  # fmt: skip
NEAR = (
    "raw", "temperature=0.8", "temperature=0.9", "temperature=1.1", "top_p=0.95", "top_k=50",
    "min_p=0.02", "temperature=0.9,top_p=0.95",
)  # fmt: skip
BINS = 10


def parsed(specs: tuple[str, ...]) -> list[DecodingSettings]:
    return [DecodingSettings.parse(spec) for spec in specs]


def endless(language_model: LanguageModel) -> LanguageModel:
    """A twin that goes on after EOS, so that every text has the same number of tokens.

    Dropping the short ones would favour settings that write long texts.
    """
    model, tokenizer = copy.copy(language_model.model), copy.copy(language_model.tokenizer)
    model.generation_config = copy.deepcopy(model.generation_config)
    model.generation_config.eos_token_id = tokenizer.eos_token = None
    return LanguageModel(model, tokenizer, language_model.name)


def sampled(
    language_model: LanguageModel, setting: DecodingSettings, texts: int, tokens: int, seed: int
) -> list[TokenDocument]:
    twin = endless(language_model)
    context = encode_prompt(language_model.tokenizer, "")
    generations = generate(
        twin, "", setting, max_new_tokens=tokens,
        num_return_sequences=texts, seed=seed, batch_size=25,
    )  # fmt: skip
    return [TokenDocument(g.trace.ids.tolist(), context) for g in generations]


def calibration_error(stated: NDArray[np.float64], outcome: NDArray[np.bool_]) -> float:
    """Mean of |mean statement - share of outcomes| over bins of about equal numbers.

    Equal statements share a bin: texts come setting by setting, and many short ones are the same
    text, so that to cut between them would sort them by their outcomes.
    """
    bins = (BINS * rankdata(stated) / (len(stated) + 1)).astype(np.int64)
    gaps = np.bincount(bins, stated - outcome)
    return float(np.abs(gaps).sum() / len(stated))


def calibration_errors(
    posterior: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[float, float]:
    """Of all that is stated, and of what is stated of the best candidate."""
    outcome = truth[:, None] == np.arange(posterior.shape[1])
    right = posterior.argmax(1) == truth
    return (
        calibration_error(posterior.ravel(), outcome.ravel()),
        calibration_error(posterior.max(1), right),
    )


def experiment(
    language_model: LanguageModel, specs: tuple[str, ...], texts: int, lengths: tuple[int, ...]
) -> tuple[list[str], str]:
    """Table rows, and a line about the settings and the surprisal of the texts."""
    settings = parsed(specs)
    # With one seed, the texts of all settings would come from the same uniforms.
    documents = [
        document
        for seed, setting in enumerate(settings)
        for document in sampled(language_model, setting, texts, max(lengths), seed)
    ]
    truth = np.repeat(np.arange(len(settings)), texts)
    results = list(identify(language_model, documents, settings))
    rows = []
    rng = np.random.default_rng(0)
    for length in lengths:
        posterior = np.array(
            [np.exp(running_log_posterior(r.log_q_nats[:length])[-1]) for r in results]
        )
        best, top = posterior.argmax(1), posterior.max(1)
        errors = calibration_errors(posterior, truth)
        # What is left where the truth is drawn from the posteriors themselves.
        ends = posterior.cumsum(1) / posterior.sum(1, keepdims=True)
        redrawn = [(rng.random((len(top), 1)) > ends).sum(1) for _ in range(200)]
        noise = np.mean([calibration_errors(posterior, drawn) for drawn in redrawn], axis=0)
        named = top >= 10 / 11  # odds of 10
        wrong = named & (best != truth)
        rows.append(
            f"{length} | {(best == truth).mean():.1%} | {errors[0]:.3f} ({noise[0]:.3f}) | "
            f"{errors[1]:.3f} ({noise[1]:.3f}) | {top.mean():.3f} | {named.mean():.1%} | "
            f"{wrong.sum()} of {named.sum()}"
        )
    text = language_model.tokenizer.decode
    sample = [text(d.ids, skip_special_tokens=True) for d in documents[:: max(1, texts // 5)]]
    variation = compare(language_model, sample, settings).total_variation.mean
    pairs = list(itertools.combinations(range(len(settings)), 2))
    least = min(pairs, key=lambda pair: variation[pair])
    z = np.array([r.candidates[k].z for r, k in zip(results, truth, strict=True)])
    note = (
        f"least mean total variation {variation[least]:.3f} "
        f"({specs[least[0]]} and {specs[least[1]]}); z of the true setting: mean "
        f"{np.nanmean(z):+.2f}, standard deviation {np.nanstd(z):.2f}, largest "
        f"{np.nanmax(np.abs(z)):.2f}; "
        f"true settings ruled out by one of {truth.size * max(lengths):,} tokens: "
        f"{np.isnan(z).sum()}"
    )
    return rows, note


def outcomes(results: list[Identification]) -> str:
    counts = Counter(
        "none: unexplained" if not r.candidates[r.ranking()[0]].explains
        else "none: odds are or may be below 10" if r.verdict()[0] is None
        else str(r.candidates[r.ranking()[0]].setting)
        for r in results
    )  # fmt: skip
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())


def foreign(language_model: LanguageModel) -> list[str]:
    """Table rows of what is said of texts that none of the settings wrote."""
    stories = (SHARED / "data/tinystories/stories.txt").read_text().split("<|endoftext|>")
    wiki = (SHARED / "data/wikitext2/wiki.test.raw").read_text()
    texts = {
        "TinyStories, the last 100": [story.strip("\n") for story in stories if story.strip()][
            -100:
        ],
        "WikiText-2, 50 × 800 characters": [wiki[i * 800 : (i + 1) * 800] for i in range(50)],
    }
    sets = {"the default ones": USUAL, "the eight apart": APART}
    rows = []
    for (name, documents), (label, specs) in itertools.product(texts.items(), sets.items()):
        results = list(identify(language_model, documents, parsed(specs)))
        z = np.median([r.candidates[r.ranking()[0]].z for r in results])
        rows.append(f"| {name} | {label} | {z:+.1f} | {outcomes(results)} |")
    return rows


@click.command()
@click.option("--texts", default=25, show_default=True, help="Texts of each setting.")
@click.option("--near-texts", default=100, show_default=True, help="Of each near neighbour.")
def main(texts: int, near_texts: int) -> None:
    """Run the experiments and write the tables into RESULTS.md."""
    torch.set_num_threads(1)
    models = [load_model(), load_model(str(SHARED / "models/stories260K"))]
    models[1] = LanguageModel(models[1].model, models[1].tokenizer, "stories260K")
    runs = (("apart", APART, texts, (20, 50, 200)), ("near", NEAR, near_texts, (20, 50)))
    table, notes = [], []
    for language_model in models:
        for label, specs, count, lengths in runs:
            rows, note = experiment(language_model, specs, count, lengths)
            number = count * len(specs)
            table += [f"| {language_model.name} | {label} | {number} | {row} |" for row in rows]
            notes.append(f"- {language_model.name}, {label}: {note}.")
            click.echo("\n".join([*table[-len(rows) :], notes[-1]]), err=True)
    others = foreign(models[0])
    body = (
        "Eight settings, all alike a priori; texts of up to 200 tokens after BOS, which go on "
        "after EOS, scored by their token ids, also by their first tokens alone. Named: odds of 10 "
        f"or more. ECE: expected calibration error in {BINS} bins of about equal numbers, of what "
        "is stated of every candidate and of what is stated of the best one; in parentheses what "
        "so many texts leave of it where the statements are exact.\n\n"
        f"Apart: {'; '.join(APART)}. Near: {'; '.join(NEAR)}.\n\n"
        "| model | settings | texts | tokens | true one is best | ECE, all | ECE, best | "
        "mean posterior of the best | named | wrongly |\n"
        "|---|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(table)
        + "\n\n"
        + "\n".join(notes)
        + f"\n\nTexts that none of the settings of {models[0].name} wrote:\n\n"
        "| texts | candidates | median z of the best | named |\n|---|---|---|---|\n"
        + "\n".join(others)
        + "\n\nA model writes like its training texts: where raw is named for a held-out story, "
        "the story is as surprising as the model's own. And a high temperature expects to be "
        "surprised: with one among the candidates, it explains texts of another kind."
    )
    write_section("Identifying settings", "python benchmarks/identification.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
