"""Variance of the two estimates of a sequence's entropy, on the embedded model.

For each prompt, sequences are drawn at temperature 1 and both estimates are taken of their first
10, 50, 100 and 200 tokens. A ratio below 1 says that summing exact entropies needs fewer samples
than summing surprisals.
"""

import math

import click
import numpy as np
from results import write_section

from decoding import DecodingSettings, generate, load_model

PROMPTS = ("Once upon a time", "Tom and his dog", "The end")
LENGTHS = (10, 50, 100, 200)
RESAMPLES = 2000


def drawn(samples):
    """Sums of surprisals and of entropies, `(2, lengths, samples)`, for each prompt."""
    loaded = load_model()
    for prompt in PROMPTS:
        found = generate(
            loaded, prompt, DecodingSettings(),
            num_return_sequences=samples, max_new_tokens=max(LENGTHS), batch_size=100, seed=7,
        )  # fmt: skip
        traces = [(one.trace.surprisal_nats, one.trace.entropy_nats) for one in found]
        yield (
            prompt,
            np.array(
                [
                    [[math.fsum(trace[kind][:length]) for trace in traces] for length in LENGTHS]
                    for kind in (0, 1)
                ]
            ),
        )


def ratio(sums):
    """Variance of the entropies' sum over that of the surprisals', with a 95 % interval."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(sums.shape[1], size=(RESAMPLES, sums.shape[1]))
    plain, exact = (sums[kind][chosen].var(axis=1, ddof=1) for kind in (0, 1))
    low, high = np.quantile(exact / plain, [0.025, 0.975])
    plain, exact = sums.var(axis=1, ddof=1)
    return exact / plain, low, high


@click.command()
@click.option("--samples", default=2000, show_default=True, help="Sequences per prompt.")
def main(samples):
    """Draw sequences and write the table."""
    lines = [
        "| prompt | tokens | entropy (surprisals) | entropy (exact) | ratio | 95 % |",
        "|---|---|---|---|---|---|",
    ]
    for prompt, sums in drawn(samples):
        for place, length in enumerate(LENGTHS):
            both = sums[:, place]
            found, low, high = ratio(both)
            means, errors = both.mean(1), both.std(1, ddof=1) / math.sqrt(samples)
            lines.append(
                f"| {prompt} | {length} | {means[0]:.2f} ± {errors[0]:.2f} | "
                f"{means[1]:.2f} ± {errors[1]:.2f} | {found:.2f} | {low:.2f} to {high:.2f} |"
            )
            print(lines[-1], flush=True)
    intro = (
        f"{samples:,} sequences from the embedded model at temperature 1 after each prompt; the "
        "entropy of\ntheir first tokens in nats, from surprisals and from exact entropies, with "
        "standard errors; then the\nvariance of the second estimate over that of the first, with "
        "a bootstrap interval."
    )
    table = "\n".join(lines)
    write_section(
        "Sequence entropy", "python benchmarks/sequence_entropy.py", f"{intro}\n\n{table}"
    )


if __name__ == "__main__":
    main()
