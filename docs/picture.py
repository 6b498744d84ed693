"""Draw docs/generate.svg: a story on a terminal, shaded as `decoding generate` shades it."""

import io
from pathlib import Path

from rich.console import Console
from rich.text import Text

from decoding import DecodingSettings, generate, load_model
from decoding_evals.terminal import legend, shaded

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


def main() -> None:
    """Generate the story and write the picture."""
    loaded = load_model()
    [story] = generate(
        loaded.model, loaded.tokenizer, PROMPT, SETTINGS, seed=SEED, max_new_tokens=200
    )
    console = Console(
        record=True, width=92, file=io.StringIO(), color_system="truecolor", highlight=False
    )
    command = f'decoding generate "{PROMPT}" --temperature 0.8 --top-p 0.95 --seed {SEED}'
    console.print(Text("$ ", style="#9a9a9a") + Text(command), end="\n\n")
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
    svg = console.export_svg(code_format=TEMPLATE, unique_id="generate")
    Path(__file__).with_name("generate.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
