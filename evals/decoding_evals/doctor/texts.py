"""The doctor's checks of texts: a reference that the model should find probable, and its own."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from decoding.generation.run import generate
from decoding.inference.temperature import fit_temperature
from decoding.information.statistics import row_statistics
from decoding.models.limits import positions
from decoding.rows.faults import NonFiniteLogitsError
from decoding.scoring.blocks import LogitBlock
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.texts.prompts import encode_prompt
from decoding_evals.doctor.passes import causality
from decoding_evals.doctor.patient import Finding, Patient, judged, skipped

MARGIN_NATS = 0.5
Z_LIMIT = 4.0
SAMPLES, NEW_TOKENS = 32, 16


def shifts(patient: Patient) -> Finding:
    """The reference text fits best where each logit row predicts the next token."""
    sequence, logits = patient.sequence, patient.reference
    if len(set(sequence)) < len(sequence) / 4:
        return skipped("the text repeats itself, so shifts look alike")
    rows = range(2, len(sequence) - 2)
    nll = {
        shift: _nll(logits[rows.start : rows.stop], [sequence[row + 1 + shift] for row in rows])
        for shift in (-1, 0, 1)
    }
    # A model with tied embeddings may favour the token that it has just read, trained or not.
    late = _beats_uniform(patient, nll[-1]) and causality(patient)[0] == "fail"
    if not late and not _beats_uniform(patient, nll[0], nll[1]):
        return _not_better()
    lead = nll[0] - min(nll[-1], nll[1])
    shown = "nats a token at shifts −1, 0, +1: " + ", ".join(f"{nats:.2f}" for nats in nll.values())
    if lead < 0:
        return Finding("pass", lead, 0.0, shown)
    way = "late" if nll[-1] < nll[1] else "early"
    return Finding("fail", lead, 0.0, f"logits are shifted, one position {way}; {shown}")


def bos(patient: Patient) -> Finding:
    """BOS in front makes the text more probable, or hardly less."""
    if not patient.front:
        return skipped("the tokenizer has neither BOS nor EOS")
    targets = patient.ids[1:]
    with_bos = _nll(patient.reference[len(patient.front) : -1], targets)
    without = _nll(patient.logits([patient.ids])[0, :-1], targets)
    if not _beats_uniform(patient, with_bos, without):
        return _not_better()
    shown = f"nats a token with BOS {with_bos:.2f}, without {without:.2f}"
    token = "".join(patient.tokenizer.convert_ids_to_tokens(patient.front))
    message = f"{token!r} in front harms, so it is not what the model was trained with; {shown}"
    return judged(with_bos - without, MARGIN_NATS, shown, message)


def _nll(logits: Tensor, targets: list[int]) -> float:
    """Mean surprisal of targets, nats."""
    log_prob = row_statistics(logits, torch.tensor(targets, device=logits.device)).target_log_prob
    assert log_prob is not None
    if log_prob.isnan().any():
        raise NonFiniteLogitsError("the reference text")
    return float(log_prob.double().mean().neg())


def _beats_uniform(patient: Patient, *nlls: float) -> bool:
    return min(nlls) <= math.log(patient.reference.shape[-1]) - MARGIN_NATS


def _not_better() -> Finding:
    return skipped(f"the model does not beat uniform by {MARGIN_NATS} nats on the reference text")


def sampler(patient: Patient) -> Finding:
    """Text that the model writes is as surprising to the scorer as the scorer expects."""
    words = patient.text.split()
    prompts = [" ".join(words[:count]) for count in (3, 6)]
    contexts = [encode_prompt(patient.tokenizer, prompt) for prompt in prompts]
    room = (positions(patient.model) or math.inf) - max(map(len, contexts))
    written = generate(
        patient.language_model,
        prompts,
        max_new_tokens=int(min(NEW_TOKENS, room)),
        num_return_sequences=SAMPLES,
        seed=0,
        batch_size=16,
    )
    documents = [TokenDocument(one.trace.ids.tolist(), contexts[one.index]) for one in written]
    forcing = TeacherForcing(patient.language_model, Windows(batch_size=16))

    def measure(block: LogitBlock) -> dict[str, Tensor]:
        row = row_statistics(block.logits, block.targets)
        assert row.target_log_prob is not None
        return {"log_prob": row.target_log_prob, "entropy": row.entropy, "spread": row.variance}

    excess, spread, apart = 0.0, 0.0, 0.0
    for window, columns in forcing.scan(documents, measure):
        excess += float(-columns["log_prob"].sum() - columns["entropy"].sum())
        spread += float(columns["spread"].sum())
        sampled = written[window.document].trace.raw_surprisal_nats
        apart = max(apart, float(abs(sampled + columns["log_prob"]).max()))
    if spread == 0:
        return skipped("the model is certain of every token")
    z = excess / math.sqrt(spread)
    agree = (
        f"z {z:+.2f} of {forcing.account.tokens_scored:,} sampled tokens; surprisals of sampler "
        f"and scorer differ by {apart:.2g} nats at most"
    )
    return judged(abs(z), Z_LIMIT, agree, f"sampler and scorer disagree: {agree}")


def dtype(patient: Patient) -> Finding:
    """How much surprisal the model's precision costs."""
    dtype = str(patient.model.dtype).removeprefix("torch.")
    if patient.model.dtype in (torch.float32, torch.float64):
        return Finding("pass", 0.0, 1.0, f"{dtype}: exact")
    wide = copy.deepcopy(patient.model).float()
    targets = torch.tensor(patient.sequence[1:], device=wide.device)
    ids = torch.tensor([patient.sequence], device=wide.device)
    with torch.inference_mode():
        exact = row_statistics(wide(ids, use_cache=False).logits[0, :-1], targets)
    got = row_statistics(patient.reference[:-1], targets)
    assert exact.target_log_prob is not None and got.target_log_prob is not None
    error = float((got.target_log_prob - exact.target_log_prob).abs().mean())
    message = f"{dtype}: log-probabilities are off by {error:.2g} nats on average from float32"
    return judged(error, 1.0, message)


def round_trip(patient: Patient) -> Finding:
    """Text to ids and back."""
    ids = patient.tokenizer(patient.text, add_special_tokens=False, verbose=False)["input_ids"]
    back = patient.tokenizer.decode(
        ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    if back == patient.text:
        return Finding("pass", None, None, "ids decode to the text")
    same = next(
        (i for i, (a, b) in enumerate(zip(back, patient.text, strict=False)) if a != b),
        min(len(back), len(patient.text)),
    )
    there, gone = patient.text[same : same + 12], back[same : same + 12]
    message = f"from character {same} on, {there!r} comes back as {gone!r}"
    return Finding("fail", None, None, message)


def best_temperature(patient: Patient) -> float | None:
    """The temperature of the largest likelihood of the reference text, where that means something:
    where the model tells tokens apart, and the text is not its favourite at every step."""
    logits = patient.reference[:-1].double()
    targets = patient.sequence[1:]
    if not logits.isfinite().all() or not _beats_uniform(patient, _nll(logits, targets)):
        return None
    try:
        places = torch.tensor(targets, device=logits.device)
        return fit_temperature(logits, places).temperature or None
    except ValueError:
        return None
