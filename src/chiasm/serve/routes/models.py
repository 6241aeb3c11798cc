"""`/v1/models`: the one run that is served, what it reads and what it can be asked."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from chiasm.conversation import MEDIA, reads_history, reads_several, texts_of
from chiasm.reading import EARLIER
from chiasm.serve.errors import Refused
from chiasm.serve.service import Service, service

router = APIRouter(tags=["models"])


@router.get("/v1/models", response_model=None, summary="The run that is served")
async def models(request: Request) -> JSONResponse:
    """A list of one, in OpenAI's form, with what the run reads beside it."""
    return JSONResponse({"object": "list", "data": [entry(service(request))]})


@router.get("/v1/models/{name:path}", response_model=None, summary="The run of that name")
async def model(request: Request, name: str) -> JSONResponse:
    shared = service(request)
    shared.open_run(name)
    return JSONResponse(entry(shared))


def entry(shared: Service) -> dict[str, Any]:
    """What a client needs to know of a run: its name, its inputs and tasks, and which of the server's routes have something behind them."""
    run = shared.open_run(None)
    if run is None:
        raise Refused(503, "the model is being loaded; try again")
    inputs = {name: spec.modality for name, spec in run.recipe.inputs.items()}
    tasks = {name: about(run, task) for name, task in run.tasks.items()}
    limits = shared.limits
    return {
        "id": shared.name,
        "object": "model",
        "created": int((run.folder / "recipe.yaml").stat().st_mtime),
        "owned_by": "chiasm",
        "inputs": inputs,
        "texts": texts_of(run),
        "media": {kind: [name for name, modality in inputs.items() if modality == kind] for kind in MEDIA if kind in inputs.values()},
        "several": [
            name for name in inputs if inputs[name] in MEDIA and any(reads_several(run, task, name) for task in run.tasks.values())
        ],
        "columns": sorted(run._own_columns() - {EARLIER, *(column for task in run.tasks.values() for column in task.lists)}),
        "tasks": tasks,
        "history": any(task["history"] for task in tasks.values()),
        "index": shared.index is not None,
        "report": (run.folder / "report.html").is_file(),
        "limits": {
            "body_bytes": limits.body,
            "images": limits.images,
            "clips": limits.clips,
            "audio_seconds": limits.audio_seconds,
            "n": limits.choices,
            "max_tokens": limits.tokens,
        },
    }


def about(run: Any, task: Any) -> dict[str, Any]:
    """One task: its type, what it reads, whether it writes text, whether it reads earlier turns, and its labels where it has some."""
    labels = getattr(task, "labels", None)
    return {
        "type": run.recipe.tasks[task.name].type,
        "reads": list(task.reads),
        "writes": task.writes,
        "history": reads_history(run, task),
        **({"labels": [str(label) for label in labels]} if labels else {}),
    }
