"""Conversations in files: what the commands make of a column of messages."""

import json
from pathlib import Path

import pytest

from decoding import LanguageModel, generate
from decoding.scoring.teacher_forcing import TeacherForcing, TokenDocument
from decoding.texts.chats import Chat, Conversation
from decoding.texts.prompts import encode_prompt
from decoding_evals.judging.correctness import preferred
from forcing import measure, words

TEMPLATE = (
    "{% for m in messages %}<eos> {{ m.role }} {{ m.content }} <eos> {% endfor %}"
    "{% if add_generation_prompt %}<eos> {{ 'b' if calm else 'a' }} {% endif %}"
)
SAID = [
    {"role": "user", "content": "c d"},
    {"role": "assistant", "content": "e f"},
    {"role": "user", "content": "g"},
    {"role": "assistant", "content": "h i"},
]


@pytest.fixture(scope="module")
def talker(toy_llama):
    tokenizer = words(bos_token="<eos>", eos_token="<eos>")
    tokenizer.chat_template = TEMPLATE
    return LanguageModel(toy_llama, tokenizer, "toy")


@pytest.fixture(scope="module")
def folder(talker, tmp_path_factory):
    folder = tmp_path_factory.mktemp("talker")
    talker.model.save_pretrained(folder)
    talker.tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def file(tmp_path):
    def write(*rows, name="rows.jsonl"):
        path = tmp_path / name
        if name.endswith(".csv"):
            text = '"' + json.dumps(rows[0]["messages"]).replace('"', '""') + '"'
            path.write_text(f"messages\n{text}\n")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def surprisals(talker, ids, places):
    found = []
    for place in places:
        [(_, columns)] = TeacherForcing(talker).scan(
            [TokenDocument(ids[place : place + 1], ids[:place])], measure
        )
        found.append(columns["surprisal"][0])
    return found


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv"])
def test_what_the_assistant_says_is_scored(run, folder, talker, file, name):
    path = file({"messages": SAID}, name=name)
    text = "<eos> p c d <eos> <eos> p e f <eos> <eos> p g <eos> <eos> p h i <eos>"
    ids = talker.tokenizer(text)["input_ids"]
    want = surprisals(talker, ids, [7, 8, 9, 16, 17, 18])
    code, out, err = run("score", path, "--model", folder, "--json")
    assert code == 0, err
    record = json.loads(out)
    tokens = record["tokens"]
    assert [token["text"].strip() for token in tokens] == ["e", "f", "<eos>", "h", "i", "<eos>"]
    assert [token["surprisal_nats"] for token in tokens] == pytest.approx(want, abs=1e-5)
    assert record["tokens_not_scored"] == len(ids) - 1 - 6  # the first EOS is counted apart
    code, out, _ = run("perplexity", path, "--model", folder, "--json")
    record = json.loads(out)
    assert record["nll_nats"] == pytest.approx(sum(want) / 6, abs=1e-5)
    assert (record["tokens_scored"], record["tokens"], record["bos_tokens"]) == (6, 18, 1)
    user = surprisals(talker, ids, [2, 3, 4, 12, 13])
    code, out, _ = run("perplexity", path, "--model", folder, "--json", "--roles", "user")
    assert json.loads(out)["nll_nats"] == pytest.approx(sum(user) / 5, abs=1e-5)


def test_generate_goes_on_with_a_conversation(run, folder, talker, file):
    path = file({"messages": SAID[:3]}, {"prompt": "c"})
    arguments = ["--model", folder, "--max-new-tokens", 3, "--seed", 1, "--json"]
    code, out, err = run("generate", "--prompts-file", path, *arguments)
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    assert (first["prompt"], first["messages"]) == ("g", SAID[:3])
    assert first["prompt_ids"] == encode_prompt(talker.tokenizer, Conversation(SAID[:3]))
    # Where there is a conversation, texts are messages too.
    assert second["prompt_ids"] == encode_prompt(talker.tokenizer, "c", chat=True)
    assert first["chat"] == second["chat"] == Chat().record(talker.tokenizer)
    again = generate(talker, [SAID[:3], "c"], max_new_tokens=3, seed=1)
    assert [one.trace.ids.tolist() for one in again] == [
        [token["id"] for token in record["tokens"]] for record in (first, second)
    ]


def test_the_template_is_used_as_it_is_asked_for(run, folder, talker):
    arguments = ["generate", "c", "--model", folder, "--max-new-tokens", 1, "--seed", 1, "--json"]
    said = ["--system", "d", "--chat-option", "calm=true"]
    record = json.loads(run(*arguments, *said)[1])
    chat = Chat(system="d", options={"calm": True})
    assert record["prompt_ids"] == encode_prompt(talker.tokenizer, "c", chat=chat)
    assert record["chat"] == chat.record(talker.tokenizer)
    assert json.loads(run(*arguments)[1])["chat"] is None


def test_choices_after_a_chat_prompt_are_the_assistant_s(run, folder, talker, file):
    path = file({"prompt": "c", "text": ["d", "e f"]}, {"prompt": SAID[:1], "text": ["g"]})
    code, out, err = run(
        "score", path, "--model", folder, "--prompt-column", "prompt", "--chat", "--json"
    )
    assert code == 0, err
    first, second = map(json.loads, out.splitlines())
    read = encode_prompt(talker.tokenizer, "c", chat=True)
    for choice, answer in zip(first["choices"], ([4], [5, 6]), strict=True):
        want = sum(surprisals(talker, read + answer, range(len(read), len(read + answer))))
        assert choice["log_prob_nats"] == pytest.approx(-want, abs=1e-5)
    assert second["prompt"] == "c d"


def test_likelihood_judges_in_a_chat(talker):
    read = encode_prompt(talker.tokenizer, "c", chat=True)
    log_p = [-sum(surprisals(talker, [*read, answer], [len(read)])) for answer in (4, 5, 6)]
    best = max(range(3), key=lambda i: log_p[i])
    answers = ["d", "e", "f"]
    for right in range(3):
        wrong = [answers[i] for i in range(3) if i != right]
        found = preferred(talker, "c", [answers[right]], wrong, chat=True)
        assert found.correct == (right == best)
        total = sum(2.718281828459045**value for value in log_p)
        assert found.quality == pytest.approx(2.718281828459045 ** log_p[right] / total, rel=1e-5)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"messages": []}, "'messages': a conversation must have at least one message"),
        ({"messages": "[]"}, "'messages': no list of messages"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "a message is not valid UTF-8"),
        ({"messages": [{"role": "user"}]}, "message 1 must have a text as 'role'"),
        ({"messages": 3}, "'messages': no list of messages"),
    ],
)
def test_broken_conversations_are_named(run, folder, file, row, problem):
    path = file(row)
    for arguments in (["score", path], ["generate", "--prompts-file", path]):
        code, out, err = run(*arguments, "--model", folder)
        assert (code, out) == (1, "") and problem in err and "line 1" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("command", ["compare", "identify", "calibrate", "attention"])
def test_commands_that_read_texts_alone_say_so(run, folder, file, command):
    code, _, err = run(command, file({"messages": SAID}), "--model", folder)
    assert code == 1 and "no column 'text'; it has 'messages'" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["score", "rows.txt", "--chat"], "--chat needs a column of messages"),
        (["perplexity", "rows.txt", "--system", "x"], "--chat needs a column of messages"),
        (["generate", "c", "--chat-option", "calm"], "--chat-option takes NAME=VALUE, got 'calm'"),
        (["generate", "c", "--chat-option", "a=1", "--chat-option", "a=2"], "a is given twice"),
    ],
)
def test_wrong_usage_of_chats(run, arguments, problem):
    Path("rows.txt").write_text("c d")
    code, _, err = run(*arguments, "--model", "/no/such/model")
    assert code == 2 and problem in err


@pytest.mark.parametrize(
    ("given", "meant"), [(r"\n", "\n"), (r"\n\n", "\n\n"), (r"\t", "\t"), (r"a\n", r"a\n")]
)
def test_line_breaks_may_be_spelled(given, meant):
    from decoding_evals.reading.prompts import read_stop

    assert read_stop((given,)) == [meant]


@pytest.mark.parametrize("text", ['[{"role": "user", "content": "c"}]', '[{"name": "Ann"}]', "[ ]"])
def test_a_text_that_looks_like_json_is_a_text_where_files_have_lists(run, file, text):
    path = file({"prompt": text, "text": text})
    code, out, _ = run("score", path, "--json")
    assert code == 0 and "".join(t["text"] for t in json.loads(out)["tokens"]) == text
    arguments = ["--prompts-file", path, "--max-new-tokens", 1, "--seed", 1, "--json"]
    code, out, _ = run("generate", *arguments)
    record = json.loads(out)
    assert (code, record["prompt"], record["chat"]) == (0, text, None)


@pytest.mark.parametrize("cell", ["[\r\n {", "[\t{", "[{"])
def test_a_conversation_in_a_cell_may_be_laid_out_in_any_way(run, folder, talker, tmp_path, cell):
    spelled = cell + json.dumps(SAID[0])[1:] + "]"
    path = tmp_path / "rows.csv"
    path.write_text('messages\n"' + spelled.replace('"', '""') + '"\n', newline="")
    arguments = ["--model", folder, "--max-new-tokens", 1, "--seed", 1, "--json"]
    code, out, err = run("generate", "--prompts-file", path, *arguments)
    assert code == 0, err
    read = encode_prompt(talker.tokenizer, Conversation(SAID[:1]))
    assert json.loads(out)["prompt_ids"] == read


@pytest.mark.parametrize(
    ("cell", "problem"),
    [
        ('[{"role": "user", "content": "a", "content": "b"}]', "more than one key 'content'"),
        ("[{", "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("hello", "no list of messages"),
    ],
)
def test_a_column_of_messages_holds_nothing_else(run, folder, tmp_path, cell, problem):
    path = tmp_path / "rows.csv"
    path.write_text('messages\n"' + cell.replace('"', '""') + '"\n')
    for arguments in (["score", path], ["generate", "--prompts-file", path]):
        code, _, err = run(*arguments, "--model", folder)
        assert code == 1 and problem in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--chat-option", "x=1e999"], "--chat-option x has a value that JSON does not know"),
        (["--system", "\udcff"], "--system is not valid UTF-8"),
    ],
)
def test_options_of_chats_hold_what_records_can(run, arguments, problem):
    code, _, err = run("generate", "c", *arguments, "--model", "/no/such/model")
    assert code == 2 and problem in err


def test_roles_need_conversations(run):
    Path("rows.txt").write_text("c d")
    code, _, err = run("score", "rows.txt", "--roles", "user", "--model", "/no/such/model")
    assert code == 2 and "--roles needs a column of messages" in err


def test_conversations_without_a_message_to_score_are_counted(run, folder, file):
    path = file({"messages": SAID}, {"messages": SAID[:1]}, {"messages": SAID[:1]})
    code, _, err = run("score", path, "--model", folder, "--json")
    assert (code, err) == (0, "conversations without a message to score: 2\n")
    code, _, err = run("score", path, "--model", folder, "--roles", "nobody", "--json")
    assert (code, err) == (0, "conversations without a message to score: 3\n")


def test_prompts_of_rows_are_named_by_their_place(run, file):
    path = file({"prompt": "Once", "text": " a"}, {"prompt": "On", "text": ["ce"]})
    code, _, err = run("score", path, "--prompt-column", "prompt")
    assert code == 1 and f"the prompt of '{path}:2' shares no token" in err
