"""Prompts in, text and traces out."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    {
        "Branch": "branching",
        "Generation": "result",
        "Sampler": "sampler",
        "StreamedToken": "result",
        "Tree": "branching",
        "branch": "branching",
        "generate": "run",
    },
)
