"""Do mutual information and context gain mean what they say?

Mutual information: Shakespeare against held-out stories. Prompts are stretches of 24 tokens after
BOS: two of each of the last 100 stories, its beginning and from a sentence past its first third,
and as many of Shakespeare. What is measured is the next token, the mean along the 24 tokens that
follow in the text, and along 24 tokens of greedy decoding by the first member; by the ensemble, and
by Monte Carlo dropout in its first member. AUROC is the chance that Shakespeare has the higher
value; its interval is from resampling stories and places.

Context gain: the embedded model reads a sentence of a held-out story and is scored on what follows,
with the story's beginning as context, and with another story's.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from results import write_section

from decoding import LanguageModel, load_model
from decoding.inference.intervals import ratio_of_sums
from decoding_evals.uncertainty.estimators.context_gain import ContextRow, context_gain
from decoding_evals.uncertainty.estimators.epistemic import (
    NAMES,
    Member,
    checkpoint_members,
    dropout_members,
    ensemble_uncertainty,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "training"))
from train_stories import HELD_OUT, read_stories

DATA = Path(__file__).resolve().parents[2] / "shared/data"
TOKENS = 24
RESAMPLES = 2000
SENTENCE = re.compile(r"(?<=[.!?\"])\s+(?=\S)")
COMMAND = "python benchmarks/epistemic.py --members FOLDER …"
COLUMNS = {"mutual_information_nats": "MI", "total_nats": "total", "aleatoric_nats": "aleatoric"}

Floats = NDArray[np.float64]


def story_places() -> Iterator[tuple[str, str]]:
    """Of each held-out story, its text from the start, and from a sentence past a third of it."""
    for story in read_stories(DATA / "tinystories/stories.txt")[-HELD_OUT:]:
        sentence = SENTENCE.search(story, len(story) // 3)
        yield story, story[sentence.end() :] if sentence else ""


def shakespeare_places() -> Iterator[tuple[str, str]]:
    """From 100 places of the plays, the text from one speech on, and from the next long one on."""
    text = (DATA / "shakespeare/tinyshakespeare.txt").read_text(encoding="utf-8")
    starts = [match.end() for match in re.finditer(r"\n\n", text)]
    for place in np.linspace(0, len(starts) - 20, HELD_OUT).astype(int):
        yield text[starts[place] :], text[starts[place + 10] :]


def prompts(language_model: LanguageModel, places: Iterator[tuple[str, str]]) -> NDArray[np.int64]:
    """`(places, 2, 1 + 2·TOKENS)` ids: BOS, the prompt, and what follows in the text."""
    tokenizer = language_model.tokenizer
    rows = []
    for pair in places:
        ids = [tokenizer(text[:1000])["input_ids"][: 2 * TOKENS] for text in pair]
        if min(map(len, ids)) == 2 * TOKENS:
            rows.append([[tokenizer.bos_token_id, *each] for each in ids])
    return np.array(rows)


def greedy(language_model: LanguageModel, ids: NDArray[np.int64]) -> list[int]:
    import torch

    model = language_model.model
    output = model.generate(
        torch.tensor(ids[None]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        max_new_tokens=TOKENS,
        do_sample=False,
    )
    return output[0, len(ids) :].tolist()


def measured(
    members: list[Member], ids: NDArray[np.int64], answers: list[list[list[int]]]
) -> dict[str, Floats]:
    """Per quantity `(what, places, 2)`: next token, means along the text and along the answer."""
    values = np.empty((len(NAMES), 3, *ids.shape[:2]))
    for place in np.ndindex(*ids.shape[:2]):
        prompt = ids[place][: 1 + TOKENS].tolist()
        text = ensemble_uncertainty(members, prompt, ids[place][1 + TOKENS :].tolist())
        answer = ensemble_uncertainty(members, prompt, answers[place[0]][place[1]])
        for row, name in enumerate(NAMES):
            column = getattr(text, name)
            values[row, :, *place] = column[0], column.mean(), getattr(answer, name).mean()
    return dict(zip(NAMES, values, strict=True))


def auroc(
    inside: Floats, outside: Floats, generator: np.random.Generator
) -> tuple[float, float, float]:
    """P(outside > inside), ties half, and its 95 % interval; both are `(places, 2)`."""
    above = outside[:, :, None, None] - inside[None, None]
    pairs = (0.5 * (np.sign(above) + 1)).mean(axis=(1, 3))  # (outside places, inside places)
    samples = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(outside), size=len(outside))
        columns = generator.integers(len(inside), size=len(inside))
        samples.append(pairs[rows][:, columns].mean())
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(pairs.mean()), float(low), float(high)


def context_section() -> None:
    """Gains of a story's own beginning and of the beginning of the story before it."""
    places = [pair for pair in story_places() if len(SENTENCE.split(pair[1])) > 2]
    contexts = [whole.removesuffix(rest).rstrip() for whole, rest in places]
    rows = []
    for number, (_, rest) in enumerate(places):
        end = SENTENCE.search(rest).start()
        prompt, answer = rest[:end], rest[end:][:120]
        rows += [ContextRow(prompt, contexts[n], answer) for n in (number, number - 1)]
    found = list(context_gain(load_model(), rows))
    gains = np.array([gain.gain_nats.sum() for gain in found]).reshape(-1, 2)
    tokens = np.array([len(gain.ids) for gain in found[::2]])
    table = []
    for name, column in (("its own story", gains[:, 0]), ("another story", gains[:, 1])):
        error = ratio_of_sums(column, tokens)
        low, high = error.interval()
        share = (column > 0).mean()
        table.append(f"| {name} | {error.mean:+.3f} [{low:+.3f}, {high:+.3f}] | {share:.0%} |")
    body = (
        f"`builtin:stories`, {len(places)} held-out stories: a sentence past the first third as "
        f"prompt, the {tokens.mean():.0f} tokens after it (120 characters) as answer, and as "
        "context the beginning of the story, or of another one. Gains in nats a token, with 95 % "
        "intervals over stories. The own beginning gains more than the other in "
        f"{(gains[:, 0] > gains[:, 1]).mean():.0%} of the stories.\n\n"
        "| context from | gain | stories that gain |\n|---|---|---|\n" + "\n".join(table)
    )
    write_section("Context gain", COMMAND, body)
    click.echo(body)


@click.command()
@click.option("--members", "folders", multiple=True, required=True, help="Checkpoints; repeat.")
@click.option("--mc-dropout", default=8, show_default=True, help="Passes of the first member.")
def main(folders: tuple[str, ...], mc_dropout: int) -> None:
    """Measure both ways on both kinds of text and write the table into RESULTS.md."""
    models = [load_model(folder) for folder in folders]
    inside = prompts(models[0], story_places())
    outside = prompts(models[0], shakespeare_places())
    answers = [
        [[greedy(models[0], ids) for ids in pair] for pair in kind] for kind in (inside, outside)
    ]
    ways = {
        f"{len(models)} checkpoints": checkpoint_members(models),
        f"MC dropout, {mc_dropout} passes": dropout_members(models[0], mc_dropout, seed=1),
    }
    generator = np.random.default_rng(0)
    table = []
    for way, members in ways.items():
        near = measured(members, inside, answers[0])
        far = measured(members, outside, answers[1])
        for row, what in enumerate(("next token", "along the text", "along the greedy answer")):
            cells = []
            for name in COLUMNS:
                value, low, high = auroc(near[name][row], far[name][row], generator)
                cells.append(f"{value:.3f} [{low:.3f}, {high:.3f}]")
            medians = [np.median(kind["mutual_information_nats"][row]) for kind in (near, far)]
            table.append(
                f"| {way} | {what} | {medians[0]:.4f} | {medians[1]:.4f} | {' | '.join(cells)} |"
            )
            click.echo(table[-1], err=True)
    size = models[0].model.num_parameters()
    body = (
        f"{len(models)} story models of {size:,} parameters that differ in their seed alone, "
        "dropout 0.1 in training (`python training/train_ensemble.py`). "
        f"{inside[..., 0].size} prompts of {TOKENS} tokens from held-out stories, "
        f"{outside[..., 0].size} from Shakespeare; {TOKENS} tokens along the text or the first "
        "member's greedy answer. MI is the median mutual information a token, nats; AUROC the "
        "chance that Shakespeare has the higher value, by mutual information, total entropy and "
        "aleatoric entropy, with a 95 % bootstrap interval.\n\n"
        "| members | where | MI, stories | MI, Shakespeare | AUROC: MI | total | aleatoric |\n"
        "|---|---|---|---|---|---|---|\n" + "\n".join(table)
    )
    write_section("Mutual information on unfamiliar text", COMMAND, body)
    click.echo(body)
    context_section()


if __name__ == "__main__":
    main()
