"""`/v1/classify`: which label fits; of a task that learned to choose, or of any labels, by likeness (zero-shot)."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from chiasm.conversation import Part, Turn, asked
from chiasm.retrieval.classify import classify as by_likeness
from chiasm.retrieval.embedding import Space
from chiasm.serve.errors import Refused
from chiasm.serve.items import Items, rows_of, thing_of
from chiasm.serve.parts import Body
from chiasm.serve.routes.embeddings import warned
from chiasm.serve.service import Service, naming, service, unless_gone
from chiasm.serve.work import Finished, Ticket, Work

router = APIRouter(tags=["classify"])
MOST_LABELS = 1000


class ClassifyRequest(Body):
    """Rows, and labels where the run did not learn its own."""

    model: str
    input: Items
    labels: list[str] | None = None
    """Any labels, as words: what fits is told by likeness, without training for them. The run's own, where not given."""
    template: str = "{label}"
    """What a label is written as, e.g. "a picture of a {label}"."""
    task: str | None = None
    """The task that chooses (or, with labels, the contrast task that compares); the first of its kind, where not given."""


@router.post("/v1/classify", response_model=None, summary="Which label fits")
async def classify(request: Request, body: ClassifyRequest) -> JSONResponse:
    """For each row the label that fits best, and the probability of each."""
    shared = service(request)
    run = shared.open_run(body.model)
    rows = rows_of(body.input, "input", shared.limits)
    notes: list[str] = []
    if body.labels is None:
        found, notes = await unless_gone(request, learned(shared, body, rows), shared.counts)
    else:
        labels = body.labels
        if len(labels) > MOST_LABELS or sum(map(len, labels)) > shared.limits.characters:
            raise Refused(400, f"labels: {len(labels)}; one request may have {MOST_LABELS}", param="labels", code="too_many")
        things = [thing_of(row, f"input.{number}") for number, row in enumerate(rows)]
        likely = await unless_gone(
            request, shared.called(lambda: by_likeness(run, things, labels, template=body.template, task=body.task)), shared.counts
        )
        space = Space(run, body.task)
        notes += space.known("text", labels, "labels")
        notes += [f"input.{number}: {note}" for number, thing in enumerate(things) for note in space.notes(thing)]
        found = [dict(zip(labels, row, strict=True)) for row in likely.tolist()]
    data = [{"index": n, "label": max(row, key=lambda label: row[label]), "probabilities": row} for n, row in enumerate(found)]
    return JSONResponse({"object": "list", "data": data, "model": body.model, **warned(notes)})


async def learned(shared: Service, body: ClassifyRequest, rows: list[tuple[Part, ...]]) -> tuple[list[dict[str, float]], list[str]]:
    """(probabilities of the labels that a task of the run learned, what it does not know or is not given of each row)."""
    run = shared.run
    choosing = [name for name, task in run.tasks.items() if getattr(task, "labels", None)]
    if body.task is None and not choosing:
        raise Refused(400, "this run has no task that chooses among labels of its own; give `labels`", param="labels", code="no_labels")
    name = body.task or choosing[0]
    questions = [asked(run, [Turn("user", row)], task=name) for row in rows]
    tickets: list[Ticket] = []
    try:
        for question in questions:
            tickets.append(await naming(question, shared.engine.submit(Work(parts=question.row, task=name))))
        found: list[Finished] = await asyncio.gather(*(ticket.result() for ticket in tickets))
    finally:
        for ticket in tickets:
            ticket.cancel()
    notes = [f"input.{number}: {note}" for number, question in enumerate(questions) for note in question.notes]
    return [_probabilities(one) for one in found], notes


def _probabilities(found: Finished) -> dict[str, Any]:
    if found.prediction.probabilities is None:
        raise Refused(400, f"task '{found.prediction.task}' does not choose among labels", param="task", code="no_labels")
    return found.prediction.probabilities
