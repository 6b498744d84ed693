"""Answers that other tools drew, as they write them."""

import json
import math

import click
import pytest

from decoding import generate
from decoding_evals.engines.stored import matched, read_stored

COLUMNS = {"references": None}

VLLM = {
    "request_id": "0",
    "prompt": "Capital of France?",
    "prompt_token_ids": [5, 6, 7],
    "prompt_logprobs": None,
    "outputs": [
        {
            "index": 0, "text": " Paris", "token_ids": [11, 2], "cumulative_logprob": -0.75,
            "logprobs": [
                {"11": {"logprob": -0.5, "rank": 1, "decoded_token": " Paris"},
                 "12": {"logprob": -1.5, "rank": 2, "decoded_token": " Rome"}},
                {"2": {"logprob": -0.25, "rank": 1, "decoded_token": "</s>"}},
            ],
            "finish_reason": "stop", "stop_reason": None,
        },
        {
            "index": 1, "text": "", "token_ids": [13], "cumulative_logprob": None,
            "logprobs": None, "finish_reason": "stop", "stop_reason": "\n",
        },
    ],
    "finished": True,
}  # fmt: skip
CHAT = {
    "messages": [{"role": "user", "content": "Hi"}],
    "id": "chatcmpl-1", "object": "chat.completion", "model": "m",
    "choices": [
        {
            "index": 0, "message": {"role": "assistant", "content": "Yes."},
            "finish_reason": "stop",
            "logprobs": {"content": [
                {"token": "Yes", "logprob": -0.25, "bytes": [89], "top_logprobs": []},
                {"token": ".", "logprob": 1e-8, "bytes": [46], "top_logprobs": []},
            ]},
        }
    ],
}  # fmt: skip
TEXT = {
    "prompt": "1 + 1 =", "object": "text_completion", "model": "m",
    "choices": [
        {"index": 0, "text": " 2", "finish_reason": "length",
         "logprobs": {"tokens": [" 2"], "token_logprobs": [-1.0], "text_offset": [7]}},
        {"index": 1, "text": " 3", "finish_reason": "length", "logprobs": None},
    ],
}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, *rows):
    return read_stored(write(path / "rows.jsonl", *rows), COLUMNS, None)


def test_request_outputs_of_vllm(tmp_path):
    [found] = read(tmp_path, VLLM | {"answer": ["Paris"]})
    assert (found.prompt, found.index) == ("Capital of France?", None)
    assert found.known == {"references": ("Paris",)}
    assert found.drawn.prompt_ids == (5, 6, 7)
    first, second = found.drawn.answers
    assert (first.text, first.finish_reason, first.ids) == (" Paris", "eos", (11, 2))
    assert first.surprisal_nats == (0.5, 0.25) and first.texts == (" Paris", "")
    assert (second.finish_reason, second.surprisal_nats) == ("stop", None)


def test_chat_completions_and_completions(tmp_path):
    chat, text = read(tmp_path, CHAT, TEXT)
    assert chat.prompt.messages[0]["content"] == "Hi" and chat.drawn.model == "m"
    [answer] = chat.drawn.answers
    assert (answer.text, answer.finish_reason) == ("Yes.", "stop")
    assert answer.surprisal_nats == (0.25, 0.0)  # rounding lifts it above 0
    first, second = text.drawn.answers
    assert (first.surprisal_nats, first.finish_reason, second.surprisal_nats) == (
        (1.0,), "length", None,
    )  # fmt: skip


def test_a_log_probability_that_stands_for_none_is_not_known(tmp_path):
    """Servers write -9999.0 of tokens that are not among the favourites that they list."""
    completion = logged(tokens=[" 2", "!"], token_logprobs=[-1.0, -9999.0])
    [stored] = read(tmp_path, completion)
    assert stored.drawn.answers[0].text == " 2" and stored.drawn.answers[0].surprisal_nats is None


def test_the_lines_of_a_batch_have_the_response_inside(tmp_path):
    batch = {"custom_id": "a", "error": None, "response": {"status_code": 200, "body": CHAT}}
    [found] = read(tmp_path, batch)
    assert found.drawn.answers[0].text == "Yes."


def test_records_of_generate(stories, tmp_path):
    written = generate(stories, ["Tom", "Lily"], num_return_sequences=2, max_new_tokens=4, seed=1)
    found = read(tmp_path, *(one.record() for one in written))
    assert [one.prompt for one in found] == ["Tom", "Lily"]
    assert found[0].drawn.settings == "raw" and found[0].drawn.model == stories.name
    answers = [answer for one in found for answer in one.drawn.answers]
    for answer, want in zip(answers, written, strict=True):
        assert answer.text == want.text and answer.ids == tuple(want.trace.ids)
        assert math.fsum(answer.surprisal_nats) == want.trace.summary()["surprisal_nats"]


def test_answers_are_of_one_prompt_where_it_is_the_same(tmp_path):
    rows = [TEXT, TEXT | {"index": 3}, CHAT, TEXT, {"choices": TEXT["choices"]}]
    found = read(tmp_path, *rows, rows[-1])
    assert [len(one.drawn.answers) for one in found] == [4, 2, 1, 2, 2]


def test_a_prompts_file_knows_the_references(tmp_path, capsys):
    silent = {"index": 1, "choices": TEXT["choices"]}
    stored = read(tmp_path, TEXT, silent, CHAT)
    rows = [
        {"prompt": "1 + 1 =", "references": ("2",)},
        {"prompt": "b", "references": ("x",)},
        {"prompt": "c", "references": ()},
    ]
    found = matched(stored, rows)
    assert [one.prompt for one in found][:2] == ["1 + 1 =", "b"]
    assert [one.known.get("references") for one in found] == [("2",), ("x",), ()]
    err = capsys.readouterr().err
    assert "1 of 3 answered prompts are not in --prompts-file" in err
    assert "1 of 3 prompts of --prompts-file have no answer" in err
    with pytest.raises(click.ClickException, match="no answer is to a prompt"):
        matched(stored[2:], rows)
    with pytest.raises(click.ClickException, match="line 1: neither prompt nor 'index' says"):
        matched(read(tmp_path, {"choices": TEXT["choices"]}), rows)


def vllm(**change):
    return VLLM | {"outputs": [VLLM["outputs"][0] | change]}


def choice(**change):
    return TEXT | {"choices": [TEXT["choices"][0] | change]}


def logged(**change):
    return choice(logprobs=TEXT["choices"][0]["logprobs"] | change)


TOKEN = {"id": 1, "text": "a", "surprisal_nats": 1.0, "entropy_nats": 1.0}
RECORD = {
    "prompt": "a", "text": "a", "finish_reason": "length", "model": "m", "settings": "raw",
    "tokens": [TOKEN],
}  # fmt: skip


def recorded(**change):
    return RECORD | {"tokens": [TOKEN | change]}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a"}, r"neither a record of generate .* it has 'prompt'"),
        ([1], "expected an object, got list"),
        (VLLM | {"outputs": []}, "a request output has no outputs"),
        (VLLM | {"outputs": {}}, "a request output has dict as 'outputs', not a list"),
        (VLLM | {"outputs": [3]}, "output 1 has NoneType|output 1 has null as 'text'"),
        (vllm(token_ids=["a", 2]), "something else than token ids in 'token_ids'"),
        (vllm(token_ids=[11]), "output 1 has 1 token ids and 2 log-probabilities"),
        (vllm(token_ids=[9, 2]), "output 1, token 1, has null as its log-probability"),
        (CHAT | {"choices": []}, "a response has no choices"),
        (CHAT | {"choices": [{"message": {"content": None}}]}, "choice 1 has null as 'content'"),
        (choice(text=None), "choice 1 has null as 'text'"),
        (choice(logprobs=[1]), "choice 1 has list as 'logprobs', not an object"),
        (logged(token_logprobs=[None]), "token 1, has null as its log-probability"),
        (logged(token_logprobs=[0.5]), "token 1, has 0.5 as its log-probability"),
        (logged(token_logprobs=[math.nan]), "has nan as its log-probability"),
        (logged(token_logprobs=[-math.inf]), "has -inf as its log-probability"),
        (logged(token_logprobs=[True]), "has True as its log-probability"),
        (logged(token_logprobs=[]), "choice 1 has 1 tokens and 0 log-probabilities"),
        (RECORD | {"tokens": 3}, "a record of generate has int as 'tokens'"),
        (logged(token_logprobs=[-(10**400)]), "broken JSON .a whole number of 402 digits"),
        (choice(text="\ud800"), "choice 1 has a text as 'text' that is not valid UTF-8"),
        (RECORD | {"tokens": [{"id": 1}]}, "generate, token 1, has null as 'surprisal_nats'"),
        (RECORD | {"tokens": [TOKEN, 3]}, "generate, token 2, has null as 'surprisal_nats'"),
        (recorded(surprisal_nats=True), "token 1, has True as 'surprisal_nats'"),
        (recorded(surprisal_nats=1e308), "token 1, has 1e\\+308 as 'surprisal_nats'"),
        (recorded(entropy_nats=10**400), "broken JSON .a whole number of 401 digits"),
        (recorded(entropy_nats=-1), "token 1, has -1 as 'entropy_nats'"),
        (RECORD | {"num_beams": 2}, "beam search and greedy settings draw no answers"),
        (RECORD | {"settings": "greedy"}, "beam search and greedy settings draw no answers"),
        (TEXT | {"index": -1}, "'index' is -1, not a whole number from 0"),
        (TEXT | {"messages": "hello"}, "'messages': no list of messages"),
        (TEXT | {"references": 5}, "references is int"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, problem):
    with pytest.raises(click.ClickException, match=problem) as error:
        read(tmp_path, TEXT, row)
    assert "rows.jsonl', line 2: " in error.value.message and "\n" not in error.value.message


def test_answers_drawn_in_two_ways_are_not_of_one_prompt(tmp_path):
    with pytest.raises(click.ClickException, match=r"line 2: an answer .* line 1, but of another"):
        read(tmp_path, TEXT, TEXT | {"model": "n"})


def test_files_of_other_kinds_are_refused(tmp_path):
    with pytest.raises(click.UsageError, match=r"--answers takes \.jsonl"):
        read_stored(tmp_path / "a.txt", COLUMNS, None)
    with pytest.raises(click.ClickException, match="no rows in"):
        read(tmp_path)
    with pytest.raises(click.ClickException, match="cannot read"):
        read_stored(tmp_path / "none.jsonl", COLUMNS, None)
