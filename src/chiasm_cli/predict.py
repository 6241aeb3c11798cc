"""`chiasm predict`: a file of records in, a file of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, progress, result


def predict(
    run: Run,
    input: Annotated[Path, typer.Argument(help="Records like those it was trained on (jsonl, csv, parquet); targets may be absent.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the predictions go, one JSON line each.")],
) -> None:
    """Predict every record of a file."""
    import chiasm

    counts = chiasm.load(run).predict_file(input, output, progress=progress("predicting"))
    result({"output": str(output), **counts}, f"wrote {output}: " + ", ".join(f"{count} {what}" for what, count in counts.items()))
    next_step(f"chiasm evaluate {run} --data {input}   where it has the targets")
