"""`chiasm export`: a run in the form of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, result


def export(
    run: Run,
    to: Annotated[
        str, typer.Option("--to", help="transformers (an architecture of its own), onnx (a forward pass), or hub (a folder to upload).")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
) -> None:
    """Write a run's model for another tool; what was written is loaded again and compared."""
    import chiasm

    found = chiasm.export(run, to=to, output=output)
    result(found.facts, [f"{output}: {found.lines[0]}", *(f"  {line}" for line in found.lines[1:])])
    if found.next:
        next_step(*found.next)
