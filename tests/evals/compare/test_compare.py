"""Settings on one text: every figure against plain loops."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from decoding.inference.intervals import MAX_BLOCKS
from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.compare.evaluation import FIRST_BLOCK, compare
from oracle import log_softmax, reference_log_q

NATS = 2e-5  # between float32 passes over other batches
SPECS = [
    "raw",
    "greedy",
    "temperature=0.7",
    "top_k=300",
    "top_p=0.9",
    "typical_p=0.6",
    "temperature=1.3,top_k=40,min_p=0.02",
    "temperature=0.8,top_p=0.95,epsilon_cutoff=0.003",
]
SETTINGS = [DecodingSettings.parse(spec) for spec in SPECS]
TEXT = (
    "Once upon a time, there was a little girl named Lily. She didn't like her red ball.\n"
    "One day, Tom and his dog went to the park. They saw a 日本 sign! They ran and played.\n"
) * 4


# The oracle: one token after the other, in float64.


def encoded(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def rows_of(language_model, documents, context, stride, bos=True):
    """Float64 logits and the true token of every scored position, in the order of the text."""
    front = [language_model.tokenizer.bos_token_id] if bos else []
    if front == [None]:
        front = [language_model.tokenizer.eos_token_id]
    logits, targets = [], []
    for text in documents:
        ids = front + encoded(language_model, text) if text else []
        read = {}
        for target in range(1, len(ids)):
            begin = max(0, math.ceil((target - context) / stride)) * stride
            if begin not in read:
                window = torch.tensor([ids[begin : begin + context]])
                read[begin] = language_model.model(window).logits[0].double().numpy()
            logits.append(read[begin][target - 1 - begin])
            targets.append(ids[target])
    return logits, targets


def plain(logits, targets, settings):
    """Per-token values by name, `(tokens, S)` and `(tokens, S, S)`."""
    size = len(settings)
    found = {name: [] for name in ("entropy", "kept", "kept_mass", "surprisal")}
    pairs = {name: [] for name in ("kl", "js", "total_variation")}
    for z, target in zip(logits, targets, strict=True):
        log_q = np.stack([reference_log_q(z, setting) for setting in settings])
        q = np.exp(log_q)
        inside = np.isfinite(log_q)
        finite = np.where(inside, log_q, 0)
        found["entropy"].append(-(q * finite).sum(-1))
        found["kept"].append(inside.sum(-1))
        scaled = [log_softmax(z if s.greedy else z / s.temperature) for s in settings]
        found["kept_mass"].append([np.exp(p)[k].sum() for p, k in zip(scaled, inside, strict=True)])
        found["surprisal"].append(-log_q[:, target])
        kl, js, tv = np.zeros((3, size, size))
        for i in range(size):
            for j in range(size):
                both = inside[i] & inside[j]
                kl[i, j] = (q[i] * (finite[i] - finite[j]))[both].sum()
                if (inside[i] & ~inside[j]).any():
                    kl[i, j] = math.inf
                tv[i, j] = np.abs(q[i] - q[j]).sum() / 2
                middle = np.log(np.where(q[i] + q[j] > 0, (q[i] + q[j]) / 2, 1))
                js[i, j] = (q[i] * (finite[i] - middle) + q[j] * (finite[j] - middle)).sum() / 2
        for name, values in (("kl", kl), ("js", js), ("total_variation", tv)):
            pairs[name].append(values)
    return {name: np.array(values) for name, values in (found | pairs).items()}


def batch_mean_error(values, weights, length):
    """Cochran's error of Σ values / Σ weights from blocks of consecutive tokens."""
    blocks = [slice(i, i + length) for i in range(0, len(values), length)]
    x = [values[block].sum() for block in blocks]
    n = [weights[block].sum() for block in blocks]
    if len(blocks) < 2 or sum(n) == 0:
        return None
    mean = sum(x) / sum(n)
    spread = sum((a - mean * b) ** 2 for a, b in zip(x, n, strict=True))
    return math.sqrt(spread * len(blocks) / (len(blocks) - 1)) / sum(n)


def close(actual, expected, tolerance=NATS):
    """Nested lists alike, with None in the same places."""
    if isinstance(expected, (list, tuple, np.ndarray)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            close(one, other, tolerance)
    elif expected is None or not np.isfinite(expected):
        assert actual is None
    else:
        assert actual == pytest.approx(float(expected), abs=tolerance, rel=1e-5)


def expected_record(values, length):
    """What the record should say, from per-token values."""
    size = values["entropy"].shape[1]
    covered = np.isfinite(values["surprisal"])
    surprisal = np.where(covered, values["surprisal"], 0)
    finite = np.isfinite(values["kl"])
    kl = np.where(finite, values["kl"], 0)
    ones = np.ones(len(covered))
    everywhere = covered.all(0)

    def each(function):
        return [function(i) for i in range(size)]

    def pair(function):
        return [[function(i, j) for j in range(size)] for i in range(size)]

    def share(sums, counts):
        return sums / counts if counts else None

    def error(name):
        return each(lambda i: batch_mean_error(values[name][:, i], ones, length))

    def pair_error(name):
        return pair(lambda i, j: batch_mean_error(values[name][:, i, j], ones, length))

    covered_mean = each(lambda i: share(surprisal[:, i].sum(), covered[:, i].sum()))
    difference = surprisal[:, :, None] - surprisal[:, None, :]
    return {
        "entropy_nats": values["entropy"].mean(0),
        "effective_choices": np.exp(values["entropy"].mean(0)),
        "kept": values["kept"].mean(0),
        "kept_mass": values["kept_mass"].mean(0),
        "coverage": covered.mean(0),
        "cross_entropy_nats": each(lambda i: covered_mean[i] if everywhere[i] else None),
        "covered_cross_entropy_nats": covered_mean,
        "entropy_standard_error": error("entropy"),
        "kept_mass_standard_error": error("kept_mass"),
        "coverage_standard_error": each(
            lambda i: batch_mean_error(covered[:, i].astype(float), ones, length)
        ),
        "covered_cross_entropy_standard_error": each(
            lambda i: batch_mean_error(surprisal[:, i], covered[:, i].astype(float), length)
        ),
        "kl_nats": pair(lambda i, j: values["kl"][:, i, j].mean()),
        "kl_finite_share": finite.mean(0),
        "kl_where_finite_nats": pair(
            lambda i, j: share(kl[:, i, j].sum(), finite[:, i, j].sum())
        ),
        "kl_where_finite_standard_error": pair(
            lambda i, j: batch_mean_error(kl[:, i, j], finite[:, i, j].astype(float), length)
        ),
        "js_nats": values["js"].mean(0),
        "js_standard_error": pair_error("js"),
        "total_variation": values["total_variation"].mean(0),
        "total_variation_standard_error": pair_error("total_variation"),
        "cross_entropy_difference_nats": pair(
            lambda i, j: difference[:, i, j].mean() if everywhere[i] & everywhere[j] else None
        ),
        "cross_entropy_difference_standard_error": pair(
            lambda i, j: batch_mean_error(difference[:, i, j], ones, length)
            if everywhere[i] & everywhere[j]
            else None
        ),
    }  # fmt: skip


PLAIN = {
    "model", "settings", "error_unit", "units", "block_length", "context", "stride", "bos",
    "full_logits", "complete", "documents", "documents_skipped", "windows", "bos_tokens", "tokens",
    "tokens_scored", "tokens_context_only", "tokens_skipped",
}  # fmt: skip


@pytest.fixture(scope="module")
def values(stories):
    """Per-token values of TEXT, in windows of 64 tokens that begin every 32."""
    return plain(*rows_of(stories, [TEXT], 64, 32), SETTINGS)


# The record.


def test_every_figure_equals_a_plain_loop(stories, values):
    result = compare(stories, [TEXT], SETTINGS, windows=Windows(context=64, stride=32))
    record = result.record()
    tokens = len(encoded(stories, TEXT))
    assert 150 < tokens == record["tokens_scored"] == record["tokens"] == len(values["entropy"])
    length = record["block_length"]
    assert length % FIRST_BLOCK == 0 and record["units"] == math.ceil(tokens / length)
    want = expected_record(values, length)
    assert record.keys() == want.keys() | PLAIN
    for name, expected in want.items():
        try:
            close(record[name], expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
    # The text tells the cases apart: nothing here is covered or finite by accident.
    assert record["cross_entropy_nats"][1] is None and record["coverage"][1] > 0
    assert record["kl_nats"][0][1] is None and record["kl_nats"][1][0] > 0
    shares = np.array(record["kl_finite_share"])
    assert ((shares > 0) & (shares < 1)).any()
    assert (record["kl_where_finite_nats"][0][1] is None) == (shares[0, 1] == 0)
    assert record["settings"] == SPECS
    assert (record["model"], record["complete"], record["error_unit"]) == (
        "builtin:stories", True, "blocks",
    )  # fmt: skip
    assert (record["context"], record["stride"]) == (64, 32)
    assert record["bos"] == stories.tokenizer.convert_ids_to_tokens(
        stories.tokenizer.bos_token_id or stories.tokenizer.eos_token_id
    )


def test_identities_of_the_design_hold(stories, values):
    record = compare(stories, [TEXT], SETTINGS, windows=Windows(context=64, stride=32)).record()
    for spec in ("top_k=300", "top_p=0.9", "typical_p=0.6"):
        i = SPECS.index(spec)
        # KL(q‖raw) = -ln Z, token by token, and TV = 1 - Z.
        np.testing.assert_allclose(
            values["kl"][:, i, 0], -np.log(values["kept_mass"][:, i]), atol=1e-9
        )
        want = -np.log(values["kept_mass"][:, i]).mean()
        assert record["kl_nats"][i][0] == pytest.approx(want, abs=NATS)
        assert record["total_variation"][i][0] == pytest.approx(
            1 - record["kept_mass"][i], abs=1e-9
        )
    js, kl = np.array(record["js_nats"]), np.array(record["kl_nats"], dtype=float)
    variation = np.array(record["total_variation"])
    assert (js >= 0).all() and (js <= math.log(2)).all()
    assert (np.diagonal(js) == 0).all() and (np.diagonal(kl) == 0).all()
    assert (js == js.T).all() and (variation == variation.T).all()
    pinsker = kl[np.isfinite(kl)] - 2 * variation[np.isfinite(kl)] ** 2
    assert (pinsker > -1e-9).all()
    # A point mass against a mass of p on the same token: H(greedy) = 0, TV = 1 - p.
    assert record["entropy_nats"][1] == 0 and record["kept"][1] == 1
    assert variation[1, 0] == pytest.approx(1 - record["kept_mass"][1], abs=1e-9)
    # Cross-entropy under raw is what teacher forcing says.
    assert record["cross_entropy_nats"][0] == pytest.approx(
        values["surprisal"][:, 0].mean(), abs=NATS
    )
    difference = record["cross_entropy_difference_nats"]
    ce = record["cross_entropy_nats"]
    assert difference[2][0] == pytest.approx(ce[2] - ce[0], abs=1e-9)
    assert difference[0][2] == -difference[2][0] and difference[0][0] == 0


def test_infinite_cross_entropy_is_infinity_in_python_and_null_in_json(stories):
    result = compare(stories, [TEXT[:100]], SETTINGS[:3])
    assert np.isinf(result.cross_entropy()).tolist() == [False, True, False]
    assert result.record()["cross_entropy_nats"][1] is None
    assert result.kl_finite_share[0, 1] == 0 and math.isnan(result.kl.mean[0, 1])
    assert result.record()["kl_nats"][0][1] is None


def test_a_paired_error_is_smaller_than_that_of_independent_samples(stories):
    near = [DecodingSettings(), DecodingSettings(temperature=0.95)]
    result = compare(stories, [TEXT], near)
    paired = result.cross_entropy_difference.standard_error[0, 1]
    assert 0 < paired < 0.2 * np.hypot(*result.covered_cross_entropy.standard_error)


@pytest.mark.parametrize("batch_size", [1, 64])
def test_nothing_depends_on_the_batch(stories, batch_size):
    windows = Windows(context=24, stride=10)
    text = TEXT[:350]
    want = compare(stories, [text], SETTINGS, windows=windows).record()
    windows = replace(windows, batch_size=batch_size)
    found = compare(stories, [text], SETTINGS, windows=windows).record()
    assert found.keys() == want.keys()
    for name, value in want.items():
        if isinstance(value, list):
            if name != "settings":
                close(found[name], value)
        else:
            assert found[name] == value, name


DOCUMENTS = ["Once upon a time there was a cat.", "", "Lily", TEXT[:200], "The end.\n"]


@pytest.mark.parametrize("batch_size", [1, 8])
@pytest.mark.parametrize("bos", ["auto", "never"])
def test_means_are_over_the_tokens_of_all_documents(stories, batch_size, bos):
    chosen = SETTINGS[:5]
    windows = Windows(context=16, stride=7, bos=bos, batch_size=batch_size)
    record = compare(stories, iter(DOCUMENTS), chosen, windows=windows).record()
    want = expected_record(
        plain(*rows_of(stories, DOCUMENTS, 16, 7, bos == "auto"), chosen), record["block_length"]
    )
    for name, expected in want.items():
        if not name.endswith("standard_error"):
            close(record[name], expected)
    lengths = [len(encoded(stories, text)) for text in DOCUMENTS]
    assert record["tokens"] == sum(lengths)
    assert record["documents"] == 5
    unscored = 0 if bos == "auto" else sum(length > 0 for length in lengths)
    assert record["tokens_scored"] == sum(lengths) - unscored
    skipped = sum(length < (1 if bos == "auto" else 2) for length in lengths)
    assert record["documents_skipped"] == skipped
    assert (record["bos"] is None) == (bos == "never")


def test_a_prompt_is_not_measured(stories):
    prompt, text = "Once upon a time", " there was a little girl."
    together = compare(stories, [Document(text, prompt)], SETTINGS)
    values = plain(*rows_of(stories, [prompt + text], 512, 256), SETTINGS)
    own = len(encoded(stories, prompt))
    assert together.account.tokens_scored == len(values["entropy"]) - own
    close(together.record()["entropy_nats"], values["entropy"][own:].mean(0))


def test_one_token_has_means_and_no_errors(stories):
    record = compare(stories, ["7"], SETTINGS).record()
    assert (record["tokens_scored"], record["units"]) == (1, 1)
    assert record["entropy_standard_error"] == [None] * len(SETTINGS)
    assert set(record["coverage"]) <= {0.0, 1.0}
    uncovered = [i for i, share in enumerate(record["coverage"]) if share == 0]
    assert uncovered and all(record["covered_cross_entropy_nats"][i] is None for i in uncovered)
    json.dumps(record, allow_nan=False)


def test_blocks_double_and_never_exceed_their_number(stories):
    result = compare(stories, [TEXT * 3], [DecodingSettings(), DecodingSettings(temperature=0)])
    assert result.block_length > FIRST_BLOCK
    assert MAX_BLOCKS // 2 <= result.blocks <= MAX_BLOCKS
    assert result.blocks == math.ceil(result.account.tokens_scored / result.block_length)


def test_one_setting_alone(stories):
    record = compare(stories, ["Once upon a time"], [DecodingSettings()]).record()
    for name in ("kl_nats", "js_nats", "total_variation", "cross_entropy_difference_nats"):
        assert record[name] == [[0]]
    assert record["kl_finite_share"] == [[1]]


def test_many_settings_of_few_tokens(stories):
    chosen = [DecodingSettings(top_k=k) for k in range(1, 151)]
    record = compare(stories, ["Once upon a time"], chosen).record()
    assert record["kept"] == list(range(1, 151))
    kl = np.array(record["kl_nats"], dtype=float)
    assert (np.isfinite(kl) == np.triu(np.ones_like(kl, dtype=bool))).all()


def test_progress_counts_up_to_all_tokens(stories, values):
    seen = []
    chosen = [SETTINGS[2], SETTINGS[0]]
    compare(
        stories, [TEXT], chosen, windows=Windows(context=64, stride=32, batch_size=2),
        on_progress=lambda *event: seen.append(event),
    )  # fmt: skip
    counts = [count for count, _ in seen]
    assert len(seen) > 2 and counts == sorted(set(counts)) and counts[-1] == len(values["entropy"])
    for count, entropy in seen:
        assert entropy == pytest.approx(values["entropy"][:count, 2].mean(), abs=NATS)


def test_an_interrupted_run_is_that_of_the_tokens_scored_until_then(stories, values):
    seen = []

    def stop(count, _):
        seen.append(count)
        if len(seen) == 2:
            raise KeyboardInterrupt

    windows = Windows(context=64, stride=32, batch_size=2)
    result = compare(stories, [TEXT], SETTINGS, windows=windows, on_progress=stop)
    record = result.record()
    assert record["complete"] is False
    assert 0 < record["tokens_scored"] == seen[-1] < len(values["entropy"])
    assert record["tokens_skipped"] > 0
    result.account.check()
    part = {name: column[: seen[-1]] for name, column in values.items()}
    for name, expected in expected_record(part, record["block_length"]).items():
        close(record[name], expected)
    json.dumps(record, allow_nan=False)


def test_an_interruption_before_the_first_token_leaves_nothing(stories):
    def documents():
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        compare(stories, documents(), SETTINGS)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ([], "settings must be 1 to 1000, got 0"),
        ([DecodingSettings(top_k=k) for k in range(1001)], "settings must be 1 to 1000, got 1001"),
        ([SETTINGS[0], SETTINGS[2], SETTINGS[2]], "must differ, got 'temperature=0.7' twice"),
        ([DecodingSettings(), DecodingSettings(temperature=1)], "must differ, got 'raw' twice"),
    ],
)
def test_settings_that_cannot_be_compared(stories, chosen, message):
    with pytest.raises(ValueError, match=message):
        compare(stories, ["Once"], chosen)


@pytest.mark.parametrize(
    ("documents", "message"), [([], "0 documents with 0 tokens"), ([""], "1 documents with 0")]
)
def test_nothing_to_score(stories, documents, message):
    with pytest.raises(ValueError, match=f"nothing to score: {message}"):
        compare(stories, documents, SETTINGS)


@pytest.mark.parametrize(
    "options", [{"context": 0}, {"context": 10, "stride": 11}, {"batch_size": 0}, {"bos": "x"}]
)
def test_reading_options_are_checked(stories, options):
    with pytest.raises(ValueError, match=f"{[*options][-1]} must be"):
        compare(stories, ["Once"], SETTINGS, windows=Windows(**options))
