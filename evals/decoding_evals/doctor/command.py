"""`decoding doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from decoding_evals.reading.texts import Inputs
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import Command, model_options, output_options, read_model


@click.command(cls=Command)
@click.argument("file", required=False, type=click.Path(path_type=Path))
@model_options
@output_options
def doctor(file: Path | None, **options: Any) -> None:
    """Check that a model, its tokenizer and this installation give right numbers.

    Numbers that must agree are computed in two ways: logits and the head's product, one row and a
    batch, padded and unpadded, cached steps and a whole pass, sampler and scorer. FILE is a text
    that the model should find probable, instead of a short story. The exit code is 1 where a
    check fails; what is merely surprising is a note.
    """
    with Destination(options) as destination:
        given = () if file is None else (next(Inputs([file]).texts()),)
        language_model = read_model(options)
        from decoding_evals.doctor.evaluation import doctor as evaluate
        from decoding_evals.shell.progress import status

        with status("checking") as progress:
            result = evaluate(language_model, *given, on_check=progress)
        destination.deliver([result])
    failed = [check.name for check in result.checks if check.status == "fail"]
    if failed:
        from decoding_evals.showing.terminal import counted

        raise click.ClickException(f"{counted(len(failed), 'check')} failed: {', '.join(failed)}")
