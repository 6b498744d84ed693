"""Records of `decoding generate`, as answers that were drawn."""

from __future__ import annotations

from typing import Any

from decoding_evals.engines.drawn import Drawn, DrawnAnswer, ids_in, list_in, nats_in, text_in


def record(row: dict[str, Any]) -> Drawn:
    """The answer of a record of `decoding generate`, and how it was drawn.

    Raises:
        TypeError: it is no such record, or of beams or a greedy setting, which draw nothing.
    """
    what = "a record of generate"
    tokens, settings, chat = list_in(row, "tokens", what), row.get("settings"), row.get("chat")
    if row.get("num_beams", 1) != 1 or str(settings).startswith(("greedy", "temperature=0,")):
        raise TypeError("beam search and greedy settings draw no answers")
    named = [(token, f"{what}, token {number},") for number, token in enumerate(tokens, 1)]
    surprisals, entropies = (
        tuple(nats_in(token, name, at) for token, at in named)
        for name in ("surprisal_nats", "entropy_nats")
    )
    seed, known = row.get("seed"), row.get("prompt_ids") is not None
    answer = DrawnAnswer(
        text_in(row, "text", what),
        text_in(row, "finish_reason", what),
        texts=tuple(str(token.get("text")) for token in tokens),
        ids=ids_in({"id": [token.get("id") for token in tokens]}, "id", what),
        surprisal_nats=surprisals,
        entropy_nats=entropies,
    )
    return Drawn(
        (answer,),
        prompt_ids=ids_in(row, "prompt_ids", what) if known else None,
        model=text_in(row, "model", what),
        settings=text_in(row, "settings", what),
        seed=seed if isinstance(seed, int) else None,
        chat=chat if isinstance(chat, dict) else None,
    )
