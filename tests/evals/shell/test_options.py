"""Options: once each, and called by their names where what they were given is refused."""

import click
import pytest

from decoding_cli.app import COMMANDS, cli
from decoding_evals.shell.options import Command, option


def commands():
    context = click.Context(cli)
    return [(name, cli.get_command(context, name)) for name in COMMANDS]


def single_options():
    for name, command in commands():
        for parameter in command.params:
            plain = isinstance(parameter, click.Option) and not parameter.is_flag
            if plain and not parameter.multiple:
                yield name, parameter


@pytest.mark.parametrize(
    ("name", "parameter"), [pytest.param(n, p, id=f"{n} {p.opts[0]}") for n, p in single_options()]
)
def test_an_option_of_one_value_is_given_once(run, name, parameter):
    flag, value = parameter.opts[0], ["1"] * parameter.nargs
    code, out, err = run(name, flag, *value, flag, *value)
    assert (code, out, err) == (2, "", f"Error: {flag} is given 2 times, and may be once\n")


def test_an_option_of_several_values_is_given_often(run):
    arguments = ["generate", "Once", "--stop", "a", "--stop", "b", "--max-new-tokens", 1]
    assert run(*arguments)[0] == 0
    code, out, _ = run("settings", "--help")
    assert code == 0 and "--model NAME|FOLDER" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["score", "t.txt", "--context", 9999], 2, "--context must be at least 1 and at most the "),
        (["perplexity", "t.txt", "--context", 8, "--stride", 9], 2, "--stride must be from 1 to "),
        (
            ["perplexity", "t.txt", "--protocol", "gpt2-paper", "--bos", "never"],
            2,
            "--bos cannot be chosen: protocol gpt2-paper fixes it",
        ),
        (
            ["compare", "t.txt", "--models", *["builtin:stories"] * 2, "--context", 9999],
            2,
            "--context must be at most the models' ",
        ),
        (["calibrate", "t.txt", "--held-out", 0.5, "--context", 9999], 2, "--context must be at "),
        (["generate", "Once", "--chat"], 2, "--chat needs a tokenizer with a chat template"),
        (["uncertainty", "Once", "--mc-dropout", 2], 2, "--mc-dropout needs a model with dropout"),
        (["generate", "Once", "--top-p", 2], 2, "--top-p must be in "),
        (["generate", "Once", "--setting", "top_p=2", "--top-k", 3], 2, "top_p must be in "),
        # Nobody chose what the prompt leaves no room for.
        (["generate", "Once " * 600], 1, "prompt 1 has "),
    ],
)
def test_what_is_refused_is_called_by_its_option(run, arguments, code, message):
    with open("t.txt", "w") as file:
        file.write("Once upon a time there was a dog.")
    got, out, err = run(*arguments)
    assert (got, out) == (code, "")
    assert err.startswith(f"Error: {message}") and err.count("\n") == 1
    assert "max_new_tokens" not in err


@pytest.mark.parametrize(
    ("message", "given", "code", "shown"),
    [
        ("batch_size must be >= 1, got 0", True, 2, "--batch-size must be >= 1, got 0"),
        ("batch_size must be >= 1, got 0", False, 1, "--batch-size must be >= 1, got 0"),
        ("size 3 is no batch_size=3", True, 1, "size 3 is no --batch-size 3"),
        ("batch must be whole", True, 1, "batch must be whole"),
        ("other_name must be whole", True, 1, "other_name must be whole"),
        ("model must be causal", True, 1, "model must be causal"),
    ],
)
def test_messages_about_arguments(message, given, code, shown):
    @click.command(cls=Command)
    @option("--batch-size N", default=1)
    @option("--model NAME")
    def command(**_):
        raise ValueError(message)

    arguments = ["--batch-size", "1", "--model", "x"] if given else []
    with pytest.raises(click.ClickException) as error:
        command.main(arguments, standalone_mode=False)
    assert (error.value.exit_code, error.value.message) == (code, shown)
