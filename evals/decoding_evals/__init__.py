"""Evaluations of decoding settings and models; each folder is one, and a command.

`decoding_evals.perplexity` is a folder, which is imported when it is first asked for, and
`decoding_evals.perplexity.perplexity` its function; so with `score`, `compare`, `uncertainty`,
`calibrate`, `identify`, `attention`, `mismatch` and `doctor`.
"""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__)
