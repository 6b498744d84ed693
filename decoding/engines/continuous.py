"""Transformers' continuous batching under a setting: requests come and go in one running batch.

What it draws from is made once for a whole manager, and it drops processors that it does not know.
So the setting replaces them where a manager is made, and what it could not say there is refused.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    __version__,
)

from decoding.models.limits import vocabulary
from decoding.rows.arrays import on_host
from decoding.rows.distribution import Distribution
from decoding.rows.faults import without_faults
from decoding.sampling.stepping import evaluating
from decoding.settings.applying import apply_settings
from decoding.settings.policy import EntropyPolicy, Setting, as_setting
from decoding.settings.processor import asked_for
from decoding.settings.settings import DecodingSettings

OTHER_VERSION = (
    f"transformers {__version__} makes its running batches in another way; a setting acts in those "
    "of 5.23"
)


@contextmanager
def continuous_batching(model: PreTrainedModel, settings: Setting | str) -> Iterator[None]:
    """Within this context, `model.generate_batch` draws from q of the setting, and nothing besides.

    So do the managers of `init_continuous_batching` and `continuous_batching_context_manager`; stop
    them within the context. What the model's own generation configuration says of the distribution
    gives way, as under `generate_kwargs`. Tokens are drawn with torch's own random numbers.

    Args:
        model: a transformers model, not wrapped in another.
        settings: a setting, or a policy that hands over to another one, or the text form of either;
            with nothing that looks back at earlier tokens, which a running batch does not show.

    Raises:
        ValueError: the setting looks back, or ends sequences; the model is no such model, or keeps
            a manager that was made before; a configuration that is given to `generate_batch` asks
            for something else; the message names it.
        NonFiniteLogitsError: on a CPU, the model returned a row that is no distribution. Within
            the context its request has failed; this is raised at the end.
        ImportError: this version of transformers makes its running batches in another way.
    """
    settings = as_setting(settings)
    _check(model, settings)
    attention = model.config._attn_implementation
    processor = _Processor(settings)

    def initialise(
        generation_config: GenerationConfig | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        config = _configured(model, settings, generation_config)
        with _replaced(model, "_get_logits_processor", lambda *_: LogitsProcessorList([processor])):
            manager = type(model).init_continuous_batching(model, config, *args, **kwargs)
        held = getattr(getattr(manager, "logit_processor", None), "logits_processor", ())
        if processor not in held:
            raise ImportError(OTHER_VERSION)
        return manager

    try:
        with evaluating(model), _replaced(model, "init_continuous_batching", initialise):
            yield
    finally:
        model.destroy_cached_continuous_batching_manager()
        if model.config._attn_implementation != attention:
            model.set_attn_implementation(attention)
    if processor.error is not None:
        raise processor.error


class _Processor(LogitsProcessor):  # type: ignore[misc]
    """Makes q of a batch's rows; keeps the first error, which the batch's own thread would hide."""

    supports_continuous_batching = True

    def __init__(self, settings: Setting) -> None:
        self.settings = settings
        self.steps = 0
        self.error: Exception | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits of q, `(rows, vocab)`, of the model's own."""
        try:
            raw = Distribution(scores)
            if on_host(raw.top):
                without_faults(raw, self.steps)
            self.steps += 1
            return apply_settings(self.settings, scores)
        except Exception as error:
            self.error = self.error or error
            raise


def _check(model: PreTrainedModel, settings: Setting) -> None:
    """Refuse what a running batch cannot do."""
    if not hasattr(GenerationMixin, "destroy_cached_continuous_batching_manager"):
        raise ImportError(OTHER_VERSION)
    # A wrapper hands calls on to a model that knows nothing of what is replaced in the wrapper.
    if not isinstance(model, GenerationMixin):
        raise ValueError(f"model must be a transformers model, got a {type(model).__name__}")
    if getattr(model, "_cached_continuous_batching_manager", None) is not None:
        raise ValueError(
            "the model keeps a manager that was made without the setting: call "
            "model.destroy_cached_continuous_batching_manager() first"
        )
    if isinstance(settings, EntropyPolicy) and not isinstance(settings.then, DecodingSettings):
        raise ValueError(f"continuous batching cannot end or ask as '{settings}' does")
    for rule in settings.rules:
        if rule.looks_back:
            raise ValueError(
                f"{rule} looks back at earlier tokens, which continuous batching does not show; "
                "use model.generate or decoding.generate"
            )
        rule.check_vocabulary(vocabulary(model))
    apply_settings(settings, torch.zeros(1, vocabulary(model)))  # a text that names tokens


def _configured(
    model: PreTrainedModel, settings: Setting, given: GenerationConfig | None
) -> GenerationConfig:
    """A configuration that leaves the distribution to the setting."""
    own = model.generation_config
    config = copy.deepcopy(own if given is None else given)
    if other := asked_for(config, own):
        listed = ", ".join(f"{name}={value!r}" for name, value in other.items())
        raise ValueError(
            f"the generation configuration asks for {listed}, and '{settings}' alone says what is "
            "drawn: leave it out"
        )
    config.update(**settings.generate_kwargs())
    return config


@contextmanager
def _replaced(model: PreTrainedModel, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Another function in place of a model's method."""
    before = vars(model).get(name)
    setattr(model, name, function)
    try:
        yield
    finally:
        if before is None:
            delattr(model, name)
        else:
            setattr(model, name, before)
