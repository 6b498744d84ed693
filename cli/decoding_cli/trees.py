"""`decoding generate --branch-at-entropy`: trees of alternatives."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from decoding_evals.shell.options import read_model
from decoding_evals.shell.output import Interrupted, to_json, uninterrupted, write_line
from decoding_evals.shell.resuming import begun, record_file, settled_seed
from decoding_evals.showing.lines import harmless, note

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree as Picture

    from decoding.texts.chats import Prompt


def grow_trees(
    options: dict[str, Any],
    prompts: list[Prompt],
    settings: Any,
    arguments: dict[str, Any],
    *,
    as_json: bool,
    output: Path | None,
    color: bool,
) -> None:
    """One tree for each prompt: a picture, or a record.

    Arguments are those of `write_texts`; `arguments` are further ones of
    `decoding.generation.branching.branch`.
    """
    with ExitStack() as stack:
        file = stack.enter_context(record_file(options | {"output": output}))
        language_model = read_model(options)
        from decoding.generation.branching import branch
        from decoding.generation.view import TREE
        from decoding_evals.shell.progress import progress_bar
        from decoding_evals.showing.terminal import console, counted, legend

        bar = stack.enter_context(ExitStack())
        advance = bar.enter_context(
            progress_bar(len(prompts), "trees", shown=len(prompts) > 1 and file is not None)
        )
        journal = begun(file, language_model)
        seed = settled_seed(file, arguments["seed"])
        ends = done = full = 0
        try:
            for index, prompt in enumerate(prompts):
                own = arguments | {"seed": seed, "index": index}
                grow = partial(branch, language_model, prompt, settings, **own)
                tree = journal.step((index, prompt), grow)
                leaves = sum(1 for _ in tree.root.leaves())
                with uninterrupted():
                    if file is not None:
                        file.write(tree.record(), TREE)
                    elif as_json:
                        write_line(to_json(tree.record()))
                    else:
                        screen = console(color)
                        screen.soft_wrap = False
                        if not screen.is_terminal:
                            screen.width = 10_000
                        screen.print(picture(tree.record(), chat=bool(arguments["chat"])))
                    done, ends = done + 1, ends + leaves
                    full += leaves == arguments["max_leaves"]
                    advance()
        except KeyboardInterrupt:
            raise Interrupted(f"{counted(done, 'tree')} of {len(prompts):,} finished") from None
        finally:
            bar.close()
        on_screen = (sys.stdout.isatty() or color) and file is None and not as_json
        if on_screen or sys.stderr.isatty():
            if on_screen and color:
                err = console(color, stderr=True)
                err.print()
                err.print(legend())
            limit = ", the most that --max-leaves allows" if full else ""
            above = f"{arguments['entropy_above']:g} nats"
            reached = counted(ends, "end") + limit
            note(f"{reached} · forks where H(p) > {above} · seed {seed}")
        elif arguments["seed"] is None and not as_json and file is None:
            note(f"seed {seed}")


def picture(record: dict[str, Any], *, chat: bool = False) -> Picture:
    """A tree's record for the eye: a stretch a line, behind the probability of its first token; the
    answer in a chat begins on a line of its own."""
    from rich.text import Text
    from rich.tree import Tree as Picture

    label = Text.assemble((harmless(record["prompt"]), "bold"), "\n" * chat)
    label.append_text(_stretch(record["tree"]))
    drawn = Picture(label, guide_style="dim")
    _grow(drawn, record["tree"])
    return drawn


def _grow(drawn: Picture, node: dict[str, Any]) -> None:
    from rich.text import Text

    for child in node["children"]:
        label = Text.assemble((f"{child['probability']:.2f} ", "dim"))
        label.append_text(_stretch(child))
        _grow(drawn.add(label), child)


def _stretch(node: dict[str, Any]) -> Text:
    """The tokens in their shades, and what came behind them. Line breaks are spelt out."""
    from rich.text import Text

    from decoding_evals.showing.terminal import shaded

    line = Text()
    for token in node["tokens"]:
        line.append_text(shaded(token["text"].replace("\n", "⏎"), token["entropy_nats"]))
    if node["hesitation_nats"] is not None:
        line.append(f" ⟨{node['hesitation_nats']:.2f} nats⟩", style="dim")
    elif node["finish_reason"] != "length":
        line.append(f" ({node['finish_reason']})", style="dim")
    else:
        line.append(" …", style="dim")
    return line
