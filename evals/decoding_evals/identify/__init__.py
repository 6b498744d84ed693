"""Which setting, or which model, wrote a text: Bayes' rule over candidates, token by token."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, evaluation="Identification identify")
