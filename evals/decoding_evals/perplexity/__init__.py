"""Perplexity: how well a model predicts a corpus, with honest error bars."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="PerplexityResult perplexity")
