"""What docs/engines.md shows of vLLM runs, from its top."""

import re
from pathlib import Path

import pytest
from engines_for_tests import saved

pytestmark = pytest.mark.vllm


def test_the_page_runs(stories, tmp_path, monkeypatch, pytestconfig, capsys):
    page = (pytestconfig.rootpath / "docs/engines.md").read_text()
    blocks = re.findall(r"^```py\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    name = re.search(r'LLM\("(.+?)"', page)[1]
    # A folder of the model's name, with the embedded one in it, which has no chat template.
    blocks = [block.replace(", chat=True", "") for block in blocks]
    # Without a compiler.
    blocks[0] = blocks[0].replace('dtype="float32"', 'dtype="float32", enforce_eager=True')
    folder = tmp_path / name
    saved(stories, folder)
    monkeypatch.chdir(tmp_path)
    assert Path(name).is_dir() and len(blocks) == 3
    names = {}
    try:
        for block in blocks:
            exec(compile(block, "docs/engines.md", "exec"), names)
    finally:
        names["llm"].llm_engine.engine_core.shutdown()
    assert len(names["answers"]) == 2 and len(names["trace"]) == 40
    out = capsys.readouterr().out
    assert names["answers"][1].text in out and "surprisal (nats)" in out
