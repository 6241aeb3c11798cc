"""`chiasm predict`: a file of records in, a file of answers out."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, progress, result, writable

SHOWN = 8  # shards that are still to be done, of which the commands are printed


def predict(
    run: Run,
    input: Annotated[
        Path,
        typer.Argument(help="Records like those it was trained on (jsonl, csv, parquet), or a folder of media; targets may be absent."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the predictions go: .jsonl, .csv or .parquet.")],
    task: Annotated[str | None, typer.Option(help="The task that answers; by a record's texts where not given.")] = None,
    shard: Annotated[
        str | None, typer.Option(help="Only the I-th of N parts; the last to finish joins them into the output.", metavar="I/N")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where there is an output.")] = False,
) -> None:
    """Predict every record of a file. The same command goes on where it was stopped; `torchrun` shares it among processes."""
    import chiasm
    from chiasm.prediction.engine import parse_shard, take_own_device
    from chiasm.prediction.files import ENDINGS

    writable(output, list(ENDINGS))
    own = None if shard is None else parse_shard(shard)
    take_own_device()
    done = chiasm.predict_file(chiasm.load(run), input, output, task=task, shard=own, overwrite=overwrite, progress=progress("predicting"))
    refused = sum(done.refused.values())
    counts = f"{done.rows - refused} predicted, {refused} refused" + "".join(f"; {reason} {n}" for reason, n in done.refused.items())
    facts = {"output": str(output), "predicted": done.rows - refused, "refused": refused, "reasons": done.refused}
    result({**facts, "whole": done.whole, "before": done.before}, said(done, output, counts))
    if done.whole:
        next_step(f"chiasm evaluate {run} --data {input}   where it has the targets")
    elif own is not None:  # torchrun starts all shards by itself
        again = ["chiasm", "predict", str(run), str(input), "--output", str(output), *(["--task", task] if task else [])]
        next_step(*(shlex.join([*again, "--shard", f"{number}/{own[1]}"]) for number in done.missing[:SHOWN]))


def said(done: Any, output: Path, counts: str) -> str:
    """What came of it, in a line."""
    if not done.whole:
        return f"{output}: other shards are not finished; so far {counts}"
    return f"{output} was there already, of the same input and model: {counts}" if done.before else f"wrote {output}: {counts}"
