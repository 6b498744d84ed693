"""`python -m decoding_evals.attention` is `decoding attention`."""

from decoding_evals.attention.command import attention
from decoding_evals.shell.running import run

run(attention, "decoding_evals.attention")
