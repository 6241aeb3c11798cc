"""`/health/live` and `/health/ready`: does the process answer, and would it answer a question."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse

from chiasm.serve.service import service

router = APIRouter(tags=["health"])


@router.get("/health/live", response_model=None, summary="Whether the process answers")
async def live() -> JSONResponse:
    """200 from the moment the port is open, also while the model is being loaded. Needs no API key."""
    return JSONResponse({"status": "live"})


@router.get("/health/ready", response_model=None, summary="Whether it would answer a question")
@router.get("/health", response_model=None, include_in_schema=False)
async def ready(request: Request) -> JSONResponse:
    """200 once a warm-up request has passed through the model; 503 before, and while the server stops."""
    state = service(request).state
    if state == "ready":
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": state}, 503, headers={"retry-after": "2"})
