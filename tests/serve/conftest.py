"""One small run and one server for all tests of the server that leave them as they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_server import Client, running, tiny_run

import chiasm


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="session")
def client(run: chiasm.Run) -> Iterator[Client]:
    with running(run) as found:
        yield found
