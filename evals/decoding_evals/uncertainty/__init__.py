"""How sure a model is of its answers to prompts: by its probabilities, its samples, and others."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="PromptRow PromptUncertainty uncertainty")
