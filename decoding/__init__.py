"""Decode with Hugging Face causal language models and know how sure the model is.

Folders, each of which imports only from those above it:

    rows         what a row of logits is: arrays, distributions, the draw
    rules        what a setting is made of: penalties, temperatures, cuts
    models       loading, devices, limits
    passes       head, attention, which rows may run together, what was read and is kept
    texts        prompts, chats, encoding, detokenizing
    settings     DecodingSettings, EntropyPolicy, grids, the processor for model.generate
    scoring      teacher forcing: every token of a text scored exactly once
    showing      pages of records, and the rows behind them
    tracing      EntropyMonitor, Trace: what is written down of each step
    information  entropy, KL and their kin; settings compared; training losses
    inference    temperature by likelihood, posterior, intervals, sequence entropy
    sampling     Sampler: one call of model.generate, what each row reads, each token drawn
    generation   generate: prompts in, text and traces out
    engines      the same settings, draws and traces inside other engines
    stories      the embedded model
"""

from typing import TYPE_CHECKING

from decoding.exports import exported

__version__ = "0.1.0"

_NAMES = {
    "generation": "Generation generate",
    "inference": "fit_temperature",
    "information": "entropy_regularized_loss row_statistics",
    "models": "LanguageModel ModelLoadError load_model",
    "rows": "NonFiniteLogitsError",
    "sampling": "Sampler",
    "scoring": "Document TeacherForcing TokenDocument Windows",
    "settings": "DecodingSettings EntropyPolicy",
    "tracing": "EntropyMonitor Trace",
}

__all__ = [*sorted(" ".join(_NAMES.values()).split()), "__version__"]

if TYPE_CHECKING:
    from decoding.generation.result import Generation
    from decoding.generation.run import generate
    from decoding.inference.temperature import fit_temperature
    from decoding.information.regularization import entropy_regularized_loss
    from decoding.information.statistics import row_statistics
    from decoding.models.faults import ModelLoadError
    from decoding.models.loading import LanguageModel, load_model
    from decoding.rows.faults import NonFiniteLogitsError
    from decoding.sampling.sampler import Sampler
    from decoding.scoring.teacher_forcing import Document, TeacherForcing, TokenDocument
    from decoding.scoring.windows import Windows
    from decoding.settings.policy import EntropyPolicy
    from decoding.settings.settings import DecodingSettings
    from decoding.tracing.monitor import EntropyMonitor
    from decoding.tracing.trace import Trace

__getattr__, __dir__ = exported(__name__, **_NAMES)
