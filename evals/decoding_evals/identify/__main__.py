"""`python -m decoding_evals.identify` is `decoding identify`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.identify.command:identify", "decoding_evals.identify")
