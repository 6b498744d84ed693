"""`--engine`: what works on the units of a command's input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.shell.options import WHERE, option, read_model, stacked

if TYPE_CHECKING:
    from decoding.passes.journal import Journal
    from decoding_evals.mapping.engine import Engine

PROCESS, RAY = "process", "ray"

# What `read_engine` takes.
engine_options = stacked(
    option(
        f"--engine [{PROCESS}|{RAY}]",
        "What works on the input: this process, or actors of Ray Data.",
        default=PROCESS,
    ),
    option(
        "--workers N", "Actors of --engine ray.  [default: one for each GPU, else for each CPU]"
    ),
    option(
        "--address ADDRESS",
        "Ray cluster of --engine ray.  [default: one on this machine, for this run]",
    ),
)


def check_engine(options: dict[str, Any]) -> None:
    """Refuse options of a cluster without one.

    Raises:
        click.UsageError: there is none.
    """
    source = click.get_current_context().get_parameter_source
    for name in ("workers", "address"):
        if source(name) is ParameterSource.COMMANDLINE and options["engine"] != RAY:
            raise click.UsageError(f"--{name} needs --engine {RAY}")


def read_engine(
    options: dict[str, Any], journal: Journal, load: Callable[[], Any] | None = None
) -> Engine:
    """The engine that `engine_options` ask for.

    Args:
        options: of the command.
        journal: keeps what is finished.
        load: makes the models of a worker elsewhere; default the one of `model_options`.

    Raises:
        ValueError: there is no such engine here.
    """
    from decoding_evals.mapping.engine import InProcess

    if options.get("engine") != RAY:
        return InProcess(journal)
    from decoding_evals.mapping.ray import RayData

    own = {name: options[name] for name in ("model", "device", "dtype", *WHERE)}
    return RayData(
        load or partial(read_model, own),
        workers=options["workers"], address=options["address"], journal=journal,
    )  # fmt: skip
