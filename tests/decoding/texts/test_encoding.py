"""Texts in pieces against the same texts tokenised whole."""

import itertools
import random
import types
from importlib.resources import files

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import AutoTokenizer, ByT5Tokenizer, CanineTokenizer, PreTrainedTokenizerFast

from conftest import shared
from decoding.texts import encoding
from decoding.texts.encoding import OVERLAP, encode

CHUNK = 3000
ODD = [
    "日本語", "你好，世界", "👩‍👩‍👧", "🇨🇭", "é", "e\u0301", "o\u0308\u0323", "नमस्ते", "ﷺ",
    "\x00", "  ", "\n\n", "\t", " the", "The", "don't", "1234567", "....", "\r\n", "\u00a0",
    "Once upon a time", "🙂", "x",
]  # fmt: skip


def odd_text(seed, pieces):
    return "".join(random.Random(seed).choices(ODD, k=pieces))


def letters(seed, length):
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=length))


TEXTS = {
    "odd characters": odd_text(0, 3500),
    "emoji alone": "🙂👩‍👩‍👧🇨🇭" * 1500,
    "ideographs alone": "日本語世界" * 2500,
    "combining marks alone": "e" + "\u0301\u0323" * 4000,
    "a very long run of spaces": "Once" + " " * 9000 + "upon a time." * 400,
    "a text of spaces": " " * 10001,
    "newlines": "\n" * 4001 + "a" + "\r\n" * 4001,
    "one letter": "The " + "a" * 9000 + " end",
    "random letters": letters(1, 9000) + " " + letters(2, 9001),
    "digits": "1234567890" * 900,
    "dashes": "-" * 7777 + "=" * 5555,
    "special tokens in the text": ("Once upon<|endoftext|>a</s> time<s>" + "🙂") * 400,
    "runs and words": " ".join(
        run * n for run, n in zip("a 🙂-日\n" * 4, (5, 4000, 900, 3000, 1, 50) * 4, strict=True)
    ),
}
FILES = [
    "data/tinystories/stories.txt",
    "data/wikitext2/wiki.test.raw",
    "data/shakespeare/tinyshakespeare.txt",
]
FAST = ["gpt2", "stories260k", "stories"]


@pytest.fixture(scope="module")
def tokenizers():
    """By name; loaded when first asked for."""

    def gpt2():
        return AutoTokenizer.from_pretrained(shared("tokenizers/gpt2"))

    def trimmed():
        raw = Tokenizer.from_file(str(shared("tokenizers/gpt2/tokenizer.json")))
        raw.post_processor = processors.ByteLevel(trim_offsets=True)
        return PreTrainedTokenizerFast(tokenizer_object=raw)

    def words():
        """Lower case, no white space, unknown words: nothing can be decoded from it."""
        raw = Tokenizer(WordLevel({"<unk>": 0, "the": 1, "once": 2, ".": 3}, unk_token="<unk>"))
        raw.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
        return PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")

    makers = {
        "gpt2": gpt2,
        "stories260k": lambda: AutoTokenizer.from_pretrained(shared("models/stories260K")),
        "stories": lambda: AutoTokenizer.from_pretrained(files("decoding") / "stories"),
        "trimmed": trimmed,
        "words": words,
        "bytes": ByT5Tokenizer,
        "characters": CanineTokenizer,
    }
    made = {}
    return lambda name: made[name] if name in made else made.setdefault(name, makers[name]())


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(encoding, "CHUNK", CHUNK)


def in_pieces(text, seed):
    """A text in pieces of odd sizes, some of them empty, some longer than a chunk."""
    sizes = random.Random(seed)
    begin = 0
    while begin < len(text):
        size = sizes.choice([0, 1, 2, 7, 500, 2047, 3001, 8009])
        yield text[begin : begin + size]
        begin += size


def whole(tokenizer, text, **kwargs):
    return tokenizer(text, add_special_tokens=False, verbose=False, **kwargs)


def expected_ends(tokenizer, text):
    """Each character to the last token that holds part of it, else to the token behind it."""
    offsets = whole(tokenizer, text, return_offsets_mapping=True)["offset_mapping"]
    owner = np.full(len(text), -1)
    for token, (start, end) in enumerate(offsets):
        owner[start:end] = token
    for place in range(len(text) - 1, -1, -1):
        if owner[place] < 0:
            owner[place] = owner[place + 1] if place + 1 < len(text) else len(offsets) - 1
    return np.cumsum(np.bincount(owner, minlength=len(offsets))).tolist()


def joined(segments):
    ids = [int(token) for segment in segments for token in segment.ids]
    ends = [int(end) for segment in segments for end in segment.ends]
    return ids, ends


def assert_encodes(tokenizer, text, pieces):
    segments = list(encode(tokenizer, pieces))
    assert "".join(segment.text for segment in segments) == text
    for before, after in itertools.pairwise(segments):
        assert after.start == before.start + len(before.text)
    ids, ends = joined(segments)
    assert ids == whole(tokenizer, text)["input_ids"]
    for segment in segments:
        assert segment.ids.dtype == segment.ends.dtype == np.int64
        assert segment.ids.shape == segment.ends.shape
    return segments, ends


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_pieces_give_the_tokens_of_the_whole_text(tokenizers, small_chunks, name, text):
    tokenizer = tokenizers(name)
    segments, ends = assert_encodes(tokenizer, text, text)
    assert ends == expected_ends(tokenizer, text)
    _, ends_of_pieces = assert_encodes(tokenizer, text, in_pieces(text, 3))
    assert ends_of_pieces == ends
    for segment in segments:  # a token and its characters are in the same segment
        assert segment.start <= segment.ends[0]
        assert segment.ends[-1] == segment.start + len(segment.text)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("file", FILES)
def test_real_texts_in_small_chunks(tokenizers, small_chunks, name, file):
    with shared(file).open(encoding="utf-8", newline="") as lines:
        text = lines.read(30_000)
    tokenizer = tokenizers(name)
    segments, ends = assert_encodes(tokenizer, text, in_pieces(text, 5))
    assert ends == expected_ends(tokenizer, text)
    assert len(segments) > 5
    assert max(len(segment.text) for segment in segments) < 8009 + 2 * CHUNK + 2 * OVERLAP


@pytest.mark.parametrize("name", FAST)
def test_a_real_text_in_the_chunks_of_every_day(tokenizers, name):
    with shared("data/wikitext2/wiki.test.raw").open(encoding="utf-8", newline="") as lines:
        text = lines.read(200_000)
    segments, ends = assert_encodes(tokenizers(name), text, text)
    assert len(segments) > 2
    assert ends == expected_ends(tokenizers(name), text)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("seed", range(6))
def test_chunks_end_anywhere(tokenizers, monkeypatch, name, seed):
    monkeypatch.setattr(encoding, "CHUNK", 2200 + 97 * seed)
    text = odd_text(seed, 2500)
    _, ends = assert_encodes(tokenizers(name), text, in_pieces(text, seed))
    assert ends == expected_ends(tokenizers(name), text)


def test_white_space_that_no_token_covers_keeps_the_ids(tokenizers, small_chunks):
    for name in ("trimmed", "words"):
        for text in ("Once upon a time, there was. " * 900, odd_text(7, 3000)):
            segments, _ = assert_encodes(tokenizers(name), text, in_pieces(text, 1))
            assert len(segments) > 2


@pytest.mark.parametrize("name", ["trimmed", "words"])
def test_white_space_that_no_token_covers_belongs_to_the_token_behind_it(
    tokenizers, small_chunks, name
):
    text = "Once upon a time, there was. " * 900
    segments, ends = assert_encodes(tokenizers(name), text, text)
    assert ends == expected_ends(tokenizers(name), text)
    for segment in segments:
        assert segment.ends[-1] == segment.start + len(segment.text)


def test_ends_reach_a_text_that_ends_in_what_no_token_covers(tokenizers):
    (segment,) = encode(tokenizers("words"), " Once  upon. \n ")
    assert segment.ends.tolist() == [5, 11, 15]


def test_a_character_of_several_tokens_belongs_to_the_last(tokenizers):
    tokenizer = tokenizers("gpt2")
    (segment,) = encode(tokenizer, "a 日本")
    pieces = tokenizer.convert_ids_to_tokens(segment.ids.tolist())
    sizes = [len(piece) for piece in pieces]  # a character of these stands for a byte
    assert sum(sizes) == len("a 日本".encode())
    ends = []
    for size in np.cumsum(sizes):
        ends.append(len("a 日本".encode()[:size].decode(errors="ignore")))
    assert segment.ends.tolist() == ends


@pytest.mark.parametrize("pieces", ["", [], ["", ""], iter(())])
@pytest.mark.parametrize("name", ["gpt2", "stories260k", "bytes"])
def test_an_empty_text_has_no_segments(tokenizers, name, pieces):
    assert list(encode(tokenizers(name), pieces)) == []


def test_a_text_is_taken_as_it_is_needed(tokenizers, small_chunks):
    taken = 0

    def endless():
        nonlocal taken
        for number in itertools.count():
            piece = f"Once upon a time there were {number} cats. "
            taken += len(piece)
            yield piece

    for segment in itertools.islice(encode(tokenizers("gpt2"), endless()), 12):
        ahead = taken - segment.start - len(segment.text)
        assert 0 < ahead < 2 * (CHUNK + OVERLAP)


# Slow tokenizers.


def slow(fast, **methods):
    """A double of a tokenizer that gives no offsets."""

    class Double:
        is_fast = False

        def __call__(self, text, **kwargs):
            assert "return_offsets_mapping" not in kwargs
            return fast(text, **kwargs)

        def decode(self, ids, **kwargs):
            return fast.decode(ids, **kwargs)

        def convert_ids_to_tokens(self, ids):
            return fast.convert_ids_to_tokens(ids)

    double = Double()
    for name, method in methods.items():
        setattr(double, name, types.MethodType(method, double))
    return double


@pytest.mark.parametrize("name", FAST)
def test_a_slow_tokenizer_gives_the_tokens_of_the_whole_text(tokenizers, small_chunks, name):
    text = "Once upon a time, there were two cats. They didn't like dogs!\n\n" * 150
    segments, ends = assert_encodes(slow(tokenizers(name)), text, in_pieces(text, 2))
    assert len(segments) > 2
    assert ends == expected_ends(tokenizers(name), text)


@pytest.mark.parametrize("name", ["bytes", "characters"])
def test_slow_tokenizers_of_transformers(tokenizers, small_chunks, name):
    text = letters(4, 4000) + " The end. " * 200
    segments, ends = assert_encodes(tokenizers(name), text, in_pieces(text, 2))
    assert len(segments) > 1
    assert ends == list(range(1, len(text) + 1))


def test_a_slow_tokenizer_of_characters_keeps_every_character_whole(tokenizers, small_chunks):
    text = odd_text(5, 1800).replace("\x00", "")  # NUL is a special token of this one
    _, ends = assert_encodes(tokenizers("characters"), text, in_pieces(text, 2))
    assert ends == list(range(1, len(text) + 1))


def test_a_slow_tokenizer_gives_a_character_to_its_last_token(tokenizers):
    text = "a日🙂é."
    (segment,) = encode(tokenizers("bytes"), text)
    want = [
        len(text.encode()[:n].decode(errors="ignore")) for n in range(1, len(text.encode()) + 1)
    ]
    assert segment.ends.tolist() == want


@pytest.mark.parametrize("name", ["bytes", "gpt2"])
@pytest.mark.parametrize("text", ["日" * 4001, "🙂" * 4001], ids=["ideographs", "emoji"])
def test_a_slow_tokenizer_repeats_no_part_of_a_character(tokenizers, small_chunks, name, text):
    tokenizer = tokenizers(name)
    tokenizer = slow(tokenizer) if tokenizer.is_fast else tokenizer
    for begin in (3000, 3001):
        assert_encodes(tokenizer, text, [text[:begin], text[begin:]])


def test_a_tokenizer_without_offsets_must_round_trip(tokenizers):
    fast = tokenizers("gpt2")
    lower = slow(fast, decode=lambda self, ids, **kwargs: fast.decode(ids, **kwargs).lower())
    assert [segment.text for segment in encode(lower, "once upon")] == ["once upon"]
    with pytest.raises(ValueError, match=r"must give offsets or decode .* Double, which does nei"):
        list(encode(lower, "Once upon"))


def test_a_tokenizer_that_cuts_by_the_length_of_the_text_is_never_wrong(small_chunks):
    """Digits in threes from the right: where a group begins depends on all that follows."""
    raw = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split(Regex(r"\d{1,3}(?=(\d{3})*(\D|$))"), "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    segments, ends = assert_encodes(tokenizer, "7" * 6000, "7" * 6000)
    assert len(segments) == 2  # the neighbours happen to agree, and with the whole too
    assert ends == expected_ends(tokenizer, "7" * 6000)
    with pytest.raises(ValueError, match="must cut a text alike whatever surrounds it"):
        list(encode(tokenizer, "7" * 6001))
