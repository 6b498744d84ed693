"""`decoding settings`: explain a decoding setting."""

from __future__ import annotations

import math

import click

from decoding.settings.policy import EntropyPolicy, Setting
from decoding.settings.settings import (
    IN_NATS,
    NEUTRAL,
    PARAMETERS,
    RULES,
    STEERING,
    DecodingSettings,
    format_value,
)
from decoding_evals.shell.options import quiet_transformers, read_setting, trust_option

_MEANING = {
    "dry_multiplier": "lower by {value} · {dry_base}^(n - {dry_allowed_length}) the logit of a "
    "token that would repeat the last n >= {dry_allowed_length} tokens",
    "temperature": "divide logits by {value}",
    "edt_theta": "divide logits by {temperature} · {edt_base}^({value}/H), H being their entropy",
    "dynatemp_range": "divide logits by {low} + {span} · (H/ln n)^{dynatemp_exponent}, H being the "
    "entropy of n tokens: {low} where the model is sure, up to {high} where it is not",
    "target_entropy": "divide logits by the temperature that makes the entropy {value} nats "
    "({bits} bits)",
    "top_n_sigma": "keep tokens at most {value} standard deviations below the largest logit",
    "top_h": "keep the longest prefix whose entropy is at most {value} × the whole's",
    "top_k": "keep the {value} most probable tokens",
    "top_p": "keep the shortest prefix of mass >= {value}",
    "min_p": "keep tokens with at least {value} × the largest probability",
    "typical_p": "keep the tokens of most typical surprisal, up to mass {value}",
    "epsilon_cutoff": "keep tokens with probability >= {value}",
    "eta_cutoff": "keep tokens with probability >= min({value}, √{value} · e^-H)",
    "p_less": "keep tokens with probability >= {value} × Σ p²",
    "kl_budget": "keep the shortest prefix that costs at most {value} nats ({bits} bits)",
    "mirostat_tau": "keep tokens below a surprisal that moves by {mirostat_eta} × the error, so "
    "that the mean comes down to {value} nats ({bits} bits)",
    "xtc_probability": "with probability {value}, exclude all tokens of probability >= "
    "{xtc_threshold} but the last",
}


@click.command()
@click.argument("spec", required=False)
@click.option(
    "--model",
    metavar="NAME|FOLDER",
    help="Also show what this model's own generation configuration does in model.generate.",
)
@trust_option
def settings(spec: str | None, model: str | None, trust_remote_code: bool) -> None:
    """Explain the setting SPEC, as in "temperature=0.7,top_p=0.9": what is applied, in which order.

    Without SPEC, all fields are listed. "raw" and "greedy" name the two extremes; a policy, as in
    "raw while entropy<=2.5 else temperature=0.5", takes another setting where the model hesitates,
    or ends there ("stop", "abstain").
    """
    setting = read_setting(spec or "raw", {})
    if spec is None and model is None:
        _list_fields()
        return
    if model is None:
        _explain(setting)
        return
    quiet_transformers()
    from decoding.models.loading import load_generation_config
    from decoding.settings.processor import applied_before_chain

    config = load_generation_config(model, trust_remote_code=trust_remote_code)
    own = DecodingSettings.from_generation_config(config)
    _explain(setting)
    click.echo(f"\nmodel.generate on {model}, left to itself:")
    _explain(own)
    for name, value in applied_before_chain(config).items():
        click.echo(f"  also {name} = {value}")
    click.echo("decoding generate applies none of this, only the setting it is given.")


def _explain(setting: Setting) -> None:
    click.echo(str(setting))
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
            click.echo(f"  where {bound}, instead: {setting.then}")
            _steps(setting.then)
        else:
            click.echo(f"  where {bound}: {ends[str(setting.then)]}")
    else:
        _steps(setting)


def _steps(setting: DecodingSettings) -> None:
    if setting == DecodingSettings():
        click.echo("  the model's own distribution: temperature 1, nothing removed")
        return
    steered = any(getattr(setting, name) for name in STEERING)
    steps = [
        (name, value) for name, value in setting.steps() if name != "temperature" or not steered
    ]
    for number, (name, value) in enumerate(steps, 1):
        if name == "temperature" and setting.greedy:
            click.echo(f"  {number}. the most probable token, always (lowest id on ties)")
            return
        low, high = max(0.0, setting.temperature - value), setting.temperature + value
        named = {
            "value": value, "bits": value / math.log(2), "temperature": setting.temperature,
            "low": low, "high": high, "span": high - low, **setting.parameters(name),
        }  # fmt: skip
        breakers = named.pop("dry_breakers", ())
        text = _MEANING[name].format(**{key: f"{of:.6g}" for key, of in named.items()})
        if breakers:
            text += f"; ids {format_value(breakers)} break a repetition off"
        click.echo(f"  {number}. {name}: {text}")


def _list_fields() -> None:
    """Every field with its default and its range, in the order in which they are applied."""
    from decoding_evals.showing.terminal import print_table, titled

    table = titled()
    for column in ("field", "default", "range", "of"):
        table.add_column(column, no_wrap=column == "field")
    for name, default in NEUTRAL.items():
        rule = RULES[name][0]
        if name in IN_NATS:
            rule = rule.replace("number", "number of nats")
        table.add_row(name, format_value(default) or "none", rule, PARAMETERS.get(name, ""))
    print_table(table)
    click.echo(
        "\nA field at its default does nothing; those 'of' another are its parameters.\n"
        "Nats may be given in bits, as in target_entropy=2bits.\n"
        'As in: decoding settings "temperature=0.7,top_p=0.9"'
    )
