"""`/v1/explain`: which inputs, and which parts of them, an answer rests on."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import HTMLResponse, JSONResponse, Response

from chiasm.conversation import asked
from chiasm.explain import Explanation
from chiasm.explain import explain as explained
from chiasm.serve.chat_schema import Message, Question
from chiasm.serve.routes.chat import given, turns_of
from chiasm.serve.service import naming, service, unless_gone

router = APIRouter(tags=["explain"])


class ExplainRequest(Question):
    """A conversation as `/v1/chat/completions` takes it, and what is to be explained of its answer."""

    messages: Annotated[list[Message], Field(min_length=1)]
    target: str | None = None
    """The answer to explain; the model's own, where not given."""
    level: Literal["modality", "token"] = "token"
    """modality: what each input is worth; token: also which words, areas and stretches of it."""
    format: Literal["json", "html"] = "json"
    """html: a page of its own."""


@router.post("/v1/explain", response_model=None, summary="What an answer rests on")
async def explain(request: Request, body: ExplainRequest) -> Response:
    """Exact Shapley values of the inputs and, at level token, occlusion of their parts. Takes some hundred forward passes."""
    shared = service(request)
    run = shared.open_run(body.model)
    question = asked(run, turns_of(body.messages, shared.limits), task=body.task, inputs=given(run, body.inputs))

    def work() -> Explanation:
        breathe = shared.engine.breathe
        return explained(run, question.row, task=question.task.name, target=body.target, level=body.level, progress=breathe)

    found = await unless_gone(request, naming(question, shared.called(work)), shared.counts)
    if body.format == "html":
        return HTMLResponse(found.html())
    warnings = list(dict.fromkeys([*question.notes, *found.warnings]))
    return JSONResponse({"object": "explanation", "model": body.model, **found.to_json(), "warnings": warnings})
