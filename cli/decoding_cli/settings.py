"""`decoding settings`: explain a decoding setting."""

from __future__ import annotations

import click

from decoding.settings import DecodingSettings
from decoding_evals.options import quiet_transformers, read_setting, trust_option

_MEANING = {
    "temperature": "divide logits by {value}",
    "top_k": "keep the {value} most probable tokens",
    "top_p": "keep the shortest prefix of mass >= {value}",
    "min_p": "keep tokens with at least {value} × the largest probability",
    "typical_p": "keep the tokens of most typical surprisal, up to mass {value}",
    "epsilon_cutoff": "keep tokens with probability >= {value}",
    "eta_cutoff": "keep tokens with probability >= min({value}, √{value} · e^-H)",
}


@click.command(short_help="Explain a setting, and what a model's own would be.")
@click.argument("spec", default="raw")
@click.option(
    "--model",
    metavar="NAME|FOLDER",
    help="Also show what this model's own generation configuration does in model.generate.",
)
@trust_option
def settings(spec: str, model: str | None, trust_remote_code: bool) -> None:
    """Explain the setting SPEC, as in "temperature=0.7,top_p=0.9": what is applied, in which order.

    The fields, in their order, are temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff and
    eta_cutoff; "raw" (the default) and "greedy" name the two extremes.
    """
    setting = read_setting(spec, {})
    if model is None:
        _explain(setting)
        return
    quiet_transformers()
    from decoding.models import load_generation_config
    from decoding.processors import applied_before_chain

    config = load_generation_config(model, trust_remote_code=trust_remote_code)
    own = DecodingSettings.from_generation_config(config)
    _explain(setting)
    click.echo(f"\nmodel.generate on {model}, left to itself:")
    _explain(own)
    for name, value in applied_before_chain(config).items():
        click.echo(f"  also {name} = {value}")
    click.echo("decoding generate applies none of this, only the setting it is given.")


def _explain(setting: DecodingSettings) -> None:
    click.echo(str(setting))
    if setting == DecodingSettings():
        click.echo("  the model's own distribution: temperature 1, nothing removed")
    elif setting.greedy:
        click.echo("  1. the most probable token, always (lowest id on ties)")
    else:
        for number, (name, value) in enumerate(setting.steps(), 1):
            shown = str(DecodingSettings(**{name: value})).split("=")[1]
            click.echo(f"  {number}. {name}: {_MEANING[name].format(value=shown)}")
