"""Doctor: whether a model and its set-up give right numbers, each check with figure and limit."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="DoctorResult doctor")
