"""Command lines: each command with options, values and files that are valid, borderline or hostile.

What a command takes is asked of the command, so a new option is tried without a word here.
"""

import json
import random
from typing import NamedTuple

import click
import numpy as np

from decoding_cli.app import COMMANDS, cli
from decoding_evals.shell.options import FLAGS
from fuzz import files, logits


class Case(NamedTuple):
    """A command line and what it finds."""

    arguments: list[str]
    stdin: bytes
    files: dict[str, bytes]


WEIGHTS = {"doctor": 1, "settings": 4, "uncertainty": 8, "calibrate": 5, "attention": 5, "show": 9,
           "mismatch": 5}  # fmt: skip
NUMBERS = ["0", "1", "-1", "2", "0.5", "nan", "inf", "-inf", "1e400", "1e-320", "", " ", "x", "1e3",
           "1_0", "0x1", "٣", "1.5", "99999999999999999999", "-0", "+1", "1,5", "True",
           "9" * 5000]  # fmt: skip
WORDS = [
    "", " ", "x", "text", "prompt", "é", "\udce9", "a=b", "null", "../..", "\n", "x" * 500, "-",
    "\x1b[31m", "raw", "a\tb",
]  # fmt: skip
MODELS = [
    "builtin:stories", "builtin:stories", "builtin:stories", "", "builtin:", "builtin:nothing",
    "./nowhere", "a/b", "a/b/c", "x", "folder", ".", "/dev/null", "é", "\udce9", "gpt2", "x" * 300,
    "a\nb", "https://x.y/z",
]  # fmt: skip
DEVICES = ["cpu", "cpu", "auto", "cuda", "cuda:7", "meta", "tpu", "", "cpu:1", "mps", "\udce9"]
SPECS = [
    "raw", "greedy", "temperature=0.7", "top_p=0.9", "top_k=5,top_p=0.9", "greedy,top_p=0.9",
    "raw while entropy<=2.5 else temperature=0.5", "raw while entropy<=1 else stop",
    "raw while entropy<=1 else abstain", "raw while entropy<=1 else branch", "temperature=", "=",
    ",", "temperature=nan", "temperature=-1", "top_p=0", "top_k=1.5", "top_k=99999999999999999999",
    "raw,raw", "temperature=1e400", "Top_P=0.9", "top-p=0.9", "dry_multiplier=1", "dry_base=2",
    "xtc_spared=\"", "dry_multiplier=1,dry_breakers=\"\\n\"",
    "dry_multiplier=1,dry_breakers=\"qqqqq\"", "target_entropy=50", "target_entropy=2bits",
    "temperature=0.7,temperature=0.8", "raw while", "while", "temperature=0.5 else x",
    "raw while entropy<= else stop", "raw while entropy<=nan else stop", "mirostat_tau=3",
    "adaptive_p=0.5", "edt_theta=0.5", "dynatemp_range=0.5", "min_k=3", "xtc_probability=0.5",
    "temperature=1e-320", "typical_p=0.5,eta_cutoff=0.1", "temperature=1e308",
    "mirostat_tau=3,adaptive_p=0.5", "",
]  # fmt: skip
GRIDS = [
    "temperature=0.5:1.5:0.5", "top_p=0.8|0.9", "temperature=0.5:1:0.25,top_k=1|5", "", "=", "x=1",
    "temperature=1:0:0.1", "temperature=0:1:0", "temperature=0:1e9:0.1", "temperature=nan:1:1",
    "top_k=1:3:1", "temperature=0.5|0.5", "temperature=0:1:-1", "temperature=::", "top_p=|",
]  # fmt: skip
PLACES = ["out.jsonl", "out.json", "out.csv", "out.parquet", "out.html", "out.jsonl", "out.html"]
ODD_PLACES = [
    "out.txt", "out", "", "folder", "folder/out.json", "nowhere/out.jsonl", "/dev/full",
    "/dev/null", "out.JSONL", ".jsonl", "out.jsonl.gz", "x" * 300 + ".jsonl", "o\nut.jsonl",
    "o\udce9ut.csv", "folder.csv", "-", "/proc/x.jsonl", "out.png", "link.jsonl", "loop.json",
    "./out.html", "out.svg", "/dev/stdout", " .json",
]  # fmt: skip
ODD_SOURCES = [
    "missing.jsonl", "missing.txt", "folder", "folder.csv", "", "-", "/dev/null", "nowhere/a.txt",
    "x" * 300, "/dev/full", "\udce9.txt", "link.jsonl", "loop.json", ".", "/proc/self/mem",
]  # fmt: skip
PICTURES = ["p.png", "p.svg", "p.pdf"]
ODD_PICTURES = [
    "p.gif",
    "p",
    "",
    "folder",
    "nowhere/p.png",
    "/dev/full",
    "p.PNG",
    "x" * 300 + ".png",
]

TOKENS = [" Yes/ No", "a", "\\/", "/", "", "a//b", "\udce9", "x" * 400, "🦊/猫", " Yes/ Yes"]
CHATS = ["a=1", "enable_thinking=false", "x", "=", "a=nan", "a=[1]", "a={", "a=\udce9", "a=1e999"]
PRIORS = [
    "0.5,0.5",
    "1,1,1,1,1,1",
    "1",
    "",
    "nan,1",
    "-1,2",
    "0,0",
    "inf,1",
    "1e-320,1",
    "a,b",
    "1;2",
]
ESTIMATORS = ["SemanticEntropy", "Perplexity", "LabelProb", "PTrue", "x", "", "perplexity", "SAR"]
COLUMNS = [
    "text",
    "prompt",
    "question",
    "messages",
    "references",
    "nope",
    "",
    "é",
    "\udce9",
    "tokens",
]
SHORT = {
    "max_new_tokens": "1 2 3 4", "num_samples": "1 2 3", "num_beams": "1 2 3", "mc_dropout": "2 3",
    "branches": "2 3 4 1000000", "max_leaves": "1 2 5 1000000",
    "detail": "16 17 192 4096 15 4097 1 100000", "alternatives": "0 1 3 5000",
    "context": "1 2 5 64 511 512 513 1000000000", "stride": "64 100 500 513 1000000000",
    "batch_size": "1 2 7 1000000000 1000000000000000000",
    "seed": "0 1 18446744073709551615 18446744073709551616 -1",
}  # fmt: skip
# Larger ones would be valid, and take their time.
COSTLY = ("max_new_tokens", "num_samples", "num_beams", "mc_dropout", "stride")
POOLS = {
    "model": MODELS, "models": MODELS, "pairs": MODELS, "members": MODELS, "nli_model": MODELS[3:],
    "similarity_model": MODELS[3:], "base": MODELS, "device": DEVICES, "setting": SPECS,
    "specs": SPECS, "grid": GRIDS, "tokens": TOKENS, "chat_template_options": CHATS,
    "prior": PRIORS, "estimator": ESTIMATORS,
    "stop": [".", "\\n", "\\n\\n", "a", "", "\udce9", " ", "x" * 99],
    "roles": ["user", "assistant", "", "x"], "separator": [";", "", "\n", ",", "\udce9"],
    "system": ["Be short.", "", "\udce9"], "address": WORDS, "engine": ["process", "", "x"],
    "revision": WORDS, "subfolder": WORDS,
    "dataset": ["folder", "rows", "rows:train", "nowhere", "a/b", ":", "", "rows:x:y", "\udce9",
                "rows:nope"],
}  # fmt: skip
BESIDE = {
    "page_data": ["--json"], "alternatives": ["--json"], "detail": ["--output", "out.html"],
    "branches": ["--branch-at-entropy", "1"], "max_leaves": ["--branch-at-entropy", "1"],
    "confidence": ["--risk", "0.5", "--estimator", "Perplexity"],
    "risk": ["--estimator", "Perplexity"], "opened": ["--output", "out.html"],
    "resume": ["--output", "out.jsonl"],
}  # fmt: skip
"""What an option wants beside it."""
TOGETHER = {
    "uncertainty": {"answers": "model page_data as_json output evaluation answer correct_by plot"},
    "compare": {"models": "per output as_json files column bos context batch_size human"},
    "score": {"prompt_column": "model context output as_json page_data bos skip_bad_rows dtype"},
}  # fmt: skip
"""What goes with an option, where most does not."""
GOOD = {
    "setting": 12, "specs": 6, "grid": 3, "device": 3, "model": 3, "models": 3, "pairs": 3,
    "members": 3, "tokens": 2, "chat_template_options": 2, "prior": 2, "estimator": 4, "stop": 4,
    "roles": 2, "separator": 1, "system": 1, "engine": 1, "dataset": 3,
}  # fmt: skip
"""How many of the first of a pool are valid somewhere."""


class Grammar:
    """Makes the case of a seed and a number.

    Args:
        recorded: records of our own commands, as lines, for those that read them.
    """

    def __init__(self, recorded: list[bytes]) -> None:
        records = [json.loads(line) for line in recorded]
        # Such as one may take for a text, too.
        short = [one for one, line in zip(records, recorded, strict=True) if len(line) < 1500]
        self.shapes = files.SHAPES | {
            "recorded": lambda rng: rng.choice(records),
            "short record": lambda rng: rng.choice(short),
        }

    def case(self, seed: int, number: int) -> Case:
        """The same for the same seed and number."""
        rng = random.Random(f"{seed}:{number}")
        if rng.random() < 0.01:
            word = rng.choice(["", "-h", "scor", "generat", "x", "--version", "--json", "\udce9"])
            return Case([word], b"", {})
        [name] = rng.choices([*COMMANDS], [WEIGHTS.get(one, 7) for one in COMMANDS])
        return Line(self, rng, hostility=rng.choice([0.01, 0.03, 0.1, 0.5]), name=name).case()


class Line:
    """A command line of one command in the making.

    Args:
        hostility: how often something is not as it should be.
    """

    def __init__(self, grammar, rng, *, hostility, name):
        self.grammar, self.rng, self.hostility, self.name = grammar, rng, hostility, name
        self.files: dict[str, bytes] = {}

    def odd(self):
        return self.rng.random() < self.hostility

    def case(self):
        rng, name = self.rng, self.name
        command = cli.get_command(click.Context(cli), name)
        rowed = name in ("show", "mismatch") or rng.random() < 0.3
        stdin = self.content(".jsonl" if rowed else ".txt")
        parts = self.options(command)
        for argument in command.params:
            if isinstance(argument, click.Argument):
                parts += [[one] for one in self.argument(argument, parts)]
        if rng.random() < 0.02:
            parts.append([rng.choice(["--nope", "--help", "--", "-x", "--output"])])
        rng.shuffle(parts)
        self.files |= {"folder/a.txt": b"Once upon a time.", "folder.csv/x.txt": b"a"}
        return Case([name, *(word for part in parts for word in part)], stdin, self.files)

    def options(self, command):
        """Some of a command's options, mostly such as go together, each with its values."""
        rng, name = self.rng, self.name
        known = {one.name: one for one in command.params if isinstance(one, click.Option)}
        chosen = [one for one in known if rng.random() < self.chance(known[one])]
        if not self.odd():
            for leading, others in TOGETHER.get(name, {}).items():
                if leading in chosen:
                    chosen = [one for one in chosen if one in (leading, *others.split())]
        parts = [self.option(known[one]) for one in chosen]
        for one in chosen:
            beside = BESIDE.get(one, [])
            given = {flag.partition("=")[0] for part in parts for flag in part}
            if (
                beside
                and beside[0] in known_flags(known)
                and not given & {*beside}
                and not self.odd()
            ):
                parts.append(beside)
        small = {"generate": ["max_new_tokens"], "uncertainty": ["max_new_tokens", "num_samples"]}
        for one in small.get(name, []):
            if one not in chosen and "answers" not in chosen:
                parts.append([known[one].opts[0], rng.choice(["2", "3"])])
        return parts

    def chance(self, param):
        """How often an option is given."""
        often = {"output": 0.35, "as_json": 0.3, "prompts_file": 0.3, "answers": 0.3, "column": 0.1,
                 "plot": 0.06, "model": 0.1, "evaluation": 0.15, "page_data": 0.1, "setting": 0.3,
                 "dataset": 0.03, "human": 0.06, "chat": 0.01, "system": 0.01, "confidence": 0.02,
                 "chat_template_options": 0.01, "control_tokens": 0.01, "stride": 0.03,
                 "roles": 0.02, "separator": 0.02, "base": 0.01, "nli_model": 0.02,
                 "similarity_model": 0.02, "prompt_column": 0.05}  # fmt: skip
        if param.name.endswith("_column"):
            return 0.03
        return often.get(param.name, 0.05 if param.name not in FLAGS else 0.02)

    def option(self, param):
        rng = self.rng
        names = [*param.opts, *param.secondary_opts]
        flag = rng.choice(names)
        if param.is_flag:
            if param.name == "resume" and rng.random() < 0.7:
                self.files[rng.choice(PLACES) + ".unfinished"] = files.journal(rng)
            return [flag]
        times = 1
        if param.multiple:
            times = rng.choice([1, 2, 2, 3])
        elif rng.random() < 0.01:
            times = 2
        words = []
        for _ in range(times):
            values = [self.value(param) for _ in range(param.nargs)]
            joined = param.nargs == 1 and rng.random() < 0.2 and flag.startswith("--")
            words += [f"{flag}={values[0]}"] if joined else [flag, *values]
        return words

    def value(self, param):
        """A value of an option."""
        rng, name = self.rng, param.name
        if name in FLAGS:
            return self.of_field(name)
        if name == "setting" and rng.random() < 0.3:
            return self.any_setting()
        if name in SHORT:
            some = SHORT[name].split()
            return rng.choice(some[:3]) if not self.odd() else rng.choice(
                some if name in COSTLY else [*some, *NUMBERS])  # fmt: skip
        if name in POOLS:  # of engines the process alone: a cluster takes its time
            pool = POOLS[name]
            if name == "dataset" and rng.random() < 0.7:
                self.files["rows/train.jsonl"] = self.content(".jsonl")
            return rng.choice(pool[: GOOD[name]] if name in GOOD and not self.odd() else pool)
        if name == "column" or name.endswith("_column"):
            return rng.choice(COLUMNS[:4] if not self.odd() else COLUMNS)
        if name == "plot":
            return rng.choice(ODD_PICTURES if self.odd() else PICTURES)
        if name in ("output", "evaluation"):
            if self.name == "show" and not self.odd():
                return "out.html"
            if self.odd() and self.files and rng.random() < 0.2:
                return rng.choice([*self.files])
            return rng.choice(ODD_PLACES if self.odd() else PLACES)
        if param.name == "dtype":
            return "float32"  # a CPU takes minutes for a few pages in the others
        if isinstance(param.type, click.Choice):
            choices = [*map(str, param.type.choices)]
            odd = ["", "x", choices[0].upper(), choices[0][:2]] if self.odd() else []
            return rng.choice([*choices, *odd])
        if isinstance(param.type, click.IntRange | click.FloatRange):
            return self.of_range(param.type)
        if isinstance(param.type, click.Path):
            return self.file()
        return rng.choice(WORDS)

    def of_range(self, kind):
        whole = isinstance(kind, click.IntRange)
        bounds = [bound for bound in (kind.min, kind.max) if bound is not None]
        near = [
            str(bound + step)
            for bound in bounds
            for step in ((-1, 0, 1) if whole else (0, 1e-9, -1e-9))
        ]
        if self.odd():
            return self.rng.choice([*near, *NUMBERS])
        inside = ["1", "2", "3"] if whole else ["0.1", "0.5", "0.9", "0.05"]
        if kind.min is not None and kind.min >= 1 and not whole:
            inside = ["1", "1.5", "10", "1e9"]
        return self.rng.choice(inside)

    def any_setting(self):
        return str(logits.setting(np.random.default_rng(self.rng.randrange(2**32)), most=3))

    def of_field(self, name):
        if self.odd():
            return self.rng.choice(NUMBERS)
        of = np.random.default_rng(self.rng.randrange(2**32))
        value = logits.VALUES[name](of)
        return repr(value)

    def argument(self, param, parts):
        rng = self.rng
        given = {word for part in parts for word in part}
        if param.name == "spec":
            return [rng.choice([*SPECS, self.any_setting()])] if rng.random() < 0.9 else []
        if param.name == "prompts":
            if given & {"--prompts-file", "--answers"} and not self.odd():
                return []
            return [self.prompt() for _ in range(rng.choice([0, 1, 1, 1, 2]))]
        if "--dataset" in given and not self.odd():
            return []
        count = 1 if param.nargs == 1 else rng.choice([0, 1, 1, 1, 1, 2])
        return [self.file() for _ in range(count)]

    def prompt(self):
        text = files.any_text(self.rng)
        return self.rng.choice(["-", "\udce9"]) if self.odd() else text.replace("\0", "")

    def file(self):
        """A path to read, mostly of a file that is there."""
        rng = self.rng
        if self.odd():
            return rng.choice(ODD_SOURCES)
        if rng.random() < 0.05:
            return "-"
        suffix = rng.choice(files.SUFFIXES if self.odd() else self.usual())
        name = f"{rng.choice(['a', 'b', 'c'])}{suffix}"
        self.files.setdefault(name, self.content(suffix))
        return name

    def usual(self):
        if self.name in ("show", "mismatch", "uncertainty"):
            return (".jsonl", ".jsonl", ".jsonl", ".json", ".parquet")
        return (*files.ROWS, ".txt", ".txt")

    def content(self, suffix):
        shapes = self.grammar.shapes
        wanted = {
            "show": ["recorded"], "mismatch": ["rollout", "vllm", "openai", "short record"],
            "uncertainty": ["question", "question", "vllm", "openai", "short record", "talk"],
            "generate": ["question", "talk"],
        }.get(self.name, ["text", "text", "text", "talk", "short record"])  # fmt: skip
        one = self.rng.choice(wanted if self.rng.random() < 0.95 else [*shapes])
        return files.content(self.rng, suffix, {one: shapes[one]})


def known_flags(options):
    return {flag for one in options.values() for flag in one.opts}
