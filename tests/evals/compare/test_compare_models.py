"""Two models on one text: every figure against plain float64 loops, and the command."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import t
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from decoding import NonFiniteLogitsError
from decoding.models.loading import LanguageModel, check_vocabularies
from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding_evals.compare.models import PERCENTILES, compare_models
from oracle import log_softmax

NATS = 2e-5  # float32 passes and float32 divergences
TEXT = (
    "Once upon a time, there was a little girl named Lily. She didn't like her red ball.\n"
    "One day, Tom and his dog went to the park. They saw a 日本 sign! They ran and played.\n"
) * 2


def perturbed(language_model, noise=0.02, name="perturbed"):
    """The same tokenizer; noise on every weight."""
    twin = copy.deepcopy(language_model.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += noise * torch.randn(parameter.shape, generator=generator)
    return dataclasses.replace(language_model, model=twin, name=name)


def edited(language_model, edit):
    """The same weights; logits pass through `edit`."""
    twin = copy.copy(language_model.model)

    def forward(*args, **kwargs):
        output = language_model.model.forward(*args, **kwargs)
        output.logits = edit(output.logits.clone())
        return output

    twin.forward = forward
    twin.base_model_prefix = ""  # so that nothing goes past this forward
    return dataclasses.replace(language_model, model=twin, name="edited")


@pytest.fixture(scope="module")
def other(stories):
    return perturbed(stories)


@torch.no_grad()
def plain(a, b, documents, context, stride, bos=True):
    """Per-token columns, one token after the other."""
    found = []
    for text in documents:
        ids = a.tokenizer(text, add_special_tokens=False)["input_ids"]
        ids = [0] * (bos and bool(text)) + ids
        read = {}
        for target in range(1, len(ids)):
            begin = max(0, math.ceil((target - context) / stride)) * stride
            if begin not in read:
                window = torch.tensor([ids[begin : begin + context]])
                read[begin] = [m.model(window).logits[0].double().numpy() for m in (a, b)]
            log_a, log_b = (log_softmax(z[target - 1 - begin]) for z in read[begin])
            p_a, p_b = np.exp(log_a), np.exp(log_b)
            found.append(
                {
                    "nll_a": -log_a[ids[target]],
                    "nll_b": -log_b[ids[target]],
                    "kl_ab": (p_a * (log_a - log_b)).sum(),
                    "kl_ba": (p_b * (log_b - log_a)).sum(),
                    "delta_p": p_b[ids[target]] - p_a[ids[target]],
                    "same_top": float(log_a.argmax() == log_b.argmax()),
                }
            )
    return {name: np.array([row[name] for row in found]) for name in found[0]}


def batch_mean_error(values, length):
    """Of Σ values / n, from blocks of consecutive tokens; the last may be shorter."""
    blocks = [values[i : i + length] for i in range(0, len(values), length)]
    spread = sum((block.sum() - values.mean() * len(block)) ** 2 for block in blocks)
    return math.sqrt(spread * len(blocks) / (len(blocks) - 1)) / len(values)


KEYS = {
    "models", "perplexity", "nll_nats", "nll_standard_error", "nll_difference_nats",
    "nll_difference_standard_error", "perplexity_ratio", "perplexity_ratio_confidence_interval",
    "kl_nats", "kl_standard_error", "kl_percentiles_nats", "delta_p", "delta_p_standard_error",
    "cross_entropy_standard_error", "binoculars", "binoculars_standard_error", "delta_p_rms",
    "delta_p_percentiles", "same_top_share", "same_top_standard_error", "error_unit", "units",
    "block_length", "context", "stride", "bos", "complete", "documents", "documents_skipped",
    "windows", "bos_tokens", "tokens", "tokens_scored", "tokens_context_only", "tokens_skipped",
    "entropy_nats", "entropy_standard_error", "cross_entropy_nats",
}  # fmt: skip


def assert_plain(record, columns):
    """Every figure of a record of one document."""
    length, n = record["block_length"], len(columns["nll_a"])
    assert record.keys() == KEYS
    assert record["tokens_scored"] == n and record["units"] == math.ceil(n / length)

    def check(actual, expected):
        assert actual == pytest.approx(expected, abs=NATS, rel=1e-4)

    a, b = columns["nll_a"], columns["nll_b"]
    check(record["nll_nats"], [a.mean(), b.mean()])
    check(record["perplexity"], [math.exp(a.mean()), math.exp(b.mean())])
    check(record["nll_standard_error"], [batch_mean_error(x, length) for x in (a, b)])
    check(record["nll_difference_nats"], (b - a).mean())
    error = batch_mean_error(b - a, length)
    check(record["nll_difference_standard_error"], error)
    check(record["perplexity_ratio"], math.exp((b - a).mean()))
    check(record["perplexity_ratio"], record["perplexity"][1] / record["perplexity"][0])
    half = t.ppf(0.975, record["units"] - 1) * error
    bounds = [math.exp((b - a).mean() + side * half) for side in (-1, 1)]
    check(record["perplexity_ratio_confidence_interval"], bounds)
    kls = [columns["kl_ab"], columns["kl_ba"]]
    check(record["kl_nats"], [kl.mean() for kl in kls])
    check(record["kl_standard_error"], [batch_mean_error(kl, length) for kl in kls])
    delta = columns["delta_p"]
    check(record["delta_p"], delta.mean())
    check(record["delta_p_standard_error"], batch_mean_error(delta, length))
    check(record["delta_p_rms"], math.sqrt((delta**2).mean()))
    for name, values in (("kl_percentiles_nats", kls[0]), ("delta_p_percentiles", delta)):
        assert list(record[name]) == ["min", *(f"{q:g}" for q in PERCENTILES), "max"]
        for q, value in record[name].items():
            percent = {"min": 0, "max": 100}.get(q)
            check(value, np.percentile(values, float(q) if percent is None else percent))
    check(record["same_top_share"], columns["same_top"].mean())
    check(record["same_top_standard_error"], batch_mean_error(columns["same_top"], length))


@pytest.mark.parametrize(("context", "stride", "batch_size"), [(512, 256, 8), (24, 10, 3)])
def test_every_figure_equals_a_plain_loop(stories, other, context, stride, batch_size):
    windows = Windows(context=context, stride=stride, batch_size=batch_size)
    record = compare_models(stories, other, [TEXT], windows=windows).record()
    columns = plain(stories, other, [TEXT], context, stride)
    assert columns["kl_ab"].mean() > 0.01 and 0 < columns["same_top"].mean() < 1
    assert_plain(record, columns)
    assert record["models"] == ["builtin:stories", "perturbed"]
    assert (record["context"], record["stride"], record["complete"]) == (context, stride, True)


def test_models_that_are_near_each_other(stories):
    """As quantisation leaves them: KL is far below the surprisals it comes from."""
    near = perturbed(stories, noise=3e-4)
    record = compare_models(stories, near, [TEXT]).record()
    columns = plain(stories, near, [TEXT], 512, 256)
    assert columns["kl_ab"].mean() < 1e-4
    assert record["kl_nats"][0] == pytest.approx(columns["kl_ab"].mean(), abs=2e-7)
    assert record["nll_difference_nats"] == pytest.approx(
        (columns["nll_b"] - columns["nll_a"]).mean(), abs=2e-6
    )


def test_exchanging_the_models_exchanges_the_figures(stories, other):
    ab = compare_models(stories, other, [TEXT]).record()
    ba = compare_models(other, stories, [TEXT]).record()
    for name in ("models", "perplexity", "nll_nats", "kl_nats", "nll_standard_error"):
        assert ba[name] == ab[name][::-1]
    for name in ("nll_difference_nats", "delta_p"):
        assert ba[name] == -ab[name]
    assert ba["perplexity_ratio"] == pytest.approx(1 / ab["perplexity_ratio"])
    assert ba["same_top_share"] == ab["same_top_share"]


@pytest.mark.parametrize("twin", [False, True])
def test_a_model_against_itself(stories, twin):
    same = dataclasses.replace(stories, model=copy.deepcopy(stories.model)) if twin else stories
    record = compare_models(stories, same, [TEXT], windows=Windows(context=32)).record()
    assert record["kl_nats"] == record["kl_standard_error"] == [0, 0]
    assert set(record["kl_percentiles_nats"].values()) == {0}
    assert set(record["delta_p_percentiles"].values()) == {0}
    assert record["perplexity_ratio"] == 1 and record["nll_difference_nats"] == 0
    assert record["perplexity_ratio_confidence_interval"] == [1, 1]
    assert record["delta_p"] == record["delta_p_rms"] == 0
    assert record["same_top_share"] == 1 and record["same_top_standard_error"] == 0


DOCUMENTS = ["Once upon a time there was a cat.", "", "Lily", TEXT[:150]]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("bos", ["auto", "never"])
def test_means_are_over_the_tokens_of_all_documents(stories, other, bos, batch_size):
    record = compare_models(
        stories,
        other,
        iter(DOCUMENTS),
        windows=Windows(bos=bos, context=16, stride=7, batch_size=batch_size),
    ).record()
    columns = plain(stories, other, DOCUMENTS, 16, 7, bos == "auto")
    assert record["tokens_scored"] == len(columns["nll_a"])
    for place, side in enumerate("ab"):
        assert record["nll_nats"][place] == pytest.approx(columns[f"nll_{side}"].mean(), abs=NATS)
    assert record["kl_nats"][0] == pytest.approx(columns["kl_ab"].mean(), abs=NATS)
    assert_allclose(
        [record["kl_percentiles_nats"][q] for q in ("min", "50", "99", "max")],
        np.percentile(columns["kl_ab"], [0, 50, 99, 100]), atol=NATS,
    )  # fmt: skip
    assert record["documents"] == 4


def test_a_prompt_is_context_alone(stories, other):
    prompt, text = "Once upon a time", " there was a little girl." * 4
    record = compare_models(stories, other, [Document(text, prompt)]).record()
    # This tokenizer puts nothing in front of a prompt, so its first token has no row.
    columns = plain(stories, other, [prompt + text], 512, 256, bos=False)
    own = record["tokens_context_only"]
    assert own == len(stories.tokenizer(prompt, add_special_tokens=False)["input_ids"]) > 0
    assert_plain(record, {name: values[own - 1 :] for name, values in columns.items()})


def test_the_context_is_that_of_the_model_with_fewer_positions(stories):
    short = copy.deepcopy(stories.model)
    short.config.max_position_embeddings = 40
    short = dataclasses.replace(stories, model=short, name="short")
    for pair in ((stories, short), (short, stories)):
        record = compare_models(*pair, [TEXT]).record()
        assert (record["context"], record["stride"]) == (40, 20)
        assert_plain(record, plain(*pair, [TEXT], 40, 20))
        assert compare_models(*pair, [TEXT], windows=Windows(context=30)).record()["context"] == 30
        with pytest.raises(ValueError, match="context must be at most the models' 40 positions"):
            compare_models(*pair, [TEXT], windows=Windows(context=41))


def test_one_token_has_no_errors(stories, other):
    record = compare_models(stories, other, ["Once"]).record()
    assert record["tokens_scored"] == 1
    assert record["nll_standard_error"] == [None, None]
    assert record["perplexity_ratio_confidence_interval"] is None
    assert record["kl_percentiles_nats"]["50"] == record["kl_percentiles_nats"]["max"]
    json.dumps(record, allow_nan=False)


def test_what_is_infinite_is_null(stories):
    """B rules out a token that A finds possible, and that comes."""
    [token] = set(stories.tokenizer(" Lily", add_special_tokens=False)["input_ids"])

    def rule_out(logits):
        logits[..., token] = -math.inf
        return logits

    record = compare_models(stories, edited(stories, rule_out), [TEXT[:90]]).record()
    assert record["perplexity"][0] > 1 and record["perplexity"][1] is None
    assert record["nll_nats"][1] is None and record["nll_difference_nats"] is None
    assert record["perplexity_ratio"] is None
    assert record["perplexity_ratio_confidence_interval"] is None
    assert record["kl_nats"][0] is None and record["kl_nats"][1] > 0
    assert record["kl_percentiles_nats"]["max"] is None
    assert -1 <= record["delta_p"] < 0
    json.dumps(record, allow_nan=False)


def test_what_is_beyond_a_float_is_null(stories):
    far = edited(stories, lambda logits: logits * -2000)
    record = compare_models(stories, far, [TEXT[:90]]).record()
    assert record["nll_difference_nats"] > 709
    assert record["perplexity_ratio"] is None and record["perplexity"][1] is None
    json.dumps(record, allow_nan=False)


def test_a_model_that_returns_no_numbers_is_refused(stories):
    broken = edited(stories, lambda logits: logits.masked_fill(logits == logits.max(), math.nan))
    for pair in ((stories, broken), (broken, stories)):
        with pytest.raises(NonFiniteLogitsError):
            compare_models(*pair, ["Once upon a time"])


def renamed(language_model, **tokens):
    """Another text for some tokens, by id."""
    content = json.loads(language_model.tokenizer.backend_tokenizer.to_str())
    vocabulary = content["model"]["vocab"]
    for number, text in tokens.items():
        [old] = [name for name, index in vocabulary.items() if index == int(number[1:])]
        vocabulary[text] = vocabulary.pop(old)
        content["model"]["merges"] = []
    raw = Tokenizer.from_str(json.dumps(content))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    return dataclasses.replace(language_model, tokenizer=tokenizer, name="renamed")


def test_vocabularies_that_differ_are_refused_by_id(stories):
    own = stories.tokenizer.convert_ids_to_tokens([900, 1000, 1001, 1002])
    one = renamed(stories, _900="zzz")
    message = f"'builtin:stories' and 'renamed' differ at 1 ids: 900 ({own[0]!r}, 'zzz')"
    with pytest.raises(ValueError, match="differ at 1 ids") as caught:
        compare_models(stories, one, ["Once"])
    assert str(caught.value) == f"the vocabularies of {message}"
    many = renamed(stories, _900="z0", _1000="z1", _1001="z2", _1002="z3")
    with pytest.raises(ValueError, match=r"differ at 4 ids: 900 .*, 1000 .*, 1001 .*, …$"):
        compare_models(stories, many, ["Once"])
    longer = copy.deepcopy(stories.tokenizer)
    longer.add_tokens(["<new>"])
    longer = dataclasses.replace(stories, tokenizer=longer)
    with pytest.raises(ValueError, match=r"differ at 1 ids: \d+ \('none', '<new>'\)"):
        compare_models(stories, longer, ["Once"])
    check_vocabularies(stories, perturbed(stories))


def test_a_padded_vocabulary_is_refused(stories):
    padded = copy.deepcopy(stories.model)
    padded.resize_token_embeddings(2112)
    padded = LanguageModel(padded, stories.tokenizer, "padded")
    message = "'builtin:stories' has logits for ids 0 to 2047, 'padded' for 0 to 2111"
    with pytest.raises(ValueError, match=message):
        compare_models(stories, padded, ["Once"])


def test_progress_and_interruption(stories, other):
    seen = []

    def stop(*event):
        seen.append(event)
        if len(seen) == 2:
            raise KeyboardInterrupt

    windows = Windows(context=16, stride=8, batch_size=2)
    columns = plain(stories, other, [TEXT], 16, 8)
    result = compare_models(stories, other, [TEXT], windows=windows, on_progress=stop)
    for count, nll in seen:
        assert nll == pytest.approx(columns["nll_a"][:count].mean(), abs=NATS)
    count = seen[-1][0]
    record = result.record()
    assert record["complete"] is False and 0 < count < len(columns["nll_a"])
    assert_plain(record, {name: values[:count] for name, values in columns.items()})
    assert record["tokens_skipped"] > 0
    result.account.check()


@pytest.mark.parametrize("documents", [[], [""]])
def test_nothing_to_score(stories, other, documents):
    with pytest.raises(ValueError, match="nothing to score"):
        compare_models(stories, other, documents)


# The command.


@pytest.fixture(scope="module")
def folder(tmp_path_factory, other):
    path = tmp_path_factory.mktemp("models") / "other"
    other.model.save_pretrained(path)
    other.tokenizer.save_pretrained(path)
    return path


def test_the_command_compares_two_folders(run, folder, stories, other):
    renamed = dataclasses.replace(other, name=str(folder))
    want = compare_models(stories, renamed, [TEXT], windows=Windows(context=32)).record()
    want["skipped_rows"] = 0
    arguments = ["compare", "--models", "builtin:stories", folder, "--context", 32]
    code, out, err = run(*arguments, "--json", stdin=TEXT.encode())
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found.keys() == want.keys() and found["models"] == ["builtin:stories", str(folder)]
    assert found["kl_nats"] == pytest.approx(want["kl_nats"], abs=NATS)
    assert found["kl_percentiles_nats"] == pytest.approx(want["kl_percentiles_nats"], abs=NATS)
    code, out, err = run(*arguments, stdin=TEXT.encode())
    assert (code, err) == (0, "")
    for line in ("perplexity A", "perplexity B / A", "KL(A‖B), nats", "same favourite token"):
        assert line in out
    assert run(*arguments, "--output", "out.parquet", stdin=TEXT.encode()) == (0, "", "")
    assert [path.name for path in Path().iterdir()] == ["out.parquet"]


def test_a_table_of_infinite_figures(run, monkeypatch, stories):
    def rule_out(logits):
        logits[..., 5:] = -math.inf
        return logits

    pair = [stories, edited(stories, rule_out)]
    monkeypatch.setattr("decoding_evals.compare.command.read_model", lambda *_: pair.pop(0))
    code, out, err = run("compare", "--models", "a", "b", stdin=b"Once upon a time")
    assert (code, err) == (0, "") and "perplexity B / A" in out and "nan" not in out


def test_the_command_names_ids_that_differ(run, tmp_path, stories):
    other = tmp_path / "renamed"
    stories.model.save_pretrained(other)
    renamed(stories, _900="zzz").tokenizer.save_pretrained(other)
    arguments = ["compare", "--models", "builtin:stories", other, "--output", "out.json"]
    code, out, err = run(*arguments, stdin=b"Once")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "differ at 1 ids: 900 (" in err and "'zzz')" in err
    assert [path.name for path in Path().iterdir()] == ["renamed"]
