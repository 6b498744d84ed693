"""What each sampler does to text: samples of `builtin:stories` at a few strengths.

Every setting writes stories from an empty prompt. Four figures tell what came of it, and held-out
stories of the same length stand beside them:

- raw perplexity: of the samples' tokens under the model itself, at temperature 1;
- distinct-3: different word trigrams among all word trigrams of all samples (Li et al. 2016,
  arXiv:1510.03055);
- repetition: share of a sample's word 4-grams that occurred earlier in the same sample (the
  complement of "seq-rep-4", Welleck et al. 2020, arXiv:1908.04319, by words);
- self-overlap: share of a sample's distinct word 4-grams that occur in another one of its hundred.
"""

import json
import math
import re
from collections import Counter
from pathlib import Path

import click
import numpy as np
from results import write_section

from decoding import generate, load_model
from decoding.settings.policy import parse_setting

STRENGTHS = {
    "raw": ["raw"],
    "temperature": ["temperature=0.5", "temperature=0.7", "temperature=0.85"],
    "top_k": ["top_k=5", "top_k=20", "top_k=50"],
    "top_p": ["top_p=0.7", "top_p=0.9", "top_p=0.95"],
    "min_p": ["min_p=0.2", "min_p=0.1", "min_p=0.05", "min_p=0.02"],
    "typical_p": ["typical_p=0.7", "typical_p=0.9", "typical_p=0.95"],
    "epsilon_cutoff": ["epsilon_cutoff=0.02", "epsilon_cutoff=0.005", "epsilon_cutoff=0.001"],
    "eta_cutoff": ["eta_cutoff=0.02", "eta_cutoff=0.005", "eta_cutoff=0.001"],
    "top_n_sigma": ["top_n_sigma=0.5", "top_n_sigma=1", "top_n_sigma=1.5"],
    "top_h": ["top_h=0.4", "top_h=0.6", "top_h=0.8"],
    "p_less": ["p_less=1", "p_less=0.3", "p_less=0.1"],
    "kl_budget": ["kl_budget=0.4", "kl_budget=0.1", "kl_budget=0.03"],
    "edt": ["edt_theta=1", "edt_theta=0.3", "edt_theta=0.1"],
    "dynatemp": [
        "temperature=0.5,dynatemp_range=0.5",
        "temperature=0.75,dynatemp_range=0.5",
        "temperature=1,dynatemp_range=0.5",
    ],
    "target_entropy": ["target_entropy=0.5", "target_entropy=1", "target_entropy=1.5"],
    "mirostat": ["mirostat_tau=0.7", "mirostat_tau=1", "mirostat_tau=1.5"],
    "xtc": [
        "min_p=0.05,xtc_probability=0.1",
        "min_p=0.05,xtc_probability=0.3",
        "min_p=0.05,xtc_probability=0.5",
    ],
    "dry": [
        "min_p=0.1,dry_multiplier=0.4",
        "min_p=0.1,dry_multiplier=0.8",
        "min_p=0.1,dry_multiplier=1.6",
    ],
    "policy": [
        "raw while entropy<=1 else temperature=0.5",
        "raw while entropy<=2 else temperature=0.5",
        "raw while entropy<=3 else temperature=0.5",
    ],
}
FIGURES = ("raw perplexity", "distinct-3", "repetition", "self-overlap")


def grams(text, size):
    """The word n-grams of a text, in order."""
    words = re.findall(r"[a-z']+", text.lower())
    return list(zip(*(words[i:] for i in range(size)), strict=False))


def distinct(texts):
    """Different trigrams among all of them."""
    counts = Counter(gram for text in texts for gram in grams(text, 3))
    return len(counts) / counts.total()


def repetition(texts):
    """Mean share of 4-grams that a text had before."""
    found = [grams(text, 4) for text in texts]
    return float(np.mean([1 - len(set(one)) / len(one) for one in found if one]))


def overlap(texts):
    """Mean share of a text's different 4-grams that another one of its hundred has."""
    shares = []
    for start in range(0, len(texts), 100):
        sets = [set(grams(text, 4)) for text in texts[start : start + 100]]
        counts = Counter(gram for one in sets for gram in one)
        shares += [np.mean([counts[gram] > 1 for gram in one]) for one in sets if one]
    return float(np.mean(shares))


def figures(texts, surprisal, tokens):
    """The four figures, and the raw perplexity's standard error over texts."""
    perplexity = math.exp(surprisal.sum() / tokens.sum())
    # Delta method for a ratio of sums, over texts.
    residual = surprisal - tokens * math.log(perplexity)
    error = perplexity * math.sqrt(len(texts)) * residual.std(ddof=1) / tokens.sum()
    return [perplexity, distinct(texts), repetition(texts), overlap(texts), error]


def held_out(loaded, path, length):
    """The figures of the held-out stories, each as long as a sample at most."""
    stories = path.read_text(encoding="utf-8").split("<|endoftext|>")
    stories = [text.strip() for text in stories if text.strip()][-100:]
    encoded = [loaded.tokenizer(text, add_special_tokens=False)["input_ids"] for text in stories]
    encoded = [ids[:length] for ids in encoded]
    texts = [loaded.tokenizer.decode(ids) for ids in encoded]
    from decoding_evals.perplexity.evaluation import perplexity

    result = perplexity(loaded, texts)
    return [math.exp(result.nll_nats), distinct(texts), repetition(texts), overlap(texts), 0.0]


def draw(rows, path):
    """Quality against variety: a line for each sampler, through its strengths, and a star for raw.

    A row of the figure shows eight of them at most.
    """
    from matplotlib.figure import Figure

    names = [name for name in STRENGTHS if name != "raw"]
    groups = [names[first : first + 7] for first in range(0, len(names), 7)]
    figure = Figure(figsize=(8.4, 3.3 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 2, sharex=True, sharey="col", squeeze=False)
    for (left, right), group in zip(axes, groups, strict=True):
        for axis, which, label in ((left, 1, "distinct-3"), (right, 3, "self-overlap")):
            draw_group(axis, rows, group, which)
            axis.set_ylabel(label)
        right.legend(
            frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1), borderaxespad=0
        )
    ticks = [1.5, 2, 3, 4, 6]
    for axis in axes[-1]:
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_xlabel("raw perplexity of the samples")
    figure.suptitle(
        "builtin:stories: what each sampler does at a few strengths (dashed: held-out stories)",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    figure.savefig(path, dpi=110)


def draw_group(axis, rows, names, which):
    """One figure of some samplers against the perplexity."""
    colors = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]
    for name, color, marker in zip(names, colors, "osD^vPX", strict=False):
        points = [rows[spec] for spec in STRENGTHS[name] if spec in rows]
        axis.plot(
            [point[0] for point in points], [point[which] for point in points],
            color=color, marker=marker, markersize=5, linewidth=1, label=name,
        )  # fmt: skip
    axis.plot(rows["raw"][0], rows["raw"][which], "*", color="#777777", markersize=9, label="raw")
    reference = rows["held-out stories"]
    axis.axhline(reference[which], color="#999999", linewidth=0.8, linestyle="--")
    axis.axvline(reference[0], color="#999999", linewidth=0.8, linestyle="--")
    axis.set_xscale("log")
    axis.spines[["top", "right"]].set_visible(False)


@click.command()
@click.option("--samples", default=200, show_default=True, help="Stories per setting.")
@click.option("--tokens", default=100, show_default=True, help="Tokens of each, at most.")
@click.option(
    "--stories",
    type=click.Path(path_type=Path, exists=True),
    default=Path("../shared/data/tinystories/stories.txt"),
    show_default=True,
    help="Stories whose last hundred the model has not seen.",
)
@click.option(
    "--work", type=click.Path(path_type=Path), help="Keeps what is finished, to go on from there."
)
@click.option(
    "--plot", type=click.Path(path_type=Path), default=Path("docs/quality.png"), show_default=True
)
def main(samples, tokens, stories, work, plot):
    """Draw, measure, and write table and plot."""
    loaded = load_model()
    kept = None if work is None else work / "quality.json"
    rows = json.loads(kept.read_text()) if kept is not None and kept.exists() else {}
    for spec in (spec for specs in STRENGTHS.values() for spec in specs):
        if spec in rows:
            continue
        written = generate(
            loaded, "", parse_setting(spec), num_return_sequences=samples,
            max_new_tokens=tokens, batch_size=50, seed=11,
        )  # fmt: skip
        written = [one for one in written if len(one.trace)]
        surprisal = np.array([one.trace.raw_surprisal_nats.sum() for one in written])
        lengths = np.array([len(one.trace) for one in written])
        rows[spec] = figures([one.text for one in written], surprisal, lengths)
        click.echo(f"{spec}: {', '.join(f'{value:.3f}' for value in rows[spec])}", err=True)
        if kept is not None:
            work.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(rows))
    rows["held-out stories"] = held_out(loaded, stories, tokens)
    lines = ["| sampler | setting | " + " | ".join(FIGURES) + " |", "|---|---|" + "---|" * 4]
    listed = [(name, spec) for name, specs in STRENGTHS.items() for spec in specs]
    for name, spec in [("held-out stories", "held-out stories"), *listed]:
        perplexity, *others, error = rows[spec]
        cells = [f"{perplexity:.2f}" + (f" ± {error:.2f}" if error else "")]
        cells += [f"{value:.3f}" for value in others]
        setting = "" if name == spec else f"`{spec}`"
        lines.append(f"| {name} | {setting} | " + " | ".join(cells) + " |")
    draw(rows, plot)
    body = (
        f"{samples} stories a setting, at most {tokens} tokens each, from an empty prompt, on "
        "builtin:stories; beside them the hundred stories that it has not seen. "
        f"The plot is {plot}.\n\n" + "\n".join(lines)
    )
    write_section("Samplers and text", "python benchmarks/quality.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
