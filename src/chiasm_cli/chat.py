"""`chiasm ask RUN` without a question: a chat in the terminal. What is piped in is answered line by line, without prompts or colours."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from chiasm_cli.output import next_step

MEDIA = ("image", "audio", "video")
LARGEST = 1 << 30  # bytes of a file
COMMANDS = {
    "/image FILE": "show a picture with the next question",
    "/audio FILE": "let it hear a sound",
    "/video FILE": "show a video",
    "/input NAME=VALUE": "give another input of the run, for all questions",
    "/clear": "forget what was said and shown",
    "/help": "this",
    "/quit": "end (Ctrl-D does too; Ctrl-C stops an answer)",
}


def chat(folder: Path) -> None:
    """Load a run and talk until the end of the input."""
    import chiasm
    from chiasm.serve.engine import Engine

    run = chiasm.load(folder)
    engine = Engine(run, slots=1, waiting=4).start()
    try:
        with asyncio.Runner() as runner:
            Chat(run, engine, runner).talk()
    finally:
        engine.stop()
    if sys.stdin.isatty():
        next_step(f"chiasm serve {folder}   the same over HTTP, with a page")


class Chat:
    """What was said so far, and what waits to be shown with the next question."""

    def __init__(self, run: Any, engine: Any, runner: asyncio.Runner):
        from rich.console import Console

        self.run, self.engine, self.runner = run, engine, runner
        self.console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self.aside = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True, style="dim")  # no part of the answers
        self.typed = sys.stdin.isatty()
        self.kinds = [spec.modality for spec in run.recipe.inputs.values()]
        self.reads_text = bool({"text", "tokens"} & set(self.kinds))
        self.warned: set[str] = set()
        self.inputs: dict[str, str] = {}
        self.clear()

    def clear(self, _: str = "") -> None:
        self.turns: list[Any] = []
        self.shown: list[Any] = []

    def talk(self) -> None:
        """Read and answer until /quit or the end of the input."""
        from chiasm.conversation import reads

        if self.typed:
            import readline  # noqa: F401  (so that a line can be edited, and earlier ones come back)

            self.note(f"{self.run.recipe.name} reads: {reads(self.run)}. /help shows the commands.")
        while True:
            try:
                line = input("> " if self.typed else "").strip()
            except EOFError:
                if self.typed:
                    print()
                return
            except KeyboardInterrupt:
                self.note("\n(Ctrl-D or /quit ends)")
                continue
            if line == "/quit":
                return
            if line.startswith("/"):
                self.command(line)
            elif line or (self.shown and not self.reads_text):
                self.ask(line)

    def command(self, line: str) -> None:
        """One of COMMANDS."""
        name, _, rest = line[1:].partition(" ")
        known: Mapping[str, Callable[[str], None]] = {"clear": self.clear, "help": self.help, "input": self.give}
        if name in MEDIA:
            self.show(name, rest.strip().strip("'\""))
        elif name in known:
            known[name](rest.strip())
        else:
            self.note(f"no command /{name}; /help shows them")

    def help(self, _: str = "") -> None:
        width = max(map(len, COMMANDS))
        for name, about in COMMANDS.items():
            kind = name[1:].split()[0]
            if kind not in MEDIA or kind in self.kinds:
                self.note(f"{name:<{width}}  {about}")

    def give(self, text: str) -> None:
        name, equals, value = text.partition("=")
        if equals:
            self.inputs[name.strip()] = value.strip()
        else:
            self.note("write /input NAME=VALUE")

    def show(self, kind: str, file: str) -> None:
        """Read a file for the next question."""
        from chiasm.conversation import Part, reads
        from chiasm.media.files import read_bytes
        from chiasm.types import BadInput

        if kind not in self.kinds:
            self.note(f"this run reads no {kind}; it reads: {reads(self.run)}")
            return
        try:
            self.shown.append(Part(kind, read_bytes(str(Path(file).expanduser().absolute()), root="/", limit=LARGEST)))
        except BadInput as error:
            self.note(f"error: {error}")
            return
        if not self.reads_text:
            self.ask("")
        else:
            self.note(f"({kind} shown with the next question)")

    def ask(self, words: str) -> None:
        """Put a question and print the answer as it is written; Ctrl-C stops the answer."""
        from chiasm.conversation import Part, Turn
        from chiasm.types import ChiasmError

        parts = (*self.shown, *([Part("text", words)] if words else []))
        written: list[str] = []
        self.turns.append(Turn("user", parts))
        self.shown = []
        try:
            self.runner.run(self.answer(written))
        except KeyboardInterrupt:
            self.note("\n(stopped)")
        except ChiasmError as error:
            self.note(f"error: {error}")
        if written:
            self.turns.append(Turn("assistant", (Part("text", "".join(written)),)))
        else:
            self.turns.pop()

    async def answer(self, written: list[str]) -> None:
        from chiasm.conversation import asked
        from chiasm.serve.work import Work
        from chiasm_cli.ask import said

        question = asked(self.run, self.turns, inputs=self.inputs)
        for note in question.notes:
            if note not in self.warned:
                self.aside.print(f"(note: {note})")
                self.warned.add(note)
        ticket = await self.engine.submit(Work(parts=question.row, task=question.task.name))
        try:
            async for piece in ticket:
                written.append(piece)
                self.print(piece, end="")
            found = (await ticket.result()).prediction.output
            if not written:
                written.append("\n".join(said(found)))
                self.print(written[0], end="")
            self.print("")
        finally:
            ticket.cancel()

    def print(self, text: str, end: str = "\n") -> None:
        """Text of the model's, without what a terminal would take for a command."""
        self.console.print("".join(c for c in text if c.isprintable() or c in "\n\t"), end=end)
        self.console.file.flush()

    def note(self, text: str) -> None:
        self.console.print(text, style="dim" if self.typed else None)
