"""`python -m decoding_evals.uncertainty` is `decoding uncertainty`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.uncertainty.command:uncertainty", "decoding_evals.uncertainty")
