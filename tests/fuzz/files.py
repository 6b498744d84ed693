"""Files that somebody may give a command: whole, broken in their values, or in their bytes."""

import csv
import io
import json
import pickle
import struct
import zlib

import pyarrow as pa
from pyarrow import parquet

from decoding.passes.journal import FORMAT

TEXTS = [
    "Once upon a time there was a dog.", "The cat sat.", " Her name was Lily", "a",
    "One day\n\nTom ran.", "naïve 🦊 Ünï", "", " ", "\n", "\t\r\n", "\x1b[31mred\x1b[0m", "שלום",
    "\u202ertl", "\u2028", "</script>", "猫が座った。", "x" * 300, "[]", "{}", "[bold]no[/bold]",
    "a\x00b", "\ufeff", "%s %(x)d {0}", "-", "--json", "<eos>", "<|endoftext|>", "…" * 20,
    "a" * 3 + "\r" + "b", "no\u200bbreak", "'quoted\"", "Yes;No",
]  # fmt: skip
HOSTILE = [
    None, True, False, -1, 0, 1, 1.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**63, -(2**63) - 1,
    10**40, 10**400, "", "x", "NAN", "\ud800", "\udce9", [], {}, [None], [[]], {"": None}, [1, "a"],
    ["a"], float("nan"), float("inf"), float("-inf"), {"a": {"b": [1]}}, [[1], [2]], [True], "1",
    "[1]", "[" * 30, "\0", "\x1b[2J",
]  # fmt: skip
NAMES = ["text", "prompt", "messages", "tokens", "id", "logprobs", "outputs", "choices", "question",
         "references", "index", "é", "", "a b", "context", "response"]  # fmt: skip


def any_text(rng):
    return rng.choice(TEXTS[:4] if rng.random() < 0.6 else TEXTS)


def said(rng):
    """A conversation, mostly."""
    roles = ["user", "assistant", "system", "tool", "", "User"]
    return [
        {
            "role": roles[i % 2] if rng.random() < 0.8 else rng.choice(roles),
            "content": any_text(rng),
        }
        for i in range(rng.randint(0, 4))
    ]


def ids(rng, count):
    return [rng.choice([1, 5, 17, 300, 1000]) for _ in range(count)]


def vllm(rng):
    def output(index):
        count = rng.randint(0, 4)
        own = ids(rng, count)
        steps = [
            {str(id_): {"logprob": -rng.random(), "rank": 1}, "9": {"logprob": -3.5, "rank": 2}}
            for id_ in own
        ]
        return {"index": index, "text": any_text(rng), "token_ids": own, "logprobs": steps,
                "cumulative_logprob": -1.0, "finish_reason": "stop"}  # fmt: skip

    return {"request_id": "1", "prompt": any_text(rng), "prompt_token_ids": ids(rng, 3),
            "outputs": [output(i) for i in range(rng.randint(1, 3))]}  # fmt: skip


def openai(rng):
    def choice(index):
        own = ids(rng, rng.randint(0, 4))
        best = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.0}]
        content = [
            {"token": "a", "logprob": -rng.random(), "bytes": [97], "top_logprobs": best}
            for _ in own
        ]
        of = {"content": content}
        if rng.random() < 0.3:
            of = {"tokens": ["a"] * len(own), "token_logprobs": [-0.5] * len(own)}
        said = {"message": {"role": "assistant", "content": "aaa"}}
        if rng.random() < 0.3:
            said = {"text": "aaa"}
        return {"index": index, "logprobs": of, "finish_reason": "stop", "token_ids": own, **said}

    row = {"id": "x", "model": "m", "choices": [choice(i) for i in range(rng.randint(1, 3))],
           "prompt_token_ids": ids(rng, 2)}  # fmt: skip
    if rng.random() < 0.3:
        row = {"custom_id": "1", "response": {"status_code": 200, "body": row}}
    return {"prompt": any_text(rng), **row}


def rollout(rng):
    keys = rng.choice([
        ("prompt_token_ids", "token_ids", "logprobs"), ("prompt_ids", "completion_ids", "logprobs"),
        ("prompts", "responses", "rollout_log_probs"),
    ])  # fmt: skip
    count = rng.randint(0, 6)
    row = dict(zip(keys, (ids(rng, rng.randint(0, 3)), ids(rng, count),
                          [-rng.random() * 9 for _ in range(count)]), strict=True))  # fmt: skip
    if rng.random() < 0.3:
        row[rng.choice(["completion_mask", "response_mask"])] = [
            rng.randint(0, 1) for _ in range(count)
        ]
    return row


def plain_row(rng):
    row = {"text": any_text(rng)}
    if rng.random() < 0.4:
        row["prompt"] = any_text(rng)
    if rng.random() < 0.2:
        row["text"] = [any_text(rng), any_text(rng)]
    return row


def question(rng):
    row = {rng.choice(["prompt", "question"]): any_text(rng)}
    for name in ("references", "correct_answers", "incorrect", "paraphrases"):
        if rng.random() < 0.5:
            row[name] = [any_text(rng) for _ in range(rng.randint(0, 2))]
    if rng.random() < 0.3:
        row["context"] = any_text(rng)
    return row


def talk(rng):
    return {"messages": said(rng)}


SHAPES = {"text": plain_row, "question": question, "talk": talk, "vllm": vllm, "openai": openai,
          "rollout": rollout}  # fmt: skip


def places(value, here=()):
    """The way to every value inside a value, as keys and numbers."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:40])
    for key, one in inside:
        yield (*here, key)
        if isinstance(one, dict | list):
            yield from places(one, (*here, key))


def broken(rng, value):
    """A value in which one thing, somewhere, is another than it was, or is not there."""
    found = [*places(value)] if isinstance(value, dict | list) else []
    if not found:
        return rng.choice(HOSTILE)
    copied = json.loads(json.dumps(value))
    *way, last = rng.choice(found)
    inside = copied
    for key in way:
        inside = inside[key]
    change = rng.random()
    if change < 0.1:
        del inside[last]
    elif change < 0.2 and isinstance(inside, list):
        inside.append(inside[last])
    elif change < 0.2:
        inside[rng.choice(NAMES)] = inside.pop(last)
    else:
        inside[last] = rng.choice(HOSTILE)
    return copied


def rows(rng, shapes):
    """Rows of one shape, of which some are broken, or of several shapes."""
    shape = rng.choice(list(shapes))
    found = [shapes[shape](rng) for _ in range(rng.choice([0, 1, 1, 1, 1, 2, 2, 3, 3]))]
    if rng.random() < 0.05:
        found += [shapes[rng.choice(list(shapes))](rng)]
    if rng.random() < 0.3 and found:
        at = rng.randrange(len(found))
        for _ in range(rng.randint(1, 2)):
            found[at] = broken(rng, found[at])
    return found


def encoded(rng, suffix, values):
    """The bytes of a file of rows."""
    if suffix == ".json":
        whole = (
            values if rng.random() < 0.9 else rng.choice([{"a": values}, values[:1], None, 1, "x"])
        )
        return json.dumps(whole).encode(errors="surrogatepass")
    if suffix == ".jsonl":
        lines = [json.dumps(one, ensure_ascii=rng.random() < 0.7) for one in values]
        if rng.random() < 0.05 and lines and lines[0].startswith("{") and len(lines[0]) > 2:
            lines[0] = "{" + lines[0][1:-1] + ", " + lines[0][1:]
        end = rng.choice(["\n", "\n", "\n", "\r\n", "\n\n"])
        return end.join([*lines, ""]).encode(errors="surrogatepass")
    objects = [one if isinstance(one, dict) else {"text": one} for one in values]
    if suffix == ".csv":
        names = list(dict.fromkeys(key for one in objects for key in one))
        if rng.random() < 0.05 and names:
            names.append(names[0])
        file = io.StringIO()
        writer = csv.writer(file)
        writer.writerow(names)
        for one in objects:
            cells = [one.get(name, "") for name in names]
            writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
        return file.getvalue().encode(errors="surrogatepass")
    return in_parquet(rng, objects)


def in_parquet(rng, objects):
    file = io.BytesIO()
    try:
        table = pa.Table.from_pylist(objects)
    except (pa.ArrowException, UnicodeError, OverflowError):
        names = dict.fromkeys(str(key) for one in objects for key in one)
        texts = [[json.dumps(one.get(name)) for one in objects] for name in names]
        table = pa.table(texts, names=[name.encode(errors="replace").decode() for name in names])
    if rng.random() < 0.1 and table.num_rows:
        odd = rng.choice([pa.timestamp("ns"), pa.duration("s"), pa.binary(), pa.decimal128(5, 2),
                          pa.large_string(), pa.float16(), pa.null(), pa.uint64()])  # fmt: skip
        name = rng.choice(["text", "prompt", "odd", "index"])
        column = pa.nulls(table.num_rows, odd)
        if odd == pa.binary():
            column = pa.array([b"\xff\xfe"] * table.num_rows)
        if odd == pa.uint64():
            column = pa.array([2**64 - 1] * table.num_rows, odd)
        table = table.append_column(name, column)
    try:
        parquet.write_table(table, file)
    except pa.ArrowException:
        parquet.write_table(pa.table({"text": ["a"]}), file)
    return file.getvalue()


def damaged(rng, content):
    """Bytes that are not as they were."""
    change = rng.randrange(12)
    at = rng.randrange(len(content) + 1)
    if change == 0:
        return content[:at]
    if change == 1:
        return b"\xef\xbb\xbf" + content
    if change == 2:
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if change == 3:
        return content.replace(b"\n", b"\r\n")
    if change == 4:
        return (
            content[:at] + rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e999"]) + content[at:]
        )
    if change == 5:
        return content.decode(errors="replace").encode("utf-16")
    if change == 6:
        return content[:at] + b"\0" + content[at:]
    if change == 7:
        return content + rng.choice([b"}", b'{"text": ', b"\xff", b",,,\n", b'"'])
    if change == 8:
        return bytes(rng.randrange(256) for _ in range(rng.choice([1, 20, 400])))
    if change == 9:
        return b""
    if change == 10:
        return content[:at] + b"\xed\xa0\x80" + content[at:]
    return content[:at] + b"x" * rng.choice([10, 700]) + content[at:]


ROWS = (".jsonl", ".json", ".csv", ".parquet")
SUFFIXES = (*ROWS, ".txt", ".md", "", ".JSONL", ".gz", ".html")


def content(rng, suffix, shapes):
    """Of a file of that suffix."""
    if suffix.lower() in ROWS and rng.random() < 0.93:
        made = encoded(rng, suffix.lower(), rows(rng, shapes))
    elif rng.random() < 0.1:
        made = encoded(rng, rng.choice(ROWS), rows(rng, shapes))
    else:
        made = "\n".join(any_text(rng) for _ in range(rng.randint(1, 3))).encode(errors="replace")
    return damaged(rng, made) if rng.random() < 0.2 else made


def journal(rng):
    """What an earlier run may have left beside its output, or somebody else."""
    values = [
        ((), rng.choice(HOSTILE), ()), rng.choice(HOSTILE), (b"x", {"command": "score"}, ()),
        ("x", {"a": [float("nan")]}, [None]), print, {"command": "score", "weights": []},
    ]  # fmt: skip
    records = [pickle.dumps(rng.choice(values)) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.2:
        records.append(
            rng.choice([b"cos\nsystem\n(S'true'\ntR.", b"", b"\x80\x05", b"N.", b"(lp0\n."])
        )
    heads = (struct.pack("<II", len(one), zlib.crc32(one)) for one in records)
    whole = FORMAT + b"".join(head + one for head, one in zip(heads, records, strict=True))
    return damaged(rng, whole) if rng.random() < 0.4 else whole
