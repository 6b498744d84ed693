"""What an engine recorded of its tokens, and what a model says of them."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="Mismatch mismatch")
