"""Calibration: the temperature that fits a text, and what it mends on text it has not seen."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    evaluation="CalibrationResult calibrate",
    quality="Reliability reliability",
)
