"""Prompts in, text and traces out."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    branching="Branch Tree branch",
    result="Generation StreamedToken",
    run="generate",
)
