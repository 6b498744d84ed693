"""What must be true of every command that ended."""

import csv
import io
import json
import re

from pyarrow import parquet

NOISE = re.compile(
    r"Traceback|\w+Warning\b|^\s+File \"|warn\(|Exception ignored|core dumped|Segmentation"
    r"|\[W\d{3}|libgomp|terminate called", re.MULTILINE
)  # fmt: skip
# What interpreters and libraries say of a mistake that nobody foresaw.
UNFORESEEN = re.compile(
    r"NoneType|object is not|not subscriptable|not iterable|has no attribute|unhashable"
    r"|unsupported operand|not supported between|out of range|index \d+ is out|list ind"
    r"|positional argument|keyword argument|got an unexpected|cannot unpack|unpack \("
    r"|invalid literal|could not convert|codec can't|embedded null|must be str|must be real"
    r"|need at least one|broadcast|tensor|Tensor|size mismatch|dimension|ufunc|ndarray|numpy"
    r"|object at 0x|Errno|surrogates not allowed|recursion depth|int too large|zero-size"
    r"|^Error: \S*$|^Error: '[^']*'$|maximum recursion|math domain|division by zero|ArrowInvalid"
)
NUMBER = re.compile(r"(?<![\w.\"'“/-])-?(?:nan|NaN|inf|Infinity)(?![\w\"'”]| or infinite)")
EXITS = (0, 1, 2, 130)
LONGEST_LINE = 1000
UNFINISHED = ".unfinished"


def faults(case, ran):
    """What is wrong, in lines; none where all is as it must be."""
    found = []
    if ran.code is None:
        return ["it hangs"]
    if ran.code not in EXITS:
        found.append(f"exit code {ran.code}")
    out, err = ran.out.decode(errors="replace"), ran.err.decode(errors="replace")
    found += [f"noise: {match[0]!r} in {_around(err, match)}" for match in NOISE.finditer(err)][:1]
    found += [f"noise in output: {_around(out, match)}" for match in NOISE.finditer(out)][:1]
    found += _of_errors(case, ran.code, err, out)
    found += _of_output(case, out)
    found += _of_files(case, ran)
    return found


def _around(text, match):
    return repr(text[max(0, match.start() - 150) : match.end() + 300])


def _of_errors(case, code, err, out):
    errors = [line for line in err.splitlines() if line.startswith("Error:")]
    reports = case.arguments[:1] == ["mismatch"] and code == 1 and not errors
    if reports:
        return [] if out or _writes(case) else ["exit code 1 without a report"]
    if code == 0:
        return [f"exit code 0, and {errors[0]!r}"] if errors else []
    if len(errors) != 1:
        return [f"{len(errors)} lines of error for exit code {code}: {err!r}"]
    if not err.endswith(errors[0] + "\n"):
        return [f"the error is not the last line: {err!r}"]
    found = []
    told = re.sub("(?<=^Error: cannot load data set ).*", "", errors[0])  # in a library's words
    if match := UNFORESEEN.search(told):
        found.append(f"unforeseen ({match[0]!r}): {errors[0]!r}")
    if len(errors[0]) > LONGEST_LINE + max(map(len, case.arguments)):
        found.append(f"an error of {len(errors[0])} characters: {errors[0][:300]!r}")
    return found


def _writes(case):
    return any(word.partition("=")[0] in ("--output", "-o") for word in case.arguments)


def _of_output(case, out):
    # Whole JSON is looked at below; a text in it may spell anything.
    shown = "\n".join(line for line in out.splitlines() if _json_fault(line))
    if match := NUMBER.search(shown):
        return [f"{match[0]!r} in output: {_around(shown, match)}"]
    if "--json" in case.arguments and not {"--help", "-h"} & {*case.arguments}:
        return [fault for line in out.splitlines() if (fault := _json_fault(line))][:1]
    return []


def _json_fault(text):
    def refused(name):
        raise ValueError(f"{name} in JSON")

    try:
        json.loads(text, parse_constant=refused)
    except ValueError as error:
        return f"broken JSON ({error}): {text[:200]!r}"
    return None


def _of_files(case, ran):
    found = [f"left for temporary files: {name}" for name in ran.temporary]
    for name, content in ran.before.items():
        if ran.after.get(name) == content or name.endswith(UNFINISHED):
            continue
        if not (name in ran.after and any(name in word for word in case.arguments[1:])):
            found.append(f"{name!r} is gone, or changed")
    for name, content in ran.after.items():
        if content == ran.before.get(name):
            continue
        # A run that did not come to its end may leave what the next one goes on from.
        written = name.removesuffix(UNFINISHED)
        if ran.code and name != written and any(written in word for word in case.arguments):
            continue
        # What is named, or what a link leads to, may be made a folder.
        place = name.partition("/")[0]
        named = (place.removesuffix(".jsonl") in word for word in case.arguments)
        if place != "target.jsonl" and not any(named):
            found.append(f"left behind: {name!r}, {content[:80]!r}")
        elif fault := _file_fault(name, content):
            found.append(f"{name!r}: {fault}")
    return found


def _file_fault(name, content):
    """What is wrong with a file that a command has written."""
    suffix = "." + name.rpartition(".")[2].lower()
    try:
        if suffix == ".jsonl":
            return next(filter(None, map(_json_fault, content.decode().splitlines())), None)
        if suffix == ".json":
            return _json_fault(content.decode())
        if suffix == ".csv":
            table = [*csv.reader(io.StringIO(content.decode(), newline=""), strict=True)]
            widths = {len(row) for row in table}
            cells = [cell for row in table for cell in row if cell in ("nan", "inf", "NaN")]
            return f"rows of {widths} cells" if len(widths) > 1 else "NaN" if cells else None
        if suffix == ".parquet":
            return _json_fault(json.dumps(parquet.read_table(io.BytesIO(content)).to_pylist()))
        if suffix == ".html":
            [data] = re.findall(
                r'<script type="application/json" id="data">(.*?)</script>',
                content.decode(),
                re.DOTALL,
            )
            return _json_fault(data) or (None if content.endswith(b"</html>\n") else "cut off")
        if suffix == ".svg":
            return None if content.rstrip().endswith(b"</svg>") else "cut off"
        if suffix in (".png", ".pdf"):
            ends = (b"IEND\xaeB`\x82", b"%%EOF\n")
            return None if content.endswith(ends) else "cut off"
    except Exception as error:
        return f"unreadable ({error!r}): {content[:100]!r}"
    return None
