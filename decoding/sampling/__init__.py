"""One call of `model.generate`: what each row reads, how each token is drawn."""

from decoding.exports import exported

__getattr__, __dir__ = exported(__name__, sampler="Sampler")
