"""What commands print: results on standard output (as JSON where `--json` is given), next steps and progress on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

settings = {"json": False, "debug": False}  # `--json` and `--debug`, which every command takes


def result(data: Any, text: str | Iterable[str] = ()) -> None:
    """A command's result: `text` for a person, `data` under --json."""
    if settings["json"]:
        import json

        print(json.dumps(data, ensure_ascii=False, default=str))
    else:
        for line in [text] if isinstance(text, str) else text:
            print(line)


def note(text: str) -> None:
    """A line beside the result; nothing under --json."""
    if not settings["json"]:
        print(text, file=sys.stderr)


def next_step(*commands: str) -> None:
    """What to type next."""
    note("\nNext:\n" + "\n".join(f"  {command}" for command in commands))


def table(rows: Iterable[Sequence[object]], *, header: Sequence[str] = ()) -> list[str]:
    """Columns as lines of text; numbers stand right with three decimals, unless they are whole."""
    cells = [[_cell(value) for value in row] for row in rows]
    shown = ([list(header)] if header else []) + cells
    if not shown:
        return []
    widths = [max(len(row[i]) for row in shown) for i in range(len(shown[0]))]
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(widths))]
    return ["  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip() for row in shown]


def progress(what: str) -> Callable[[int, int], None] | None:
    """A counter line on a terminal; None elsewhere."""
    if settings["json"] or not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{what} {done}/{total}", end=end, file=sys.stderr, flush=True)

    return show


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit() or text in ("", "nan")
