"""Decode with Hugging Face causal language models and know how sure the model is.

Module map, each name importable from here and loaded on first use:

    settings          DecodingSettings: a decoding setting as a value
    information       entropy, KL and their kin on log-probabilities
    statistics        one pass over rows of logits
    arrays            NumPy's arrays on a CPU, torch's elsewhere
    distribution      rows of logits with what follows from them, each computed once
    truncation        kept sets as pure functions
    prefix            how far a prefix of the order goes; on a CPU without sorting
    steering          temperatures that follow the entropy of each row
    history           settings that look back: DRY and mirostat
    steps             a setting applied to rows: penalties, temperature, cuts
    policy            EntropyPolicy: what to do where the model hesitates
    processors        LogitsProcessor classes and the chain of a setting
    measures          what is written down of a step
    monitor           EntropyMonitor: watches model.generate
    trace             Trace: per-token measurements of a sequence
    detokenize        text of single tokens
    sampling          reproducible uniforms and the draw
    sampler           Sampler: scale, cut, draw and trace in one step of model.generate
    replay            kernels recorded once and launched as one on a CUDA device
    generation        generate: prompts in, text and trace out
    stopping          where a sequence ends
    branching         trees of alternatives at the places where the model hesitated
    encoding          texts of any length into token ids
    windows           which tokens are read together, and which of them are scored
    head              a model in two halves, so that logits come a few rows at a time
    teacher           what settings make of each position of a given text
    scoring           teacher forcing, every token scored exactly once
    sequence_entropy  entropy of whole sequences, from samples
    ensemble          mixtures of models, and what their members disagree about
    estimation        the temperature that fits a text
    posterior         Bayes' rule over candidates, token by token
    attention         entropy of attention, head by head
    regularization    training losses that keep a model from becoming too sure
    comparison        many settings from one block of logits
    sorted_cuts       the rules of a setting on a sorted row
    quadrature        sums over the tokens of a row from a few nodes
    grid              grids of settings
    intervals         error bars of means over dependent observations
    models            load_model, the embedded model
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "DecodingSettings": "settings",
    "Document": "scoring",
    "EntropyMonitor": "monitor",
    "EntropyPolicy": "policy",
    "Generation": "generation",
    "LanguageModel": "models",
    "ModelLoadError": "models",
    "NonFiniteLogitsError": "monitor",
    "Sampler": "sampler",
    "TeacherForcing": "scoring",
    "TokenDocument": "scoring",
    "Trace": "trace",
    "entropy_regularized_loss": "regularization",
    "fit_temperature": "estimation",
    "generate": "generation",
    "load_model": "models",
    "row_statistics": "statistics",
}

__all__ = [*sorted(_HOME), "__version__"]

if TYPE_CHECKING:
    from decoding.estimation import fit_temperature
    from decoding.generation import Generation, generate
    from decoding.models import LanguageModel, ModelLoadError, load_model
    from decoding.monitor import EntropyMonitor, NonFiniteLogitsError
    from decoding.policy import EntropyPolicy
    from decoding.regularization import entropy_regularized_loss
    from decoding.sampler import Sampler
    from decoding.scoring import Document, TeacherForcing, TokenDocument
    from decoding.settings import DecodingSettings
    from decoding.statistics import row_statistics
    from decoding.trace import Trace


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"decoding.{_HOME[name]}"), name)
    if name in _modules():
        return import_module(f"decoding.{name}")
    raise AttributeError(f"module 'decoding' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_modules()]


def _modules() -> list[str]:
    return [module.name for module in iter_modules(__path__)]
