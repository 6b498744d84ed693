"""Words: where they begin and end in tokens of every kind, and their corrected surprisal."""

import json
import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel, WordPiece
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from commands import contents
from decoding.models.loading import LanguageModel
from decoding.scoring.teacher_forcing import Document, TokenDocument
from decoding.scoring.windows import Windows
from decoding_evals.score.evaluation import score
from decoding_evals.score.words import WordBorders
from oracle import log_softmax

NATS = 2e-5
LILY = "Lily saw a big butterfly. It was on the flower."


def model_of(tokenizer):
    """An untrained model with a tokenizer's vocabulary."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, initializer_range=0.5, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LanguageModel(LlamaForCausalLM(config).eval(), tokenizer, "untrained")


def byte_level(*merged):
    """Byte-level BPE whose longer tokens are those given; "Ġ" is a space, "Ċ" a line break."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: i for i, text in enumerate(["<eos>", *letters])}
    merges = []
    for text in merged:
        for end in range(2, len(text) + 1):
            if text[:end] not in vocabulary:
                vocabulary[text[:end]] = len(vocabulary)
                merges.append((text[: end - 1], text[end - 1]))
    raw = Tokenizer(BPE(vocabulary, merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<eos>", eos_token="<eos>")


@torch.no_grad()
def rows(language_model, ids):
    """log p before each id and behind the last, BOS in front, float64."""
    bos = language_model.tokenizer.bos_token_id
    logits = language_model.model(torch.tensor([[bos, *ids]])).logits[0]
    return [log_softmax(row) for row in logits.double().numpy()]


def by_hand(language_model, ids, words):
    """Of words, given as ranges of tokens: surprisal and the same corrected, by a loop over the
    whole vocabulary; none but the first stands where any token would begin one."""
    tokenizer = language_model.tokenizer
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1:]
    said = [tokenizer.decode([*anchor, i], clean_up_tokenization_spaces=False)[1:]
            for i in range(len(tokenizer))]  # fmt: skip
    log_p = rows(language_model, ids)

    def begins(place):
        mass = 0.0
        for token, text in enumerate(said):
            if (text and text[0] in " \t\n\v\f\r") or token == tokenizer.eos_token_id:
                mass += math.exp(log_p[place][token])
        return math.log(mass)

    for begin, end in words:
        total = -sum(log_p[place][ids[place]] for place in range(begin, end))
        yield total, total - begins(end) + (begins(begin) if begin else 0.0)


def texts(scores):
    return [row["text"] for row in scores.per_word()]


def test_the_published_figures_of_the_embedded_model(stories):
    [scores] = score(stories, [LILY], words=True)
    found = {row["text"]: row for row in scores.per_word()}
    for text, plain, corrected in (
        (" butterfly.", 7.9238, 7.8803),
        (" big", 0.9530, 0.9858),
        (" flower.", 6.8099, 6.8057),
    ):
        assert round(found[text]["surprisal_nats"], 4) == plain
        assert round(found[text]["corrected_surprisal_nats"], 4) == corrected
    assert [*found[" big"]] == [
        "document", "index", "text", "start", "end", "tokens", "surprisal_nats",
        "corrected_surprisal_nats", "entropy_nats",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["stories", "stories260k"])
def test_words_equal_a_loop_over_the_vocabulary(request, name):
    language_model = request.getfixturevalue(name)
    text = "Once upon\na time, Lily's  dog ran."
    [scores] = score(language_model, [text], words=True)
    ids = scores.ids.tolist()
    assert texts(scores) == ["Once", " upon", "\na", " time,", " Lily's", "  dog", " ran."]
    found = scores.per_word()
    stops = np.cumsum([row["tokens"] for row in found]).tolist()
    wanted = by_hand(language_model, ids, zip([0, *stops[:-1]], stops, strict=True))
    for row, (plain, corrected) in zip(found, wanted, strict=True):
        assert row["surprisal_nats"] == pytest.approx(plain, abs=NATS)
        assert row["corrected_surprisal_nats"] == pytest.approx(corrected, abs=NATS)
    assert "".join(texts(scores)) == text and [row["index"] for row in found] == [*range(7)]
    entropies = scores.entropy_nats[[0, *stops[:-1]]]
    assert [row["entropy_nats"] for row in found] == entropies.tolist()


def test_the_correction_only_moves_probability(stories):
    """What words give to each other cancels; what is left is that the last one ends."""
    [scores] = score(stories, [LILY], words=True)
    moved = sum(r["corrected_surprisal_nats"] - r["surprisal_nats"] for r in scores.per_word())
    *_, last = rows(stories, scores.ids.tolist())
    ends = WordBorders(stories.tokenizer, stories.ends(), 2048).ids
    assert moved == pytest.approx(-math.log(np.exp(last[ends]).sum()), abs=NATS)


def test_corrected_probabilities_of_all_words_sum_to_one():
    """Words of up to two letters, of a language of two letters that allows no more."""
    tokenizer = byte_level("a")
    language_model = model_of(tokenizer)
    space, a, b, end = (tokenizer.convert_tokens_to_ids(t) for t in ("Ġ", "a", "b", "<eos>"))

    class Short(torch.nn.Module):
        """Logits of a language in which a word has one or two letters, spaces between them."""

        def logits(self, ids):
            last = ids[::-1].index(space) if space in ids else len(ids)
            letters = sum(token in (a, b) for token in ids[len(ids) - last :])
            row = torch.full((len(tokenizer),), -math.inf)
            if letters < 2:
                row[[a, b]] = torch.tensor([0.3, -0.4 * letters])
            if letters:
                row[[space, end]] = torch.tensor([0.1 * letters, -0.2])
            return row

    short = Short()
    forward = language_model.model.forward

    def of_language(input_ids, **kwargs):
        output = forward(input_ids, **kwargs)
        rows_ = [
            [short.logits(row[: i + 1]) for i in range(len(row))] for row in input_ids.tolist()
        ]
        output.logits = torch.stack([torch.stack(row) for row in rows_])
        return output

    language_model.model.forward = of_language
    language_model.model.base_model_prefix = ""
    words = ["a", "b", "aa", "ab", "ba", "bb"]
    found = list(score(language_model, [f"ab {word}" for word in words], words=True))
    corrected = [scores.per_word()[1]["corrected_surprisal_nats"] for scores in found]
    plain = [scores.per_word()[1]["surprisal_nats"] for scores in found]
    # Behind a space, so that the second word is one of these: p(space) is not part of it.
    before = -math.log(math.exp(0.2) / (math.exp(0.2) + math.exp(-0.2)))
    assert sum(math.exp(before - nats) for nats in corrected) == pytest.approx(1, abs=1e-5)
    assert sum(math.exp(before - nats) for nats in plain) > 1.2


@pytest.mark.parametrize(
    ("merged", "text", "words"),
    [
        ((), "ab c. d", ["ab", " c.", " d"]),  # a space is a token
        ((".ĊĊ",), "ab.\n\ncd", ["ab.\n\n", "cd"]),  # a token ends a word and its line
        (("ĊĊ",), "ab.\n\n cd\n", ["ab.", "\n\n cd"]),
        (("ĠaĠ",), "b a c", ["b", " a ", "c"]),
        (("aĠb",), "c a b", ["c", " a b"]),  # two words of one token are one row
        ((), "  ab", ["  ab"]),
        ((), " \n ", []),
        ((), "a\u00a0b c", ["a\u00a0b", " c"]),
        ((), "né è", ["né", " è"]),
        ((), "a<eos>b c", ["a", "b", " c"]),
    ],
)
def test_words_of_byte_level_tokens(merged, text, words):
    [scores] = score(model_of(byte_level(*merged)), [text], words=True)
    assert texts(scores) == words
    assert all(row["corrected_surprisal_nats"] is not None for row in scores.per_word())


def test_where_any_token_begins_a_word_nothing_moves():
    language_model = model_of(byte_level(".ĊĊ"))
    [scores] = score(language_model, ["ab.\n\ncd"], words=True)
    first, second = scores.per_word()
    assert first["corrected_surprisal_nats"] == first["surprisal_nats"]
    *_, last = rows(language_model, scores.ids.tolist())
    ends = WordBorders(language_model.tokenizer, language_model.ends(), 300).ids
    after = math.log(np.exp(last[ends]).sum())
    moved = second["corrected_surprisal_nats"] - second["surprisal_nats"]
    assert moved == pytest.approx(-after, abs=NATS)


def test_words_are_those_whose_tokens_are_all_scored(stories):
    def corrected(scores):
        return [row["corrected_surprisal_nats"] for row in scores.per_word()]

    [bare] = score(stories, [LILY], words=True, windows=Windows(bos="never"))
    assert texts(bare)[0] == " saw" and bare.per_word()[0]["index"] == 0
    [whole] = score(stories, [LILY], words=True)
    # A prompt of this tokenizer has nothing in front.
    [continued] = score(stories, [Document(LILY[10:], LILY[:10])], words=True)
    assert texts(continued) == texts(whole)[3:]
    assert corrected(continued) == pytest.approx(corrected(bare)[2:], abs=NATS)
    bos, ids = stories.tokenizer.bos_token_id, whole.ids.tolist()
    [drawn] = score(stories, [TokenDocument(ids[3:], [bos, *ids[:3]])], words=True)
    assert texts(drawn) == texts(continued)
    assert corrected(drawn) == pytest.approx(corrected(whole)[3:], abs=NATS)
    [within] = score(stories, [TokenDocument(ids[5:], [bos, *ids[:5]])], words=True)
    assert texts(within)[0] == " It"  # the end of " butterfly." is no word


def test_behind_white_space_that_is_context_any_token_begins_a_word():
    language_model = model_of(byte_level())
    ids = language_model.tokenizer("ab cd e", add_special_tokens=False)["input_ids"]
    [whole] = score(language_model, ["ab cd e"], words=True)
    [drawn] = score(language_model, [TokenDocument(ids[3:], [0, *ids[:3]])], words=True)
    assert texts(drawn) == ["cd", " e"]
    first, second = drawn.per_word()
    *_, after, _, _ = rows(language_model, ids)
    ends = WordBorders(language_model.tokenizer, [0], 300).ids
    assert first["surprisal_nats"] == pytest.approx(whole.surprisal_nats[3:5].sum(), abs=NATS)
    moved = first["corrected_surprisal_nats"] - first["surprisal_nats"]
    assert moved == pytest.approx(-math.log(np.exp(after[ends]).sum()), abs=NATS)
    want = whole.per_word()[2]["corrected_surprisal_nats"]
    assert second["corrected_surprisal_nats"] == pytest.approx(want, abs=NATS)


def test_stretches_of_scripts_without_spaces_are_left_out_and_told(stories):
    text = "Lily saw 日本語です。 It was ไทย dog."
    [scores] = score(stories, [text], words=True)
    assert texts(scores) == ["Lily", " saw", " It", " was", " dog."]
    assert [row["index"] for row in scores.per_word()] == [0, 1, 3, 4, 6]
    assert scores.words.unspaced == (" 日本語です。", " ไทย")


def word_piece():
    vocabulary = {w: i for i, w in enumerate(["[UNK]", "a", "b", "c", ".", "##b", "##c"])}
    raw = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    raw.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="[UNK]", unk_token="[UNK]")


def word_level():
    raw = Tokenizer(WordLevel({w: i for i, w in enumerate("Xabc.")}, unk_token="X"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="X", unk_token="X")


@pytest.mark.parametrize("tokenizer", [word_piece(), word_level()])
def test_tokens_that_do_not_tell_where_white_space_stands_are_refused(tokenizer):
    with pytest.raises(ValueError, match="do not tell where white space stands"):
        list(score(model_of(tokenizer), ["a b"], words=True))


def test_white_space_that_a_tokenizer_drops_is_refused():
    tokenizer = byte_level()
    raw = tokenizer.backend_tokenizer
    raw.normalizer = normalizers.Replace("\n", "")
    with pytest.raises(ValueError, match=r"where the text has '.n': its tokens do not tell words"):
        list(score(model_of(tokenizer), ["ab\nc d"], words=True))


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".jsonl"])
def test_rows_are_written_in_every_format(run, tmp_path, suffix):
    texts_ = [LILY, "", "The 日本 dog."]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts_))
    code, out, err = run("score", "a.jsonl", "--per", "word", "--output", f"words{suffix}")
    assert (code, out) == (0, "") and "scripts without spaces between words: 1" in err
    found = contents(tmp_path / f"words{suffix}")
    assert [row["text"] for row in found][:3] == ["Lily", " saw", " a"]
    assert {*map(len, found)} == {10} and len(found) == 10 + 2


def test_a_setting_that_no_row_would_say_is_refused(run):
    code, out, err = run("score", "--per", "word", "--setting", "top_k=5", stdin=b"Tom ran.")
    assert (code, out) == (2, "") and "--setting is of tokens; it cannot be used with" in err
