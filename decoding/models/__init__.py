"""Models with their tokenizers: loading, what they can bear, the head, attention."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__, faults="ModelLoadError", loading="LanguageModel load_model"
)
