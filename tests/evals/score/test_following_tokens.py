"""What may follow a text: its end, and named tokens, against the model's own logits."""

import json
import math

import pytest
import torch

from decoding.models.loading import LanguageModel
from decoding.scoring.answers import said_by
from decoding.scoring.teacher_forcing import Document, TeacherForcing, TokenDocument
from decoding.scoring.windows import Windows
from decoding.texts.chats import Conversation
from decoding.texts.prompts import encode_prompt
from decoding_evals.score.evaluation import score, score_choices
from toys import words

NATS = 2e-5
TEXT = "Once upon a time, there was a dog."


@torch.no_grad()
def behind(language_model, ids):
    """log p of the next token, float64."""
    return torch.log_softmax(language_model.model(torch.tensor([ids])).logits[0, -1].double(), -1)


def ids_of(language_model, text):
    return language_model.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_end_and_named_tokens_are_those_of_the_model(stories):
    language_model = stories
    bos = language_model.tokenizer.bos_token_id
    [scores] = score(language_model, [TEXT], tokens=[" He", " She", "<|endoftext|>"])
    log_p = behind(language_model, [bos, *ids_of(language_model, TEXT)])
    assert scores.end_surprisal_nats == pytest.approx(-float(log_p[bos]), abs=NATS)
    ids = [*(ids_of(language_model, text)[0] for text in (" He", " She")), bos]
    among = log_p[ids].logsumexp(-1)
    assert [token.id for token in scores.next_tokens] == ids
    for token, id_ in zip(scores.next_tokens, ids, strict=True):
        assert token.log_prob_nats == pytest.approx(float(log_p[id_]), abs=NATS)
        assert token.normalized_log_prob_nats == pytest.approx(float(log_p[id_] - among), abs=NATS)
    record = scores.record()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert [token["text"] for token in record["next_tokens"]] == [" He", " She", "<|endoftext|>"]


@pytest.mark.parametrize(("context", "stride"), [(4, 4), (4, 1), (8, 5), (512, 256)])
def test_the_text_is_scored_as_without_them(stories, context, stride):
    """Also where the end needs a window of its own; figures, progress and documents are alike."""
    texts = [TEXT, "", "Lily", TEXT * 3]
    windows = Windows(context=context, stride=stride, batch_size=3)
    told = []
    found = list(score(stories, texts, windows=windows, on_progress=lambda *two: told.append(two)))
    run = TeacherForcing(stories, windows)
    plain = {}
    for window, columns in run.scan(map(Document, texts), lambda b: {"id": b.targets}):
        plain.setdefault(window.document, []).extend(columns["id"].tolist())
    for index, scores in enumerate(found):
        assert scores.ids.tolist() == plain.get(index, [])
        assert scores.tokens == len(scores)
        assert (scores.end_surprisal_nats is None) == (not len(scores))
    assert told[-1][0] == run.account.tokens_scored
    sequence = [stories.tokenizer.bos_token_id, *ids_of(stories, TEXT)]
    begin = max(0, math.ceil((len(sequence) - context) / stride)) * stride
    want = behind(stories, sequence[begin:])[0]
    assert found[0].end_surprisal_nats == pytest.approx(-float(want), abs=NATS)


def test_several_ids_that_end_a_text_end_it_together(toy_llama):
    language_model = LanguageModel(toy_llama, words(bos_token="<eos>", eos_token="<eos>"), "toy")
    many = [0, 3, 5]
    before = toy_llama.generation_config.eos_token_id
    toy_llama.generation_config.eos_token_id = many
    try:
        [scores, ended] = score(language_model, ["a b d", "a b c"])
    finally:
        toy_llama.generation_config.eos_token_id = before
    want = behind(language_model, [0, 1, 2, 4])[many].logsumexp(-1)
    assert scores.end_surprisal_nats == pytest.approx(-float(want), abs=NATS)
    assert ended.end_surprisal_nats is None  # "c" is the id 3


def test_without_an_eos_there_is_no_end(toy_llama, monkeypatch):
    tokenizer = words(bos_token="<eos>")
    for config in (toy_llama.config, toy_llama.generation_config):
        monkeypatch.setattr(config, "eos_token_id", None)
    [scores] = score(LanguageModel(toy_llama, tokenizer, "toy"), ["a b c"])
    assert scores.end_surprisal_nats is None
    assert scores.record()["end_surprisal_nats"] is None


def test_ids_that_the_model_lacks_end_nothing(toy_llama, monkeypatch):
    """As the defaults of a configuration of few tokens."""
    for config in (toy_llama.config, toy_llama.generation_config):
        monkeypatch.setattr(config, "eos_token_id", 50256)
    tokenizer = words(bos_token="<eos>")
    [scores] = score(LanguageModel(toy_llama, tokenizer, "toy"), ["a b c"])
    assert scores.end_surprisal_nats is None and len(scores) == 3


def test_behind_ids_and_choices(stories):
    ids = ids_of(stories, TEXT)
    bos = stories.tokenizer.bos_token_id
    [drawn] = score(stories, [TokenDocument(ids[4:], [bos, *ids[:4]])], tokens=[" He"])
    log_p = behind(stories, [bos, *ids])
    [he] = drawn.next_tokens
    assert he.log_prob_nats == pytest.approx(float(log_p[he.id]), abs=NATS)
    [row] = score_choices(stories, [("Once upon a", [" time", " dog ran"])], tokens=[" and"])
    for choice, text in zip(row.choices, (" time", " dog ran"), strict=True):
        log_p = behind(stories, ids_of(stories, "Once upon a" + text))
        [token] = choice.next_tokens
        assert token.log_prob_nats == pytest.approx(float(log_p[token.id]), abs=NATS)
        assert token.normalized_log_prob_nats == 0


CHAT = (
    "{% for m in messages %}{{ m['role'] + ':' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)


def test_behind_a_conversation_stands_what_the_assistant_would_say(stories, monkeypatch):
    monkeypatch.setattr(stories.tokenizer, "chat_template", CHAT)
    asked = Conversation([{"role": "user", "content": "Who ran?"}])
    answered = Conversation([*asked.messages, {"role": "assistant", "content": "A dog."}])
    documents = [said_by(stories.tokenizer, c, opened=True) for c in (asked, answered)]
    open_, closed = score(stories, documents, tokens=[" He"])
    log_p = behind(stories, encode_prompt(stories.tokenizer, asked))  # as generate reads it
    [token] = open_.next_tokens
    assert token.log_prob_nats == pytest.approx(float(log_p[token.id]), abs=NATS)
    assert len(open_) == 0 and closed.record()["next_tokens"] is None
    assert closed.end_surprisal_nats is None and "".join(closed.texts()) == "A dog."


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (" Yes/ Zorblax", "Error: ' Yes' is not one token of this model: it is "),
        (" He/", "Error: '' is not one token of this model: it is empty"),
        (" He/ He", "--tokens must differ, got ' He/ He'"),
    ],
)
def test_a_text_that_is_not_one_token_is_refused(run, asked, says):
    code, out, err = run("score", "--tokens", asked, stdin=TEXT.encode())
    assert (code, out) == (2 if "differ" in says else 1, "") and says in err
    assert err.count("\n") == (1 if code == 1 else err.count("\n"))


def test_a_long_text_that_is_no_token_is_not_spelled_to_its_end(run):
    code, _, err = run("score", "--tokens", "x" * 400, stdin=TEXT.encode())
    assert code == 1 and err.count("'x'") == 20 and err.endswith("'x', …\n")


def test_a_slash_of_a_token_is_escaped(run):
    code, _, err = run("score", "--tokens", r" He/<\/s>", stdin=TEXT.encode())
    assert code == 1 and "'</s>' is not one token of this model" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--per", "word", "--tokens", " He"], "--tokens is of documents"),
        (["--per", "token", "--human", "h.txt"], "--human is of documents"),
        (["--per", "word", "--prompt-column", "q"], "--per word is of texts"),
        (["--human", "h.txt", "--prompt-column", "q"], "--human is of texts"),
        (["--false-positives", "0.1"], "--false-positives needs --human"),
        (["--human", "h.txt", "--false-positives", "1"], "--false-positives"),
        (["--per", "line"], "--per"),
    ],
)
def test_what_does_not_go_together_is_wrong_usage(run, arguments, says):
    code, out, err = run("score", *arguments, stdin=TEXT.encode())
    assert (code, out) == (2, "") and says in err and "Traceback" not in err
