"""What commands print: results on standard output (as JSON where `--json` is given), next steps and progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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


def answered(data: Any, warnings: Iterable[str], text: str | Iterable[str]) -> None:
    """`result`, and what the model does not know or is not given of what it was asked: on standard error, or in an object of --json."""
    said = list(warnings)
    if said and settings["json"] and isinstance(data, dict):
        data = {**data, "warnings": said}
    else:
        for warning in said:
            print(f"note: {warning}", file=sys.stderr)
    result(data, text)


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
    """A counter line on a terminal, with rows per second and the time that is left; None elsewhere."""
    if settings["json"] or not sys.stderr.isatty():
        return None
    began: list[tuple[float, int]] = []  # when, and with how many done before

    def show(done: int, total: int) -> None:
        began[:] = began or [(time.monotonic(), done)]
        seconds, rows = time.monotonic() - began[0][0], done - began[0][1]
        pace = f"  {rows / seconds:,.0f} rows/s  {clock((total - done) * seconds / rows)} left" if rows and seconds else ""
        print(f"\r{what} {done}/{total}{pace}\033[K", end="\n" if done >= total else "", file=sys.stderr, flush=True)

    return show


def clock(seconds: float) -> str:
    """75 -> 1:15."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _cell(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdigit() or text in ("", "nan")


def writable(output: Path | None, endings: Sequence[str] = ()) -> None:
    """Usage error, before any work, where nothing can be written to `output`; `endings`: those that say how it is written."""
    if output is None:
        return
    import tempfile

    import typer

    if endings and output.is_dir():
        raise typer.BadParameter(f"--output {output}: a folder; name a file, e.g. {output / f'out{endings[0]}'}")
    if endings and output.suffix not in endings:
        raise typer.BadParameter(f"--output {output}: end it on {' or '.join(endings)}")
    folder = next(parent for parent in output.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise typer.BadParameter(f"--output {output}: nothing can be written there ({(error.strerror or str(error)).lower()})") from None


PAGE = (".html", ".json")  # endings of `--output` where a result can be a page


def page(found: Any, output: Path | None, instead: str) -> None:
    """Print a result that can also be a page, write it as `output` ends, and say what to look at next (`instead`: without a page)."""
    if output is not None:
        import json

        from chiasm.evaluation.result import write_text

        write_text(output, found.html() if output.suffix == ".html" else json.dumps(found.to_json(), ensure_ascii=False, indent=1) + "\n")
    result(found.to_json(), found.lines())
    if output is not None:
        note(f"wrote {output}")
    next_step(f"open {output}" if output is not None and output.suffix == ".html" else instead)
