"""Decoding settings as values: what they are, and what applying one gives."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    {
        "DecodingSettings": "settings",
        "EntropyPolicy": "policy",
        "Setting": "policy",
        "parse_grid": "grids",
        "parse_setting": "policy",
    },
)
