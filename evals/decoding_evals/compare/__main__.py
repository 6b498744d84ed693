"""`python -m decoding_evals.compare` is `decoding compare`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.compare.command:compare", "decoding_evals.compare")
