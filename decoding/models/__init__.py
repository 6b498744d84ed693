"""Models and their tokenizers: loading, the head, attention, encoding, detokenizing."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__, faults="ModelLoadError", loading="LanguageModel load_model"
)
