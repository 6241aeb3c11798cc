"""`/v1/search`: what an index holds that is most like a text, a picture or a sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import JSONResponse

from chiasm.serve.errors import Refused
from chiasm.serve.files import File
from chiasm.serve.items import Item, parts_of, thing_of
from chiasm.serve.parts import Body, check_media
from chiasm.serve.routes.embeddings import vector_of, warned
from chiasm.serve.service import Service, service, unless_gone

router = APIRouter(tags=["search"])


class SearchRequest(Body):
    """What to look for."""

    model: str
    query: Item
    k: Annotated[int, Field(ge=1, le=100)] = 10
    find: str | None = None
    """Only things of this modality, e.g. image."""


@router.post("/v1/search", response_model=None, summary="What is most like a text, a picture or a sound")
async def search(request: Request, body: SearchRequest) -> JSONResponse:
    """The nearest first; `score` is the cosine similarity. Needs a server that was started with --index."""
    shared = service(request)
    run = shared.open_run(body.model)
    if shared.index is None:
        raise Refused(400, "no index is open here; start the server with --index INDEX (chiasm index makes one)", code="no_index")
    parts = parts_of(body.query, "query")
    check_media(list(parts), shared.limits)
    thing = thing_of(parts, "query")
    space = shared.index.space(run)
    notes = space.known(next(iter(thing)), thing.values(), "query")
    vector = await vector_of(request, shared, thing, shared.index.facts["task"])
    kind = space.sides.get(parts[0].input or "", parts[0].modality)
    hits = await unless_gone(request, shared.called(lambda: shared.index.search(vector, body.k, find=body.find, asked=kind)), shared.counts)
    return JSONResponse({"object": "list", "data": [entry(shared, hit) for hit in hits], "model": body.model, **warned(notes)})


def entry(shared: Service, hit: Any) -> dict[str, Any]:
    """A hit without the paths of this machine; a picture or a clip has an address here."""
    media = {name for name, modality in shared.index.sides.items() if modality in ("image", "audio", "video")}
    columns = {name: value for name, value in hit.columns.items() if name not in media}
    found = {"id": hit.id, "score": hit.score, "side": hit.side, "modality": hit.modality, "columns": columns}
    return {**found, "media": None if hit.media is None else f"/v1/media/{shared.lend(Path(hit.media))}"}


@router.get("/v1/media/{name}", response_model=None, summary="A picture or clip that a search found")
async def media(request: Request, name: str) -> File:
    """Only what an answer of /v1/search named."""
    file = service(request).lent.get(name)
    if file is None or not file.is_file():
        raise Refused(404, "no search has found that; its addresses end when the server does")
    return File(file, headers={"cache-control": "private, max-age=3600", "content-security-policy": "sandbox; default-src 'none'"})
