"""Responses of OpenAI-style servers: chat completions, completions, and lines of batches of them.

Which distribution their log-probabilities are of, the server does not say; often it is the model's
own, whatever the temperature.
"""

from __future__ import annotations

from typing import Any

from decoding_evals.reading.drawn import Drawn, DrawnAnswer, list_in, surprisal_of, text_in
from decoding_evals.reading.rows import kind_name

UNKNOWN = -9999.0
"""What such servers write where they do not know a log-probability."""


def unpacked(values: dict[str, Any]) -> dict[str, Any]:
    """A row with the response that stands inside it, as in the output of a batch."""
    response = values.get("response")
    body = response.get("body") if isinstance(response, dict) and "body" in response else response
    if "choices" in values or not isinstance(body, dict):
        return values
    return values | body


def response(values: dict[str, Any]) -> Drawn:
    """The answers of a response, one a choice.

    A choice has a `message` with its `content`, or a `text`; and `logprobs`: an object whose
    `content` lists tokens, each with `token` and `logprob`, or one with `tokens` and
    `token_logprobs`; null where none were asked for. The token that ended the answer is not
    there. An answer with a token of log-probability `UNKNOWN` counts as one without any.

    Raises:
        TypeError: something of it is of another kind.
    """
    choices = list_in(values, "choices", "a response")
    if not choices:
        raise TypeError("a response has no choices")
    model = values.get("model")
    return Drawn(
        tuple(_answer(one, f"choice {number}") for number, one in enumerate(choices, 1)),
        model=model if isinstance(model, str) else None,
    )


def _answer(choice: Any, what: str) -> DrawnAnswer:
    said = choice.get("message", choice) if isinstance(choice, dict) else choice
    text = text_in(said, "content" if said is not choice else "text", what)
    reason = str(choice.get("finish_reason") or "length")
    log_probs = choice.get("logprobs")
    if log_probs is None:
        return DrawnAnswer(text, reason)
    if not isinstance(log_probs, dict):
        raise TypeError(f"{what} has {kind_name(log_probs)} as 'logprobs', not an object")
    if "tokens" in log_probs:
        texts = list_in(log_probs, "tokens", what)
        values = list_in(log_probs, "token_logprobs", what)
    elif log_probs.get("content") is None:
        return DrawnAnswer(text, reason)
    else:
        tokens = list_in(log_probs, "content", what)
        texts = [text_in(token, "token", what) for token in tokens]
        values = [token.get("logprob") for token in tokens]
    if len(texts) != len(values):
        raise TypeError(f"{what} has {len(texts)} tokens and {len(values)} log-probabilities")
    if UNKNOWN in values:
        return DrawnAnswer(text, reason)
    surprisals = [
        surprisal_of(value, f"{what}, token {number},") for number, value in enumerate(values, 1)
    ]
    return DrawnAnswer(text, reason, texts=tuple(map(str, texts)), surprisal_nats=tuple(surprisals))
