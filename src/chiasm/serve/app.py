"""The ASGI application: the routes, and around them the layers that every request passes."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from chiasm.serve import errors, routes
from chiasm.serve.limits import App, Guarded, Identified, Limited, Scope
from chiasm.serve.service import Service, log
from chiasm.serve.work import Busy, Failed, Stopped
from chiasm.types import ChiasmError

GONE = 499  # the caller left; nobody reads the answer
ABOUT = "A multimodal model behind an HTTP API in OpenAI's form. Pictures, sounds and videos come in the request; no address is fetched."


def make_app(shared: Service, *, keys: Sequence[bytes] = ()) -> App:
    """The application that serves `shared.run`, which may come later. `keys`: one of them is asked for; none: nobody is."""
    inner = make_routes(shared)

    def count(scope: Scope, status: int, seconds: float) -> None:
        plain = scope["path"] if scope["path"] in inner.state.paths else "other"  # of what was refused before it met its route
        shared.counts.request(method_of(scope), getattr(scope.get("route"), "path", plain), status, seconds)

    def report(name: str, error: BaseException) -> None:
        log.error("request %s failed: %s: %s", name, type(error).__name__, errors.clean(str(error)), exc_info=error)

    return Identified(Guarded(Limited(inner, limits=shared.limits, check_room=shared.check_room), keys=keys), count=count, log=report)


def make_routes(shared: Service) -> FastAPI:
    """The routes alone, each module of `serve.routes` with a `router`."""
    app = FastAPI(title="Chiasm", description=ABOUT, version="1", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.state.service, app.state.paths = shared, set()
    for module in sorted(found.name for found in pkgutil.iter_modules(routes.__path__)):
        router = importlib.import_module(f"{routes.__name__}.{module}").router
        app.include_router(router)
        app.state.paths |= {route.path for route in router.routes}
    handlers: list[Any] = [errors.Refused, ChiasmError, Busy, Stopped, Failed, RequestValidationError, HTTPException, Exception]
    for kind in handlers:
        app.add_exception_handler(kind, errors.handle)
    app.add_exception_handler(ClientDisconnect, gone)
    return app


async def gone(request: Request, error: Exception) -> Response:
    return Response(status_code=GONE)


def method_of(scope: Scope) -> str:
    """A request's method, as far as it is one that is known: what is counted must not grow with what strangers send."""
    return scope["method"] if scope["method"] in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS") else "other"
