"""Decoding settings as values: what they are, and what applying one gives."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    grids="parse_grid",
    policy="EntropyPolicy Setting as_setting parse_setting",
    settings="DecodingSettings",
)
