"""Comparison of decoding settings on the same text, from one forward pass."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    evaluation="SettingsComparison compare",
    models="ModelsComparison compare_models",
)
