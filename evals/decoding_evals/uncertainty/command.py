"""`decoding uncertainty`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from decoding.settings.settings import DecodingSettings
from decoding_evals.reading.prompts import (
    answer_options,
    check_stop,
    prompt_options,
    read_prompt_rows,
)
from decoding_evals.shell.options import (
    model_options,
    output_options,
    read_model,
    read_setting,
    setting_options,
    stacked,
)
from decoding_evals.shell.output import Interrupted, RecordFile, Unfinished, to_json
from decoding_evals.shell.plots import check_plot, plot_option

COLUMNS = {
    "references": "correct answers",
    "incorrect": "incorrect answers, for --correct-by likelihood",
    "paraphrases": "the prompt in other words",
    "context": "what stands before the prompt",
}

column_options = stacked(
    *(
        click.option(
            f"--{name}-column",
            metavar="NAME",
            help=f"Column of {text}.  [default: {name}, where there is one]",
        )
        for name, text in COLUMNS.items()
    ),
    click.option(
        "--separator", metavar="TEXT", help="Cut cells of several answers or paraphrases at TEXT."
    ),
)


@click.command()
@prompt_options
@column_options
@model_options
@setting_options
@click.option(
    "--num-samples",
    type=click.IntRange(min=2),
    default=10,
    show_default=True,
    metavar="N",
    help="Sampled answers per prompt.",
)
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=50, show_default=True, metavar="N"
)
@answer_options
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Sequences that run together.",
)
@click.option(
    "--members",
    multiple=True,
    metavar="NAME|FOLDER",
    help="A model of an ensemble; give it at least twice. Without --model the first one answers.",
)
@click.option(
    "--mc-dropout",
    type=click.IntRange(min=2),
    metavar="K",
    help="K passes with dropout on, as an ensemble.",
)
@click.option(
    "--nli-model",
    metavar="NAME|FOLDER",
    help="Sort answers by meaning with this entailment model.  [default: by normalised text]",
)
@click.option(
    "--correct-by",
    type=click.Choice(["exact", "f1", "rouge-l", "likelihood"]),
    default="rouge-l",
    show_default=True,
    help="What makes an answer correct: equal to a reference, F1 >= 0.5, ROUGE-L >= 0.3, or "
    "references likelier than incorrect answers.",
)
@output_options
@click.option(
    "--evaluation",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write how well each estimator tells correct answers to FILE (.json, .jsonl, …).",
)
@plot_option("Draw risk against coverage, where prompts have references.")
def uncertainty(
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    column: str | None,
    separator: str | None,
    setting: str,
    num_samples: int,
    max_new_tokens: int,
    seed: int | None,
    stop: tuple[str, ...],
    chat: bool,
    batch_size: int,
    members: tuple[str, ...],
    mc_dropout: int | None,
    nli_model: str | None,
    correct_by: str,
    as_json: bool,
    output: Path | None,
    evaluation: Path | None,
    plot: Path | None,
    **options: Any,
) -> None:
    """Answer each PROMPT, greedily and by sampling, and say how sure the model is.

    Per prompt: entropy of the next token and its candidates, probabilities and entropies of the
    greedy answer, how much the samples agree, and the entropy of the whole answer with its error.
    With paraphrases, --members or --mc-dropout also how much of the entropy is disagreement; with a
    context, what it adds; with references, which estimator tells correct answers from wrong ones.
    """
    settings = read_setting(setting, options)
    if not isinstance(settings, DecodingSettings):
        raise click.UsageError("uncertainty draws whole answers under one setting, not a policy")
    if settings.greedy:
        raise click.UsageError("samples of a greedy setting are all the same")
    if len(members) == 1:
        raise click.UsageError("--members needs at least two models: give it again")
    if separator == "":
        raise click.UsageError("--separator needs a text, not empty")
    check_stop(stop)
    check_plot(plot)
    files = [path.resolve() for path in (output, evaluation, plot) if path is not None]
    if len(set(files)) < len(files):
        raise click.UsageError("--output, --evaluation and --plot must be different files")
    rows = read_prompt_rows(
        prompts,
        prompts_file,
        column,
        {name: options[f"{name}_column"] for name in COLUMNS},
        separator,
    )
    needed = ("references", "incorrect") if correct_by == "likelihood" else ("references",)
    judged = sum(all(row[name] for name in needed) for row in rows)
    for name, asked in (("--plot", plot), ("--evaluation", evaluation)):
        if asked is not None and not judged:
            raise click.UsageError(f"{name} needs prompts with {' and '.join(needed)}")
    with ExitStack() as stack:
        file = stack.enter_context(RecordFile(output)) if output is not None else None
        figures = stack.enter_context(RecordFile(evaluation)) if evaluation is not None else None
        source = click.get_current_context().get_parameter_source("model")
        loaded = [read_model(options, name) for name in members]
        language_model = (
            loaded[0] if loaded and source is ParameterSource.DEFAULT else read_model(options)
        )
        from decoding.generation.seeds import chosen_seed
        from decoding_evals.judging.entailment import EntailmentModel
        from decoding_evals.shell.progress import progress_bar
        from decoding_evals.uncertainty import evaluation as evaluations
        from decoding_evals.uncertainty.epistemic import checkpoint_members, dropout_members
        from decoding_evals.uncertainty.report import show, show_evaluation

        seed = chosen_seed(seed)
        if loaded:
            # The one that answers has to share the members' vocabulary.
            checkpoint_members([language_model, *loaded])
        arguments: dict[str, Any] = {
            "members": checkpoint_members(loaded) if loaded else (),
            "dropout": dropout_members(language_model, mc_dropout, seed=seed) if mc_dropout else (),
            "entailment": EntailmentModel(
                nli_model,
                device=language_model.model.device,
                trust_remote_code=options["trust_remote_code"],
            )
            if nli_model is not None
            else None,
        }
        results = evaluations.uncertainty(
            language_model,
            [evaluations.PromptRow(**row) for row in rows],
            settings,
            num_samples=num_samples,
            max_new_tokens=max_new_tokens,
            seed=seed,
            stop=stop,
            chat=chat,
            batch_size=batch_size,
            correctness=correct_by,
            **arguments,
        )
        on_screen = file is None and not as_json
        done: list[dict[str, Any]] = []
        empty = 0
        # A bar would get in the way of what is written to the same terminal.
        shown = len(rows) > 1 and not (on_screen and sys.stdout.isatty())
        with progress_bar(len(rows), "prompts", shown=shown) as advance:
            try:
                for result in results:
                    record = result.record()
                    if file is not None:
                        file.write(record)
                    elif as_json:
                        click.echo(to_json(record))
                    else:
                        show(record)
                    empty += not record["greedy"]
                    done.append({name: record[name] for name in ("estimators", *_JUDGED)})
                    advance()
            except KeyboardInterrupt:
                raise Interrupted(f"{len(done)} of {len(rows)} prompts finished") from None
            except ValueError as error:
                if not done:
                    raise
                ended = f"{error}; {len(done)} of {len(rows)} prompts finished"
                raise Unfinished(ended) from error
        if empty:
            click.echo(f"{empty} of {len(rows)} greedy answers are empty", err=True)
        if on_screen:
            click.echo(f"{settings}, {num_samples} samples each, seed {seed}")
        if not judged:
            return
        summary = {
            "model": language_model.name,
            "settings": str(settings),
            "correct_by": correct_by,
            "evaluation": evaluations.evaluate(done),
        }
        if figures is not None:
            figures.write(summary)
        if plot is not None:
            from decoding_evals.shell.plots import write_plot
            from decoding_evals.uncertainty.figure import plot_risk_coverage

            write_plot(plot_risk_coverage(summary), plot)
        show_evaluation(summary, stderr=not on_screen)


_JUDGED = ("correct", "quality")
