"""Doctor: whether a model and its set-up give right numbers, each check with figure and limit.

Two computations that must agree are compared: the model's logits with those of its head, one row
with the same row in a batch, a cached step with a whole pass, the sampler with the scorer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch

from decoding.models.loading import LanguageModel, check_language_model
from decoding.rows.faults import NonFiniteLogitsError
from decoding.sampling.prefill import read_once
from decoding.settings.processor import applied_besides
from decoding.settings.settings import DecodingSettings
from decoding_evals.doctor import passes, texts
from decoding_evals.doctor.head import head
from decoding_evals.doctor.patient import NOT_NUMBERS, Finding, Patient, skipped
from decoding_evals.doctor.view import VIEW
from decoding_evals.showing.result import Result, finite
from decoding_evals.showing.terminal import counted

REFERENCE = """\
Once upon a time there was a little girl named Anna. She lived with her mother in a small house \
near the river. One morning Anna saw a brown dog on the other side of the water. The dog was wet \
and sad, and nobody came to help. "Do not be afraid," she said. She ran over the bridge, took the \
dog in her arms and carried it home. Her mother gave it warm milk and an old blanket. "Can we keep \
it?" asked Anna. Her mother smiled and said, "Yes, if you take good care of it." From that day on \
Anna and the dog were best friends, and they played in the garden until the sun went down.
"""
UNUSUAL = 1.25  # a best temperature this far from 1, either way, is noted


CHECKS: dict[str, Callable[[Patient], Finding]] = {
    "finite logits": passes.finite,
    "causality": passes.causality,
    "head": head,
    "left padding": partial(passes.padding, side="left"),
    "right padding": partial(passes.padding, side="right"),
    "batch size": passes.batch,
    "cache": passes.cache,
    "blocked head": passes.blocked_head,
    "reference text shifted": texts.shifts,
    "reference text with BOS": texts.bos,
    "sampler and scorer": texts.sampler,
    "dtype": texts.dtype,
    "tokenizer round trip": texts.round_trip,
}


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    status: str
    """`pass`, `fail` or `skipped`."""
    figure: float | None
    limit: float | None
    """What the figure may be at most; `None` where a check has no number."""
    message: str


@dataclass(frozen=True)
class DoctorResult(Result):
    """All checks of one model, and what is surprising about its configuration."""

    view = VIEW

    model: str
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(check.status != "fail" for check in self.checks)

    def gist(self) -> tuple[str, ...]:
        """Of its `repr`."""
        failed = sum(check.status == "fail" for check in self.checks)
        return repr(self.model), counted(len(self.checks), "check"), f"{failed} failed"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; a figure that is not finite is None."""
        checks = [asdict(check) | {"figure": finite(check.figure)} for check in self.checks]
        notes = list(self.notes)
        return {"model": self.model, "passed": self.passed, "checks": checks, "notes": notes}

    def rows(self) -> list[dict[str, Any]]:
        """One row per check."""
        return [*self.record()["checks"]]


def doctor(
    language_model: LanguageModel,
    text: str = REFERENCE,
    *,
    on_check: Callable[[str], None] | None = None,
) -> DoctorResult:
    """Examine whether a model, its tokenizer and this installation give right numbers.

    A check that raises an exception has failed. Differences are root mean squares over the
    vocabulary, the largest of all positions, in nats; their limit is n · eps(dtype) · the root mean
    square of the logits, with n = 1,024 in float32 and 32 in half precision; float64 is judged as
    float32, in which transformers computes norms and rotations.

    Args:
        language_model: from `load_model`.
        text: what the model should find probable; the first 128 tokens are used.
        on_check: is given the name of each check before it runs.

    Raises:
        ValueError: the model is in training mode, or the text has fewer than 8 tokens.
    """
    check_language_model(language_model)
    if language_model.model.training:
        raise ValueError("model must be in evaluation mode: call model.eval() first")
    patient = Patient(language_model, text)
    checks: list[Check] = []
    for name, check in CHECKS.items():
        if on_check is not None:
            on_check(name)
        try:
            finding = check(patient)
        except (torch.OutOfMemoryError, MemoryError):
            finding = skipped("not enough memory")
        except NonFiniteLogitsError as error:
            told = any(check.status == "fail" for check in checks[:1])
            finding = skipped(NOT_NUMBERS) if told else Finding("fail", None, None, str(error))
        except Exception as error:  # whatever a broken model makes of its input
            reason = next(iter(str(error).strip().splitlines()), "")
            finding = Finding("fail", None, None, f"raised {type(error).__name__}: {reason}")
        checks.append(Check(name, *finding))
    return DoctorResult(language_model.name, tuple(checks), tuple(_notes(patient)))


def _notes(patient: Patient) -> list[str]:
    """What may surprise in a configuration, or in the weights."""
    model, tokenizer = patient.model, patient.tokenizer
    config = copy.deepcopy(model.generation_config)
    config.do_sample = True
    notes = []
    try:
        setting = str(DecodingSettings.from_generation_config(config))
    except ValueError as error:
        setting = str(error)
    if setting != "raw":
        notes.append(f"model.generate(do_sample=True) draws under {setting}")
    for name, value in applied_besides(config).items():
        notes.append(f"the generation configuration sets {name} to {value!r}")
    rows = model.get_input_embeddings().num_embeddings
    if rows > len(tokenizer):
        notes.append(f"{rows - len(tokenizer)} rows of the vocabulary have no token")
    if rows < len(tokenizer):
        notes.append(f"{len(tokenizer) - rows} tokens of the tokenizer have no row in the model")
    if tokenizer.pad_token_id is None:
        notes.append("the tokenizer has no padding token")
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        notes.append("the padding token is EOS: masking padding by its id hides EOS")
    if not patient.front:
        notes.append(
            "the tokenizer has neither BOS nor EOS: the first token of a text is not scored"
        )
    elif tokenizer.bos_token_id is None and patient.front == [tokenizer.eos_token_id]:
        notes.append("the tokenizer has no BOS: evaluations put EOS in front")
    anew = read_once(model, tokenizer.pad_token_id or 0)
    if anew is not None:
        notes.append(f"each sample reads its prompt anew: {anew}")
    unused = patient.language_model.unused_weights
    if unused:
        notes.append(f"weights that are not used: {len(unused):,}, among them {unused[0]}")
    best = texts.best_temperature(patient)
    if best is not None and max(best, 1 / best) > UNUSUAL:
        notes.append(
            f"the reference text fits best at temperature {best:.2f}: the model, or a temperature "
            "baked into its weights, makes it too sure or too unsure of this text"
        )
    return notes
