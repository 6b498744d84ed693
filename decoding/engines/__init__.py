"""The same settings inside other engines, each in a module of its own."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, continuous="continuous_batching")
