"""`decoding uncertainty`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from decoding.settings.settings import DecodingSettings
from decoding_evals.reading import prompts as reading
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.engines import PROCESS, engine_options, read_engine
from decoding_evals.shell.options import (
    MOST_TOKENS,
    Between,
    Command,
    model_options,
    option,
    read_model,
    setting_options,
    stacked,
)
from decoding_evals.shell.output import RecordFile, Unfinished
from decoding_evals.shell.paging import page_options, read_detail
from decoding_evals.shell.plots import plot_option, write_plot
from decoding_evals.showing.lines import note, say
from decoding_evals.uncertainty.answerers import OPTIONS, others, read_answerers, read_models
from decoding_evals.uncertainty.usage import can_be_judged, chosen_rule, read_usage

if TYPE_CHECKING:
    from decoding_evals.engines.stored import StoredPrompt
    from decoding_evals.uncertainty.result import PromptUncertainty
    from decoding_evals.uncertainty.summary import EstimatorEvaluation

COLUMNS = {
    "references": "correct answers",
    "incorrect": "incorrect answers, for --correct-by likelihood",
    "paraphrases": "the prompt in other words",
    "context": "what stands before the prompt",
}

column_options = stacked(
    *(
        option(
            f"--{name}-column NAME",
            f"Column of {text}.  [default: {' or '.join(reading.USUAL[name])}, where there is one]",
        )
        for name, text in COLUMNS.items()
    ),
    option("--separator TEXT", "Split cells that hold several answers or paraphrases at TEXT."),
)


# Answers kept are wrong at most so often.
abstention_options = stacked(
    option(
        "--risk R",
        "Find the --estimator's threshold below which answers are wrong at most this often.",
        type=Between(0, 1, min_open=True, max_open=True),
    ),
    option(
        "--confidence C",
        "How probable it is that the threshold of --risk keeps its promise.",
        type=Between(0, 1, min_open=True, max_open=True),
        default=0.9,
    ),
    option("--estimator NAME", "The estimator that decides; choose it before you see results."),
    option(
        "--abstain-by FILE",
        "Say of each answer whether to abstain, by the threshold that --evaluation FILE wrote "
        "under --risk.",
    ),
)


@click.command(cls=Command)
@reading.prompt_options
@option(
    "--answers FILE",
    "Measure answers that were drawn elsewhere, instead of drawing: records of generate, of vLLM, "
    "or OpenAI-style responses (.jsonl, .json, .parquet, or - for lines of standard input); "
    "--model then scores them anew.",
)
@column_options
@model_options
@setting_options
@option(
    "--num-samples N", "Sampled answers per prompt.", type=click.IntRange(2, 10_000), default=10
)
@option("--max-new-tokens N", type=click.IntRange(1, MOST_TOKENS), default=50)
@reading.answer_options
@option(
    "--answer [whole|line|sentence]",
    "What counts of an answer: all of it, its first line, or its first sentence.",
    default="whole",
)
@option("--batch-size N", "Sequences that run together.", default=32)
@option(
    "--members NAME|FOLDER",
    "A model of an ensemble; give it at least twice. Without --model the first one answers.",
    multiple=True,
)
@option(
    "--mc-dropout K", "K passes with dropout on, as an ensemble.", type=click.IntRange(2, 10_000)
)
@option(
    "--nli-model NAME|FOLDER",
    "Sort answers by meaning with this entailment model.  [default: by normalised text]",
)
@option(
    "--similarity-model NAME|FOLDER",
    "Say with this cross-encoder how alike answers are, and which tokens matter (SAR).  [default: "
    "--nli-model, else ROUGE-L, and no SAR]",
)
@option(
    "--correct-by [contains|exact|f1|rouge-l|likelihood]",
    "What makes an answer correct: a reference stands in it, it equals one, F1 >= 0.5, ROUGE-L >= "
    "0.3, or references likelier than incorrect answers.  [default: contains where all references "
    "have at most 5 words, else rouge-l]",
)
@engine_options
@page_options
@option(
    "--evaluation FILE",
    "Write how well each estimator tells correct answers to FILE (.json, .jsonl, …).",
)
@abstention_options
@plot_option("Draw risk against coverage, where prompts have references.")
def uncertainty(prompts: tuple[str, ...], **options: Any) -> None:
    """Answer each PROMPT, greedily and by sampling, and say how sure the model is.

    Per prompt: entropy of the next token and its candidates, probabilities and entropies of the
    greedy answer, how much the samples agree, and the entropy of the whole answer with its error.
    With paraphrases, --members or --mc-dropout also how much of the entropy is disagreement; with a
    context, what it adds; with references, which estimator tells correct answers from wrong ones.
    """
    settings = read_usage(options)
    options["page"] = read_detail(options)
    columns = {name: options[f"{name}_column"] for name in COLUMNS}
    rows, stored = _inputs(prompts, columns, options)
    judged = can_be_judged(rows, options)
    threshold = None
    if options["abstain_by"] is not None:
        from decoding_evals.uncertainty.abstaining import read_threshold

        threshold = read_threshold(options["abstain_by"], options["estimator"])
    plot, evaluation = options.pop("plot"), options.pop("evaluation")
    # Records are whole whatever becomes of the evaluation.
    with ExitStack() as after, Destination(options) as destination:
        file = None
        if evaluation is not None:
            file = after.enter_context(RecordFile(evaluation, "--evaluation"))
        from decoding_evals.uncertainty.abstaining import checked

        run = (
            _drawn(rows, settings, options, destination)
            if stored is None
            else _stored(stored, rows, settings, options)
        )
        results = checked(run.results, options["estimator"], threshold, options)
        done: list[dict[str, Any]] = []
        finished = _finished(results, done, len(rows), shown=destination.shows_progress)
        destination.deliver(finished, unit="prompt", done=f"of {len(rows):,} finished")
        _tell(done, threshold, destination.on_screen)
        if destination.on_screen:
            say(run.said)
        if not judged:
            return
        summary = _evaluated(run, done, options)
        if file is not None:
            file.write(summary.record(), summary.view)
        if destination.file is not None and destination.file.is_page:
            destination.file.write(summary.record(), summary.view)
        if plot is not None and (figure := summary.plot()) is not None:
            write_plot(figure, plot)
        from decoding_evals.showing.terminal import print_table

        print_table(*summary.tables(), stderr=not destination.on_screen)


# Of a record, for what is said of all prompts.
_NEEDED = (
    "estimators", "correct", "quality", "votes", "greedy", "samples", "samples_cut_off",
    "abstained", "model", "settings", "chat", "answer", "clustering", "similarity",
)  # fmt: skip
_PASSED = ("num_samples", "max_new_tokens", "stop", "answer", "chat", "batch_size", "page")


class _Run(NamedTuple):
    """Results to come, and what they are of."""

    results: Iterator[PromptUncertainty]
    model: str | None
    settings: str | None
    rule: str
    said: str
    """In a line."""


def _inputs(
    prompts: tuple[str, ...], columns: dict[str, str | None], options: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[StoredPrompt] | None]:
    """The rows, and of stored answers the prompts that they are to."""
    file, separator = options["prompts_file"], options["separator"]
    if options["answers"] is None:
        read = reading.read_prompt_rows
        return read(prompts, file, options["column"], columns, separator), None
    if prompts:
        raise click.UsageError("give prompts or --answers, not both")
    from decoding_evals.engines.stored import matched, read_stored

    known = None
    if file is not None:
        known = reading.read_prompt_rows((), file, options["column"], columns, separator)
    elif options["column"] is not None:
        raise click.UsageError("--column needs a --prompts-file")
    stored = read_stored(options["answers"], columns, separator)
    if known is not None:
        stored = matched(stored, known)
    return [{"prompt": one.prompt, **one.known} for one in stored], stored


def _drawn(
    rows: list[dict[str, Any]],
    settings: DecodingSettings,
    options: dict[str, Any],
    destination: Destination,
) -> _Run:
    """Answers that are to be drawn."""
    own = {name: options[name] for name in OPTIONS}
    source = click.get_current_context().get_parameter_source("model")
    if options["members"] and source is ParameterSource.DEFAULT:
        own["model"] = None
    language_model, loaded = read_models(own)
    from decoding_evals.showing.terminal import counted
    from decoding_evals.uncertainty.evaluation import uncertainty as measure
    from decoding_evals.uncertainty.result import PromptRow

    journal = destination.begun(language_model, *loaded)
    seed, rule = destination.seed(options["seed"]), chosen_rule(rows, options)
    engine = read_engine(options, journal, partial(read_answerers, own, seed))
    # Elsewhere a worker has its own.
    judging = others(own, language_model, loaded, seed) if options["engine"] == PROCESS else {}
    results = measure(
        language_model,
        [PromptRow(**row) for row in rows],
        settings,
        seed=seed,
        correctness=rule,
        engine=engine,
        **{name: options[name] for name in _PASSED},
        **judging,
    )
    samples = counted(options["num_samples"], "sample")
    said = f"{settings}, {samples} each, seed {seed}"
    return _Run(results, language_model.name, str(settings), rule, said)


def _stored(
    stored: list[StoredPrompt],
    rows: list[dict[str, Any]],
    settings: DecodingSettings,
    options: dict[str, Any],
) -> _Run:
    """Answers that were drawn elsewhere."""
    from decoding_evals.judging.entailment import EntailmentModel
    from decoding_evals.shell.progress import status
    from decoding_evals.showing.terminal import counted
    from decoding_evals.uncertainty.stored import check_known, rescored, stored_uncertainty

    given = click.get_current_context().get_parameter_source
    language_model = None
    if given("model") is ParameterSource.COMMANDLINE:
        language_model = read_model(options)
        how = {name: options[name] for name in ("chat", "batch_size")}
        with status("scoring stored answers"):
            stored = rescored(language_model, stored, settings, **how)
    for line in check_known(stored):
        note(line)
    entailment = None
    if (name := options["nli_model"]) is not None:
        with status(f"loading {name}"):
            entailment = EntailmentModel(name, trust_remote_code=options["trust_remote_code"])
    rule = chosen_rule(rows, options)
    results = stored_uncertainty(
        stored, answer=options["answer"], entailment=entailment, correctness=rule,
        language_model=language_model, page=options["page"],
    )  # fmt: skip
    made = {(one.drawn.model, one.drawn.settings) for one in stored}
    model, drawn_by = made.pop() if len(made) == 1 else (None, None)
    answers = counted(sum(len(one.drawn.answers) for one in stored), "stored answer")
    known = ", ".join(filter(None, (model, drawn_by))) or "a model and setting that no row says"
    return _Run(results, model, drawn_by, rule, f"{answers} of {known}")


def _tell(done: list[dict[str, Any]], threshold: dict[str, Any] | None, on_screen: bool) -> None:
    """What all prompts together say, beside what is asked for."""
    from decoding_evals.showing.terminal import counted

    empty = sum(record["greedy"] == "" for record in done)
    if empty:
        note(f"{counted(empty, 'empty greedy answer')} to {counted(len(done), 'prompt')}")
    if threshold is not None:
        abstained = sum(record["abstained"] for record in done)
        least = threshold["threshold"]
        where = (
            f"where {threshold['estimator']} >= {least:g}"
            if least is not None
            else ("always, because no threshold was found")
        )
        told = f"abstains {where}: from {abstained:,} of {counted(len(done), 'answer')}"
        say(told, stderr=not on_screen)


def _evaluated(
    run: _Run, done: list[dict[str, Any]], options: dict[str, Any]
) -> EstimatorEvaluation:
    """How well the estimators did, and the threshold that was asked for."""
    from decoding_evals.uncertainty.abstaining import abstention, conditions
    from decoding_evals.uncertainty.summary import EstimatorEvaluation, evaluate

    evaluation = evaluate(done)
    if options["risk"] is not None:
        how = {name: options[name] for name in ("estimator", "risk", "confidence")}
        try:
            found = abstention(done, **how) | {"correct_by": run.rule}
        except ValueError as error:  # the records stay
            raise Unfinished(str(error)) from error
        evaluation["abstention"] = found | {"conditions": conditions(done[0], options)}
    return EstimatorEvaluation(run.model, run.settings, run.rule, evaluation)


def _finished(
    results: Iterator[PromptUncertainty], done: list[dict[str, Any]], total: int, *, shown: bool
) -> Iterator[PromptUncertainty]:
    """The results, with a bar; `done` gets what the evaluation needs of each that was delivered."""
    from decoding_evals.shell.progress import progress_bar
    from decoding_evals.showing.terminal import counted

    with progress_bar(total, "prompts", shown=shown and total > 1) as advance:
        try:
            for result in results:
                yield result
                record = result.record()
                done.append({name: record[name] for name in _NEEDED})
                advance()
        except ValueError as error:
            if not done:
                raise
            ended = f"{error}; {counted(len(done), 'prompt')} of {total:,} finished"
            raise Unfinished(ended) from error
