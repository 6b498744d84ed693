"""What a row of logits is: arrays, distributions, prefixes of the order, the draw."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__,
    distribution="Distribution",
    faults="NonFiniteLogitsError",
)
