"""`python -m decoding_evals.score` is `decoding score`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.score.command:score", "decoding_evals.score")
