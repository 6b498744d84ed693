"""The page's script makes of packed rows what float64 makes of the whole rows."""

import itertools
import json

import numpy as np
import pytest

from decoding.rows.packed import PackedRows
from decoding.showing.packing import format_of
from decoding.showing.page import PARTS

SCRIPT = PARTS / "rows.js"
CUTS = (
    {}, {"top_k": 1}, {"top_k": 40}, {"top_k": 1500}, {"top_p": 0.3}, {"top_p": 0.9},
    {"top_p": 0.99}, {"min_p": 0.2}, {"min_p": 0.003}, {"top_k": 60, "top_p": 0.9, "min_p": 0.05},
)  # fmt: skip
TEMPERATURES = (0.3, 0.7, 1.0, 1.5, 2.0)


@pytest.fixture(scope="module")
def engine():
    engine = pytest.importorskip("py_mini_racer").MiniRacer()
    engine.eval(SCRIPT.read_text())
    engine.eval(
        "function load(bytes, format) {"
        " globalThis.texts = [new Rows(new Uint8Array(bytes).buffer, format)]; return 1; }"
        "function evaluate(text) { return JSON.stringify(evaluateTexts(texts, text)); }"
        "function parse(text) { return settingText(parseSetting(text)); }"
        "function kl(a, b) { const [x, y] = [a, b].map(parseSetting);"
        " return String(klBetween(figuresOf(texts[0], 0, x), x, figuresOf(texts[0], 0, y), y)); }"
        "function klWithin(a, b) { const [x, y] = [a, b].map(parseSetting);"
        " return String(klBound(figuresOf(texts[0], 0, x), x, figuresOf(texts[0], 0, y), y)); }"
        "function varentropy(a) { const x = parseSetting(a);"
        " return varianceUnder(texts[0], 0, x, figuresOf(texts[0], 0, x)); }"
    )
    return engine


def load(engine, rows, tokens, detail=192):
    format_ = PackedRows(rows.shape[1], detail)
    packed = format_.pack(rows, np.array(tokens)).tobytes()
    engine.call("load", list(packed), format_of(format_))


def evaluated(engine, text):
    return json.loads(engine.call("evaluate", text))


def q_of(row, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    """q by id, and what it keeps of the tempered mass: the definitions, in float64."""
    row = row.astype(np.float64)
    order = np.lexsort((np.arange(len(row)), -row))
    p = np.exp((row[order] - row[order[0]]) / temperature)
    p /= p.sum()
    keep = len(p) if top_k == 0 else min(top_k, len(p))
    if top_p < 1:
        keep = min(keep, int(np.searchsorted(p[:keep].cumsum() / p[:keep].sum(), top_p)) + 1)
    keep = min(keep, int((p >= min_p * p[0]).sum()))
    q = np.zeros(len(p))
    q[order[:keep]] = p[:keep] / p[:keep].sum()
    return q, p[:keep].sum()


def entropy_of(q):
    return -(q[q > 0] * np.log(q[q > 0])).sum()


def kinds():
    random = np.random.default_rng(3)
    vocab = 4000
    peaked = random.normal(size=vocab) * 0.5
    peaked[7] = 10
    excluded = random.normal(size=vocab)
    excluded[random.random(vocab) < 0.4] = -np.inf
    return {
        "flat": random.normal(size=vocab) * 0.01,
        "even": np.zeros(vocab),
        "plain": random.normal(size=vocab),
        "wide": random.normal(size=vocab) * 3,
        "laplace": random.laplace(size=vocab),
        "peaked": peaked,
        "ties": np.round(random.normal(size=vocab) * 8) / 4,
        "excluded": excluded,
        "few": np.where(np.arange(vocab) % 100, -np.inf, random.normal(size=vocab)),
        "zipf": -np.log(np.arange(1, vocab + 1)),
        "two heaps": np.where(np.arange(vocab) < 200, 0, -8) + random.normal(size=vocab) / 9,
        "levels": np.where(np.arange(vocab) < 224, 0, -1),
        "steps": -3.3 * np.sqrt(np.arange(vocab) // 170),
        "masked": np.where(random.random(vocab) < 0.5, -1e4, random.normal(size=vocab)),
    }


def cuts_beside(row, places):
    """top_p and min_p with which a row's cut falls just before and behind a place, or on it."""
    depths = np.sort(row.max() - row.astype(np.float64))
    masses = np.exp(-depths).cumsum() / np.exp(-depths).sum()
    for place, eps in itertools.product(places, (-1e-7, 0, 1e-7)):
        yield {"top_p": min(1.0, masses[place] * (1 + eps))}
        yield {"min_p": min(1.0, np.exp(-depths[place]) * (1 + eps))}


@pytest.mark.parametrize("kind", kinds())
def test_every_value_is_within_its_bound(engine, kind):
    row = kinds()[kind].astype(np.float32)
    order = np.argsort(-row, kind="stable")
    last = np.isfinite(row).sum() - 1
    tokens = [int(order[min(place, last)]) for place in (0, 3, 30, 192, 300)]
    load(engine, np.tile(row, (len(tokens), 1)), tokens)
    usual = [{"temperature": t} | cut for t in TEMPERATURES for cut in CUTS]
    settings = usual + [{"temperature": t} for t in (0.05, 0.25, 4.0, 20.0)]
    settings += cuts_beside(row, [min(place, last) for place in (3, 190, 191, 192, 193, 300)])
    errors = []
    for setting in settings:
        found = evaluated(engine, ",".join(f"{k}={v}" for k, v in setting.items()))
        q, kept_mass = q_of(row, **setting)
        for at, token in enumerate(tokens):
            differences = [
                found["entropy_nats"][at] - entropy_of(q), found["kept_mass"][at] - kept_mass
            ]  # fmt: skip
            surprisal, bound = found["surprisal_nats"][at], found["bound_nats"][at]
            if (surprisal is None) == (q[token] == 0):
                differences.append(0 if surprisal is None else surprisal + np.log(q[token]))
            else:  # open, and the bound is as large as the surprisal
                assert bound >= (-np.log(q[token]) if surprisal is None else surprisal)
            assert np.abs(differences).max() <= bound
            if setting in usual:
                errors += [*np.abs(differences)]
            if setting.keys() == {"temperature"} and 0.25 <= setting["temperature"] <= 4:
                # A wide gap within a segment is more than its polynomial mends.
                most = {"two heaps": 0.05, "levels": 1e-4}.get(kind, 1e-5)
                assert np.abs(differences).max() < most
    assert np.quantile(errors, 0.99) < {"two heaps": 0.06, "levels": 0.03, "steps": 0.02}.get(
        kind, 0.01
    )


def test_which_token_is_the_last_that_top_p_keeps(engine):
    """Also behind the known depths, where the tokens around it are known as segments only."""
    row = np.random.default_rng(7).normal(size=4000).astype(np.float32)
    order = np.argsort(-row, kind="stable")
    for place, temperature in itertools.product((193, 250, 301, 640, 1001), (0.6, 1.0, 1.7)):
        load(engine, np.tile(row, (2, 1)), order[[place, place + 1]])
        masses = np.exp((row[order].astype(np.float64) - row.max()) / temperature).cumsum()
        top_p = (masses[place - 1] + masses[place]) / 2 / masses[-1]
        found = evaluated(engine, f"temperature={temperature},top_p={top_p}")
        assert [surprisal is None for surprisal in found["surprisal_nats"]] == [False, True]
        assert max(found["bound_nats"]) < 0.01


def test_a_cut_within_the_known_depths_is_exact(engine):
    row = (np.random.default_rng(5).normal(size=4000) * 3).astype(np.float32)
    load(engine, row[None], [0])
    for setting in ({"top_k": 50}, {"top_p": 0.5}, {"min_p": 0.1}, {"top_k": 30, "top_p": 0.6}):
        found = evaluated(engine, ",".join(f"{k}={v}" for k, v in setting.items()))
        assert found["bound_nats"][0] < 1e-3
        assert found["entropy_nats"][0] == pytest.approx(
            entropy_of(q_of(row, **setting)[0]), abs=1e-5
        )


def test_greedy_keeps_the_first_of_equals(engine):
    row = np.array([0, 2, 2, 1], np.float32)
    load(engine, np.tile(row, (2, 1)), [1, 2])
    found = evaluated(engine, "greedy")
    assert found["surprisal_nats"] == [0, None]
    assert found["entropy_nats"] == [0, 0]
    assert found["kept_mass"] == pytest.approx([np.exp(2) / np.exp(row).sum()] * 2, abs=1e-6)


def test_divergences_and_varentropy(engine):
    row = np.random.default_rng(6).normal(size=4000).astype(np.float32)
    load(engine, row[None], [0])
    a, _ = q_of(row, temperature=0.7, top_k=100)
    b, _ = q_of(row, temperature=1.3)
    expected = (a[a > 0] * np.log(a[a > 0] / b[a > 0])).sum()
    names = "temperature=0.7,top_k=100", "temperature=1.3"
    assert float(engine.call("kl", *names)) == pytest.approx(expected, abs=1e-4)
    assert engine.call("kl", *names[::-1]) == "Infinity"
    assert float(engine.call("kl", "greedy", "raw")) == pytest.approx(
        -np.log(q_of(row)[0].max()), abs=1e-5
    )
    for name, q in zip(names, (a, b), strict=True):
        surprisal = -np.log(q[q > 0])
        variance = (q[q > 0] * (surprisal - entropy_of(q)) ** 2).sum()
        assert engine.call("varentropy", name) == pytest.approx(variance, rel=1e-3)


def kl_of(a, b):
    kept = a > 0
    with np.errstate(divide="ignore"):
        return (a[kept] * np.log(a[kept] / b[kept])).sum()


# Of the masked row, weights are 0 in float64 where tokens are kept.
@pytest.mark.parametrize("kind", sorted(kinds().keys() - {"masked"}))
def test_every_divergence_is_within_its_bound(engine, kind):
    row = kinds()[kind].astype(np.float32)
    load(engine, row[None], [0], detail=32)
    settings = [
        {"temperature": temperature} | cut
        for temperature, cut in zip((0.3, 0.7, 1.0, 1.5, 2.0) * 2, CUTS, strict=True)
    ]
    names = [",".join(f"{k}={v}" for k, v in one.items()) for one in settings]
    truth = [q_of(row, **one)[0] for one in settings]
    open_ones = 0
    for (a, p), (b, q) in itertools.permutations(zip(names, truth, strict=True), 2):
        found, bound = float(engine.call("kl", a, b)), float(engine.call("klWithin", a, b))
        expected = kl_of(p, q)
        if bound == np.inf:
            open_ones += 1
        elif expected == np.inf or found == np.inf:
            assert found == expected, (a, b)
        else:
            assert abs(found - expected) <= bound, (a, b)
    assert open_ones <= 30  # of 90
    assert engine.call("klWithin", names[3], names[3]) == "0"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("raw", "raw"),
        ("temperature=1.0", "raw"),
        ("greedy", "greedy"),
        ("temperature=0,top_k=5", "greedy,top_k=5"),
        ("top_p=0.90, temperature=0.7", "temperature=0.7,top_p=0.9"),
        ("min_p=.05,top_k=50", "top_k=50,min_p=0.05"),
    ],
)
def test_text_forms(engine, text, form):
    assert engine.call("parse", text) == form


@pytest.mark.parametrize(
    "text",
    ["", "top_p", "top_p=0", "top_p=2", "top_p=nan", "top_k=1.5", "temperature=-1", "typical_p=0.5",
     "min_p=0x1", "top_k=5,top_k=6", "toString=1"],
)  # fmt: skip
def test_a_text_that_is_no_setting_is_refused(engine, text):
    with pytest.raises(Exception, match=r"must be|a setting here has|twice"):
        engine.call("parse", text)
