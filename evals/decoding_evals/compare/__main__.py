"""`python -m decoding_evals.compare` is `decoding compare`."""

from decoding_evals.compare.command import compare
from decoding_evals.shell.running import run

run(compare, "decoding_evals.compare")
