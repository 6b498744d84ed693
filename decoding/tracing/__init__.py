"""What is written down of each step of a generation."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, monitor="EntropyMonitor", trace="Trace")
