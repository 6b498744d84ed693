"""`python -m decoding_evals.perplexity` is `decoding perplexity`."""

from decoding_evals.perplexity.command import perplexity
from decoding_evals.shell.running import run

run(perplexity, "decoding_evals.perplexity")
