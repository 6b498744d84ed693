"""`decoding generate`: continue prompts and show where the model hesitated."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from decoding.settings.policy import EntropyPolicy, Setting
from decoding.settings.settings import DecodingSettings
from decoding.texts.chats import Prompt, as_chat, last_of
from decoding_evals.reading.chats import read_chat
from decoding_evals.reading.prompts import answer_options, prompt_options, read_prompts, read_stop
from decoding_evals.shell.engines import PROCESS, drawing_option, read_llm
from decoding_evals.shell.options import (
    MOST_TOKENS,
    Between,
    Command,
    least,
    model_options,
    option,
    read_model,
    read_setting,
    setting_options,
)
from decoding_evals.shell.output import Interrupted, to_json, uninterrupted, write_line
from decoding_evals.shell.paging import page_options, read_detail
from decoding_evals.shell.resuming import begun, record_file, settled_seed
from decoding_evals.showing.lines import note

if TYPE_CHECKING:
    from decoding.generation.plan import Plan
    from decoding.generation.result import Generation
    from decoding.models.loading import LanguageModel
    from decoding_evals.shell.output import RecordFile


@click.command(cls=Command)
@prompt_options
@model_options
@drawing_option
@setting_options
@option("--max-new-tokens N", type=click.IntRange(1, MOST_TOKENS), default=200)
@option("--num-samples N", "Sequences per prompt.", default=1)
@option("--num-beams N", "Above 1: beam search, scored under the setting.", default=1)
@answer_options
@option(
    "--batch-size N",
    "Sequences that run together.  [default: 8; 1 where text streams to a terminal]",
)
@option(
    "--alternatives K",
    "Add each token's K runners-up and their probabilities to the records.",
    type=least(0),
    default=0,
    show_default=False,
)
@option(
    "--branch-at-entropy H",
    "Fork where the model's own entropy exceeds H nats, into the setting's most probable "
    "tokens; each branch goes on by draws. Shows a tree with the probability of each branch.",
    type=Between(min=0),
)
@option(
    "--branches N",
    "Alternatives at a fork; fewer where the setting keeps fewer.",
    type=least(2),
    default=3,
)
@option("--max-leaves N", "Ends of a tree; once there are so many, it no longer forks.", default=9)
@page_options
@click.option("--color/--no-color", default=None, help="Shade tokens by entropy.  [default: auto]")
def generate(
    prompts: tuple[str, ...],
    prompts_file: Path | None,
    column: str | None,
    setting: str,
    max_new_tokens: int,
    num_samples: int,
    num_beams: int,
    seed: int | None,
    stop: tuple[str, ...],
    batch_size: int | None,
    alternatives: int,
    branch_at_entropy: float | None,
    branches: int,
    max_leaves: int,
    as_json: bool,
    output: Path | None,
    color: bool | None,
    **options: Any,
) -> None:
    """Continue each PROMPT, shading every token by how unsure the model was.

    Without PROMPT and --prompts-file, and for -, prompts are read from standard input, one a line,
    but for blank ones. On a terminal the text streams; in a pipe it is text alone, or JSON Lines
    with --json. SPEC may be a policy: --setting "raw while entropy<=2.5 else temperature=0.5"
    takes another setting where the model hesitates, "… else stop" and "… else abstain" end the
    sequence there.
    """
    settings = read_setting(setting, options)
    stops, chat = read_stop(stop), read_chat(options)
    if alternatives and not as_json and output is None:
        raise click.UsageError("--alternatives adds to records: give --json or --output too")
    _check_beams(settings, num_samples, num_beams)
    if branch_at_entropy is not None and (options["page_data"] or options["detail"] is not None):
        asked = "--page-data" if options["page_data"] else "--detail"
        raise click.UsageError(f"--branch-at-entropy cannot be used with {asked}")
    page = read_detail(options | {"output": output, "as_json": as_json})
    _check_engine(options["engine"], branch_at_entropy, num_beams, options["device"], page)
    _check_branching(settings, branch_at_entropy, num_samples, num_beams, alternatives)
    texts = read_prompts(prompts, prompts_file, column)
    if color is None:
        from decoding_evals.showing.terminal import wants_color

        color = wants_color()
    write: Any = partial(write_texts, page=page)
    own: dict[str, Any] = {
        "num_return_sequences": num_samples,
        "num_beams": num_beams,
        "batch_size": batch_size,
        "alternatives": alternatives,
    }
    if branch_at_entropy is not None:
        from decoding_cli.trees import grow_trees

        write = grow_trees
        own = {"entropy_above": branch_at_entropy, "branches": branches, "max_leaves": max_leaves}
    own |= {"max_new_tokens": max_new_tokens, "seed": seed, "stop": stops, "chat": chat}
    write(options, texts, settings, own, as_json=as_json, output=output, color=color)


def _check_beams(settings: Setting, samples: int, beams: int) -> None:
    """Refuse what does not go with beam search."""
    try:
        settings.generate_kwargs(beams)
    except ValueError as error:
        raise click.UsageError(str(error).replace("num_beams=", "--num-beams ")) from error
    if beams > 1 and samples > beams:
        raise click.UsageError(f"--num-samples {samples} needs at least as many --num-beams")


def _check_engine(
    engine: str, bound: float | None, beams: int, device: str | None, page: int | None
) -> None:
    """Refuse what transformers alone can do."""
    if engine == PROCESS:
        return
    for name, given in (
        ("--branch-at-entropy", bound is not None),
        ("--num-beams", beams > 1),
        ("--device", device is not None and page is None),
    ):
        if given:
            raise click.UsageError(f"--engine {engine} cannot be used with {name}")


def _check_branching(
    settings: Setting,
    bound: float | None,
    samples: int,
    beams: int,
    alternatives: int,
) -> None:
    """Refuse what does not go with a tree, and options of trees without one."""
    if bound is None:
        for name in ("branches", "max_leaves"):
            if click.get_current_context().get_parameter_source(name) != ParameterSource.DEFAULT:
                option = "--" + name.replace("_", "-")
                raise click.UsageError(f"{option} needs --branch-at-entropy")
        return
    for name, given in (
        ("--num-samples", samples > 1),
        ("--num-beams", beams > 1),
        ("--alternatives", alternatives > 0),
        ("a policy in --setting", isinstance(settings, EntropyPolicy)),
    ):
        if given:
            raise click.UsageError(f"--branch-at-entropy cannot be used with {name}")
    if isinstance(settings, DecodingSettings) and settings.remembers:
        raise click.UsageError(f"--branch-at-entropy cannot be used with {settings.remembers}")


def write_texts(
    options: dict[str, Any],
    prompts: list[Prompt],
    settings: Setting,
    arguments: dict[str, Any],
    *,
    as_json: bool,
    output: Path | None,
    color: bool,
    page: int | None = None,
) -> None:
    """Write the sequences of all prompts as they are finished, or stream them.

    Args:
        options: those of `model_options`.
        prompts: the prompts.
        settings: the setting.
        arguments: further ones of `decoding.generate`; a `batch_size` of None chooses one.
        as_json: records on standard output.
        output: records into a file.
        color: shade tokens by entropy.
        page: how detailed the records are for a page; None where they are for none.
    """
    on_screen = (sys.stdout.isatty() or color) and not as_json and output is None
    streaming = on_screen and arguments["num_beams"] == 1 and arguments["batch_size"] in (None, 1)
    streaming = streaming and options["engine"] == PROCESS
    batch_size = arguments.pop("batch_size") or (1 if streaming else 8)
    with ExitStack() as stack:
        file = stack.enter_context(record_file(options | {"output": output}))
        llm = read_llm(options)
        # Beside another engine, the model reads what a page needs.
        language_model = read_model(options) if llm is None or page is not None else None
        from decoding.generation.view import GENERATION
        from decoding_cli.screen import Progress, Screen
        from decoding_evals.shell.progress import progress_bar
        from decoding_evals.showing.terminal import counted

        screen = None
        if on_screen:
            talking = bool(arguments["chat"]) or not all(isinstance(p, str) for p in prompts)
            said = [last_of(prompt) for prompt in prompts]
            screen = Screen(said, color=color, streaming=streaming, chat=talking)
        given = arguments["seed"]
        on_token = screen.token if screen is not None and streaming else None
        made: Any = _run if llm is None else partial(_run_inside, llm, options["model"])
        run = made(language_model, file, settings=settings, on_token=on_token, **arguments)
        recorded = partial(_recorded, run, page=page, language_model=language_model)
        progress = Progress(len(prompts) * arguments["num_return_sequences"])
        shown = progress.total > 1 and not sys.stdout.isatty() and not streaming
        bar = stack.enter_context(ExitStack())
        advance = bar.enter_context(progress_bar(progress.total, "sequences", shown=shown))

        try:
            for generation in run.sequences(prompts, batch_size):
                with uninterrupted():
                    if screen is not None:
                        screen.finished(generation)
                    elif file is not None:
                        file.write(recorded(generation), GENERATION)
                    elif as_json:
                        write_line(to_json(recorded(generation)))
                    else:
                        abstained = generation.finish_reason == "abstain"
                        write_line("" if abstained else generation.text)
                    progress.count(generation)
                    advance()
        except KeyboardInterrupt:
            if screen is not None and streaming:
                screen.flow.end_line()
            finished_ones = counted(progress.done, "sequence")
            raise Interrupted(f"{finished_ones} of {progress.total:,} finished") from None
        finally:
            bar.close()
            progress.notes()
            if on_screen or sys.stderr.isatty():
                progress.summary(color, with_legend=on_screen and color)
            elif given is None and progress.done and not as_json and file is None:
                note(f"seed {progress.seed}")


def _run(language_model: LanguageModel, file: RecordFile | None, **arguments: Any) -> Plan:
    """What writes the sequences; `arguments` are those of `Run`."""
    from decoding.generation.run import Run
    from decoding.passes.caches import Reader

    common = _common(file, [language_model], **arguments)
    return Run(language_model=language_model, reader=Reader(language_model.model), **common)


def _run_inside(
    llm: Any, model: str, language_model: LanguageModel | None, file: RecordFile | None, *,
    on_token: None, **arguments: Any,
) -> Plan:  # fmt: skip
    """What writes them inside vLLM, which streams none; `arguments` are those of `VllmRun`."""
    from decoding.engines.vllm import VllmRun

    models: list[LanguageModel | Path] = [Path(llm.model_config.model)]
    models += [] if language_model is None else [language_model]
    return VllmRun(llm=llm, called=model, **_common(file, models, **arguments))


def _common(
    file: RecordFile | None, models: list[LanguageModel | Path], *, seed: int | None,
    **arguments: Any,
) -> dict[str, Any]:  # fmt: skip
    """Arguments of either, once models are loaded."""
    return arguments | {
        "journal": begun(file, *models),
        "seed": settled_seed(file, seed),
        "stop": list(arguments["stop"]),
        "chat": as_chat(arguments["chat"]),
    }


def _recorded(
    run: Plan, generation: Generation, page: int | None, language_model: LanguageModel | None
) -> dict[str, Any]:
    """The record of a sequence; with what a page of that detail needs, where one is asked for."""
    if page is not None and language_model is not None:
        one, reader = generation, next(iter(run.readers), None)
        with_page = partial(one.with_page, language_model, page, reader=reader)
        ids = one.prompt_ids, one.trace.ids.tolist()
        generation = run.journal.step(ids, with_page, *run.readers)
    return generation.record()
