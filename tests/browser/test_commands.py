"""Every command's page opens, says nothing, asks for nothing, and can be read by everybody."""

import json

import pytest
from opening import faults_of

from decoding_cli.app import COMMANDS

pytestmark = pytest.mark.browser

PAGES = {
    "generate": "generate dog --alternatives 2 --max-new-tokens 5",
    "branches": "generate dog --branch-at-entropy 1 --max-new-tokens 4",
    "choices": "score rows.jsonl --prompt-column prompt",
    "perplexity": "perplexity story.txt",
    "compare": "compare story.txt --setting raw --setting top_k=5 --setting temperature=0.5",
    "models": "compare story.txt --models builtin:stories builtin:stories",
    "uncertainty": "uncertainty --prompts-file prompts.txt --num-samples 2 --max-new-tokens 3",
    "calibrate": "calibrate story.txt",
    "identify": "identify story.txt --setting raw --setting top_k=5",
    "attention": "attention story.txt",
    "mismatch": "mismatch engine.jsonl --tolerance 99",
    "doctor": "doctor",
}


def test_every_command_is_here():
    named = {line.split()[0] for line in PAGES.values()}
    assert set(COMMANDS) - named <= {"settings", "show"}


@pytest.mark.parametrize("name", PAGES)
def test_its_page_opens_and_axe_finds_nothing(name, open_page, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "story.txt").write_text("Once upon a time there was a little dog named Max. " * 3)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "The big", "text": ["cat", "dog"]}')
    engine = {"prompt_token_ids": [1, 5], "token_ids": [7, 9, 8], "logprobs": [-1, -2, -3]}
    (tmp_path / "engine.jsonl").write_text(json.dumps(engine))
    (tmp_path / "prompts.txt").write_text("Once upon a time\nA dog\n")
    command(*PAGES[name].split(), "--output", "x.html")
    scheme = "dark" if len(name) % 2 else "light"
    page = open_page(tmp_path / "x.html", 360, color_scheme=scheme, bypass_csp=True)
    assert page.inner_text("#title") and page.title() == page.inner_text("#title")
    assert faults_of(page) == []
