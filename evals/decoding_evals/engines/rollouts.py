"""Sequences with the log-probabilities that an engine recorded, by token ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from decoding_evals.engines import openai, own, vllm
from decoding_evals.engines.drawn import Drawn, ids_in, list_in, surprisal_of
from decoding_evals.reading.rows import listed


class Rollout(NamedTuple):
    """A sequence that an engine drew."""

    prompt_ids: tuple[int, ...]
    ids: tuple[int, ...]
    log_probs: tuple[float | None, ...]
    """log q of each token, nats, as it was recorded; None where it was masked out."""
    others: tuple[tuple[float, ...], ...] | None = None
    """The log-probabilities that stand beside each token's, those of the likeliest tokens, largest
    first; None where there are none."""


PLAIN = (
    ("prompt_token_ids", "token_ids", "logprobs"),
    ("prompt_ids", "completion_ids", "logprobs"),  # TRL
    ("prompts", "responses", "rollout_log_probs"),  # verl
)
"""Keys of prompt ids, ids and log-probabilities, one number a token, in rows of lists."""
MASKS = ("completion_mask", "response_mask", "tool_mask", "env_mask")
"""Beside them: 0 where a token was not drawn, such as one that a tool wrote."""


def rollouts(row: dict[str, Any]) -> Iterator[Rollout | str]:
    """The sequences of a row, or for each that cannot be used, why.

    Args:
        row: one of `PLAIN`; a request output of vLLM, its fields as keys; a response of an
            OpenAI-style server that holds `prompt_token_ids` and the `token_ids` of its choices; or
            a record of `decoding generate`.

    Raises:
        TypeError: the row is none of these, or something of it is of another kind.
    """
    row = openai.unpacked(row)
    for keys in PLAIN:
        if keys[1] in row and "outputs" not in row and "choices" not in row:
            yield _plain(row, keys)
            return
    for key, (what, read) in _READERS.items():
        if key in row:
            drawn = read(row)
            tops = _tops(row, key)
            for number, answer in enumerate(drawn.answers):
                ids = answer.ids if key != "choices" else _ids_of_choice(row, number)
                prompt_ids = drawn.prompt_ids
                if key == "choices" and "prompt_token_ids" in row:
                    prompt_ids = ids_in(row, "prompt_token_ids", what)
                if prompt_ids is None or ids is None:
                    yield "no token ids"
                elif answer.surprisal_nats is None:
                    yield "no log-probabilities"
                elif len(answer.surprisal_nats) != len(ids):
                    yield "ids and log-probabilities of different numbers"
                else:
                    log_probs = tuple(-value for value in answer.surprisal_nats)
                    yield Rollout(prompt_ids, ids, log_probs, tops(number, ids))
            return
    raise TypeError(
        "no sequence with log-probabilities: neither token_ids and logprobs, nor a record of vLLM "
        "('outputs'), an OpenAI-style server ('choices') or generate ('tokens'); it has "
        f"{listed(row)}"
    )


_READERS: dict[str, tuple[str, Callable[[dict[str, Any]], Drawn]]] = {
    "outputs": ("a request output", vllm.request_output),
    "choices": ("a response", openai.response),
    "tokens": ("a record of generate", own.record),
}


def _plain(row: dict[str, Any], keys: tuple[str, str, str]) -> Rollout | str:
    prompt, tokens, log_probs = keys
    what = "a row"
    ids = ids_in(row, tokens, what)
    values = list_in(row, log_probs, what)
    if len(values) != len(ids):
        raise TypeError(f"{what} has {len(ids)} {tokens} and {len(values)} {log_probs}")
    drawn = [True] * len(ids)
    for name in MASKS:
        if row.get(name) is not None:
            mask = list_in(row, name, what)
            if len(mask) != len(ids):
                raise TypeError(f"{what} has {len(ids)} {tokens} and {len(mask)} of {name}")
            drawn = [here and bool(one) for here, one in zip(drawn, mask, strict=True)]
    found = tuple(
        -surprisal_of(value, f"token {number}") if here else None
        for number, (value, here) in enumerate(zip(values, drawn, strict=True), 1)
    )
    if not any(drawn):
        return "no token that was drawn"
    return Rollout(ids_in(row, prompt, what), ids, found)


def _ids_of_choice(row: dict[str, Any], number: int) -> tuple[int, ...] | None:
    choice = row["choices"][number]
    known = choice.get("token_ids") is not None
    return ids_in(choice, "token_ids", f"choice {number + 1}") if known else None


_Tops = Callable[[int, Sequence[int]], tuple[tuple[float, ...], ...] | None]


def _tops(row: dict[str, Any], key: str) -> _Tops:
    """What stands beside each token's log-probability, by the number of the answer."""

    def of_vllm(number: int, ids: Sequence[int]) -> tuple[tuple[float, ...], ...] | None:
        steps = row["outputs"][number].get("logprobs") or ()
        found = [
            _largest(one.get("logprob") for one in step.values() if isinstance(one, dict))
            for step in steps
        ]
        return tuple(found) if found and all(len(step) > 1 for step in found) else None

    def of_openai(number: int, ids: Sequence[int]) -> tuple[tuple[float, ...], ...] | None:
        steps = (row["choices"][number].get("logprobs") or {}).get("content") or ()
        found = [
            _largest(
                one.get("logprob")
                for one in step.get("top_logprobs") or ()
                if isinstance(one, dict)
            )
            for step in steps
        ]
        return tuple(found) if found and all(len(step) > 1 for step in found) else None

    readers: dict[str, _Tops] = {"outputs": of_vllm, "choices": of_openai}
    return readers.get(key, lambda number, ids: None)


def _largest(values: Any) -> tuple[float, ...]:
    known = (value for value in values if isinstance(value, int | float) and math.isfinite(value))
    return tuple(sorted(known, reverse=True))
