"""One small run and one server for all tests of the server that leave them as they are."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_server import WORDS, Client, png, running, tiny_run

import chiasm


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def client(run: chiasm.Run) -> Iterator[Client]:
    with running(run) as found:
        yield found


@pytest.fixture(scope="session")
def indexed(run: chiasm.Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures and an index of them."""
    folder = tmp_path_factory.mktemp("indexed")
    for seed in range(4):
        (folder / f"{seed}.png").write_bytes(png(seed))
    rows = [{"image": f"{seed}.png", "answer": WORDS[seed % 3]} for seed in range(4)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    chiasm.index(run, folder / "data.jsonl", folder / "index")
    return folder
