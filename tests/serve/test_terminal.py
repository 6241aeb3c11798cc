"""`chiasm ask RUN` without a question: a chat in a terminal, and the same with its lines piped in."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from tiny_server import DIALOGUE, WORDS, png, tiny_run

import chiasm

COMMAND = [sys.executable, "-m", "chiasm_cli", "ask"]
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\r")


class Terminal:
    """A process in a terminal of its own, and what a person would see of it."""

    def __init__(self, command: list[str], env: dict[str, str]):
        self.child, self.handle = pty.fork()
        if self.child == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # tests that run in the background inherit that Ctrl-C is ignored
            os.execvpe(command[0], command, env)
        self.seen = ""

    def until(self, wanted: str, seconds: float = 100.0) -> str:
        """What is shown until `wanted` stands there; that part is then forgotten."""
        end = time.monotonic() + seconds
        while wanted not in self.seen:
            assert time.monotonic() < end, self.seen
            if select.select([self.handle], [], [], 1.0)[0]:
                try:
                    piece = os.read(self.handle, 65536)
                except OSError:
                    piece = b""
                if not piece:
                    assert wanted in self.seen, self.seen
                self.seen += ESCAPES.sub("", piece.decode("utf-8", "replace"))
        shown, _, self.seen = self.seen.partition(wanted)
        return shown

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def code(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    folder = tmp_path_factory.mktemp("talks")
    (folder / "a picture.png").write_bytes(png(1))
    changes = {**DIALOGUE["tasks"]["answer"], "generation": {"max_new_tokens": 6}}
    return tiny_run(folder / "run", **{**DIALOGUE, "tasks": {"answer": changes}})


@pytest.fixture
def env() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm", "COLUMNS": "100", "OMP_NUM_THREADS": "1"}


def test_a_chat(talker, env):
    terminal = Terminal([*COMMAND, str(talker.folder)], env)
    assert "dialogue reads: image, question (text)" in terminal.until("> ")
    terminal.type("/help\n")
    shown = terminal.until("> ")
    assert "/image FILE" in shown and "/audio" not in shown.replace("/help", "")
    terminal.type("/audio x.wav\n")
    assert "this run reads no audio; it reads: image, question (text)" in terminal.until("\n> ")
    terminal.type("/image nowhere.png\n")
    assert "was not found" in terminal.until("\n> ")
    terminal.type(f"/image {talker.folder.parent}/a picture.png\n")
    assert "image shown with the next question" in terminal.until("\n> ")
    terminal.type(f"{WORDS[0]}\n")
    first = talker.answer(image=png(1), question=WORDS[0])
    assert first in terminal.until("\n> ")
    terminal.type(f"{WORDS[1]}\n")
    history = [{"question": WORDS[0], "answer": first}]
    assert talker.answer(image=png(1), question=WORDS[1], history=history) in terminal.until("\n> ")
    terminal.type("/clear\n")
    terminal.until("> ")
    terminal.type(f"{WORDS[1]}\n")
    assert talker.answer(question=WORDS[1]) in terminal.until("\n> ")
    terminal.type("/nonsense\n")
    assert "no command /nonsense" in terminal.until("\n> ")
    terminal.type("\x03")
    assert "Ctrl-D or /quit ends" in terminal.until("\n> ")
    terminal.type("\x04")
    terminal.until("chiasm serve")
    assert terminal.code() == 0


SLOW = """
import time, sys
import chiasm.serve.slots, torch
from chiasm_cli.main import run
original = torch.nn.Embedding.forward
torch.nn.Embedding.forward = lambda *a: (time.sleep(0.1), original(*a))[1]
sys.exit(run(["ask", sys.argv[1]]))
"""


def test_ctrl_c_stops_the_answer_not_the_chat(run, env, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW, encoding="utf-8")
    changes = {"answer": {**run.recipe.tasks["answer"].options, "type": "generate", "generation": {"max_new_tokens": 50}}}
    long = tiny_run(tmp_path / "run", name="long", tasks=changes)
    terminal = Terminal([sys.executable, str(tmp_path / "slow.py"), str(long.folder)], env)
    terminal.until("> ")
    terminal.type(f"{WORDS[0]}\n")
    first = long.answer(question=WORDS[0]).split()[0]
    terminal.until(first)
    terminal.type("\x03")
    assert "(stopped)" in terminal.until("\n> ")
    terminal.type("/quit\n")
    assert terminal.code() == 0


def test_lines_that_are_piped_in(talker, env):
    lines = f"{WORDS[0]}\n/image {talker.folder.parent}/a picture.png\n{WORDS[1]}\n"
    done = subprocess.run([*COMMAND, str(talker.folder)], input=lines, capture_output=True, text=True, env=env, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    first = talker.answer(question=WORDS[0])
    second = talker.answer(image=png(1), question=WORDS[1], history=[{"question": WORDS[0], "answer": first}])
    assert done.stdout.splitlines() == [first, "(image shown with the next question)", second]
    assert "\x1b" not in done.stdout and done.stderr == "(note: no image was given; this model reads one)\n"
