"""`chiasm search`: words, a picture or a sound -> the nearest in an index."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.output import answered, next_step, table


def search(
    index: Annotated[Path, typer.Argument(help="A folder that `chiasm index` made.")],
    text: Annotated[str | None, typer.Argument(help="What to find, in words.")] = None,
    image: Annotated[Path | None, typer.Option(help="Find by a picture.")] = None,
    audio: Annotated[Path | None, typer.Option(help="Find by a sound.")] = None,
    video: Annotated[Path | None, typer.Option(help="Find by a video.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Find by any other input.", metavar="NAME=VALUE")] = None,
    k: Annotated[int, typer.Option("-k", help="How many.", min=1)] = 10,
    find: Annotated[
        str | None, typer.Option(help="image, text, audio ...: only these; else all that is not of the query's kind, where there is any.")
    ] = None,
    where: Annotated[str | None, typer.Option(help='An SQL condition on columns, e.g. "price < 10" (lancedb).')] = None,
    run: Annotated[Path | None, typer.Option(help="The run that made the index, where it has moved.")] = None,
) -> None:
    """Find what is most like some words, a picture or a sound."""
    given = query(text, {"image": image, "audio": audio, "video": video}, inputs or [], 'chiasm search INDEX "a red sun"')
    import chiasm

    opened = chiasm.Index.open(index)
    space = opened.space(chiasm.load(run or opened.run))
    (key,) = given
    side, notes = space.side_of(key), space.known(key, given.values(), "query")
    hits = opened.search(space.embed([given])[0], k, find=find, asked=space.sides.get(side), where=where)
    rows = [(hit.score, hit.side, hit.media or "", shown(hit)) for hit in hits]
    answered([dataclasses.asdict(hit) for hit in hits], notes, table(rows, header=("score", "side", "file", "row")))
    next_step(f"chiasm search {index} ... --json   every column of what was found")


def query(text: str | None, media: dict[str, Path | None], inputs: list[str], example: str) -> dict[str, Any]:
    """The one thing that is asked with, under its modality's name or an input's own; `example`: the command, as it can be given."""
    if text is not None and not text.strip():
        raise typer.BadParameter(f"the words are empty; give some, e.g. {example}")
    given: dict[str, Any] = {name: value for name, value in {"text": text, **media}.items() if value is not None}
    for each in inputs:
        name, equals, value = each.partition("=")
        if not equals or not value.strip():
            raise typer.BadParameter(f"--input {each}: write NAME=VALUE")
        given[name] = value
    if not given:
        raise typer.BadParameter(f"nothing to go by; give words, --image, --audio or --video, e.g. {example}")
    if len(given) > 1:
        raise typer.BadParameter(f"give one thing to go by, not {len(given)}: {', '.join(given)}")
    return given


def shown(hit: Any) -> str:
    """A row for a person: what was found where it is a text, else the row's texts."""
    own = hit.columns.get(hit.side)
    texts = [own] if isinstance(own, str) and hit.media is None else [v for v in hit.columns.values() if isinstance(v, str) and v != own]
    line = " | ".join(text for text in texts if text)
    return f"{hit.id}  {line[:80]}"
