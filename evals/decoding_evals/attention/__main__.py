"""`python -m decoding_evals.attention` is `decoding attention`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.attention.command:attention", "decoding_evals.attention")
