"""Draw docs/generate.svg and docs/tree.svg: what `decoding generate` shows on a terminal."""

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from decoding import DecodingSettings, LanguageModel, generate, load_model
from decoding.generation.branching import branch
from decoding_cli.trees import picture
from decoding_evals.showing.terminal import legend, shaded

PROMPT = "Once upon a time"
SETTINGS = DecodingSettings(temperature=0.8, top_p=0.95)
SEED = 7

# Rich's own template asks a font server for its font; this one takes what the reader has.
TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
  font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace;
  font-size: {char_height}px; line-height: {line_height}px; font-variant-east-asian: full-width;
}}
{styles}
</style>
<defs>{lines}</defs>
<rect width="{width}" height="{height}" rx="8" fill="#292929"/>
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g class="{unique_id}-matrix" xml:space="preserve">{matrix}</g>
</g>
</svg>
"""


def screen(command: str) -> Console:
    """A terminal with a command typed into it."""
    console = Console(
        record=True, width=92, file=io.StringIO(), color_system="truecolor", highlight=False
    )
    console.print(Text("$ ", style="#9a9a9a") + Text(command), end="\n\n")
    return console


def save(console: Console, name: str) -> None:
    """Write what the terminal shows."""
    svg = console.export_svg(code_format=TEMPLATE, unique_id=name)
    Path(__file__).with_name(f"{name}.svg").write_text(svg, encoding="utf-8")


def draw_story(loaded: LanguageModel) -> None:
    """The story, shaded."""
    [story] = generate(loaded, PROMPT, SETTINGS, seed=SEED, max_new_tokens=200)
    console = screen(f'decoding generate "{PROMPT}" --temperature 0.8 --top-p 0.95 --seed {SEED}')
    body = Text.assemble((PROMPT, "bold"))
    for token, entropy in zip(story.trace.texts or (), story.trace.entropy_nats, strict=True):
        body.append_text(shaded(token, float(entropy)))
    console.print(body)
    console.print()
    console.print(legend())
    summary = story.trace.summary()
    console.print(
        f"{summary['tokens']} tokens · mean entropy {summary['mean_entropy_nats']:.2f} nats "
        f"({summary['effective_choices']:.1f} effective choices) · "
        f"perplexity {summary['raw_perplexity']:.2f} · seed {SEED}"
    )
    save(console, "generate")


def draw_tree(loaded: LanguageModel) -> None:
    """Alternatives where the model hesitated."""
    tree = branch(
        loaded, PROMPT, DecodingSettings(temperature=0.8),
        entropy_above=2.5, branches=3, seed=1, max_new_tokens=24,
    )  # fmt: skip
    console = screen(
        f'decoding generate "{PROMPT}" --temperature 0.8 --seed 1 --max-new-tokens 24 \\\n'
        "    --branch-at-entropy 2.5 --branches 3"
    )
    console.print(picture(tree))
    console.print()
    console.print(legend())
    save(console, "tree")


def main() -> None:
    """Write both pictures."""
    loaded = load_model()
    draw_story(loaded)
    draw_tree(loaded)


if __name__ == "__main__":
    main()
