"""`python -m decoding_evals.score` is `decoding score`."""

from decoding_evals.score.command import score
from decoding_evals.shell.running import run

run(score, "decoding_evals.score")
