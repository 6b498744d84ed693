"""`python -m decoding_evals.identify` is `decoding identify`."""

from decoding_evals.identify.command import identify
from decoding_evals.shell.running import run

run(identify, "decoding_evals.identify")
