"""What the routes share: the run and its engine once they are there, the limits, and the counters behind /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import secrets
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from starlette.requests import ClientDisconnect, Request

from chiasm.conversation import Asked
from chiasm.serve.errors import Refused, log, refusal
from chiasm.serve.limits import Limits
from chiasm.serve.work import Busy, Finished
from chiasm.types import BadInput

__all__ = ["BUCKETS", "Counts", "Service", "log", "naming", "service", "unless_gone"]

Result = TypeVar("Result")
State = Literal["loading", "ready", "draining", "failed"]
MOST_LENT = 10_000
_SECRET = secrets.token_bytes(32)
BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)  # seconds


@dataclass(slots=True)
class Counts:
    """What was answered, counted on the event loop alone."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter)  # (method, route, status) -> requests
    seconds: dict[str, list[float]] = field(default_factory=dict)  # route -> answers within each of BUCKETS, then all, then their sum
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finished: Counter[str] = field(default_factory=Counter)  # finish reason -> texts and answers
    cancelled: int = 0  # requests whose caller was gone before the answer

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        self.requests[method, route, status] += 1
        row = self.seconds.setdefault(route, [0.0] * (len(BUCKETS) + 2))
        for place, bucket in enumerate(BUCKETS):
            row[place] += seconds <= bucket
        row[-2] += 1
        row[-1] += seconds

    def answers(self, found: Sequence[Finished], usage: Mapping[str, int]) -> None:
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        self.finished.update(one.finish_reason for one in found)


@dataclass(slots=True)
class Service:
    """One run being served. `run`, `engine` and `index` are None while it loads."""

    folder: Path
    limits: Limits = field(default_factory=Limits)
    run: Any = None
    engine: Any = None
    index: Any = None
    draining: bool = False
    failed: str | None = None
    counts: Counts = field(default_factory=Counts)
    lent: OrderedDict[str, Path] = field(default_factory=OrderedDict)  # name in an address -> a file that a search found

    def lend(self, file: Path) -> str:
        """The name under which a caller may fetch a file; only the newest stay."""
        name = hmac.new(_SECRET, os.fsencode(file), "sha256").hexdigest()[:32] + file.suffix[:8]
        self.lent[name] = file
        self.lent.move_to_end(name)
        if len(self.lent) > MOST_LENT:
            self.lent.popitem(last=False)
        return name

    @property
    def state(self) -> State:
        if self.failed is not None:
            return "failed"
        if self.draining:
            return "draining"
        return "ready" if self.engine is not None and self.engine.ready else "loading"

    @property
    def name(self) -> str:
        return str(self.run.recipe.name)

    def open_run(self, model: str | None) -> Any:
        """The run, for a request that names it. Raises Refused: not there yet, or called otherwise."""
        if self.run is None or self.engine is None or not self.engine.ready:
            raise Refused(503, "the model is being loaded; try again", code="loading", headers={"retry-after": "2"})
        if model is not None and model != self.name:
            raise Refused(
                404, f"there is no model '{model[:80]}' here; this server has '{self.name}'", param="model", code="model_not_found"
            )
        return self.run

    def check_room(self) -> None:
        """Raises Refused where the engine would refuse one more request."""
        try:
            if self.engine is not None:
                self.engine.check_room()
        except Busy as error:
            raise refusal(error) from None

    async def called(self, function: Any) -> Any:
        """What `function` returns, run on the model's thread."""
        self.open_run(None)
        return await self.engine.call(function)


def service(request: Request) -> Service:
    """A route's service."""
    return request.app.state.service


async def naming(question: Asked, work: Awaitable[Result]) -> Result:
    """What `work` gives; where a piece of the conversation cannot be used, the error names that piece."""
    try:
        return await work
    except BadInput as error:
        raise Refused(400, str(error), param=question.where(error), code=error.reason) from None


async def unless_gone(request: Request, work: Awaitable[Result], counts: Counts) -> Result:
    """What `work` gives; ClientDisconnect, with `work` cancelled, where the caller goes away first."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            counts.cancelled += 1
            raise ClientDisconnect
        return task.result()
    finally:
        for other in (task, gone):
            other.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await other


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
