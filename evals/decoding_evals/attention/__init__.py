"""Attention: where the heads of a model look in a text, and how broadly."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="DocumentAttention attention")
