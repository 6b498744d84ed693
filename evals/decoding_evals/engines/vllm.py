"""Request outputs of vLLM, written as JSON.

vLLM writes log-probabilities of the model's own distribution, unless its `logprobs_mode` says
`processed_logprobs`; at temperature 1 without cuts they are the same.
"""

from __future__ import annotations

from typing import Any

from decoding_evals.engines.drawn import (
    Drawn,
    DrawnAnswer,
    ids_in,
    list_in,
    surprisal_of,
    text_in,
)


def request_output(values: dict[str, Any]) -> Drawn:
    """The answers of a `RequestOutput`, its fields as keys.

    Of each output: `text`, `token_ids`, `finish_reason`, `stop_reason`, and `logprobs`, one object
    a token, which holds the token's entry under its id; null where none were asked for.

    Raises:
        TypeError: something of it is of another kind.
    """
    outputs = list_in(values, "outputs", "a request output")
    if not outputs:
        raise TypeError("a request output has no outputs")
    known = values.get("prompt_token_ids") is not None
    return Drawn(
        tuple(_answer(one, f"output {number}") for number, one in enumerate(outputs, 1)),
        prompt_ids=ids_in(values, "prompt_token_ids", "a request output") if known else None,
    )


def _answer(output: Any, what: str) -> DrawnAnswer:
    text, ids = text_in(output, "text", what), ids_in(output, "token_ids", what)
    reason = output.get("finish_reason") or "length"
    if reason == "stop" and output.get("stop_reason") is None:
        reason = "eos"
    if output.get("logprobs") is None:
        return DrawnAnswer(text, str(reason), ids=ids)
    steps = list_in(output, "logprobs", what)
    if len(steps) != len(ids):
        raise TypeError(f"{what} has {len(ids)} token ids and {len(steps)} log-probabilities")
    surprisals, texts = [], []
    for number, (id_, step) in enumerate(zip(ids, steps, strict=True), 1):
        token = f"{what}, token {number},"
        entry = step.get(str(id_)) if isinstance(step, dict) else None
        texts.append(entry.get("decoded_token") if isinstance(entry, dict) else None)
        value = entry.get("logprob") if isinstance(entry, dict) else entry
        surprisals.append(surprisal_of(value, token))
    # The token that ended it has a name, and no text.
    if reason == "eos" and texts:
        texts[-1] = ""
    spelled = tuple(one for one in texts if isinstance(one, str))
    return DrawnAnswer(
        text,
        str(reason),
        texts=spelled if len(spelled) == len(ids) else None,
        ids=ids,
        surprisal_nats=tuple(surprisals),
    )
