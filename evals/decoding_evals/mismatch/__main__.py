"""`python -m decoding_evals.mismatch` is `decoding mismatch`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.mismatch.command:mismatch", "decoding_evals.mismatch")
