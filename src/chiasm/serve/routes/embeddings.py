"""`/v1/embeddings`: texts, pictures, sounds and videos -> vectors of one space, where the run has a task that compares them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from chiasm.retrieval.embedding import Space, embed
from chiasm.serve.items import Items, rows_of, thing_of
from chiasm.serve.parts import Body
from chiasm.serve.service import Service, service, unless_gone

router = APIRouter(tags=["embeddings"])
AT_ONCE = 32  # rows between which the model does other work


class EmbeddingsRequest(Body):
    """OpenAI's form; an item may also be a content part (a picture, a sound, a video)."""

    model: str
    input: Items
    encoding_format: Literal["float", "base64"] = "float"
    task: str | None = None
    """Which of the run's contrast tasks; the first, where not given."""
    user: str | None = None
    dimensions: None = None


@router.post("/v1/embeddings", response_model=None, summary="Vectors of texts, pictures and sounds")
async def embeddings(request: Request, body: EmbeddingsRequest) -> JSONResponse:
    """Vectors of length 1: the similarity of two is their scalar product. The same space for all that the task compares."""
    shared = service(request)
    run = shared.open_run(body.model)
    things = [thing_of(row, f"input.{number}") for number, row in enumerate(rows_of(body.input, "input", shared.limits))]
    found = [
        await unless_gone(request, shared.called(lambda part=part: embed(run, part, body.task)), shared.counts)
        for part in (things[start : start + AT_ONCE] for start in range(0, len(things), AT_ONCE))
    ]
    vectors = np.concatenate(found)
    space = Space(run, body.task)
    notes = [f"input.{number}: {note}" for number, thing in enumerate(things) for note in space.notes(thing)]
    tokens = await shared.called(lambda: sum(len(ids) for ids in run.processor.encode(texts_in(things), user=True)))
    shared.counts.prompt_tokens += tokens
    data = [{"object": "embedding", "index": n, "embedding": written(vector, body.encoding_format)} for n, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage, **warned(notes)})


def warned(notes: Sequence[str]) -> dict[str, list[str]]:
    """`warnings` of an answer, where there are any: OpenAI's form has none."""
    return {"warnings": list(notes)} if notes else {}


def texts_in(things: list[dict[str, Any]]) -> list[str]:
    return [value for thing in things for value in thing.values() if isinstance(value, str)]


def written(vector: np.ndarray, form: str) -> list[float] | str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()


async def vector_of(request: Request, shared: Service, thing: dict[str, Any], task: str | None) -> np.ndarray:
    """[d] of one thing."""
    return (await unless_gone(request, shared.called(lambda: embed(shared.run, [thing], task)), shared.counts))[0]
