"""`decoding uncertainty`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding.settings.settings import DecodingSettings
from decoding_evals.reading import prompts as reading
from decoding_evals.reading.chats import read_chat
from decoding_evals.shell.delivery import Destination
from decoding_evals.shell.options import (
    MOST_TOKENS,
    Command,
    model_options,
    option,
    output_options,
    read_model,
    read_setting,
    setting_options,
    stacked,
)
from decoding_evals.shell.output import RecordFile, Unfinished
from decoding_evals.shell.plots import check_plot, plot_option, write_plot
from decoding_evals.showing.lines import note, say

if TYPE_CHECKING:
    from decoding.models.loading import LanguageModel
    from decoding_evals.uncertainty.result import PromptUncertainty

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


@click.command(cls=Command)
@reading.prompt_options
@column_options
@model_options
@setting_options
@option(
    "--num-samples N", "Sampled answers per prompt.", type=click.IntRange(2, 10_000), default=10
)
@option("--max-new-tokens N", type=click.IntRange(1, MOST_TOKENS), default=50)
@reading.answer_options
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
@output_options
@option(
    "--evaluation FILE",
    "Write how well each estimator tells correct answers to FILE (.json, .jsonl, …).",
)
@plot_option("Draw risk against coverage, where prompts have references.")
def uncertainty(prompts: tuple[str, ...], **options: Any) -> None:
    """Answer each PROMPT, greedily and by sampling, and say how sure the model is.

    Per prompt: entropy of the next token and its candidates, probabilities and entropies of the
    greedy answer, how much the samples agree, and the entropy of the whole answer with its error.
    With paraphrases, --members or --mc-dropout also how much of the entropy is disagreement; with a
    context, what it adds; with references, which estimator tells correct answers from wrong ones.
    """
    settings = _setting(options)
    columns = {name: options[f"{name}_column"] for name in COLUMNS}
    rows = reading.read_prompt_rows(
        prompts, options["prompts_file"], options["column"], columns, options["separator"]
    )
    judged = _can_be_judged(rows, options)
    plot, evaluation = options.pop("plot"), options.pop("evaluation")
    # Records are whole whatever becomes of the evaluation.
    with ExitStack() as after, Destination(options) as destination:
        file = None
        if evaluation is not None:
            file = after.enter_context(RecordFile(evaluation, "--evaluation"))
        language_model, loaded = _models(options)
        from decoding.generation.seeds import chosen_seed
        from decoding_evals.judging.correctness import usual_rule
        from decoding_evals.showing.terminal import counted, print_table
        from decoding_evals.uncertainty.evaluation import uncertainty as measure
        from decoding_evals.uncertainty.result import PromptRow
        from decoding_evals.uncertainty.summary import EstimatorEvaluation, evaluate

        seed = chosen_seed(options["seed"])
        rule = options["correct_by"] or usual_rule(t for row in rows for t in row["references"])
        results = measure(
            language_model,
            [PromptRow(**row) for row in rows],
            settings,
            seed=seed,
            correctness=rule,
            **{name: options[name] for name in _PASSED},
            **_others(options, language_model, loaded, seed),
        )
        done: list[dict[str, Any]] = []
        finished = _finished(results, done, len(rows), shown=destination.shows_progress)
        destination.deliver(finished, unit="prompt", done=f"of {len(rows):,} finished")
        empty = sum(record.pop("empty") for record in done)
        if empty:
            answers = counted(empty, "empty greedy answer")
            note(f"{answers} to {counted(len(rows), 'prompt')}")
        if destination.on_screen:
            samples = counted(options["num_samples"], "sample")
            say(f"{settings}, {samples} each, seed {seed}")
        if not judged:
            return
        summary = EstimatorEvaluation(language_model.name, str(settings), rule, evaluate(done))
        if file is not None:
            file.write(summary.record())
        if plot is not None and (figure := summary.plot()) is not None:
            write_plot(figure, plot)
        print_table(*summary.tables(), stderr=not destination.on_screen)


JUDGED = ("estimators", "correct", "quality")
_PASSED = ("num_samples", "max_new_tokens", "stop", "chat", "batch_size")


def _setting(options: dict[str, Any]) -> DecodingSettings:
    """The setting that samples are drawn under; checks that the options go together."""
    settings = read_setting(options["setting"], options)
    if not isinstance(settings, DecodingSettings):
        raise click.UsageError("uncertainty draws whole answers under one setting, not a policy")
    if settings.greedy:
        raise click.UsageError("samples of a greedy setting are all the same")
    if len(options["members"]) == 1:
        raise click.UsageError("--members needs at least two models: give it again")
    if options["separator"] == "":
        raise click.UsageError("--separator needs a text, not empty")
    options["stop"] = reading.read_stop(options["stop"])
    options["chat"] = read_chat(options)
    check_plot(options["plot"])
    paths = (options[name] for name in ("output", "evaluation", "plot"))
    files = [path.resolve() for path in paths if path is not None]
    if len(set(files)) < len(files):
        raise click.UsageError("--output, --evaluation and --plot must be different files")
    return settings


def _can_be_judged(rows: list[dict[str, Any]], options: dict[str, Any]) -> bool:
    """Whether any answer can be judged; what asks for judgement needs one. Where only some can, the
    number of the others is said."""
    likelihood = options["correct_by"] == "likelihood"
    needed = ("references", "incorrect") if likelihood else ("references",)
    of = "references and incorrect answers" if likelihood else "references"
    judged = sum(all(row[name] for name in needed) for row in rows)
    source = click.get_current_context().get_parameter_source
    for name in ("correct_by", "plot", "evaluation"):
        if source(name) is ParameterSource.COMMANDLINE and not judged:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(f"{flag} needs prompts with {of}")
    if 0 < judged < len(rows):
        from decoding_evals.showing.terminal import counted

        left_out = len(rows) - judged
        click.echo(f"{counted(left_out, 'prompt')} of {len(rows):,} not judged: no {of}", err=True)
    return judged > 0


def _models(options: dict[str, Any]) -> tuple[LanguageModel, list[LanguageModel]]:
    """The model that answers, and the members of an ensemble."""
    source = click.get_current_context().get_parameter_source("model")
    loaded = [read_model(options, name) for name in options["members"]]
    first = loaded and source is ParameterSource.DEFAULT
    return loaded[0] if first else read_model(options), loaded


def _others(
    options: dict[str, Any], language_model: LanguageModel, loaded: list[LanguageModel], seed: int
) -> dict[str, Any]:
    """The arguments that hold other models than the one that answers."""
    from decoding.models.devices import input_device
    from decoding_evals.judging.entailment import EntailmentModel
    from decoding_evals.judging.similarity import SimilarityModel
    from decoding_evals.shell.progress import status
    from decoding_evals.uncertainty.epistemic import checkpoint_members, dropout_members

    if loaded:
        # The one that answers has to share the members' vocabulary.
        checkpoint_members([language_model, *loaded])
    others: dict[str, Any] = {"members": checkpoint_members(loaded) if loaded else ()}
    device, trust = input_device(language_model.model), options["trust_remote_code"]
    for name, kind, option_name in (
        ("entailment", EntailmentModel, "nli_model"),
        ("similarity", SimilarityModel, "similarity_model"),
    ):
        if (folder := options[option_name]) is not None:
            with status(f"loading {folder}"):
                others[name] = kind(folder, device=device, trust_remote_code=trust)
    if options["mc_dropout"]:
        others["dropout"] = dropout_members(language_model, options["mc_dropout"], seed=seed)
    return others


def _finished(
    results: Iterator[PromptUncertainty], done: list[dict[str, Any]], total: int, *, shown: bool
) -> Iterator[PromptUncertainty]:
    """The results, with a bar; `done` gets what the evaluation needs of each that was delivered."""
    from decoding_evals.shell.progress import progress_bar
    from decoding_evals.showing.terminal import counted
    from decoding_evals.uncertainty.estimators import answer

    with progress_bar(total, "prompts", shown=shown and total > 1) as advance:
        try:
            for result in results:
                yield result
                known = {name: getattr(result, name) for name in JUDGED}
                done.append(known | {"empty": not answer(result.greedy)})
                advance()
        except ValueError as error:
            if not done:
                raise
            ended = f"{error}; {counted(len(done), 'prompt')} of {total:,} finished"
            raise Unfinished(ended) from error
