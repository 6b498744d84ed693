"""Settings on one text: every figure against plain loops."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from comparing import NATS, close, encoded, expected_record, plain, rows_of
from decoding.inference.intervals import LEAST_BLOCK, MAX_BLOCKS
from decoding.scoring.teacher_forcing import Document
from decoding.scoring.windows import Windows
from decoding.settings.settings import DecodingSettings
from decoding_evals.compare.evaluation import compare

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
    assert length % LEAST_BLOCK == 0 and record["units"] == math.ceil(tokens / length)
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
    # This tokenizer puts nothing in front of a prompt, so its first token has no row.
    values = plain(*rows_of(stories, [prompt + text], 512, 256, bos=False), SETTINGS)
    own = len(encoded(stories, prompt)) - 1
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
    assert result.block_length > LEAST_BLOCK
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
    ("documents", "message"), [([], "0 documents with 0 tokens"), ([""], "1 document with 0")]
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
