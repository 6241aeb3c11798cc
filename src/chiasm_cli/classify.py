"""`chiasm classify`: labels that a run was never trained on, given as words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import answered, next_step, table
from chiasm_cli.search import query


def classify(
    run: Run,
    labels: Annotated[str, typer.Option(help="Two or more.", metavar="LABEL,LABEL,...")],
    text: Annotated[str | None, typer.Argument(help="A text to classify, where the run compares texts.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Any other input.", metavar="NAME=VALUE")] = None,
    template: Annotated[str, typer.Option(help='What a label is written as, e.g. "a picture of a {label}".')] = "{label}",
    task: Annotated[str | None, typer.Option(help="The contrast task; the run's first where not given.")] = None,
) -> None:
    """Say which of some labels fits best, without training for them (zero-shot)."""
    given = query(text, {"image": image, "audio": audio, "video": video}, inputs or [], "chiasm classify RUN --labels cat,dog --image FILE")
    import chiasm
    from chiasm.retrieval.embedding import Space

    names = [label.strip() for label in labels.split(",")]
    space = Space(chiasm.load(run), task)
    probabilities = chiasm.classify(space.run, [given], names, template=template, task=task)[0].tolist()
    ranked = sorted(zip(names, probabilities, strict=True), key=lambda pair: -pair[1])
    found = {"label": ranked[0][0], "probabilities": dict(zip(names, probabilities, strict=True))}
    answered(found, [*space.known("text", names, "labels"), *space.notes(given)], table(ranked))
    next_step(f"chiasm index {run} DATA --output INDEX   to search many by words")
