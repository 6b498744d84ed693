"""Calibration: the temperature that fits a text, and how much it helps on held-out text."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    evaluation="CalibrationResult calibrate",
    quality="Reliability reliability",
)
