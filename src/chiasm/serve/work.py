"""What passes between whoever asks and the thread that runs the model: a request, its result, and the ticket that is held in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal

from chiasm.types import Prediction

Reason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Work:
    """One row for one task. What is None is as the task itself has it (`generation` of a recipe; else greedy, 32 tokens)."""

    parts: Mapping[str, Any]  # a row of inputs as `Run.predict` takes it, media as bytes or arrays
    task: str | None = None  # None: the one that reads exactly the texts that are given
    max_new_tokens: int | None = None
    temperature: float | None = None  # 0: greedy
    top_p: float | None = None  # 0 < p <= 1
    top_k: int | None = None  # 0: all words
    seed: int | None = None  # of sampling; None: another one each time
    stop: tuple[str, ...] = ()  # the text ends ahead of the first of these


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a Work. The tokens are 0 where the task reads no text, or writes none; the end token counts as written."""

    prediction: Prediction
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: Reason = "stop"


class Busy(Exception):
    """As many are waiting as may wait; come back in `retry_after` seconds."""

    def __init__(self, retry_after: int):
        super().__init__(f"too many requests are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class Stopped(Exception):
    """The engine takes no more work: it was stopped, or finishes only what it has."""


class Failed(Exception):
    """The model failed on this request; not the user's mistake."""


class Ticket:
    """A request that was accepted: its text as it is written, and its result. The engine writes, one reader reads.

    Every method may be called from any thread; the asynchronous ones from any event loop.
    """

    def __init__(self) -> None:
        self._future: Future[Finished] = Future()
        self._pieces: list[str] = []
        self._lock = Lock()
        self._wake: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self.listened = False  # whether someone reads the text as it is written

    # ---- for who asked

    async def result(self) -> Finished:
        """What became of it. Raises Failed, BadInput, or CancelledError after `cancel`."""
        return await asyncio.shield(asyncio.wrap_future(self._future))

    def wait(self, timeout: float | None = None) -> Finished:
        """`result` for a caller without an event loop."""
        return self._future.result(timeout)

    def listen(self) -> Ticket:
        """Say that the text will be read as it is written; what was written before is not lost, it comes in one piece."""
        self.listened = True
        return self

    async def __aiter__(self) -> AsyncIterator[str]:
        """The text in pieces, as it is written; all of them together are the prediction's text. Raises what `result` raises."""
        self.listen()
        event, read = asyncio.Event(), 0
        with self._lock:
            self._wake = asyncio.get_running_loop(), event
        self._future.add_done_callback(lambda _: self._notify())
        while True:
            event.clear()
            done, pieces = self._future.done(), self._pieces
            while read < len(pieces):
                read += 1
                yield pieces[read - 1]
            if done:
                break
            await event.wait()
        await self.result()

    def cancel(self) -> None:
        """Nobody wants it any more: the model leaves it within one step."""
        self._future.cancel()

    # ---- for the engine

    @property
    def open(self) -> bool:
        """Whether someone still waits for it."""
        return not self._future.done()

    def on_end(self, function: Callable[[], None]) -> None:
        """Call `function` once when it is answered, failed or cancelled; now, if it is."""
        self._future.add_done_callback(lambda _: function())

    def write(self, piece: str) -> None:
        self._pieces.append(piece)
        self._notify()

    def finish(self, found: Finished | BaseException) -> None:
        """Hand over the result, or what went wrong; a ticket that was cancelled takes neither."""
        with suppress(InvalidStateError):
            if isinstance(found, BaseException):
                self._future.set_exception(found)
            else:
                self._future.set_result(found)

    def _notify(self) -> None:
        with self._lock:
            wake = self._wake
        if wake is not None:
            with suppress(RuntimeError):  # its event loop is closed: nobody reads any more
                wake[0].call_soon_threadsafe(wake[1].set)
