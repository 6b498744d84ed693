"""Does a threshold keep its promise, and how much of it is given away?

Of a population of answers, each with an uncertainty and whether it is right, calibration sets are
drawn with replacement. On each, a threshold is found; the population's risk of what it keeps is
then known. The promise: at most a share of 1 - confidence of the thresholds keeps answers whose
risk exceeds R. Populations are planted ones of known risk, and answers that `decoding uncertainty
--json` recorded with references.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
from numpy.typing import NDArray
from results import write_section

from decoding_evals.judging.abstention import abstention_threshold

Floats = NDArray[np.float64]
COMMAND = "python benchmarks/abstention.py"
PLANTED = 20_000
COVERAGES = (0.2, 0.4, 0.6, 0.8)


class Population(NamedTuple):
    """Answers, the most certain first."""

    name: str
    uncertainty: Floats
    wrong: Floats
    """The probability that each is wrong; 0 or 1 where it is known."""
    drawn: int
    """Answers of a calibration set."""

    def below(self) -> Floats:
        """The risk of what a threshold at each answer's uncertainty keeps; 0 where nothing."""
        kept = np.searchsorted(self.uncertainty, self.uncertainty, "left")
        return np.concatenate([[0], self.wrong.cumsum()])[kept] / np.maximum(1, kept)


def planted() -> Iterator[Population]:
    """An estimator that orders well, one that orders badly, and one of few values."""
    scale = (np.arange(PLANTED) + 0.5) / PLANTED
    rising = 0.05 + 0.9 * scale**1.5
    humps = np.where((scale % 0.4) < 0.2, 0.1, 0.6) * (0.6 + 0.8 * scale)
    for drawn in (400, 1000):
        yield Population("risk rises", scale, rising, drawn)
        yield Population("risk rises and falls", scale, humps, drawn)
        yield Population("ten values", np.ceil(10 * scale), rising, drawn)


def recorded(file: Path, estimator: str) -> Population:
    """The judged answers of a file of records."""
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    judged = [
        (record["estimators"][estimator], float(not record["correct"]))
        for record in records
        if record["correct"] is not None and record["estimators"][estimator] is not None
    ]
    if not judged:
        raise click.ClickException(f"{str(file)!r} holds no judged answer with {estimator}")
    uncertainty, wrong = np.array(sorted(judged)).T
    return Population(f"{file.stem}, {estimator}", uncertainty, wrong, len(judged))


def risks(population: Population) -> list[float]:
    """The R that a perfect choice of threshold would keep about 20, 40, 60 and 80 % at."""
    places = [int(share * len(population.wrong)) for share in COVERAGES]
    found = {round(float(population.below()[place]), 2) for place in places}
    return sorted(risk for risk in found if 0 < risk < 1)


def measured(
    population: Population, risk: float, confidence: float, sets: int, seed: int
) -> dict[str, float]:
    """What thresholds of many calibration sets do on the population."""
    generator = np.random.default_rng(seed)
    below, size = population.below(), len(population.wrong)
    above, coverages, nothing = 0, [], 0
    for _ in range(sets):
        drawn = generator.integers(size, size=population.drawn)
        right = generator.random(population.drawn) >= population.wrong[drawn]
        found = abstention_threshold(
            population.uncertainty[drawn], right, risk=risk, confidence=confidence
        )
        kept = 0
        if found.threshold is not None:
            kept = int(np.searchsorted(population.uncertainty, found.threshold, "left"))
            above += bool(kept) and below[min(kept, size - 1)] > risk
        nothing += kept == 0
        coverages.append(kept / size)
    within = np.flatnonzero(below <= risk)
    return {
        "above": float(above) / sets,
        "nothing": nothing / sets,
        "coverage": float(np.mean(coverages)),
        "best": float(within.max() / size) if len(within) else 0.0,
    }


def table(populations: list[Population], confidence: float, sets: int) -> list[str]:
    """A line for each population and risk."""
    lines = [
        "| population | drawn | R | above R | nothing kept | kept, mean | could be kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for population in populations:
        for seed, risk in enumerate(risks(population)):
            found = measured(population, risk, confidence, sets, seed)
            figures = (f"{found[key]:.1%}" for key in ("above", "nothing", "coverage", "best"))
            lines.append(
                f"| {population.name} | {population.drawn:,} | {risk:g} | {' | '.join(figures)} |"
            )
    return lines


@click.command()
@click.option("--answers", multiple=True, type=click.Path(path_type=Path, exists=True))
@click.option("--estimator", default="MaximumSequenceProbability", show_default=True)
@click.option("--confidence", default=0.9, show_default=True)
@click.option("--sets", default=1000, show_default=True)
def main(answers: tuple[Path, ...], estimator: str, confidence: float, sets: int) -> None:
    """Measure how often thresholds break their promise; FILEs of --answers are records (.jsonl)."""
    populations = [*planted(), *(recorded(file, estimator) for file in answers)]
    lines = table(populations, confidence, sets)
    error = math.sqrt(confidence * (1 - confidence) / sets)
    command = f"{COMMAND}{' --answers FILE' * len(answers)}"
    write_section(
        "Abstaining with a guarantee", command,
        f"Of {sets:,} calibration sets drawn with replacement, the share whose threshold keeps "
        f"answers of a risk above R in the population; promised is at most {1 - confidence:.0%} "
        f"(its standard error here: {error:.1%}). `could be kept` is the largest coverage whose "
        "risk is at most R.\n\n" + "\n".join(lines),
    )  # fmt: skip


if __name__ == "__main__":
    main()
