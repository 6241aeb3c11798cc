"""`chiasm index`: pictures, sounds and texts -> vectors that are searched by any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, progress, result


def index(
    run: Run,
    data: Annotated[Path, typer.Argument(help="A table (jsonl, csv, parquet, tar) or a folder of pictures, sounds or videos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The new folder.")],
    task: Annotated[str | None, typer.Option(help="The contrast task that embeds; the run's first where not given.")] = None,
    sides: Annotated[str | None, typer.Option(help="Only these of what the task compares.", metavar="NAME,...")] = None,
    backend: Annotated[str, typer.Option(help="exact (plain files), or lancedb (filters, updates, object stores).")] = "exact",
    store: Annotated[str | None, typer.Option(help="Where lancedb keeps the vectors, e.g. s3://bucket/name; INDEX/lance else.")] = None,
) -> None:
    """Index what a run's contrast task compares, to search it."""
    import chiasm

    chosen = [name.strip() for name in sides.split(",")] if sides else []
    made = chiasm.index(
        chiasm.load(run), data, output, task=task, sides=chosen, backend=backend, store=store, progress=progress("indexing")
    )
    account = made.facts["account"]
    counts = ", ".join(f"{count} {side}" + shared(account["shared"].get(side)) for side, count in account["indexed"].items())
    lines = [f"wrote {output}: {counts}, of {account['read']} rows"]
    if account["refused"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in account["refused"].items())
        lines.append(f"refused: {reasons}; see {output}/refused.jsonl")
    result({"index": str(output), **account}, lines)
    next_step(
        f'chiasm search {output} "words"', *(f"chiasm search {output} --{m} FILE" for m in ("image", "audio") if m in made.sides.values())
    )


def shared(count: int | None) -> str:
    return f" ({count} met again)" if count else ""
