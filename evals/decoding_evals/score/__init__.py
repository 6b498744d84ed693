"""Scores of every token of a text, or of the texts that may follow a prompt."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    document="DocumentScores",
    evaluation="ChoiceScores score score_choices",
    threshold="Threshold fit_threshold",
)
