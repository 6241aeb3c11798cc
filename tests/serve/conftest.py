"""One small run and one server for all tests of the server that leave them as they are, and a browser that visits its page."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("uvicorn", reason="needs the extra serve")
sys.path.insert(0, str(Path(__file__).parent))
from tiny_server import WORDS, Client, png, running, tiny_run

import chiasm
from chiasm.retrieval.index import Index

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FAKES = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]  # a microphone that beeps


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


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright, as in the extra dev")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine (chromium, chromium-browser or google-chrome)")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=FAKES)
        yield found
        found.close()


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Opens the page of a server. At the end: nothing was asked of another host, and nothing was logged but what a test expects."""
    contexts, logged, asked, expected = [], [], [], []

    def see(server: Client, *, logs: str | None = None, **settings: Any) -> Any:
        context = browser.new_context(**{"locale": "en-GB", "permissions": ["microphone"], **settings})
        contexts.append(context)
        expected.append(logs)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: logged.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: logged.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.add_init_script(
            "window.shifts = 0; const sum = (list) => list.getEntries().forEach((e) => (shifts += e.hadRecentInput ? 0 : e.value));"
            "new PerformanceObserver(sum).observe({ type: 'layout-shift', buffered: true });"
        )
        page.goto(f"http://127.0.0.1:{server.port}/")
        return page

    yield see
    for context in contexts:
        context.close()
    foreign = [url for url in asked if urlsplit(url).scheme not in ("data", "blob", "about") and urlsplit(url).hostname != "127.0.0.1"]
    assert not foreign
    assert not [line for line in logged if not any(pattern and re.search(pattern, line) for pattern in expected)]


@pytest.fixture(scope="module")
def server(run: chiasm.Run, indexed: Path) -> Iterator[Client]:
    """A server with an index."""
    with running(run) as found:
        found.service.index = Index.open(indexed / "index")
        yield found
