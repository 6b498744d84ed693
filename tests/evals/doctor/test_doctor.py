"""The doctor on sound models, and on models broken on purpose."""

import copy
import functools
import json
import math
from pathlib import Path

import pytest
import torch
from numpy.testing import assert_allclose
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

from decoding.models.loading import LanguageModel
from decoding_evals.doctor import texts
from decoding_evals.doctor.evaluation import CHECKS, REFERENCE, doctor
from decoding_evals.doctor.patient import Patient
from decoding_evals.doctor.texts import best_temperature
from oracle import editing, log_softmax, plogp, with_config

# Every break, on every model, has one check that must say one thing.


def edited(change):
    return lambda model: editing(model, lambda step, logits: change(logits))


def late(model):
    return editing(model, lambda step, z: torch.cat([z[:, :1], z[:, :-1]], 1))


def late_body(model):
    """The body is shifted, so body and head agree with each other."""
    twin = copy.deepcopy(model)
    [*_, last] = (
        module for name, module in twin.named_modules() if name.endswith((".norm", "ln_f"))
    )
    last.register_forward_hook(lambda module, args, output: output.roll(1, dims=1))
    return twin


def warm_module(model):
    """The head itself divides."""
    twin = copy.deepcopy(model)
    twin.get_output_embeddings().register_forward_hook(lambda module, args, z: z / 1.3)
    return twin


class Warm(torch.nn.Module):
    """A head around a head."""

    def __init__(self, head):
        super().__init__()
        self.inner = head
        self.temperature = torch.nn.Parameter(torch.tensor(1.3))

    def forward(self, hidden):
        return self.inner(hidden) / self.temperature


def warm_wrapper(model):
    twin = copy.deepcopy(model)
    twin.set_output_embeddings(Warm(twin.get_output_embeddings()))
    return twin


def warm_weights(model):
    """The head's weights are divided, and no longer those of the embedding."""
    twin = copy.deepcopy(model)
    head = twin.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.detach() / 1.3)
    return twin


class StaleCache(DynamicCache):
    """Gives a new token the key of the one before."""

    def update(self, keys, values, layer, *arguments, **kwargs):
        keys, values = super().update(keys, values, layer, *arguments, **kwargs)
        keys = keys.clone()
        if keys.shape[-2] > 12:
            keys[..., -1, :] = keys[..., -2, :]
        return keys, values


class FrozenCache(DynamicCache):
    """Keeps what the first call gave it, in the first layer, and of later ones only the shape."""

    def update(self, keys, values, layer, *arguments, **kwargs):
        new = keys.shape[-2]
        keys, values = super().update(keys, values, layer, *arguments, **kwargs)
        if layer == 0 and keys.shape[-2] > new:
            self.layers[0].keys[..., -new:, :] = 0
            keys = self.layers[0].keys
        return keys, values


def cached_by(kind):
    def broken(model):
        twin = copy.copy(model)

        @functools.wraps(model.forward)
        def forward(*args, **kwargs):
            past = kwargs.get("past_key_values")
            if kwargs.get("use_cache") and (past is None or past.get_seq_length() == 0):
                kwargs["past_key_values"] = kind()
            return model.forward(*args, **kwargs)

        twin.forward = forward
        return twin

    return broken


def unmasked(model):
    """Ignores the attention mask."""
    twin = copy.copy(model)

    def forward(*args, **kwargs):
        return model.forward(*args, **kwargs | {"attention_mask": None})

    twin.forward = forward
    return twin


def nan_weights(model):
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_output_embeddings().weight[17] = math.nan
    return twin


def nan_position(logits):
    logits[:, 3:4] = math.nan
    return logits


def nan_token(logits):
    logits[..., 17] = math.nan
    return logits


def nan_neighbour(logits):
    logits[1:2] = math.nan
    return logits


BREAKS = {
    "late": (late, "causality", "shifted, one position late"),
    "late, in the body": (late_body, "causality", "shifted, one position late"),
    "early": (edited(lambda z: z.roll(-1, dims=1)), "causality", "shifted, one position early"),
    "temperature": (edited(lambda z: z / 1.3), "head", "a temperature of 1.3 that the config"),
    "temperature, in the module": (warm_module, "head", "a temperature of 1.3 that the config"),
    "temperature, around it": (warm_wrapper, "head", "a temperature of 1.3 that the config"),
    "temperature, in the weights": (warm_weights, "head", "a temperature of 1.3 baked into"),
    "upside down": (edited(lambda z: -z / 2), "head", "does more than its configuration says"),
    "stale keys": (cached_by(StaleCache), "cache", "returns stale or wrong keys"),
    "frozen keys": (cached_by(FrozenCache), "cache", "returns stale or wrong keys"),
    "no mask": (unmasked, "left padding", "padding leaks through attention"),
    "NaN weights": (nan_weights, "finite logits", "holds NaN or infinity, first in row 17"),
    "NaN position": (edited(nan_position), "finite logits", "whole row at position 3 of"),
    "NaN token": (edited(nan_token), "finite logits", "every position, for token ids 17"),
    "NaN neighbour": (edited(nan_neighbour), "finite logits", "NaN or infinite logits"),
}  # fmt: skip
SOUND = ["stories", "stories260k", "random_gpt2"]


@pytest.fixture
def quick(monkeypatch):
    """Few samples: for what is certain of any number."""
    monkeypatch.setattr(texts, "SAMPLES", 2)


@pytest.mark.parametrize("name", SOUND)
def test_sound_models_pass(request, name, monkeypatch):
    monkeypatch.setattr(texts, "SAMPLES", 8)
    result = doctor(request.getfixturevalue(name))
    found = {check.name: check for check in result.checks}
    assert [*found] == [*CHECKS] and result.passed
    skipped = {check.name for check in result.checks if check.status == "skipped"}
    untrained = {"reference text shifted", "reference text with BOS"}
    assert skipped == (untrained if name == "random_gpt2" else set())
    for check in result.checks:
        assert check.figure is None or check.figure <= check.limit
    if skipped:
        assert "does not beat uniform by 0.5 nats" in found["reference text with BOS"].message


def test_an_untrained_model_that_favours_the_token_it_read_is_not_judged(random_gpt2):
    """Tied embeddings make it so; the reference text then fits best at shift -1."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=256, n_head=2)).eval()
    patient = Patient(LanguageModel(model, random_gpt2.tokenizer, "echo"), REFERENCE)
    own = [
        log_softmax(row)[id_]
        for row, id_ in zip(patient.reference.numpy(), patient.sequence, strict=True)
    ]
    assert -sum(own) / len(own) < math.log(50257) - 0.5
    assert CHECKS["reference text shifted"](patient).status == "skipped"


def test_half_precision_is_measured_and_not_failed(stories, quick):
    model = copy.deepcopy(stories.model).bfloat16()
    result = doctor(LanguageModel(model, stories.tokenizer, "half"))
    [dtype] = [check for check in result.checks if check.name == "dtype"]
    assert result.passed and 0 < dtype.figure < 0.1 and dtype.message.startswith("bfloat16: ")


@pytest.mark.parametrize("name", ["stories", "random_gpt2"])
@pytest.mark.parametrize("broken", ["late", "temperature", "stale keys", "no mask", "NaN weights"])
def test_the_first_check_that_fails_names_the_cause(request, name, broken):
    language_model = request.getfixturevalue(name)
    break_, cause, says = BREAKS[broken]
    model = break_(language_model.model)
    patient = Patient(LanguageModel(model, language_model.tokenizer, "broken"), REFERENCE)
    findings = ((name, check(patient)) for name, check in CHECKS.items())
    name, finding = next(found for found in findings if found[1].status == "fail")
    assert name == cause and says in finding.message


@pytest.mark.parametrize("broken", BREAKS)
def test_the_doctor_survives_a_broken_model(stories260k, quick, broken):
    break_, cause, says = BREAKS[broken]
    model = break_(stories260k.model)
    result = doctor(LanguageModel(model, stories260k.tokenizer, "broken"))
    failed = [check for check in result.checks if check.status == "fail"]
    assert not result.passed and len(result.checks) == len(CHECKS)
    assert failed[0].name == cause and says in failed[0].message
    assert json.dumps(result.record(), allow_nan=False)


def test_a_trained_model_that_is_late_fits_at_shift_minus_1(stories260k):
    [late_, sound] = (
        CHECKS["reference text shifted"](
            Patient(LanguageModel(model, stories260k.tokenizer, ""), REFERENCE)
        )
        for model in (late(stories260k.model), stories260k.model)
    )
    assert late_.status == "fail" and "one position late" in late_.message
    assert sound.status == "pass" and sound.figure < -5


# Checks that need a break of their own.


def test_another_sampler_than_the_scorers_gives_a_large_z(stories260k):
    """A model that is warmer where it reads one token at a time, as a cached step does."""
    warm = edited(lambda z: z / 1.5 if z.shape[1] == 1 else z)(stories260k.model)
    patient = Patient(LanguageModel(warm, stories260k.tokenizer, "warm"), REFERENCE)
    finding = CHECKS["sampler and scorer"](patient)
    assert finding.status == "fail" and finding.figure > 4 and finding.limit == 4
    assert "sampler and scorer disagree: z +" in finding.message


def test_a_harmful_bos_fails(stories260k):
    tokenizer = stories260k.tokenizer
    model = editing(stories260k.model, lambda step, z: z)
    bos = tokenizer.bos_token_id

    @functools.wraps(stories260k.model.forward)
    def forward(ids, **kwargs):
        output = stories260k.model(ids, **kwargs)
        if ids[0, 0] == bos:
            output.logits = output.logits.roll(7, dims=-1)
        return output

    model.forward = forward
    finding = CHECKS["reference text with BOS"](
        Patient(LanguageModel(model, tokenizer, "harmed"), REFERENCE)
    )
    assert finding.status == "fail" and "in front harms" in finding.message


def test_rows_that_see_each_other_fail(stories260k):
    mixed = edited(lambda z: z + 0.1 * z.mean(0, keepdim=True) * (len(z) > 1))
    patient = Patient(
        LanguageModel(mixed(stories260k.model), stories260k.tokenizer, "mixed"), REFERENCE
    )
    assert CHECKS["batch size"](patient).status == "fail"


def test_a_tokenizer_that_loses_text_fails(stories260k):
    text = REFERENCE + " 日本"
    tokenizer = copy.deepcopy(stories260k.tokenizer)
    decode = tokenizer.decode
    tokenizer.decode = lambda ids, **kwargs: decode(ids, **kwargs).replace("dog", "cat")
    finding = CHECKS["tokenizer round trip"](
        Patient(LanguageModel(stories260k.model, tokenizer, "lossy"), text)
    )
    assert finding.status == "fail" and "'dog on " in finding.message
    assert "'cat on " in finding.message


def test_a_check_that_raises_has_failed(stories260k, monkeypatch, quick):
    def broken(patient):
        raise RuntimeError("no such kernel\nand a long explanation")

    monkeypatch.setitem(CHECKS, "batch size", broken)
    result = doctor(stories260k)
    [failed] = [check for check in result.checks if check.status == "fail"]
    assert failed.message == "raised RuntimeError: no such kernel"


# Figures.


def test_figures_are_those_of_plain_loops(stories260k, quick):
    model, tokenizer = stories260k.model, stories260k.tokenizer
    ids = tokenizer(REFERENCE, add_special_tokens=False)["input_ids"][:127]
    with torch.no_grad():
        with_bos = model(torch.tensor([[tokenizer.bos_token_id, *ids]])).logits[0].double().numpy()
        without = model(torch.tensor([ids])).logits[0].double().numpy()
    log_p = [log_softmax(row) for row in with_bos]
    found = {check.name: check for check in doctor(stories260k).checks}
    # Row i reads id i - 1 and predicts id i.
    rows = range(2, len(ids) - 1)
    nll = [-sum(log_p[i][ids[i + k]] for i in rows) / len(rows) for k in (-1, 0, 1)]
    shifts = found["reference text shifted"]
    assert_allclose(shifts.figure, nll[1] - min(nll[0], nll[2]), atol=1e-5)
    assert shifts.message.endswith(", ".join(f"{value:.2f}" for value in nll))
    a = -sum(log_p[i][ids[i]] for i in range(1, len(ids))) / (len(ids) - 1)
    b = -sum(log_softmax(without[i - 1])[ids[i]] for i in range(1, len(ids))) / (len(ids) - 1)
    assert_allclose(found["reference text with BOS"].figure, a - b, atol=1e-5)


def test_best_temperature_satisfies_its_equation(stories260k):
    """At the best temperature the mean surprisal is the mean entropy."""
    patient = Patient(stories260k, REFERENCE)
    temperature = best_temperature(patient)
    log_p = [log_softmax(row / temperature) for row in patient.reference[:-1].double().numpy()]
    surprisal = -sum(row[id_] for row, id_ in zip(log_p, patient.sequence[1:], strict=True))
    assert surprisal == pytest.approx(sum(plogp(row, -row) for row in log_p), rel=1e-6)


# At the shell.


def test_the_shell_reports_and_exits_with_0(run, quick):
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "builtin:stories: 13 checks passed, 0 failed, 0 skipped"
    assert [line[:22].strip() for line in lines[2:15]] == [name[:22] for name in CHECKS]
    assert "- model.generate(do_sample=True) draws under top_k=50" in lines
    code, out, err = run("doctor", "--json")
    record = json.loads(out)
    assert (code, err) == (0, "") and record["passed"] is True
    assert [check["name"] for check in record["checks"]] == [*CHECKS]
    assert {*record["checks"][0]} == {"name", "status", "figure", "limit", "message"}


def test_the_shell_names_what_failed_and_exits_with_1(run, stories, monkeypatch, quick):
    warm = LanguageModel(edited(lambda z: z / 1.3)(stories.model), stories.tokenizer, "warm")
    monkeypatch.setattr("decoding.models.loading.load_model", lambda *_, **__: warm)
    code, out, err = run("doctor")
    assert (code, err) == (1, "Error: 1 check failed: head\n")
    [row] = [line for line in out.splitlines() if line.startswith("head ")]
    assert "FAIL" in row and "a temperature of 1.3 that the configuration does not name" in row


def test_surprises_are_notes(stories260k, quick):
    model = with_config(stories260k.model, top_k=7, repetition_penalty=1.5, suppress_tokens=[4])
    result = doctor(LanguageModel(model, stories260k.tokenizer, "surprising"))
    assert result.passed
    assert "model.generate(do_sample=True) draws under top_k=7" in result.notes
    assert "the generation configuration sets repetition_penalty to 1.5" in result.notes
    assert "the generation configuration sets suppress_tokens to [4]" in result.notes
    assert any(note.startswith("the padding token is EOS") for note in result.notes)


def test_a_short_text_and_a_model_in_training_are_refused(run, stories260k):
    Path("short.txt").write_text("Once upon")
    code, out, err = run("doctor", "short.txt")
    assert (code, out) == (1, "") and "text must have at least 8 tokens, got 2" in err
    assert run("doctor", "nowhere.txt")[0] == 1
    training = copy.deepcopy(stories260k.model).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        doctor(LanguageModel(training, stories260k.tokenizer, ""))


def test_shifts_of_a_text_that_repeats_itself_are_not_judged(stories):
    result = doctor(stories, "   \n \n" * 40)
    [check] = [check for check in result.checks if check.name == "reference text shifted"]
    assert check.status == "skipped" and "repeats itself" in check.message
