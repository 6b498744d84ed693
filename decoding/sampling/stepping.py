"""A model in steps: its own logits in `model.generate`, and which rows it may continue together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    Cache,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from decoding.passes.batching import Together, compared_once
from decoding.passes.probing import check_causal, own_logits, probe_ids
from decoding.settings.settings import DecodingSettings

SOURCE, STEPS = 8, 3  # tokens that an encoder reads in a probe, and steps of it


def generated_together(model: PreTrainedModel, pad: int) -> Together:
    """Which rows `model.generate` may continue together, padded on the left with that id."""
    tokens = probe_ids(model, STEPS)

    def run(ids: Tensor, mask: Tensor) -> Tensor:
        return stepped(model, ids, mask, tokens, pad)[-1]

    def whole(ids: Tensor) -> Tensor:
        read = torch.cat([ids, tokens[:-1]])[None]
        if model.config.is_encoder_decoder:
            source = _source(model, read)
            logits: Tensor = model(input_ids=source, decoder_input_ids=read).logits
            return logits[0, len(ids) - 1 :]
        return own_logits(model, read)[0, len(ids) - 1 :]

    return compared_once(model, "left", pad, run, whole)


def check_configuration(config: GenerationConfig) -> None:
    """Refuse, by a ValueError, ways to generate that cannot be traced."""
    for name in ("prompt_lookup_num_tokens", "assistant_early_exit", "use_mtp"):
        if getattr(config, name, None):
            raise ValueError(
                f"the model's generation configuration asks for assisted decoding "
                f"({name}={getattr(config, name)!r}), which cannot be traced; unset it"
            )
    if config.cache_implementation == "paged":
        raise ValueError(
            "the model's generation configuration asks for a paged cache, which ignores "
            "logits processors; unset cache_implementation"
        )


def check_generation(model: PreTrainedModel, pad: int) -> None:
    """Refuse, by a ValueError, a model that `model.generate` does not read as a whole pass does."""
    check_causal(model)
    together = generated_together(model, pad)
    if together.rows == "none":
        raise ValueError(f"the model cannot generate: {together.reason}")


def check_together(
    model: PreTrainedModel, lengths: Sequence[int], growth: int, pad: int | None
) -> None:
    """Refuse, by a ValueError, rows that `model.generate` may not continue in one batch.

    Args:
        model: one in evaluation mode; another has no numbers of its own to keep.
        lengths: tokens of each row.
        growth: tokens that each may get.
        pad: the id on the left of shorter rows.
    """
    if len(lengths) == 1 or model.training:
        return
    together = generated_together(model, pad or 0)
    keys = {together.key(length, growth) for length in lengths}
    if None in keys or len(keys) > 1:
        which = "one row at a time" if None in keys else "rows of one length"
        raise ValueError(f"these rows cannot run together: {together.reason}; run {which}")


def stepped(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    tokens: Tensor,
    pad: int,
    *,
    cache: Cache | None = None,
) -> Tensor:
    """The model's own logits in `model.generate`, before each of some tokens that it must take.

    Args:
        model: what generates.
        ids: `(rows, seq)`, padded on the left.
        mask: `(rows, seq)`, 0 for padding.
        tokens: `(steps,)`, those of every row.
        pad: the id of padding.
        cache: what has read the rows but for their last token.

    Returns:
        `(rows, steps, vocab)`, float32.
    """
    inputs = {"input_ids": ids, "attention_mask": mask}
    if model.config.is_encoder_decoder:
        inputs = {f"decoder_{name}": value for name, value in inputs.items()}
        inputs["input_ids"] = _source(model, ids)

    def loop(
        model: PreTrainedModel,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **kwargs: Any,
    ) -> Any:
        if cache is not None:
            kwargs["past_key_values"] = cache
        generation_config.do_sample = False
        generation_config.return_dict_in_generate = generation_config.output_logits = True
        return type(model)._sample(
            model,
            input_ids,
            logits_processor=LogitsProcessorList([_Same(tokens)]),
            stopping_criteria=stopping_criteria,
            generation_config=generation_config,
            **kwargs,
        )

    outputs = generate_of(model)(
        **inputs,
        custom_generate=loop,
        max_new_tokens=len(tokens),
        pad_token_id=pad,
        eos_token_id=None,
        stop_strings=None,
        max_time=None,
        **DecodingSettings().generate_kwargs(),
    )
    return torch.stack(outputs.logits, 1)


def generate_of(model: PreTrainedModel) -> Callable[..., Any]:
    """`generate` as a model's class has it; a repository's own may stand in its place."""
    of_class = getattr(type(model), "generate", None)
    return model.generate if of_class is None else partial(of_class, model)


class _Same(LogitsProcessor):  # type: ignore[misc]
    """Leaves one token at each step, the same for every row."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = iter(tokens.tolist())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        token = torch.tensor([next(self.tokens)], device=scores.device)
        return torch.full_like(scores, -torch.inf).index_fill_(1, token, 0.0)


def _source(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Something for an encoder to read, the same for each row."""
    return probe_ids(model, SOURCE).repeat(len(ids), 1)


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Dropout off for the time of a call."""
    trained = [module for module in model.modules() if module.training]
    for module in trained:
        module.training = False
    try:
        yield
    finally:
        for module in trained:
            module.training = True
