"""Models with their tokenizers: where they lie, loading, devices, limits."""

from decoding.exports import exported

__getattr__, __dir__ = exported(
    __name__, faults="ModelLoadError", loading="LanguageModel load_model"
)
