"""Errors as OpenAI's clients expect them: {"error": {"message", "type", "param", "code"}}, whatever went wrong and wherever.

A message never holds a path of this machine, nor a long piece of what was sent (a picture in base64 would fill a log).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from chiasm.components import closest, did_you_mean
from chiasm.serve.work import Busy, Failed, Stopped
from chiasm.types import BadInput, ChiasmError

log = logging.getLogger("chiasm.serve")
TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
CODES = {
    400: "bad_request",
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    411: "length_required",
    413: "too_large",
    415: "not_json",
    429: "busy",
    500: "internal",
    503: "not_ready",
}
LONGEST = 600  # characters of a message
LONG_WORD = re.compile(r"[^\s]{101,}")
PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+[\w.+-]*")


class Refused(Exception):
    """A request that gets an error for an answer."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, headers: dict[str, str] | None = None
    ):
        super().__init__(message)
        self.status, self.param, self.code, self.headers = status, param, code, headers or {}


def body(status: int, message: str, *, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """What an error's body says."""
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": clean(message), "type": kind, "param": param, "code": code or CODES.get(status, "error")}}


def clean(message: str) -> str:
    """A message in one line, without long stretches of what was sent and without paths of this machine."""
    message = message.encode("utf-8", "replace").decode("utf-8")
    message = PATH.sub(_shown, " ".join(message.split()))
    message = LONG_WORD.sub(lambda found: f"{found[0][:40]}... ({len(found[0])} characters)", message)
    return message if len(message) <= LONGEST else message[: LONGEST - 3] + "..."


def _shown(path: re.Match[str]) -> str:
    """A route, or a word with a slash or two, as it is; what may be a path of this machine not."""
    return path[0] if path[0].count("/") < 3 or path[0].startswith("/v1/") else "..."


def refusal(error: Exception) -> Refused:
    """Any error as one that can be answered with."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, Busy):
        return Refused(429, str(error), headers={"retry-after": str(error.retry_after)})
    if isinstance(error, Stopped):
        return Refused(503, "the server is stopping", code="stopping", headers={"retry-after": "5", "connection": "close"})
    if isinstance(error, BadInput):
        return Refused(400, str(error), param=error.input or None, code=error.reason)
    if isinstance(error, ChiasmError):
        return Refused(400, str(error))
    if isinstance(error, RequestValidationError):
        return _invalid(error)
    if isinstance(error, HTTPException):
        headers = {key.lower(): value for key, value in (error.headers or {}).items()}
        return Refused(400 if error.status_code == 422 else error.status_code, str(error.detail), headers=headers)
    what = "the model failed on this request" if isinstance(error, Failed) else "internal error"
    return Refused(500, f"{what}; the server's log says more, beside the id in the header x-request-id")


def _invalid(error: RequestValidationError) -> Refused:
    """The first thing that is wrong with a body, a misspelt field before all, and how many more there are."""
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "unknown_field")
    first, known = problems[0], problems[0].get("ctx", {})
    place = ".".join(str(step) for step in first["loc"] if step != "body" and not str(step).startswith(("function-", "tagged-")))
    if first["type"] == "json_invalid":
        return Refused(400, f"the body is not JSON: {known.get('error', first['msg'])}", code="not_json")
    if first["type"] == "missing" and not place:
        return Refused(400, "the body is empty; send a JSON object", code="missing")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = _said(first["type"], known) or first["msg"].removeprefix("Value error, ")
    param = ".".join(filter(None, (place, known.get("field"))))
    return Refused(400, f"{place}: {message}{more}" if place else message + more, param=param or None, code=first["type"])


def _said(kind: str, known: Mapping[str, Any]) -> str:
    """What pydantic means; "" where its own words serve."""
    if kind == "union_tag_invalid":
        near = did_you_mean(str(known["tag"]), [tag.strip(" '") for tag in str(known["expected_tags"]).split(",")])
        return f"there is no type '{str(known['tag'])[:60]}'{near}"
    return {
        "missing": "is needed, and was not given",
        "model_type": "is not an object; write {...}",
        "model_attributes_type": "is not an object; write {...}",
        "dict_type": "is not an object; write {...}",
        "none_required": "is not supported; leave it out",
    }.get(kind, "")


def answer(error: Exception) -> JSONResponse:
    found = refusal(error)
    return JSONResponse(body(found.status, str(found), param=found.param, code=found.code), found.status, headers=found.headers)


async def handle(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI calls for an error that a route raised. What no layer outside of it will see again is logged here."""
    if isinstance(error, Failed):
        log.error("%s", error, exc_info=error)
    if isinstance(error, HTTPException) and error.detail in ("Not Found", "Method Not Allowed"):
        path = request.url.path[:80]
        if error.status_code == 405:
            error.detail = f"{path} takes {(error.headers or {}).get('Allow', 'another method')}, not {request.method}"
        else:
            near = closest(path, request.app.state.paths, cutoff=0.8)
            error.detail = f"there is no {path} here" + (f"; did you mean '{near}'?" if near else "; /docs lists what there is")
    return answer(error)
