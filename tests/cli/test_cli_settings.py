"""What the command says of itself, and how it reads and explains settings."""

import json
import re
from pathlib import Path

import pytest
import torch

import decoding
from decoding import Sampler
from decoding.settings.settings import FIELDS, RULES_IN_ORDER, DecodingSettings

pytestmark = pytest.mark.usefixtures("elsewhere")


def records(text):
    return [json.loads(line) for line in text.splitlines()]


def test_version_and_help(run):
    assert run("--version")[1].strip().endswith(decoding.__version__)
    assert "generate" in run("--help")[1] and "generate" in run()[1]


def test_flags_override_fields_of_setting(run):
    arguments = ["Once", "--json", "--max-new-tokens", 2, "--setting", "temperature=0.5,top_p=0.9"]
    _, out, _ = run("generate", *arguments, "--temperature", 0.7, "--top-k", 5)
    assert records(out)[0]["settings"] == "temperature=0.7,top_k=5,top_p=0.9"
    _, out, _ = run("generate", *arguments, "--temperature", 0, "--top-p", 1)
    assert records(out)[0]["settings"] == "greedy"


def test_a_mistyped_command_is_told_the_nearest(run):
    code, out, err = run("perplxity")
    assert (code, out) == (2, "")
    assert err == "Error: No such command 'perplxity'. Did you mean 'perplexity'?\n"
    assert run("xyzzy")[2] == "Error: No such command 'xyzzy'.\n"


def test_every_command_of_the_list_is_there(run):
    _, listed, _ = run("--help")
    names = re.findall(r"^  (\w+)  +\S", listed.split("Commands:")[1], re.MULTILINE)
    assert len(names) == 12
    for name in names:
        code, out, _ = run(name, "--help")
        assert code == 0 and out.startswith(f"Usage: decoding {name} ")


def test_settings_explains_a_policy(run):
    code, out, _ = run("settings", "raw while entropy<=2bits or varentropy<=1 else greedy")
    assert code == 0
    assert "H > 1.38629 nats and Var(-log p) > 1 nats²" in out and "lowest id" in out
    _, out, _ = run("settings", "temperature=0.5,edt_theta=0.3,mirostat_tau=2bits,top_k=3")
    assert "1. edt_theta: divide logits by 0.5 · 0.8^(0.3/H)" in out
    assert "2. top_k" in out and "1.38629 nats (2 bits)" in out
    _, out, _ = run("settings", "temperature=0.5,dynatemp_range=2,dynatemp_exponent=3")
    assert "divide logits by 0 + 2.5 · (H/ln n)^3" in out
    _, out, _ = run("settings", "dry_multiplier=0.8,dry_breakers=13/198")
    assert "lower by 0.8 · 1.75^(n - 2)" in out and "13/198 break" in out


def test_settings_explains_in_order(run):
    code, out, _ = run("settings", "top_p=0.9,temperature=0.7,eta_cutoff=0.001")
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "temperature=0.7,top_p=0.9,eta_cutoff=0.001"
    assert [line.split(":")[0] for line in lines[1:]] == [
        "  1. temperature", "  2. top_p", "  3. eta_cutoff",
    ]  # fmt: skip
    assert "temperature 1, nothing removed" in run("settings", "raw")[1]
    _, listed, _ = run("settings")
    names = [line.split()[0] for line in listed.splitlines()[1:-4]]
    assert names == [*FIELDS]
    assert "lowest id" in run("settings", "greedy")[1]
    code, _, err = run("settings", "top_q=1")
    assert code == 2 and "did you mean 'top_p'" in err


def test_settings_shows_what_a_model_would_do_by_itself(run):
    folder = Path("model")
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.6, "repetition_penalty": 1.2}'
    )
    code, out, _ = run("settings", "raw", "--model", "./model")
    assert code == 0
    assert "temperature=0.6,top_k=50" in out and "also repetition_penalty = 1.2" in out


@pytest.mark.parametrize("command", ["generate", "uncertainty"])
def test_help_of_a_command_lists_a_flag_for_every_rule(run, command):
    _, out, _ = run(command, "--help")
    words = " ".join(out.split())
    for rule in RULES_IN_ORDER:
        assert f" --{rule.field.replace('_', '-')} " in words
        assert rule.summary() in words


@pytest.mark.parametrize("rule", RULES_IN_ORDER, ids=lambda rule: rule.field)
def test_every_flag_sets_its_field(run, rule):
    flag = f"--{rule.field.replace('_', '-')}"
    _, out, _ = run("generate", "Once", "--json", "--max-new-tokens", 1, flag, rule.example)
    settings = DecodingSettings.parse(json.loads(out)["settings"])
    value = rule.fields()[0].read(rule.example)
    assert settings == DecodingSettings(**{rule.field: value})


def test_flags_take_bits_as_settings_do(run):
    for flag, field in [("--target-entropy", "target_entropy"), ("--kl-budget", "kl_budget")]:
        arguments = ["Once", "--json", "--max-new-tokens", 1, "--seed", 1]
        _, flagged, _ = run("generate", *arguments, flag, "1bits")
        _, written, _ = run("generate", *arguments, "--setting", f"{field}=1bits")
        assert flagged == written and f"{field}=0.693" in flagged
    code, out, err = run("generate", "Once", "--top-p", "0.5bits")
    assert (code, out) == (2, "") and "top_p must be a number, got '0.5bits'" in err
    code, out, err = run("generate", "Once", "--top-k", "2.5")
    assert (code, out) == (2, "") and "top_k must be a whole number, got '2.5'" in err


@pytest.mark.parametrize("command", ["generate", "settings"])
@pytest.mark.parametrize("spec", ["xtc_threshold=0.1", "top_p=0.9,dry_base=1.75", "edt_base=0.8"])
def test_a_parameter_alone_is_refused_though_it_is_at_its_default(run, command, spec):
    given = [spec] if command == "settings" else ["Once", "--setting", spec]
    code, out, err = run(command, *given)
    assert (code, out) == (2, "") and "is a parameter of" in err


def test_texts_in_a_setting_are_looked_up_by_the_command(run):
    Path("t.txt").write_text("Once upon a time, there was a dog. Once upon a time, there was.")
    spec = r'dry_multiplier=5,dry_allowed_length=1,dry_breakers="upon"/"\n"'
    plain = "dry_multiplier=5,dry_allowed_length=1"
    for command in (
        ["score", "t.txt"],
        ["compare", "t.txt"],
        ["generate", "Once upon a time. Once", "--seed", 1],
    ):
        code, out, err = run(*command, "--setting", spec, "--json")
        assert code == 0 and json.dumps(spec) in out, err
        assert run(*command, "--setting", plain, "--json")[1] != out.replace(
            json.dumps(spec), json.dumps(plain)
        )
    missing = 'xtc_probability=1,xtc_spared="\N{SNOWMAN}"'
    for command in (["score", "t.txt"], ["generate", "x"], ["uncertainty", "x"]):
        code, out, err = run(*command, "--setting", missing)
        assert (code, out) == (1, "")
        assert err.endswith("no token of the tokenizer contains the text '\N{SNOWMAN}'\n")
    grid = 'xtc_probability=0.5:1:0.5,xtc_spared="a:b,|"|"\N{SNOWMAN}"'
    _, _, err = run("identify", "t.txt", "--grid", grid)
    assert err.endswith("no token of the tokenizer contains the text 'a:b,|'\n")


def test_settings_tells_which_tokens_a_rule_minds(run):
    _, out, _ = run("settings", r'dry_multiplier=1,dry_breakers="."/"\n"')
    assert r'; "."/"\n" break a repetition off' in out
    _, out, _ = run("settings", r'xtc_probability=0.5,xtc_spared="\n"/2,temperature_last=1.5')
    assert "1. temperature_last: divide the logits that are left by 1.5" in out
    assert "2. xtc_probability: with probability 0.5" in out and r'; "\n"/2 are spared' in out


@pytest.mark.parametrize("spec", ["target_entropy=1.2", "edt_theta=0.3", "dynatemp_range=0.4"])
def test_records_tell_the_temperature_of_each_step(run, spec):
    code, out, _ = run("generate", "Once", "--setting", spec, "--seed", 1, "--json",
                       "--max-new-tokens", 5)  # fmt: skip
    [record] = records(out)
    assert code == 0 and record["settings"] == spec
    assert all(token["temperature"] > 0 for token in record["tokens"])
    if spec.startswith("target"):
        for token in record["tokens"]:
            assert token["entropy_nats"] == pytest.approx(1.2, abs=1e-3)


def test_a_policy_ends_sequences_in_words(run):
    stop = "raw while entropy<=3 else stop"
    arguments = ("The", "Once upon a time", "--seed", 1, "--max-new-tokens", 30)
    _, out, _ = run("generate", *arguments, "--setting", stop, "--json")
    found = records(out)
    assert [record["finish_reason"] for record in found] == ["entropy", "entropy"]
    assert found[0]["text"] == "" and found[0]["tokens"] == []
    assert all(t["raw_entropy_nats"] <= 3 for record in found for t in record["tokens"])
    code, out, err = run("generate", *arguments, "--setting", stop)
    assert code == 0 and out.splitlines() == [record["text"] for record in found]
    assert err == "2 of 2 stopped at a hesitation\n"
    code, out, err = run("generate", *arguments, "--setting", stop.replace("stop", "abstain"))
    assert (code, out, err) == (0, "\n\n", "2 of 2 abstained\n")
    _, out, _ = run("generate", *arguments, "--setting", stop, "--color")
    assert out.count("(stopped at a hesitation)") == 2


@pytest.mark.parametrize("command", [("compare", "--setting", "raw"), ("score",), ("identify",)])
def test_a_policy_that_would_end_a_given_text_is_refused(run, command):
    Path("t.txt").write_text("Once upon a time.")
    policy = "raw while entropy<=2 else abstain"
    code, out, err = run(command[0], "t.txt", *command[1:], "--setting", policy)
    assert (code, out) == (2, "") and "'abstain' ends a sequence" in err


def test_uncertainty_takes_no_policy(run):
    code, out, err = run("uncertainty", "x", "--setting", "raw while entropy<=2 else greedy")
    assert (code, out) == (2, "") and "not a policy" in err


@pytest.mark.usefixtures("own_modules")
def test_settings_writes_a_folder_for_the_hub(run, stories):
    spec = "top_p=0.9,temperature=0.7"
    code, out, err = run("settings", spec, "--custom-generate", "hub")
    assert code == 0 and out.startswith("temperature=0.7,top_p=0.9\n") and err == ""
    got = stories.model.generate(
        torch.tensor([[5]]), custom_generate="./hub", trust_remote_code=True, seed=1,
        max_new_tokens=9,
    )  # fmt: skip
    settings = DecodingSettings.parse(spec)
    want = stories.model.generate(
        torch.tensor([[5]]), custom_generate=Sampler(settings, seed=1), max_new_tokens=9,
        **settings.generate_kwargs(),
    )  # fmt: skip
    assert got.tolist() == want.tolist()
    assert run("settings", "greedy", "--custom-generate", "hub")[0] == 0
    assert "'greedy'" in Path("hub/custom_generate/generate.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--custom-generate", "hub"), 2, "--custom-generate needs a setting"),
        (("raw", "--custom-generate", "file"), 1, "'file' holds something else: give a new folder"),
        (("raw", "--custom-generate", "no/hub"), 1, "cannot write 'no/hub': No such file"),
        (("raw while entropy<=1 else stop", "--custom-generate", "hub"), 1, "cannot end or ask"),
    ],
)
def test_a_folder_that_cannot_be_written_is_refused_in_one_line(run, arguments, code, said):
    Path("file").write_text("mine")
    got, out, err = run("settings", *arguments)
    assert (got, out) == (code, "") and said in err and err.count("\n") == 1
    assert Path("file").read_text() == "mine" and not Path("hub").exists()
