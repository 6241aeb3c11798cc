"""`chiasm ask`: one question to a run, or a chat."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from chiasm_cli.evaluate import Run
from chiasm_cli.output import answered, next_step, settings


def ask(
    run: Run,
    question: Annotated[str | None, typer.Argument(help="The question, as text.")] = None,
    image: Annotated[Path | None, typer.Option(help="A picture.")] = None,
    audio: Annotated[Path | None, typer.Option(help="A sound, e.g. a spoken question.")] = None,
    video: Annotated[Path | None, typer.Option(help="A video, or a folder of its frames.")] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", help="Any other input of the recipe.", metavar="NAME=VALUE")] = None,
    task: Annotated[str | None, typer.Option(help="The task that answers; the one that reads these inputs, if not given.")] = None,
) -> None:
    """Ask a run one question; without a question, chat with it."""
    given = given_parts(question, image, audio, video, inputs)
    if not given and settings["json"]:
        raise typer.BadParameter(
            'nothing to ask; give a question, --image, --audio or --video, e.g. chiasm ask RUN --image FILE "what is there?"'
        )
    if not given:
        from chiasm_cli.chat import chat

        chat(run)
        return
    import chiasm
    from chiasm.tasks.contrast import check_sides

    opened = chiasm.load(run)
    answer = opened.answer(task=task, **given)
    if isinstance(answer, dict):  # vectors of what is compared: no answer where there is but one
        (row,) = opened.open([given])
        check_sides(opened.task_for(row.sample.parts, task), row.sample, opened.tasks)
    answered({"answer": answer}, opened.notes(given, task=task), said(answer))
    next_step(f"chiasm predict {run} INPUT.jsonl --output OUT.jsonl   for many at once")


def given_parts(
    question: str | None, image: Path | None, audio: Path | None, video: Path | None, inputs: list[str] | None
) -> dict[str, Any]:
    """What a command line gives of a row; usage error for an --input without a value."""
    parts = {"question": question, "image": image, "audio": audio, "video": video}
    given: dict[str, Any] = {name: value for name, value in parts.items() if value is not None}
    for text in inputs or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--input {text}: write NAME=VALUE")
        given[name] = value
    return given


def said(answer: Any) -> list[str]:
    """An answer for a person: text as it is, of vectors that two towers make (CLIP) how long they are and how alike."""
    if not isinstance(answer, dict):
        return [str(answer)]
    lines = [f"{name}: a vector of {len(vector)} numbers (--json prints them)" for name, vector in answer.items()]
    return [*lines, f"similarity: {sum(a * b for a, b in zip(*answer.values(), strict=True)):.4f}"]
