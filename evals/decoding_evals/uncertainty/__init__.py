"""How sure a model is of its answers: by its probabilities, its samples, and other models."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    result="PromptRow PromptUncertainty",
    evaluation="uncertainty",
    stored="rescored stored_uncertainty",
)
