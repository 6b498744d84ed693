"""`--engine`: what works on the units of a command's input."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding_evals.shell.options import WHERE, option, read_model, stacked

if TYPE_CHECKING:
    from vllm import LLM

    from decoding.passes.journal import Journal
    from decoding_evals.mapping.engine import Engine

PROCESS, RAY, VLLM = "process", "ray", "vllm"

# What `read_llm` takes, beside `model_options`.
drawing_option = option(
    f"--engine [{PROCESS}|{VLLM}]",
    "What draws: this process, or vLLM, which has to be installed; the sequences are the same.",
    default=PROCESS,
)

_cluster_options = stacked(
    option(
        "--workers N", "Actors of --engine ray.  [default: one for each GPU, else for each CPU]"
    ),
    option(
        "--address ADDRESS",
        "Ray cluster of --engine ray.  [default: one on this machine, for this run]",
    ),
)

# What `read_engine` takes.
engine_options = stacked(
    option(
        f"--engine [{PROCESS}|{RAY}]",
        "What works on the input: this process, or actors of Ray Data.",
        default=PROCESS,
    ),
    _cluster_options,
)

# What `read_engine` and `read_llm` take.
answering_options = stacked(
    option(
        f"--engine [{PROCESS}|{RAY}|{VLLM}]",
        "What works on the input: this process, actors of Ray Data, or this process with answers "
        "that vLLM draws, which has to be installed.",
        default=PROCESS,
    ),
    _cluster_options,
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


def read_llm(options: dict[str, Any]) -> LLM | None:
    """The `vllm.LLM` that `--engine vllm` asks for, with the model of `model_options`; else None.

    Raises:
        click.UsageError: an option that vLLM does not know.
        click.ClickException: vLLM is not installed, or cannot run the model.
    """
    if options["engine"] != VLLM:
        return None
    for name in ("subfolder", "base"):
        if options[name]:
            raise click.UsageError(f"--{name} cannot be used with --engine {VLLM}")
    # Standard output is for data.
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    try:
        from vllm import LLM
        from vllm.platforms import current_platform
    except ImportError as error:
        raise click.ClickException(
            f"--engine {VLLM} needs vLLM, as its documentation says for this machine ({error})"
        ) from error
    from decoding.engines.vllm import ENGINE
    from decoding.models.faults import first_line
    from decoding.models.sources import located
    from decoding_evals.shell.progress import status

    source = located(options["model"], revision=options["revision"])
    if source.gguf is not None:
        raise click.UsageError(f"--engine {VLLM} reads folders with safetensors, and no GGUF file")
    on_cpu = current_platform.is_cpu()
    with status(f"loading {source.name} into vLLM"):
        try:
            return LLM(
                source.location,
                revision=source.revision,
                dtype=options["dtype"] or ("float32" if on_cpu else "auto"),
                trust_remote_code=options["trust_remote_code"],
                max_model_len=-1,  # what fits
                enforce_eager=on_cpu,  # there, compiling takes longer than it saves
                **ENGINE,
            )
        except (RuntimeError, ValueError) as error:
            raise click.ClickException(
                f"vLLM cannot run {source.name!r}: {first_line(error)}"
            ) from error
