"""`chiasm serve` as a process: what it says when it starts, and how it stops without losing what it has accepted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_server import WORDS, wait_for

POST = "POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
LAUNCHER = """
import os, sys
import chiasm, chiasm.serve.server
from chiasm_cli.main import run
for line in sys.stdin:  # a process for each line, without importing everything again
    child = os.fork()
    if child == 0:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        code = run(line.split())
        sys.stdout.flush()
        os._exit(code)
    print("pid", child, flush=True)
    _, status = os.waitpid(child, 0)
    print("exit", os.waitstatus_to_exitcode(status), flush=True)
"""


class Launcher:
    """Starts one server after the other."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def line(self, start: str) -> str:
        """The next line that starts so; what stands between is in `seen`."""
        self.seen: list[str] = []
        while line := self.process.stdout.readline():
            self.seen.append(line.rstrip("\n"))
            if line.startswith(start):
                return line.strip()
        raise AssertionError(f"it ended before '{start}': {self.seen}")

    def start(self, *arguments: str) -> tuple[int, int, list[str]]:
        """(pid, port, what it said) of a server that is ready."""
        self.process.stdin.write(" ".join(["serve", *arguments, "--port", "0"]) + "\n")
        self.process.stdin.flush()
        pid = int(self.line("pid").split()[1])
        address = self.line("serving").split(" at ")[1].split("/v1")[0]
        said = list(self.seen)
        self.line("  END")
        return pid, int(address.rpartition(":")[2]), said + self.seen

    def code(self) -> int:
        return int(self.line("exit").split()[1])


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    command = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield Launcher(process)
        process.stdin.close()
        process.wait(30)


def ask(port: int) -> bytes:
    """One request over a connection of its own; what came back."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": WORDS[0]}], "max_tokens": 20}).encode()
    head = f"{POST}content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        found = b""
        while piece := connection.recv(65536):
            found += piece
        return found


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("times", [3, pytest.param(50, marks=pytest.mark.slow)])
def test_what_was_accepted_is_answered_before_it_stops(launcher, run, times):
    for _ in range(times):
        pid, port, said = launcher.start(str(run.folder))
        assert any(line.startswith("page ") for line in said) and any("curl" in line for line in said), said
        stopped, lost, answered = threading.Event(), [], []

        def keep_asking(stopped: Any = stopped, lost: list = lost, answered: list = answered, port: int = port) -> None:
            while True:
                last = stopped.is_set()  # what is sent after the signal may be refused
                try:
                    found = ask(port)
                except OSError:
                    found = b""
                if b"200 OK" in found.partition(b"\r\n")[0]:
                    answered.append(found)
                elif not last and not stopped.is_set():
                    lost.append(found)
                if last:
                    return

        clients = [threading.Thread(target=keep_asking) for _ in range(4)]
        for client in clients:
            client.start()
        wait_for(lambda answered=answered: len(answered) >= 4)
        waiting = start_one(port)
        stopped.set()
        os.kill(pid, signal.SIGTERM)
        assert b"200 OK" in waiting()  # it was accepted before the signal
        for client in clients:
            client.join()
        assert launcher.code() == 0
        assert not lost


def start_one(port: int) -> Any:
    """A request that is sent now; gives what reads its answer."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": WORDS[0]}], "max_tokens": 40}).encode()
    head = f"{POST}content-length: {len(body)}\r\n\r\n"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + body)

    def read() -> bytes:
        found = b""
        with contextlib.closing(connection):
            while piece := connection.recv(65536):
                found += piece
        return found

    return read


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_second_signal_ends_it_at_once(launcher, run):
    pid, port, _ = launcher.start(str(run.folder), "--grace", "600")
    head = f"{POST}content-length: 100000\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(head.encode())  # begun, and never finished
        wait_for(lambda: health(port) == 200)
        os.kill(pid, signal.SIGTERM)
        launcher.line("stopping: 1 request is being finished; again to stop at once")
        os.kill(pid, signal.SIGTERM)
        assert launcher.code() == 128 + signal.SIGTERM


def health(port: int) -> int:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET /health/ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            return int(connection.recv(1000).split()[1])
    except (OSError, IndexError):
        return 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_it_says_when_it_cannot_start_or_should_not(launcher, run, tmp_path):
    def said(*arguments: str) -> tuple[int, list[str]]:
        launcher.process.stdin.write(" ".join(["serve", *arguments]) + "\n")
        launcher.process.stdin.flush()
        return launcher.code(), launcher.seen

    (tmp_path / "key").write_text("\n")
    code, lines = said(str(run.folder), "--api-key-file", str(tmp_path / "key"))
    assert code == 2 and any("the API key file is empty" in line for line in lines)
    code, lines = said(str(tmp_path / "nowhere"))
    assert code == 2 and any("not a run folder" in line for line in lines)
    code, lines = said(str(run.folder), "--index", str(tmp_path), "--port", "0")
    assert code == 2 and any("not an index" in line for line in lines)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, lines = said(str(run.folder), "--port", str(taken.getsockname()[1]))
        assert code == 2 and any("is in use already; take another --port" in line for line in lines)
    code, lines = said(str(run.folder), "--host", "192.0.2.1")  # of a range that no machine has (RFC 5737)
    assert code == 2 and any("this machine has no such address" in line for line in lines)
    near = run.folder.with_name(f"{run.folder.name}x")
    code, lines = said(str(near))
    assert code == 2 and any(f"did you mean '{run.folder}'?" in line for line in lines)
    assert not any(line.startswith("loading") for line in lines)
    pid, _, lines = launcher.start(str(run.folder), "--host", "0.0.0.0")
    assert any(line.startswith("warning: 0.0.0.0 can be reached from other machines") for line in lines)
    os.kill(pid, signal.SIGINT)
    assert launcher.code() == 0 and "stopping" in launcher.seen
