"""`chiasm index`: pictures, sounds and texts -> vectors that are searched by any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import next_step, progress, result, writable


def index(
    run: Run,
    data: Annotated[Path, typer.Argument(help="A table (jsonl, csv, parquet, tar) or a folder of pictures, sounds or videos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The index, a new folder.")],
    task: Annotated[str | None, typer.Option(help="The contrast task that embeds; the run's first where not given.")] = None,
    sides: Annotated[str | None, typer.Option(help="Only these of what the task compares.", metavar="NAME,...")] = None,
    backend: Annotated[str, typer.Option(help="exact (plain files), or lancedb (filters, updates, object stores).")] = "exact",
    store: Annotated[str | None, typer.Option(help="Where lancedb keeps the vectors, e.g. s3://bucket/name; INDEX/lance else.")] = None,
    update: Annotated[bool, typer.Option("--update", help="Add to a lancedb index, or replace rows of the same id.")] = False,
) -> None:
    """Index what a run's contrast task compares, to search it. The same command goes on where it was stopped."""
    writable(output)
    if output.exists() and not update:
        raise typer.BadParameter(f"--output {output}: exists already; delete it, or give another")
    import chiasm

    loaded = chiasm.load(run)
    if update:
        made = chiasm.update_index(loaded, data, output, progress=progress("indexing"))
        account = made.facts["updates"][-1]
    else:
        chosen = [name.strip() for name in sides.split(",")] if sides else []
        made = chiasm.index(loaded, data, output, task=task, sides=chosen, backend=backend, store=store, progress=progress("indexing"))
        account = made.facts["account"]
    tell(output, account, set(made.space(loaded).sides.values()))


def tell(output: Path, account: dict[str, Any], kinds: set[str]) -> None:
    """What was indexed and what was refused; `kinds`: what it can be searched by, which may be more than is in it."""
    counts = ", ".join(f"{count} {side}" + shared(account["shared"].get(side)) for side, count in account["indexed"].items())
    lines = [f"wrote {output}: {counts}, of {account['read']} rows"]
    if account["refused"]:
        reasons = ", ".join(f"{reason} {count}" for reason, count in account["refused"].items())
        lines.append(f"refused: {reasons}; see {output}/refused.jsonl")
    result({"index": str(output), **account}, lines)
    by = {"text": '"words"', "image": "--image FILE", "audio": "--audio FILE", "video": "--video FILE"}
    next_step(*(f"chiasm search {output} {how}" for kind, how in by.items() if kind in kinds))


def shared(count: int | None) -> str:
    return f" ({count} met again)" if count else ""
