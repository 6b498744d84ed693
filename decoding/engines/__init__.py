"""The same settings, draws and traces inside other engines."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__)
