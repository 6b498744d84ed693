"""What runs inside vLLM's workers: a logits processor that draws, and what hands traces back.

The processor (of vLLM's V1 interface) draws the token itself and leaves that one alone, so that
greedy search has nothing left to choose. Without vLLM the classes stand alone, for tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from decoding.engines.batch import Batch, Draws
from decoding.engines.requests import check_parameters

try:
    from vllm.v1.sample.logits_processor import LogitsProcessor
except ImportError:
    LogitsProcessor = object


class SettingProcessor(LogitsProcessor):  # type: ignore[misc]
    """Draws under the setting of each request that has one, and leaves the others alone.

    Raises:
        ValueError: the engine takes prompts that are no ids.
    """

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        if vllm_config.model_config.enable_prompt_embeds:
            raise ValueError(
                "enable_prompt_embeds must be off: draws are keyed by the ids of a prompt"
            )
        self.batch = Batch()

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse, by a ValueError, a request that cannot be honoured."""
        check_parameters(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Whether the largest logit stays the largest."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Follow the rows: those that are removed, then added, then moved."""
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.batch.remove(row)
        for row, parameters, prompt_ids, output_ids in batch_update.added:
            draws = _draws_of(parameters, prompt_ids)
            if draws is not None:
                draws.committed = output_ids
            self.batch.add(row, draws)
        for source, target, direction in batch_update.moved:
            self.batch.move(source, target, swap=direction.name == "SWAP")

    def apply(self, logits: Tensor) -> Tensor:
        """Leave each row that is drawn here its one token; `(rows, vocab)`."""
        return self.batch.draw(logits)


def _draws_of(parameters: Any, prompt_ids: Sequence[int] | None) -> Draws | None:
    """What a request has drawn; None where it says nothing of how to draw.

    It is kept with the request's parameters, which the engine holds until the request is finished,
    also while it has no row.
    """
    held = vars(parameters)
    if "_decoding_draws" not in held:
        request = check_parameters(parameters)
        held["_decoding_draws"] = None if request is None else Draws(request, prompt_ids or ())
    draws: Draws | None = held["_decoding_draws"]
    return draws


class TraceExtension:
    """What vLLM's worker class is given, so that an engine can be asked for traces."""

    def decoding_traces(self, names: list[str]) -> bytes:
        """What was written down of these requests, which the engine keeps no longer."""
        worker: Any = self
        processors = worker.model_runner.input_batch.logitsprocs.all
        [processor] = (one for one in processors if isinstance(one, SettingProcessor))
        return processor.batch.take(names)
