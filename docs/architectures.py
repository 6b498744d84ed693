"""Write `architectures.md`: what holds for small random models of many architectures.

`python docs/architectures.py` writes the page, in about five minutes of one core; with types of
models behind it, it prints their rows alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
from families import FAMILIES, built
from transformers import PreTrainedModel

from decoding import LanguageModel, TeacherForcing, Windows, generate, load_model
from decoding.passes.attention import head_entropies
from decoding.passes.caches import read_in_parts
from decoding.sampling.prefill import read_once
from decoding.sampling.stepping import generated_together
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import TokenDocument
from decoding_evals.doctor import texts
from decoding_evals.doctor.evaluation import Check, doctor
from decoding_evals.score.evaluation import score

PAGE = Path(__file__).with_name("architectures.md")
PROMPTS = [
    "Once upon a time there was a little dog. He was a very happy dog, and he had a big red ball. "
    "One sunny day he went to the",
    "The",
    "Tom had a red ball and",
    "One day",
]
DOCUMENTS = [
    "Once upon a time there was a little dog who liked to play with a big red ball in the sun. "
    "One day the ball was gone, and the little dog was very sad. He looked and looked for it.",
    "Tom was sad.",
    "Lily saw a bird.",
]
NATS = 2e-4  # rounding of float32, in a small model with wide weights

INTRODUCTION = """\
# Architectures

What holds for small random models of {count} architectures and variants, each built from
transformers' own code (transformers {transformers}, torch {torch}), with wide weights so that no
difference hides, float32, on a CPU. `make architectures` writes this page.

- **rows together**: what `generate` may put into one batch: rows of any lengths, rows of one
  length, or one row at a time. A short probe finds this out, once for each model.
- **prompt**: samples of one prompt read it once, or each reads it anew; and whether texts that
  begin alike are read in parts. Another probe finds this out.
- **generate**: sequences from a batch of prompts of different lengths are those of each prompt
  alone.
- **trace**: what `generate` recorded is what teacher forcing of the finished sequence gives.
- **score**: surprisals in a batch are those of strict prefixes: each token scored from a pass of
  its own over exactly what precedes it.
- **attention**: entropies are those of the weights that the model returns.
- **doctor**: all checks pass.

✓ means within {nats:g} nats. A number in parentheses leads to a note below the table: the reason
of a refusal, or a difference that is the architecture's or transformers' own, with its size.

"""
# What the numbers of a column are, where they are not ours to mend.
PADDED = (
    "a row with padding on its left is read otherwise than alone, so a padded batch in "
    "`model.generate` is wrong; here its rows run apart"
)
SCAN = "its scan sums in another order in steps than in one pass, which costs float32 some digits"
STEPS = "in `model.generate` it is read otherwise than in one pass"
NOT_CAUSAL = "it is not causal"
KNOWN = {
    ("recurrent_gemma", "generate"): "a prompt of a single token is read as one step more of the "
    "text that was read before it",
    ("recurrent_gemma", "left padding"): "what stands in the padding reaches its convolution; the "
    "padding of this model is zero, and where it is not, its rows run apart",
    ("falcon", "attention"): "asked for its weights by `output_attentions`, it is not causal; the "
    "entropies here are those of a pass that does not ask",
    ("llama", "trace"): "where a text grows beyond the limit, `model.generate` goes on with keys "
    "that it has cached under the other factors (that of Phi-3 computes them anew)",
    ("zamba2", "trace"): SCAN,
    ("zamba2", "cache"): SCAN,
    ("nemotron_h", "cache"): SCAN,
    ("roberta", "cache"): STEPS,
    ("xlm", "cache"): STEPS,
    ("xlm", "left padding"): PADDED,
    **{
        (name, "left padding"): PADDED
        for name in ("rwkv", "xlstm", "bart", "mbart", "pegasus", "marian", "blenderbot", "plbart",
                     "trocr")
    },
}  # fmt: skip


def own_logits(model: PreTrainedModel, ids: list[int]) -> torch.Tensor:
    """The model's own logits of one row alone, without padding or cache, `(seq, vocab)`."""
    with torch.no_grad():
        given = torch.tensor([ids])
        output = model(given, attention_mask=torch.ones_like(given), use_cache=False)
    return output.logits[0].double()


def surprisal(logits: torch.Tensor, ids: list[int]) -> np.ndarray:
    """Of each id at its row, nats."""
    return -logits.log_softmax(-1)[range(len(ids)), ids].numpy()


def generated(language_model: LanguageModel) -> Iterator[float]:
    """How far a sequence's numbers in a batch are from those alone; infinite for another text."""
    options = {"max_new_tokens": 10, "seed": 1}
    together = generate(language_model, PROMPTS, batch_size=4, **options)
    for one, prompt in zip(together, PROMPTS, strict=True):
        [alone] = generate(language_model, prompt, batch_size=1, **options)
        # Entropies say how far distributions are apart also where another token was drawn.
        same = one.trace.ids == alone.trace.ids if len(one.trace) == len(alone.trace) else [False]
        steps = len(one.trace) if all(same) else 1 + int(np.argmin(same))
        gaps = abs(one.trace.entropy_nats[:steps] - alone.trace.entropy_nats[:steps])
        yield max(gaps.max(), 0.0 if all(same) else 2 * NATS)


def traced(language_model: LanguageModel) -> Iterator[float]:
    """How far traces are from teacher forcing of the finished sequences."""
    written = generate(language_model, PROMPTS, batch_size=4, max_new_tokens=10, seed=2)
    forcing = TeacherForcing(language_model)
    documents = [TokenDocument(one.trace.ids.tolist(), one.prompt_ids) for one in written]

    def measure(block: LogitBlock) -> dict[str, torch.Tensor]:
        log_probs = block.logits.double().log_softmax(-1)
        return {"surprisal": -log_probs.gather(1, block.targets[:, None])[:, 0]}

    for window, columns in forcing.scan(documents, measure):
        trace = written[window.document].trace
        start = window.start - len(written[window.document].prompt_ids)
        got = trace.raw_surprisal_nats[start : start + len(window.targets)]
        yield float(abs(got - columns["surprisal"]).max())


def scored(language_model: LanguageModel) -> Iterator[float]:
    """How far scores are from strict prefixes: each token from a pass over what precedes it."""
    for document in score(language_model, DOCUMENTS, windows=Windows(batch_size=4)):
        ids = document.ids.tolist()
        read = [language_model.tokenizer.bos_token_id, *ids]
        rows = [own_logits(language_model.model, read[:end])[-1] for end in range(1, len(read))]
        yield float(abs(document.surprisal_nats - surprisal(torch.stack(rows), ids)).max())


def attended(language_model: LanguageModel) -> Iterator[float]:
    """How far entropies of attention are from those of the weights that the model returns."""
    model, ids = language_model.model, language_model.tokenizer(DOCUMENTS[0])["input_ids"]
    found = head_entropies(model, torch.tensor([ids]))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_attentions=True, use_cache=False)
    weights = [
        one for one in output.attentions if one is not None and one.shape[2:] == 2 * (len(ids),)
    ]
    for layer, want in zip(found, weights, strict=True):
        want = want.double() / want.double().sum(-1, keepdim=True)  # without attention sinks
        entropy = torch.special.entr(want).sum(-1)
        yield float((layer.entropy.double() - entropy)[..., 1:].abs().nan_to_num().max())


def examined(language_model: LanguageModel) -> Iterator[Check]:
    """What the doctor finds wrong."""
    return (check for check in doctor(language_model).checks if check.status == "fail")


COLUMNS: dict[str, Callable[[LanguageModel], Iterator[Any]]] = {
    "generate": generated,
    "trace": traced,
    "score": scored,
    "attention": attended,
    "doctor": examined,
}


class Notes:
    """The notes below the table, each once, and the cells that nothing explains."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.unexplained: list[str] = []

    def __call__(self, text: str) -> str:
        """The number of a note."""
        if text not in self.texts:
            self.texts.append(text)
        return f"({self.texts.index(text) + 1})"

    def known(self, type_: str, what: str, figure: float | None) -> str:
        """A difference, with the number of its note."""
        size = "" if figure is None else f" {figure:.2g}"
        if (type_, what) not in KNOWN:
            self.unexplained.append(f"{type_}, {what}{size}")
            return size.strip()
        return f"{size.strip()} {self(KNOWN[type_, what])}".strip()

    def cell(self, type_: str, column: str, language_model: LanguageModel) -> str:
        """What came of one column for one model."""
        try:
            found = list(COLUMNS[column](language_model))
        except ValueError as error:
            return f"refused {self(str(error))}"
        if column != "doctor":
            worst = max(found)
            return "✓" if worst <= NATS else self.known(type_, column, worst)
        refused = [check for check in found if "Error: the model " in check.message]
        broken = [check for check in found if check.name == "causality"]
        if broken or refused:
            # What the doctor should find.
            return "✓ fails: " + ", ".join(check.name for check in found)
        cells = [f"{check.name} {self.known(type_, check.name, check.figure)}" for check in found]
        return ", ".join(cells) or "✓"

    def row(self, family: Any, language_model: LanguageModel) -> str:
        """The line of one architecture."""
        cells = [self.cell(family.type, column, language_model) for column in COLUMNS]
        together = "-"
        if not cells[0].startswith("refused"):
            found = generated_together(language_model.model, language_model.tokenizer.pad_token_id)
            together = {"padded": "any", "equal": "one length"}.get(found.rows, "one row")
            if found.limit is not None:
                together += f"; one length beyond {found.limit}"
        prompt = self.prompt(language_model)
        return f"| {family.name} | {together} | {prompt} | {' | '.join(cells)} |"

    def prompt(self, language_model: LanguageModel) -> str:
        """How often samples read their prompt, and texts what they begin with."""
        model, pad = language_model.model, language_model.tokenizer.pad_token_id
        anew, whole = read_once(model, pad), read_in_parts(model)
        if anew is not None:
            return f"anew {self(anew)}"
        return "once" if whole is None else f"once, but not in parts {self(whole)}"


def main() -> None:
    """Write the page, or print the rows that are asked for."""
    texts.SAMPLES = 8
    asked, notes = sys.argv[1:], Notes()
    tokenizer = load_model().tokenizer
    rows = []
    for family in FAMILIES:
        if not asked or family.type in asked:
            model = LanguageModel(built(family), tokenizer, family.name)
            rows.append(notes.row(family, model))
            print(rows[-1], flush=True)
    below = "\n".join(f"{number}. {text}" for number, text in enumerate(notes.texts, 1))
    if asked:
        print(below)
    else:
        names = ["architecture", "rows together", "prompt", *COLUMNS]
        introduction = INTRODUCTION.format(
            count=len(rows), transformers=transformers.__version__,
            torch=torch.__version__.partition("+")[0], nats=NATS,
        )  # fmt: skip
        table = [f"| {' | '.join(names)} |", "|---" * len(names) + "|", *rows]
        PAGE.write_text(introduction + "\n".join(table) + "\n\n" + below + "\n")
    if notes.unexplained:
        sys.exit("not explained: " + "; ".join(notes.unexplained))


if __name__ == "__main__":
    main()
