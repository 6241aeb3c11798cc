"""docs/articles.md is one program, and it runs."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from transformers.utils import logging

PAGE = Path(__file__).parent.parent / "docs" / "articles.md"


def test_every_block_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    logging.set_verbosity_error()
    text = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"```python\n(.*?)```", text, re.S))
    assert len(blocks) == 11 and len(re.findall(r"^## \d", text, re.M)) == 5
    names: dict[str, object] = {}
    for block in blocks:
        padding = "\n" * text.count("\n", 0, block.start(1))  # so that a traceback names the page's own lines
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(padding + block[1], str(PAGE), "exec"), names)
