"""`chiasm audit`: does a model use its inputs?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from chiasm_cli.output import PAGE, note, page, progress, writable


def audit(
    model: Annotated[
        str, typer.Argument(help="A run folder, a vision-language model (folder or Hub name), or the URL of an OpenAI-compatible server.")
    ],
    data: Annotated[Path, typer.Option(help="Rows with image and/or audio, question and answer; or in chat-messages form.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A page to write (.html), or the figures (.json).")] = None,
    rows: Annotated[int | None, typer.Option(min=1, help="Only so many rows, drawn evenly.")] = None,
    name: Annotated[str | None, typer.Option("--model", help="Of a URL: the model to ask for; its only one, if not given.")] = None,
    task: Annotated[str | None, typer.Option(help="Of a run: the task that answers; its first one, if not given.")] = None,
    question: Annotated[str | None, typer.Option(help="The column with the question.")] = None,
    answer: Annotated[str | None, typer.Option(help="The column with the right answer.")] = None,
    score: Annotated[
        Literal["exact_match", "contains"] | None, typer.Option(help="exact_match for a run and contains for any other, if not given.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer, of a vision-language model or a URL.")] = 32,
) -> None:
    """Ask a model with each input as it is, shuffled and missing, and say which of them it uses."""
    writable(output, PAGE)
    import chiasm

    kept = None if output is None else output.with_suffix(".answers.jsonl")
    found = chiasm.audit(
        model,
        data,
        rows=rows,
        name=name,
        task=task,
        question=question,
        answer=answer,
        score=score,
        max_tokens=max_tokens,
        kept=kept,
        announce=note,
        progress=progress("asking"),
    )
    page(found, output, "chiasm audit ... --output audit.html   for a page; of a URL, an audit that stopped then goes on where it was")
