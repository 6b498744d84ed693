"""`decoding settings`: explain a decoding setting."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from decoding.rules.rule import format_value
from decoding.settings.policy import EntropyPolicy, Setting
from decoding.settings.settings import RULES_IN_ORDER, DecodingSettings
from decoding_evals.shell.files import writing
from decoding_evals.shell.options import (
    Command,
    option,
    quiet_transformers,
    read_setting,
    where_options,
)
from decoding_evals.showing.lines import say


@click.command(cls=Command)
@click.argument("spec", required=False)
@option(
    "--model NAME|FOLDER",
    "Also show what this model's own generation configuration does in model.generate.",
)
@where_options
@option(
    "--custom-generate FOLDER",
    "Write a folder with which model.generate draws under SPEC, for custom_generate= or the hub.",
    type=click.Path(path_type=Path),
)
def settings(
    spec: str | None, model: str | None, custom_generate: Path | None, **where: Any
) -> None:
    """Explain the setting SPEC, as in "temperature=0.7,top_p=0.9": what is applied, in which order.

    Without SPEC, all fields are listed. "raw" and "greedy" name the two extremes; a policy, as in
    "raw while entropy<=2.5 else temperature=0.5", takes another setting where the model hesitates,
    or ends there ("stop", "abstain").
    """
    setting = read_setting(spec or "raw", {})
    if custom_generate is not None:
        if spec is None:
            raise click.UsageError("--custom-generate needs a setting, as in temperature=0.7")
        from decoding.engines.custom_generate import write_folder

        with writing(custom_generate):
            write_folder(setting, custom_generate)
    if spec is None and model is None:
        _list_fields()
        return
    if model is None:
        _explain(setting)
        return
    quiet_transformers()
    from decoding.models.loading import load_generation_config
    from decoding.settings.processor import BEAM_SEARCH, applied_besides, of_beams

    config = load_generation_config(model, **where)
    try:
        own = DecodingSettings.from_generation_config(config)
    except ValueError as error:
        raise click.ClickException(f"model {model!r}: {error}") from error
    _explain(setting)
    say(f"\nmodel.generate on {model}, left to itself:")
    _explain(own)
    besides = applied_besides(config)
    for name, value in besides.items():
        say(f"  also {name} = {value}")
    for name, value in of_beams(config).items():
        if name not in besides and value != BEAM_SEARCH[name]:
            say(f"  under num_beams > 1 also {name} = {value}")
    say("decoding generate applies none of this, only the setting it is given.")


def _explain(setting: Setting) -> None:
    say(str(setting))
    if isinstance(setting, EntropyPolicy):
        bound = f"H > {setting.entropy_above:g} nats"
        if setting.varentropy_above:
            bound += f" and Var(-log p) > {setting.varentropy_above:g} nats²"
        ends = {
            "stop": "end the sequence before the token is drawn",
            "abstain": "end the sequence before the token is drawn, as an abstention",
            "branch": "branch into alternatives",
        }
        _steps(setting.settings)
        if isinstance(setting.then, DecodingSettings):
            say(f"  where {bound}, instead: {setting.then}")
            _steps(setting.then)
        else:
            say(f"  where {bound}: {ends[str(setting.then)]}")
    else:
        _steps(setting)


def _steps(setting: DecodingSettings) -> None:
    if setting == DecodingSettings():
        say("  the model's own distribution: temperature 1, nothing removed")
        return
    tempering = [rule for rule in setting.rules if rule.kind == "temperature"]
    base = next((rule.value for rule in tempering if rule.is_fixed), 1.0)
    # A temperature that another rule starts from is said there.
    rules = [rule for rule in setting.rules if not (rule.is_fixed and len(tempering) > 1)]
    for number, rule in enumerate(rules, 1):
        if rule.is_fixed and setting.greedy:
            say(f"  {number}. {rule.words()}")
            return
        say(f"  {number}. {rule.field}: {rule.words(base)}")


def _list_fields() -> None:
    """Every field with its default and its range, in the order in which they are applied."""
    from decoding_evals.showing.terminal import print_table, titled

    table = titled(None, "field", "default", "range", "of")
    table.columns[0].no_wrap = True
    for rule in RULES_IN_ORDER:
        for field in rule.fields():
            bounds = field.range.text
            if field.unit:
                bounds = bounds.replace("number", f"number of {field.unit}")
            owner = "" if field.name == rule.field else rule.field
            table.add_row(field.name, format_value(field.default) or "none", bounds, owner)
    print_table(table)
    say(
        "\nA field at its default does nothing; those 'of' another are its parameters.\n"
        "Nats may be given in bits, as in target_entropy=2bits.\n"
        'As in: decoding settings "temperature=0.7,top_p=0.9"'
    )
