"""`python -m decoding_evals.perplexity` is `decoding perplexity`."""

from decoding_evals.shell.entry import enter

enter("decoding_evals.perplexity.command:perplexity", "decoding_evals.perplexity")
