"""The doctor's checks of passes: the same tokens, computed in two ways, give the same logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from decoding.models.devices import input_device
from decoding.passes.head import LogitHead
from decoding.passes.probing import distance
from decoding.sampling.stepping import stepped
from decoding_evals.doctor.patient import (
    NOT_NUMBERS,
    Finding,
    Patient,
    is_number,
    judged,
    skipped,
)


def finite(patient: Patient) -> Finding:
    """Weights and logits are numbers."""
    for name, weights in patient.model.named_parameters():
        if weights.is_meta:  # on disk, and brought to a device for the pass alone
            continue
        bad = ~weights.isfinite()
        if bad.any():
            place = bad.nonzero()[0].tolist()
            message = f"{name} holds NaN or infinity, first in row {place[0]}"
            return Finding("fail", float(bad.sum()), 0.0, message)
    for logits in (patient.reference, *patient.together):
        finding = _finite_logits(logits)
        if finding[0] == "fail":
            break
    return finding


def _finite_logits(logits: Tensor) -> Finding:
    bad = logits.isnan() | (logits == math.inf) | (logits == -math.inf).all(-1, keepdim=True)
    count = int(bad.sum())
    if not count:
        return Finding("pass", 0.0, 0.0, "no weight or logit is NaN or infinite")
    where = f"first at position {int(bad.any(-1).nonzero()[0])} of {len(bad)}"
    if bad.any(-1).all() and not bad.all():
        tokens = bad.all(0).nonzero().flatten().tolist()[:5]
        where = f"at every position, for token ids {', '.join(map(str, tokens))}"
    elif bad.all(-1).any():
        rows = bad.all(-1).nonzero().flatten().tolist()
        where = f"the whole row at position {', '.join(map(str, rows[:5]))} of {len(bad)}"
    return Finding("fail", float(count), 0.0, f"NaN or infinite logits, {where}")


def causality(patient: Patient) -> Finding:
    """A token changes the logits at its own position and none before."""
    if not is_number(patient.alone):
        return skipped(NOT_NUMBERS)
    place = len(patient.probe) // 2
    changed = list(patient.probe)
    changed[place] = patient.other(changed[place])
    limit = patient.limit(patient.alone)
    gaps = distance(patient.logits([changed])[0], patient.alone)
    before, here, behind = (
        float(gaps[part].max())
        for part in (slice(1, place), slice(place, place + 1), slice(place + 1, place + 2))
    )
    if not gaps.any():
        return Finding("fail", before, limit, "the logits do not depend on the tokens")
    if here <= min(limit, behind / 100):
        message = (
            "a token changes the logits behind it, not those at its own position: logits are "
            "shifted, one position late"
        )
        return Finding("fail", before, limit, message)
    message = "a token changes the logits of positions before it: attention is not causal"
    if not (gaps[1 : place - 1] > limit).any():
        message = "a token changes the logits before it: logits are shifted, one position early"
    agree = "a token changes logits from its own position on, none before"
    return judged(before, limit, agree, message)


def padding(patient: Patient, side: str) -> Finding:
    """Padding on the left, masked, with positions counted from the first token; or on the right."""
    probe, width = patient.probe, 4
    size = len(probe)
    real = slice(width, None) if side == "left" else slice(size)
    zeros, ones = [0] * width, [1] * size
    mask = [*zeros, *ones] if side == "left" else [*ones, *zeros]
    longer = (patient.sequence * 2)[: size + width]

    def padded(pad: int, *, count: bool) -> Tensor:
        fill = [pad] * width
        row = [*fill, *probe] if side == "left" else [*probe, *fill]
        return patient.logits([row, longer], [mask, [1] * len(longer)], count=count)[0, real]

    # Without positions: transformers 5 takes those of padded rows for several texts in one row,
    # and then keeps them apart even where the mask is lost.
    one, other = (padded(pad, count=False) for pad in (probe[-1], patient.other(probe[-1])))
    leak, limit = float(distance(one, other).max()), patient.limit(patient.alone)
    if leak > limit:
        message = (
            "what stands in the padding changes the logits of tokens: padding leaks through "
            "attention (the attention mask is not kept)"
        )
        return Finding("fail", leak, limit, message)
    return patient.compared(
        padded(probe[-1], count=True),
        patient.alone,
        f"{side}-padded as unpadded",
        f"{side} padding shifts positions: the model ignores position_ids or counts the pads",
    )


def batch(patient: Patient) -> Finding:
    """Rows of a batch do not influence each other."""
    alone = torch.cat([patient.logits([row]) for row in patient.rows])
    differ = "a row's logits depend on the rows beside it in the batch"
    return patient.compared(patient.together, alone, "four rows together as one by one", differ)


@torch.inference_mode()
def cache(patient: Patient) -> Finding:
    """Cached steps against whole passes, on two texts, so that a cache that outlives the first is
    noticed."""
    given = len(patient.probe) // 2
    steps, wholes = [], []
    for row in (patient.probe, [*reversed(patient.probe)]):
        ids = torch.tensor(row, device=input_device(patient.model))
        # The token behind the last step is read by none.
        tokens, prompt = torch.cat([ids[given:], ids[:1]]), ids[None, :given]
        steps.append(stepped(patient.model, prompt, torch.ones_like(prompt), tokens, 0)[0])
        wholes.append(patient.logits([row])[0, given - 1 :])
    got, want = torch.cat(steps), torch.cat(wholes)
    wrong = (distance(got, want) > patient.limit(want)).nonzero().flatten().tolist()
    differ = ""
    if wrong:
        place = wrong[0] % (len(patient.probe) - given + 1)
        differ = (
            "the first logits differ already, before the cache is used: use_cache changes the pass"
        )
        if place:
            differ = (
                f"from cached step {place} on, logits differ from those of a whole pass: the "
                "cache returns stale or wrong keys or values"
            )
    return patient.compared(got, want, "cached steps as a whole pass", differ)


def blocked_head(patient: Patient) -> Finding:
    """The scorer's head, a few rows at a time, against the model's own logits."""
    model = patient.model
    ids = torch.tensor([patient.probe], device=input_device(model))
    head = LogitHead(model)
    hidden = head.hidden(ids, torch.ones_like(ids))[0]
    blocked = torch.cat([head.logits(rows) for rows in torch.split(hidden, 5)])
    agree = "the scorer's blocks as the model's logits"
    if head.full_logits is not None:
        agree = "scored from the model's own logits: " + head.full_logits
    return patient.compared(
        blocked, patient.alone, agree, "the scorer's logits are not the model's"
    )
