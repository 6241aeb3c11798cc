"""`chiasm audit`: what it prints and writes, and how it fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from coloured import rows_at
from stand_in import colour_of, said, serving

from chiasm_cli.main import run


def test_an_audit_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    data, page = rows_at(tmp_path, 30), tmp_path / "audit.html"
    with serving(lambda body, number: said(colour_of(body["messages"][0]["content"]) or "red")) as (url, seen):
        assert run(["audit", url, "--data", str(data), "--output", str(page), "--rows", "24"]) == 0
        printed = capsys.readouterr()
        assert "uses `image`" in printed.out and "24 rows x 4 conditions = at most 96 requests" in printed.err
        assert f"open {page}" in printed.err and "uses <code>image</code>" in page.read_text("utf-8")
        before = len(seen)
        assert run(["audit", url, "--data", str(data), "--output", str(page), "--rows", "24", "--json"]) == 0
        assert len(seen) == before  # every answer was kept beside the page
        assert {one["input"]: one["verdict"] for one in json.loads(capsys.readouterr().out)["verdicts"]}["image"] == "uses"


def test_a_wrong_column_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["audit", "http://127.0.0.1:9/v1", "--data", str(rows_at(tmp_path, 3)), "--question", "qestion"]) == 2
    assert "no column 'qestion'; did you mean 'question'" in capsys.readouterr().err
