"""`chiasm explain`: what it passes on, what it prints and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import chiasm
from chiasm_cli.main import run

FOUND = chiasm.Explanation(
    task="answer",
    kind="generate",
    answer="red",
    quantity="log-probability of writing “red”",
    value=-0.1,
    without=-2.1,
    modalities=[
        {"input": "image", "value": 2.5, "percent": 83.3, "share": 0.833, "alone": 2.0, "baseline": "missing"},
        {"input": "question", "value": -0.5, "percent": -16.7, "share": 0.167, "alone": -1.0, "baseline": "left out"},
    ],
    interactions=[{"inputs": ["image", "question"], "value": 1.0, "percent": 33.3}],
    parts=[
        {
            "input": "question",
            "item": 0,
            "kind": "words",
            "baseline": "left out",
            "text": "what <colour> ?",
            "units": [
                {"text": "what", "start": 0, "end": 4, "value": 0.4},
                {"text": "<colour>", "start": 5, "end": 13, "value": -0.2},
                {"text": "?", "start": 14, "end": 15, "value": 0.0},
            ],
        }
    ],
    explained=0.9,
    notes=["explanation not better than random on this model (+0.02)"],
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []
    monkeypatch.setattr(chiasm, "load", lambda folder: folder)
    monkeypatch.setattr(chiasm, "explain", lambda *given, **named: made.append((given, named)) or FOUND)
    return made


def test_what_is_given_is_passed_on(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "why.html"
    given = ["--image", "a.png", "what ?", "--input", "age=3", "--task", "answer", "--target", "blue", "--level", "modality"]
    assert run(["explain", "runs/x", *given, "--output", str(page)]) == 0
    [((folder, parts), named)] = calls
    assert folder == Path("runs/x") and parts == {"image": Path("a.png"), "question": "what ?", "age": "3"}
    assert named["task"] == "answer" and named["target"] == "blue" and named["level"] == "modality"
    said = capsys.readouterr()
    assert "█" in said.out and "+83 %" in said.out and "░" in said.out and "not better than random" in said.out
    assert f"open {page}" in said.err and "&lt;colour&gt;" in page.read_text("utf-8") and "<colour>" not in page.read_text("utf-8")


def test_an_explanation_is_written_as_its_file_ends(calls: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["explain", "runs/x", "what ?", "--output", str(tmp_path / "why.json")]) == 0
    assert json.loads((tmp_path / "why.json").read_text("utf-8")) == FOUND.to_json() and "  open " not in capsys.readouterr().err


def test_json_and_nothing_given(calls: list[Any], capsys: pytest.CaptureFixture[str]):
    assert run(["explain", "runs/x", "what ?", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FOUND.to_json()
    assert run(["explain", "runs/x"]) == 2
    assert "nothing to explain" in capsys.readouterr().err
