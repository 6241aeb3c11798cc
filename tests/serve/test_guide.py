"""docs/serve.md: every example runs, and what it says of limits and routes is so."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_server import Client, clip, png, running, tiny_run, wait_for

import chiasm
from chiasm.serve.limits import MEGABYTE, Limits

PAGE = Path(__file__).parents[2] / "docs" / "serve.md"
TEXT = PAGE.read_text(encoding="utf-8")


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.chdir(tmp_path)
    Path("picture.png").write_bytes(png(1))
    Path("sound.wav").write_bytes(clip(1))
    Path("rows.jsonl").write_text('{"image": "picture.png", "answer": "a red cat"}\n', encoding="utf-8")
    run = tiny_run(tmp_path / "runs" / "demo", name="demo")
    with running(run) as client:
        client.service.index = chiasm.index(run, "rows.jsonl", "index")
        yield client


def blocks(language: str) -> list[tuple[int, str]]:
    """(line, text) of every block of a language."""
    found = re.finditer(rf"```{language}\n(.*?)```", TEXT, re.S)
    return [(TEXT.count("\n", 0, block.start(1)), block[1]) for block in found]


def test_every_example_runs(demo):
    pytest.importorskip("openai", reason="needs openai, as in the extra dev")
    names: dict[str, object] = {}
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        for line, code in blocks("python"):
            exec(compile("\n" * line + code.replace(":8000", f":{demo.port}"), str(PAGE), "exec"), names)
    names["client"].close()
    assert len(blocks("python")) == 4 and len(said.getvalue().splitlines()) == 7
    last = said.getvalue().splitlines()[-1]
    assert last == demo.service.run.answer(image=png(1), question="is there a red cat ?", task="answer")


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("base64") is None, reason="needs curl and base64")
def test_every_command_runs(demo):
    assert len(blocks("bash")) == 2
    for _, code in blocks("bash"):
        done = subprocess.run(
            ["bash", "-euc", code.replace(":8000", f":{demo.port}")], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0 and '"error"' not in done.stdout, done.stdout + done.stderr
        assert '"choices"' in done.stdout or '"ready"' in done.stdout


def test_routes_and_limits_are_as_the_page_says(client):
    api = client.get("/openapi.json").json["paths"]
    hidden = {"/docs", "/openapi.json", "/v1/report"}
    for method, path in re.findall(r"`(GET|POST) (/[^`]*)`", TEXT):
        assert path in hidden or method.lower() in api[path], path
    limits = Limits()
    for words in (
        f"{limits.body // MEGABYTE} MB, JSON up to {limits.depth} deep",
        f"{limits.images}, each 25 million pixels",
        f"{limits.clips}; a sound up to {limits.audio_seconds:g} s",
        f"{limits.choices}, each up to {limits.tokens} tokens",
    ):
        assert words in TEXT, words


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_the_proxy_passes_answers_and_streams(demo, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ((_, server),) = blocks("nginx")
    server = server.replace("8000", str(demo.port)).replace("listen 8443", f"listen 127.0.0.1:{port}")
    folders = "\n".join(f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (tmp_path / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log stderr;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}\n{server}\n}}\n",
        encoding="utf-8",
    )
    with subprocess.Popen(["nginx", "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")], stderr=subprocess.DEVNULL) as proxy:
        try:
            through = Client(port, demo.service, demo.server)
            wait_for(lambda: answers(port))
            plain = through.chat("is there a red cat ?", model="demo").text
            assert plain == demo.chat("is there a red cat ?", model="demo").text
            events = through.chat("is there a red cat ?", model="demo", stream=True).events
            assert "".join(c["delta"].get("content", "") for e in events for c in e["choices"]) == plain
            assert through.post("/v1/chat/completions", b"[" * (25 << 20)).status == 413
        finally:
            proxy.terminate()


def answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            return True
    except OSError:
        return False
