"""`chiasm explain`: which inputs, and which parts of them, an answer of a run rests on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chiasm_cli.ask import given_parts
from chiasm_cli.evaluate import Run
from chiasm_cli.output import PAGE, page, progress, writable


def explain(
    run: Run,
    question: Annotated[str | None, typer.Argument(help="The question, as text.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video, or a folder of its frames.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Any other input of the recipe.", metavar="NAME=VALUE")] = None,
    task: Annotated[str | None, typer.Option(help="The task that answers; the one that reads these inputs, if not given.")] = None,
    target: Annotated[str | None, typer.Option(help="The answer to explain; the run's own, if not given.")] = None,
    level: Annotated[
        Literal["modality", "token"], typer.Option(help="modality: what each input is worth; token: its parts too.")
    ] = "token",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A page with marks over the picture (.html), or the figures (.json).")
    ] = None,
) -> None:
    """Show which inputs, and which parts of them, an answer rests on."""
    given = given_parts(question, image, audio, video, inputs)
    if not given:
        raise typer.BadParameter('nothing to explain; give what is asked, e.g. chiasm explain RUN --image FILE "what is there?"')
    writable(output, PAGE)
    import chiasm

    found = chiasm.explain(chiasm.load(run), given, task=task, target=target, level=level, progress=progress("explaining"))
    page(found, output, "chiasm explain ... --output why.html   for a page with the marks over the picture")
