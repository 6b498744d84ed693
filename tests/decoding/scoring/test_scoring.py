"""Teacher forcing against plain loops: full logits, one window at a time, float64 log-softmax."""

import copy
import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from decoding import NonFiniteLogitsError
from decoding.models.loading import LanguageModel
from decoding.scoring import blocks as scoring
from decoding.scoring.account import Account
from decoding.scoring.teacher_forcing import Document, TeacherForcing
from decoding.scoring.windows import Windows
from decoding.texts import encoding
from forcing import (
    NATS,
    SHORT,
    WORDS,
    assert_same,
    assert_scored,
    ids_of,
    measure,
    placed,
    reference,
    said,
    scan,
    words,
)

# Texts and models.


@pytest.fixture(scope="module")
def wiki(wikitext):
    """About 3,000 tokens of stories260K."""
    return wikitext(4700)


# Every token's numbers.


@pytest.mark.parametrize(
    ("context", "stride"), [(16, 1), (128, 64), (96, 48), (128, 128), (512, 64), (512, 512)]
)
def test_real_text_is_scored_as_a_plain_loop_scores_it(stories260k, wiki, context, stride):
    ids = [1, *ids_of(stories260k.tokenizer, wiki)]
    assert 2800 < len(ids) < 3300
    forcing = TeacherForcing(stories260k, Windows(context=context, stride=stride, batch_size=7))
    found = scan(forcing, [Document(wiki)])[0]
    rows = reference(stories260k.model, ids, context, stride)
    assert list(found) == list(range(len(ids) - 1))
    assert_scored(found, rows, ids, 1)
    assert forcing.full_logits is None
    assert forcing.account == Account(
        documents=1,
        windows=len(placed(len(ids), context, stride, 0)),
        bos_tokens=1,
        tokens=len(ids) - 1,
        tokens_scored=len(ids) - 1,
    )


@pytest.mark.parametrize(("context", "stride"), [(12, 1), (100, 50), (512, 512)])
def test_the_embedded_model_scores_as_a_plain_loop_does(stories, context, stride):
    text = "Once upon a time, there was a little girl named Lily. She didn't like 日本 🙂!\n" * 12
    ids = [0, *ids_of(stories.tokenizer, text)]
    forcing = TeacherForcing(stories, Windows(context=context, stride=stride))
    found = scan(forcing, [Document(text)])[0]
    rows = reference(stories.model, ids, context, stride)
    assert list(found) == list(range(len(ids) - 1))
    assert_scored(found, rows, ids, 1)


def test_large_vocabularies_are_scored_in_blocks_of_rows(random_gpt2, monkeypatch):
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 5 * 4 * 50257)
    texts = ["Once upon a time", "The cat sat on the mat, and the dog didn't.", "x"]
    forcing = TeacherForcing(random_gpt2, Windows(context=8, stride=4, batch_size=2))
    found = scan(forcing, [Document(text) for text in texts])
    for document, text in enumerate(texts):
        ids = [50256, *ids_of(random_gpt2.tokenizer, text)]
        rows = reference(random_gpt2.model, ids, 8, 4)
        assert list(found[document]) == list(range(len(ids) - 1))
        assert_scored(found[document], rows, ids, 1)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 64])
def test_nothing_depends_on_the_batch_or_on_the_tokenizer_s_padding(
    stories260k, wiki, batch_size, side
):
    documents = [Document(text) for text in (wiki[:700], "", "a", wiki[700:2000], "Once", wiki[:3])]
    windows = Windows(context=64, stride=40, batch_size=8)
    want = scan(TeacherForcing(stories260k, windows), documents)
    tokenizer = copy.deepcopy(stories260k.tokenizer)
    tokenizer.padding_side = side
    twin = dataclasses.replace(stories260k, tokenizer=tokenizer)
    windows = Windows(context=64, stride=40, batch_size=batch_size)
    assert_same(scan(TeacherForcing(twin, windows), documents), want)


def test_each_document_is_scored_as_if_alone(toy_words):
    forcing = TeacherForcing(toy_words, Windows(context=10, stride=3, batch_size=3))
    found = scan(forcing, [Document(text) for text in SHORT * 20])
    for document, text in enumerate(SHORT * 20):
        alone = scan(TeacherForcing(toy_words, Windows(context=10, stride=3)), [Document(text)])
        assert_same({0: found.get(document, {})}, {0: alone.get(0, {})})
    assert forcing.account.documents_skipped == 2 * 20


def test_a_run_may_go_on_with_more_documents(toy_words):
    forcing = TeacherForcing(toy_words)
    once = scan(forcing, [Document("a b c")])
    assert_same(scan(forcing, [Document("a b c")]), once)
    assert forcing.account == Account(
        documents=2, windows=2, bos_tokens=2, tokens=6, tokens_scored=6
    )


# Blocks and streams.


def test_blocks_cover_every_target_once(toy_words, toy_llama, monkeypatch):
    monkeypatch.setattr(scoring, "LOGITS_BYTES", 3 * 4 * 17)
    forcing = TeacherForcing(toy_words, Windows(context=9, stride=4, batch_size=3))
    seen = Counter()
    for block in forcing.blocks(forcing.windows(Document(text) for text in SHORT * 3)):
        assert 1 <= len(block.targets) == len(block.logits) <= 3
        assert block.targets.dtype == torch.int64
        places = [(window, i) for window in block.windows for i in range(len(window.targets))]
        rows = places[block.first : block.first + len(block.targets)]
        for logits, target, (window, i) in zip(block.logits, block.targets, rows, strict=True):
            assert int(target) == window.targets[i]
            seen[window.document, window.start + i, int(target)] += 1
            read = window.inputs[: len(window.inputs) - len(window.targets) + i + 1]
            with torch.no_grad():
                want = toy_llama(torch.tensor(read).unsqueeze(0)).logits[0, -1]
            torch.testing.assert_close(logits, want, rtol=0, atol=NATS)
    assert seen == Counter(
        (document, index, WORDS.index(word))
        for document, text in enumerate(SHORT * 3)
        for index, word in enumerate(text.split())
    )
    forcing.account.check()


def test_an_endless_stream_of_documents_can_be_cut_off(toy_words):
    taken = 0

    def endless():
        nonlocal taken
        for taken in itertools.count(1):
            yield Document(said([taken % 16 + 1] * (taken % 5 + 1)))

    found = TeacherForcing(toy_words, Windows(batch_size=2)).scan(endless(), measure)
    indices = [window.document for window, _ in itertools.islice(found, 100)]
    assert indices == list(range(100))
    assert taken < 100 + 2 * 2 * scoring.SORTED_BATCHES


def test_a_long_document_in_pieces_is_read_as_it_is_scored(toy_words, monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", 3000)
    taken = 0

    def endless():
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield WORDS[1 + number * number % 16] + " "

    forcing = TeacherForcing(toy_words, Windows(context=40, stride=20, batch_size=2))
    # Two characters a word: what encoding holds, and two groups of windows.
    ahead = 2 * (3000 + encoding.OVERLAP) + 2 * scoring.SORTED_BATCHES * 2 * 20
    end = 0
    for window, columns in itertools.islice(forcing.scan([Document(endless())], measure), 1000):
        assert window.start == end
        wants = [1 + number * number % 16 for number in range(window.start, window.end)]
        assert window.targets.tolist() == wants
        assert np.isfinite(columns["surprisal"]).all()
        end = window.end
        assert taken - end < ahead
    assert end == 20 + 1000 * 20


def test_pieces_score_as_the_whole(stories260k, wiki, monkeypatch):
    want = scan(TeacherForcing(stories260k), [Document(wiki)])
    monkeypatch.setattr(encoding, "CHUNK", 2300)
    pieces = (wiki[begin : begin + 333] for begin in range(0, len(wiki), 333))
    events = []
    forcing = TeacherForcing(stories260k)
    documents = [Document("Once"), Document(pieces)]
    segments = []
    for window in forcing.windows(documents, lambda *event: segments.append(event)):
        of_document = [segment for document, segment in segments if document == window.document]
        assert window.end <= sum(len(segment.ids) for segment in of_document)
        events.append(window)
    assert "".join(segment.text for document, segment in segments if document == 1) == wiki
    assert len(segments) > 3
    targets = np.concatenate([window.targets for window in events if window.document == 1])
    assert targets.tolist() == [values["id"] for values in want[0].values()]

    pieces = (wiki[begin : begin + 333] for begin in range(0, len(wiki), 333))
    assert_same(scan(TeacherForcing(stories260k), [Document(pieces)]), want)


# Refusals.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 65}, "context must be at least 1 .*64 positions, got 65"),
        ({"context": 0}, "context must be at least 1 .*64 positions, got 0"),
        ({"context": 10, "stride": 11}, "from 1 to the context of 10, got 11"),
        ({"stride": 65}, "from 1 to the context of 64, got 65"),
        ({"stride": 0}, "from 1 to the context of 64, got 0"),
        ({"stride": -1}, "from 1 to the context of 64, got -1"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"bos": "sometimes"}, "auto, always, never or every, got 'sometimes'"),
    ],
)
def test_refusals_name_the_limit(toy_words, options, message):
    with pytest.raises(ValueError, match=message):
        TeacherForcing(toy_words, Windows(**options))


def test_defaults_are_all_positions_and_half_of_them(toy_words, stories260k):
    assert (TeacherForcing(toy_words).context, TeacherForcing(toy_words).stride) == (64, 32)
    assert TeacherForcing(stories260k).context == 512
    assert TeacherForcing(toy_words, Windows(context=1)).stride == 1


def test_a_model_in_training_mode_is_refused(toy_words):
    model = copy.deepcopy(toy_words.model).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        scan(TeacherForcing(dataclasses.replace(toy_words, model=model)), [Document("a b")])


def failing(model, token, value):
    """The same weights; where a token is read, one logit is not a number."""
    twin = copy.copy(model)

    def forward(input_ids, **kwargs):
        output = model.forward(input_ids, **kwargs)
        output.logits = output.logits + 1.0  # so that body and head are not the model
        output.logits[..., 3] = output.logits[..., 3].masked_fill(input_ids == token, value)
        return output

    twin.forward = forward
    return twin


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_logits_that_are_no_numbers_are_refused_where_they_stand(toy_words, value, batch_size):
    broken = dataclasses.replace(toy_words, model=failing(toy_words.model, WORDS.index("k"), value))
    forcing = TeacherForcing(broken, Windows(context=4, stride=2, batch_size=batch_size))
    texts = ["a b", "c d", "a b c d e f k k g", "k a"]
    windows = []

    def read():
        for window, _ in forcing.scan([Document(text) for text in texts], measure):
            windows.append((window.document, window.end))

    with pytest.raises(NonFiniteLogitsError, match=r"^document 3, token 8: "):
        read()
    assert windows[:2] == [(0, 2), (1, 2)]  # those before it are given
    assert all(document < 2 or end <= 7 for document, end in windows)
    assert "body and head differ" in forcing.full_logits


def test_a_model_whose_head_is_unknown_is_scored_all_the_same(toy_words, toy_llama):
    broken = dataclasses.replace(toy_words, model=failing(toy_llama, 99, math.nan))
    documents = [Document(text) for text in SHORT]
    assert_same(scan(TeacherForcing(broken), documents), scan(TeacherForcing(toy_words), documents))


# Known answers.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(dtype):
    config = GPT2Config(vocab_size=17, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    model = GPT2LMHeadModel(config).eval().to(dtype)
    torch.nn.init.zeros_(model.get_input_embeddings().weight)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    uniform = LanguageModel(model, words(eos_token="<eos>"), "uniform")
    found = scan(TeacherForcing(uniform), [Document(text) for text in SHORT])
    rows = [values for tokens in found.values() for values in tokens.values()]
    assert len(rows) == sum(len(text.split()) for text in SHORT)
    nll = math.fsum(values["surprisal"] for values in rows) / len(rows)
    assert math.exp(nll) == pytest.approx(17, rel=1e-6)
    for values in rows:
        assert values["entropy"] == pytest.approx(math.log(17), rel=1e-6)
        assert values["varentropy"] == pytest.approx(0, abs=1e-9)
        assert values["rank"] == 0


@pytest.mark.parametrize("name", ["toy_gpt2", "toy_llama"])
def test_text_of_the_model_s_own_surprises_it_as_much_as_it_expects(request, name):
    model = request.getfixturevalue(name)
    generator = torch.Generator().manual_seed(11)
    ids = torch.zeros(200, 1, dtype=torch.int64)
    with torch.no_grad():
        for _ in range(30):
            probs = model(ids).logits[:, -1].double().softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probs, 1, generator=generator)], 1)
    documents = [Document(said(row[1:])) for row in ids.tolist()]
    toy_words = LanguageModel(model, words(eos_token="<eos>"), "toy")
    found = scan(TeacherForcing(toy_words, Windows(bos="always")), documents)
    rows = [values for tokens in found.values() for values in tokens.values()]
    assert len(rows) == 200 * 30
    excess = math.fsum(values["surprisal"] - values["entropy"] for values in rows)
    z = excess / math.sqrt(math.fsum(values["varentropy"] for values in rows))
    assert abs(z) < 3
    # What the statistic is for: without BOS, or at another place, the model would not say this.
    late = scan(TeacherForcing(toy_words, Windows(context=2, stride=1, bos="never")), documents)
    rows = [values for tokens in late.values() for values in tokens.values()]
    excess = math.fsum(values["surprisal"] - values["entropy"] for values in rows)
    assert abs(excess / math.sqrt(math.fsum(values["varentropy"] for values in rows))) > 6
