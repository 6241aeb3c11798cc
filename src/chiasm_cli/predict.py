"""`chiasm predict`: a file of records in, a file of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, progress, result


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

    take_own_device()
    done = chiasm.predict_file(
        chiasm.load(run),
        input,
        output,
        task=task,
        shard=None if shard is None else parse_shard(shard),
        overwrite=overwrite,
        progress=progress("predicting"),
    )
    refused = sum(done.refused.values())
    counts = f"{done.rows - refused} predicted, {refused} refused" + "".join(f"; {reason} {n}" for reason, n in done.refused.items())
    facts = {"output": str(output), "predicted": done.rows - refused, "refused": refused, "reasons": done.refused, "whole": done.whole}
    result(facts, f"wrote {output}: {counts}" if done.whole else f"{output}: other shards are not finished; so far {counts}")
    next_step(f"chiasm evaluate {run} --data {input}   where it has the targets")
