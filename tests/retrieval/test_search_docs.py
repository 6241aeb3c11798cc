"""The commands and the Python of docs/search.md run as they stand; only the training is a short one."""

from __future__ import annotations

import os
import re
import shlex
import signal
from pathlib import Path

import pytest

from chiasm_cli.main import run
from chiasm_cli.output import settings

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")
FEW = ["data={train: scenes/train.jsonl, validation: scenes/validation.jsonl, test: scenes/test.jsonl}", "stages.0.steps=1"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)
    handler = signal.getsignal(signal.SIGTERM)
    commands = [shlex.split(line)[1:] for block in blocks("bash") for line in block.splitlines()]
    assert {command[0] for command in commands} >= {"index", "search", "classify", "predict"}
    for command in commands:
        assert run([*command, *FEW, "stages.0.batch_size=8"] if command[0] == "train" else command) == 0, command
    settings.update(json=False, debug=False)
    signal.signal(signal.SIGTERM, handler)
    capsys.readouterr()
    [python] = blocks("python")
    exec(compile(python, "docs/search.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all(os.path.exists(line.split()[2]) for line in lines[:3])
