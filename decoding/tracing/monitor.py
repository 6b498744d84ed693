"""`EntropyMonitor`: watches `model.generate` step by step and leaves a `Trace` per sequence.

The processor of a setting shows it the model's own logits and the distribution that the token is
drawn from. It never keeps more than the current step's rows: each step writes a
few dozen bytes per row into a buffer on the model's device, which is copied once, at the end.

The token of a step is not known until the next step (or the end) shows it. Under beam search rows
also change places without a word, so there the best candidates of each row are written down and the
finished beams are traced back through `beam_indices`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from decoding.rows.arrays import Array, as_array, as_tensor, side_by_side
from decoding.rows.distribution import Distribution
from decoding.rows.faults import refuse_faults
from decoding.settings.applying import Applied
from decoding.tracing import step as measures
from decoding.tracing.step import Measures
from decoding.tracing.trace import Trace

# Columns of the step buffer behind those of `Measures`.
_FAULT = 8
_SEEN = 9  # of beams, the token before
_WIDTH = 10
# Hugging Face's beam search takes (1 + number of EOS ids) candidates per beam, from all rows.
_MAX_EOS_IDS = 8

_FOREIGN = "the sequences are not those of the call that EntropyMonitor watched"


class EntropyMonitor:
    """Records per-token statistics of one `model.generate` call; see `Trace` for what.

    Pass it to `DecodingSettings.generate_kwargs(monitor=…)`, then ask it for `traces(outputs, …)`.
    Greedy search, sampling, `num_return_sequences`, beam search and left-padded batches are
    supported. Assisted decoding, beam sampling and paged caches are refused with an error: they
    call processors on rows that never become text, or not at all.

    Args:
        alternatives: K >= 0, how many runner-up tokens to record at each step.
        num_beams: the `num_beams` of the call; above 1, `traces` needs its `beam_indices`, so pass
            `return_dict_in_generate=True`.
        certainty: record what a `Certainty` holds.
    """

    def __init__(
        self, *, alternatives: int = 0, num_beams: int = 1, certainty: bool = False
    ) -> None:
        if alternatives < 0:
            raise ValueError(f"alternatives must be >= 0, got {alternatives}")
        if num_beams < 1:
            raise ValueError(f"num_beams must be >= 1, got {num_beams}")
        self.alternatives = alternatives
        self.num_beams = num_beams
        self.certainty = certainty
        self.steps = 0
        self._prompt_length = 0
        self._buffer = torch.empty(0)  # (capacity, rows, _WIDTH)
        self._others: dict[str, Tensor] = {}  # of the same kind, for the rest of `Measures`
        self._prompt: Array = np.empty((0, 0))  # (rows, prompt length)
        self._input_ids: Array = np.empty((0, 0))  # (rows, length at the latest step)
        self._same_rows: Any = True  # of an accelerator, a tensor there
        self._last: tuple[Distribution, Distribution] | None = None

    def __repr__(self) -> str:
        seen = f"{self.steps} steps of {self._prompt.shape[0]} rows"
        options = f"alternatives={self.alternatives}, num_beams={self.num_beams}"
        return f"EntropyMonitor({seen}, {options})"

    @property
    def entropy_nats(self) -> Tensor:
        """H(q) at the latest step, `(rows)`, on the model's device."""
        return self._buffer[self.steps - 1, :, measures.ENTROPY]

    def begin(self, input_ids: Tensor | Array) -> None:
        """Follow the rows of the call, whose ids so far are `(rows, seq)`, to their next step.

        Raises:
            ValueError: the step does not follow the one before it.
        """
        input_ids = as_array(input_ids)
        expected = self._prompt_length + self.steps
        if self.steps == 0:
            self._prompt_length = input_ids.shape[1]
            self._prompt = input_ids
            self._same_rows = True
        elif input_ids.shape[1] != expected or input_ids.shape[0] != self._input_ids.shape[0]:
            raise ValueError(
                f"EntropyMonitor was called with {tuple(input_ids.shape)} ids after "
                f"{tuple(self._input_ids.shape)}: it serves one plain generate call, and cannot "
                "follow assisted decoding (assistant_model, prompt lookup, multi-token prediction)"
            )
        # Beams change places within a prompt; otherwise a row goes on where it was.
        former = self._prompt if self.num_beams > 1 else self._input_ids
        if self.steps > 0:
            before = input_ids[:, : former.shape[1]]
            self._same_rows = self._same_rows & (before == former).all()
        if self._last is not None and self.num_beams == 1:
            self._write_tokens(input_ids[:, -1])
        self._input_ids = input_ids

    def measure(
        self,
        raw: Distribution,
        applied: Applied,
        tokens: Tensor | None = None,
        *,
        alternatives: bool = True,
    ) -> Measures:
        """What is to be written down of a step, with alternatives or not; see `measured`."""
        candidates = (1 + _MAX_EOS_IDS) * self.num_beams + 1 if self.num_beams > 1 else 0
        return measures.measured(
            raw,
            applied,
            tokens,
            alternatives=self.alternatives if alternatives else 0,
            candidates=candidates,
            certainty=self.certainty,
        )

    def record(
        self,
        step: Measures,
        fault: Array | None = None,
        last: tuple[Distribution, Distribution] | None = None,
    ) -> None:
        """Write down a step that has begun.

        Args:
            step: what `measure` gave.
            fault: `(rows)`, which of the model's rows were no distribution, to complain of at the
                end.
            last: rows of p and of q, where the step's tokens are not known yet.
        """
        columns = step.columns
        if self.steps in (0, len(self._buffer)):
            like = as_tensor(columns).new_empty(len(columns), _WIDTH)
            self._buffer = _with_room(self._buffer, self.steps, like)
        for name, values in zip(step._fields[1:], step[1:], strict=True):
            if values is not None:
                held = _with_room(self._others.get(name), self.steps, values)
                held[self.steps] = values
                self._others[name] = held
        row = as_array(self._buffer)[self.steps]
        row[:, : columns.shape[1]] = columns
        if fault is not None:
            row[:, _FAULT] = fault
        if step.candidates is not None and self._input_ids.shape[1]:
            row[:, _SEEN] = self._input_ids[:, -1]
        self._last = last
        self.steps += 1

    def _write_tokens(self, tokens: Tensor | Array) -> None:
        """Add what is known of a step's tokens, now that they are known themselves."""
        row = as_array(self._buffer)[self.steps - 1]
        assert self._last is not None
        row[:, measures.TOKEN] = side_by_side(measures.of_tokens(*self._last, tokens))

    def traces(
        self,
        outputs: Any,
        *,
        eos_token_id: int | Sequence[int] | None,
        lengths: Sequence[int] | None = None,
    ) -> list[Trace]:
        """One trace per returned sequence, in their order, without prompts and padding.

        Args:
            outputs: what `generate` returned: `(rows, seq)` ids, or the output object (needed for
                beam search).
            eos_token_id: the ids that end a sequence; each trace ends with the first of them. None
                means that no sequence ended early.
            lengths: number of generated tokens per sequence, where it is known better, as with
                stop strings.

        Raises:
            NonFiniteLogitsError: a step's logits were no distribution (on an accelerator this
                shows only here).
            ValueError: the monitor saw no step, saw another call, or was told another `num_beams`.
        """
        sequences: Tensor = getattr(outputs, "sequences", outputs)
        beam_indices: Tensor | None = getattr(outputs, "beam_indices", None)
        if self.steps == 0:
            raise ValueError(
                "EntropyMonitor saw no step: cache_implementation='paged' ignores logits "
                "processors, and a monitor belongs into settings.generate_kwargs(monitor=monitor)"
            )
        if (beam_indices is not None) != (self.num_beams > 1):
            raise ValueError(
                f"EntropyMonitor has num_beams={self.num_beams}, but the outputs are "
                f"{'not ' if beam_indices is None else ''}of beam search; set num_beams and pass "
                "return_dict_in_generate=True"
            )
        if not self._same_rows:
            raise ValueError(
                "EntropyMonitor saw rows change between steps: it serves one generate call, and "
                "beam search needs EntropyMonitor(num_beams=…)"
            )
        refuse_faults(self._buffer[: self.steps, :, _FAULT])
        ids = sequences[:, self._prompt_length :].cpu().numpy()
        if beam_indices is None:
            self._check_rows(sequences)
            origins = [[row] * self.steps for row in range(len(ids))]
        else:
            self._check_beams(sequences, beam_indices)
            origins = [[row for row in origin if row >= 0] for origin in beam_indices.tolist()]
            lengths = lengths or [len(origin) for origin in origins]
        if lengths is None:
            lengths = _lengths(ids, eos_token_id)
        held = {
            name: values[: self.steps].double().cpu().numpy()
            for name, values in {"columns": self._buffer, **self._others}.items()
        }
        return [
            self._trace(held, own[:length], np.array(origin[:length], np.int64))
            for own, origin, length in zip(ids, origins, lengths, strict=True)
        ]

    def _check_rows(self, sequences: Tensor) -> None:
        """Refuse rows that this call did not see, and take note of their last tokens."""
        seen = min(self._input_ids.shape[1], sequences.shape[1])
        if sequences.shape[0] != self._input_ids.shape[0] or not bool(
            (self._input_ids[:, :seen] == as_array(sequences)[:, :seen]).all()
        ):
            raise ValueError(_FOREIGN)
        last = self._prompt_length + self.steps - 1
        if sequences.shape[1] > last and self._last is not None:
            self._write_tokens(sequences[:, last])

    def _check_beams(self, sequences: Tensor, beam_indices: Tensor) -> None:
        """Refuse beams that do not lead back through the rows of this call."""
        rows, steps = self._prompt.shape[0], beam_indices.shape[1]
        if steps > self.steps or int(beam_indices.max()) >= rows:
            raise ValueError(_FOREIGN)
        # Each step saw the token before it; one that began from embeddings saw none at first.
        start = 0 if self._prompt_length else 1
        seen = self._buffer[:steps, :, _SEEN].T.gather(0, beam_indices.clamp(min=0).long())
        before = sequences[:, self._prompt_length - 1 + start : self._prompt_length - 1 + steps]
        if not ((seen[:, start:] == before) | (beam_indices[:, start:] < 0)).all():
            raise ValueError(_FOREIGN)

    def _trace(self, held: dict[str, np.ndarray], ids: np.ndarray, origin: np.ndarray) -> Trace:
        """One sequence, from the row at which it stood at each step."""
        own = {name: values[np.arange(len(origin)), origin] for name, values in held.items()}
        if (candidates := own.pop("candidates", None)) is not None:
            of_tokens = [_candidate(*pair) for pair in zip(candidates, ids, strict=True)]
            own["columns"][:, measures.TOKEN] = np.reshape(of_tokens, (-1, 3))
        if np.isneginf(log_q := own["columns"][:, measures.LOG_Q]).any():
            raise ValueError(
                f"token {int(np.isneginf(log_q).argmax())} of a sequence has probability 0 under "
                "the setting: either more beams were asked for than it keeps tokens, or another "
                "processor changed the scores after it"
            )
        return measures.trace_of(own, ids)


def _with_room(buffer: Tensor | None, size: int, like: Tensor) -> Tensor:
    """A buffer with room for one more such row behind so many; it doubles where it is full."""
    if buffer is None or size == 0:
        return like.new_zeros(32, *like.shape)
    return torch.cat([buffer, torch.zeros_like(buffer)]) if size == len(buffer) else buffer


def _lengths(ids: np.ndarray, eos_token_id: int | Sequence[int] | None) -> list[int]:
    """Number of tokens per row up to and including the first EOS."""
    if eos_token_id is None:
        return [ids.shape[1]] * len(ids)
    ends = np.isin(ids, np.atleast_1d(np.asarray(eos_token_id)))
    return [int(row.argmax()) + 1 if row.any() else len(row) for row in ends]


def _candidate(candidates: np.ndarray, token: int) -> np.ndarray:
    """log q, log p and rank of the token that a beam took from a row's candidates."""
    found = np.flatnonzero(candidates[:, 0] == token)
    if len(found):
        return candidates[found[0], 1:]
    # Not listed: legitimate only where it ties with the last two, and then so do its numbers.
    if candidates[-1, 1] == candidates[-2, 1]:
        return candidates[-1, 1:]
    raise ValueError(
        "a beam took a token that is not among its row's best: EntropyMonitor cannot follow beam "
        "sampling or constrained beam search; use do_sample=False"
    )
