"""`python -m decoding_evals.uncertainty` is `decoding uncertainty`."""

from decoding_evals.shell.running import run
from decoding_evals.uncertainty.command import uncertainty

run(uncertainty, "decoding_evals.uncertainty")
