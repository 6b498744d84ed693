"""Pieces of text that concatenate to the text of the whole, whatever the tokenizer."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from decoding.texts.detokenizing import Detokenizer, token_texts
from oracle import decode

ODD = [
    "日本語",
    "你好，世界",
    "👩‍👩‍👧",
    "🇨🇭",
    "é",
    "e\u0301",
    "नमस्ते",
    "  ",
    "\n\n",
    "\t",
    " the",
    "ﷺ",
    "\x00",
]
TEXTS = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=8).map("".join)
examples = settings(max_examples=60, derandomize=True)


@pytest.fixture(scope="module", params=["stories", "stories260k", "random_gpt2"])
def tokenizer(request):
    """Byte-level BPE of our own, byte fallback as sentencepiece has it, and GPT-2's."""
    return request.getfixturevalue(request.param).tokenizer


def assert_pieces_join(tokenizer, ids, prompt):
    """The pieces after a prompt are what the whole text has more than the prompt's."""
    whole = decode(tokenizer, [*prompt, *ids])
    pieces = token_texts(tokenizer, ids, prompt)
    assert len(pieces) == len(ids)
    assert decode(tokenizer, prompt) + "".join(pieces) == whole
    return pieces


def complete_ends(tokenizer, ids):
    """Numbers of leading tokens that hold whole characters."""
    whole = decode(tokenizer, ids)
    starts = [(end, decode(tokenizer, ids[:end])) for end in range(len(ids) + 1)]
    return [end for end, text in starts if whole.startswith(text) and not text.endswith("\ufffd")]


@examples
@given(text=TEXTS, data=st.data())
def test_pieces_of_a_text_after_any_part_of_it(tokenizer, text, data):
    ids = list(tokenizer(text)["input_ids"])
    end = data.draw(st.sampled_from(complete_ends(tokenizer, ids)))
    pieces = assert_pieces_join(tokenizer, ids[end:], ids[:end])
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("tokenizer", ["stories", "random_gpt2"], indirect=True)
@examples
@given(data=st.data())
def test_pieces_of_any_ids_valid_utf8_or_not(tokenizer, data):
    # Byte-level vocabularies begin with the 256 bytes, which seldom fit together.
    token = st.one_of(st.integers(0, 256), st.integers(0, len(tokenizer) - 1))
    ids = data.draw(st.lists(token, max_size=30))
    end = data.draw(st.sampled_from(complete_ends(tokenizer, ids)))
    assert_pieces_join(tokenizer, ids[end:], ids[:end])


@pytest.mark.parametrize("tokenizer", ["stories260k"], indirect=True)
@examples
@given(
    chunks=st.lists(
        st.one_of(
            st.integers(0, 511).filter(lambda i: not 3 <= i < 259).map(lambda i: [i]),
            st.characters(codec="utf-8").map(lambda c: [3 + byte for byte in c.encode()]),
        ),
        max_size=12,
    )
)
@example(chunks=[[3 + byte for byte in "𐀀".encode()], [0] * 5, [51]])
@example(chunks=[[3 + byte for byte in "日本語日本語".encode()]])
def test_pieces_of_any_ids_with_byte_fallback(tokenizer, chunks):
    """Bytes that do not fit together decode only as a whole, so here they do."""
    ids = [token for chunk in chunks for token in chunk]
    assert_pieces_join(tokenizer, ids, [1])


@pytest.mark.parametrize("prompt", ["", "日本語", "Once upon a time"])
def test_many_characters_of_several_tokens_in_a_row(tokenizer, prompt):
    first = list(tokenizer(prompt)["input_ids"])
    ids = list(tokenizer(prompt + "日本語😀 and 日本語日本語.")["input_ids"])
    assert ids[: len(first)] == first
    pieces = assert_pieces_join(tokenizer, ids[len(first) :], first)
    assert "".join(pieces) == "日本語😀 and 日本語日本語."
    assert all(piece.count("\ufffd") == 0 for piece in pieces)


def test_a_character_belongs_to_the_token_that_completes_it(tokenizer):
    prompt = list(tokenizer("a")["input_ids"])
    ids = list(tokenizer("a😀")["input_ids"])[len(prompt) :]
    assert len(ids) > 1
    assert token_texts(tokenizer, ids, prompt) == ("",) * (len(ids) - 1) + ("😀",)


def test_an_incomplete_character_comes_out_when_the_stream_ends(tokenizer):
    prompt = list(tokenizer("a")["input_ids"])
    ids = list(tokenizer("a😀")["input_ids"])[len(prompt) : -1]
    stream = Detokenizer(tokenizer, prompt)
    assert [stream.push(token) for token in ids] == [""] * len(ids)
    rest = stream.flush()
    assert rest
    assert set(rest) == {"\ufffd"}
    assert stream.flush() == ""
    assert_pieces_join(tokenizer, ids, prompt)


def test_leading_spaces_are_kept(tokenizer):
    prompt = list(tokenizer("Once upon")["input_ids"])
    ids = list(tokenizer("Once upon a time, there")["input_ids"])
    assert ids[: len(prompt)] == prompt
    pieces = token_texts(tokenizer, ids[len(prompt) :], prompt)
    assert "".join(pieces) == " a time, there"
    assert pieces[0].startswith(" ")


def test_special_tokens_have_no_text(tokenizer):
    prompt = list(tokenizer("Once")["input_ids"])
    ids = list(tokenizer("Once upon")["input_ids"])[len(prompt) :]
    pieces = token_texts(tokenizer, [*ids, tokenizer.eos_token_id], prompt)
    assert pieces[-1] == ""
    assert "".join(pieces) == " upon"


def test_no_tokens_no_pieces(tokenizer):
    assert token_texts(tokenizer, [], [1, 2]) == ()


def test_inputs_are_not_changed(tokenizer):
    prompt, ids = list(range(300, 320)), list(range(320, 340))
    token_texts(tokenizer, ids, prompt)
    assert (prompt, ids) == (list(range(300, 320)), list(range(320, 340)))


@pytest.mark.parametrize(
    ("spelled", "want"),
    [
        # A byte that begins a character which never comes leaves the one before it alone.
        (["<0xC3>", "<0xA9>", "<0xF0>", "▁a"], ["", "é", "", "\ufffd a"]),
        (["<0xF0>", "<0xC3>", "<0xA9>"], ["", "", "\ufffdé"]),
        (["▁a", "<0xE6>", "<0x97>", "▁a"], [" a", "", "", "\ufffd\ufffd a"]),
        (
            ["<0xE6>", "<0x97>", "<0xA5>", "<0xFF>", "<0xC3>", "<0xA9>"],
            ["", "", "日", "", "", "\ufffdé"],
        ),
    ],
)
def test_a_byte_that_is_part_of_no_character_spoils_no_other(stories260k, spelled, want):
    tokenizer = stories260k.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(name) for name in spelled]
    assert list(token_texts(tokenizer, ids, tokenizer("a")["input_ids"])) == want
