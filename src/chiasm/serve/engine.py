"""The engine: one thread that runs the model, fed by a few that decode media and read prompts, asked from any event loop.

Between two forward steps it takes in what came in the meantime: a call, a micro-batch of rows of a task that does not write, texts for the
slots that are free. A long call lets the others in between two of its own passes. What waits is bounded; what cannot be used is refused
before it waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from threading import Condition, Lock, Thread
from typing import Any

import numpy as np

from chiasm.data.collate import Collator
from chiasm.serve.batches import Row, answer, failure
from chiasm.serve.settings import Settings
from chiasm.serve.slots import Slots
from chiasm.serve.work import Busy, Stopped, Ticket, Work
from chiasm.tasks.contrast import check_sides
from chiasm.types import ChiasmError, StepBatches

READERS = 2  # threads that decode media and read prompts
AT_ONCE = 32  # rows of a micro-batch
LONGEST_WAIT = 60  # seconds that Busy asks for at most
MOST_AWAY = 10_000  # refused requests that are remembered


@dataclass(slots=True)
class Counters:
    """What /metrics shows; they only grow."""

    requests: int = 0  # accepted
    finished: int = 0  # of these: answered, failed or cancelled
    refused: int = 0  # Busy
    forwards: int = 0  # of the model thread: micro-batches, prompts read, steps of all slots
    tokens: int = 0  # written
    rows: int = 0  # of all forwards together; by forwards: the mean batch size
    batch_sizes: dict[int, int] = field(default_factory=dict)  # rows of a forward -> how often
    calls: int = 0

    def forward(self, rows: int) -> None:
        self.forwards += 1
        self.rows += rows
        self.batch_sizes[rows] = self.batch_sizes.get(rows, 0) + 1


class Pace:
    """How long the model takes for a request: a mean over the last ones."""

    def __init__(self) -> None:
        self.busy, self.done = 0.1, 1.0

    @property
    def seconds(self) -> float:
        return self.busy / max(self.done, 1e-3)

    def note(self, seconds: float, finished: int) -> None:
        if finished:
            self.busy, self.done = 0.9 * self.busy, 0.9 * self.done
        self.busy, self.done = self.busy + seconds, self.done + finished


@dataclass(slots=True, eq=False)
class Call:
    """A function that runs on the model's thread."""

    function: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    left: bool = False  # whoever asked is gone
    passed: float = 0.0  # when its present pass began


class Engine:
    """`slots`: texts written at once; `waiting`: requests that may wait besides (being read, or read and not begun); `compiler`:
    torch.compile's backend for the step that writes a token of every text, which the warm-up then compiles; none if empty."""

    def __init__(self, run: Any, *, slots: int = 8, waiting: int = 32, compiler: str = ""):
        self.run, self.limit = run, waiting
        self.counters = Counters()
        self.ready = False  # after the warm-up
        self.error = ""  # why the warm-up failed, if it did
        self.slots = Slots(run.model, self._collate, slots, self.counters.forward, compiler=compiler)
        self.compiler = compiler
        self._rows: deque[Row] = deque()
        self._calls: deque[Call] = deque()
        self._call: Call | None = None  # that runs
        self._changed = Condition()
        self._away: deque[float] = deque(maxlen=MOST_AWAY)  # when those who were refused come back
        self._reserved = 0  # accepted, being read
        self._active = 0
        self._draining = self._stopping = False
        self._pace = Pace()
        self._reading = Lock()  # a tokenizer serves one at a time
        self._readers = ThreadPoolExecutor(READERS, "chiasm-reader")
        self._thread = Thread(target=self._serve, name="chiasm-model", daemon=True)

    # ---- for who asks

    @property
    def waiting(self) -> int:
        """Requests and calls that were accepted and not begun."""
        return self._reserved + len(self._rows) + len(self._calls)

    @property
    def active(self) -> int:
        """Requests that the model works on."""
        return self._active

    def check_room(self) -> None:
        """Raises Busy where one more request would have to be refused."""
        if self.waiting < self.limit:
            return
        self.counters.refused += 1
        now = time.monotonic()
        while self._away and self._away[0] < now:
            self._away.popleft()
        ahead = self.waiting + len(self._away)  # who was told to come back is ahead, as if the queue went on outside
        seconds = min(LONGEST_WAIT, max(1, math.ceil(ahead * self._pace.seconds)))
        self._away.append(now + seconds)
        raise Busy(seconds)

    def start(self) -> Engine:
        """Begin, with a warm-up; `ready` is True from then on. Work may be submitted at once."""
        self._thread.start()
        return self

    async def submit(self, work: Work) -> Ticket:
        """Accept a request; it waits for its turn. Raises Busy, Stopped, or ChiasmError (BadInput) for what cannot be used."""
        self._reserve()
        row = None
        try:
            row = await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)
        finally:
            with self._changed:
                self._reserved -= 1
                if row is not None and not self._stopping:
                    self._rows.append(row)
                    self.counters.requests += 1
                self._changed.notify_all()
        if self._stopping:
            raise Stopped("the server stopped before this request was begun")
        row.ticket.on_end(self._ended)
        return row.ticket

    async def call(self, function: Callable[[], Any]) -> Any:
        """What `function` returns, run on the model's thread between two steps; nothing else is read meanwhile. One that takes many passes
        calls `breathe` between them. Raises Busy, Stopped, and what it raises."""
        call = Call(function)
        self._reserve()
        with self._changed:
            self._reserved -= 1
            self._calls.append(call)
            self._changed.notify_all()
        try:
            return await asyncio.wrap_future(call.future)
        except asyncio.CancelledError:
            call.left = True
            raise

    def breathe(self, *_: Any) -> None:
        """For a call, between two of its passes: the others get as much of the model's time as the last pass took, if they need it.
        Raises Stopped where the call is no longer wanted."""
        call = self._call
        assert call is not None
        until = 2 * time.perf_counter() - call.passed
        self._reading.release()
        try:
            while not (self._stopping or call.left) and (left := until - time.perf_counter()) > 0:
                if not self._serve_once():
                    with self._changed:  # someone is being read, who could not be during the pass
                        if not self._changed.wait_for(lambda: self._rows or not self._reserved, left) or not self._rows:
                            break
        finally:
            self._reading.acquire()
        if self._stopping or call.left:
            raise Stopped("the server stopped before this call was done")
        call.passed = time.perf_counter()

    def drain(self, seconds: float) -> bool:
        """Take no more work and finish what was accepted; whether that was done in time."""
        self._draining = True
        until = time.monotonic() + seconds
        with self._changed:
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self.waiting or self._active), max(0.0, until - time.monotonic()))

    def stop(self) -> None:
        """End after the step in progress; what is not finished is told so."""
        with self._changed:
            self._draining = self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()
        self._readers.shutdown(cancel_futures=True)
        self.ready = False

    # ---- reading

    def _ended(self) -> None:
        with self._changed:
            self.counters.finished += 1

    def _reserve(self) -> None:
        with self._changed:
            if self._draining:
                raise Stopped(f"the model cannot be run: {self.error}" if self.error else "the server takes no more requests")
            self.check_room()
            self._reserved += 1

    def _read(self, work: Work) -> Row:
        """On a reader's thread: decode, find the task, read the prompt. Raises ChiasmError."""
        (opened,) = self.run.open([work.parts], root=None)
        task = self.run.task_for(opened.sample.parts, work.task)
        check_sides(task, opened.sample, self.run.tasks)
        settings = Settings.of(task, work) if task.writes else None
        tokens = self._prompt_tokens(self._collate(task, [opened]))
        slotted = settings is not None and self.slots.suit(settings)
        return Row(Ticket(), task, opened, tokens, settings, slotted)

    def _collate(self, task: Any, opened: Any) -> StepBatches:
        with self._reading:
            return self.run.collate(task, opened)

    @staticmethod
    def _prompt_tokens(step: StepBatches) -> int:
        inputs = step.batches[0].inputs
        lengths = inputs.get("prompt_lengths", inputs["attention_mask"].sum(1) if "attention_mask" in inputs else None)
        return 0 if lengths is None else int(lengths[0])

    # ---- the model's thread

    def _serve(self) -> None:
        try:
            self._warm_up()
            self.ready = True
        except Exception as error:  # noqa: BLE001 (whoever asks is told)
            self._draining, self.error = True, f"{type(error).__name__}: {error}"
        while self.ready and self._turn():
            pass
        self._abandon()

    def _turn(self) -> bool:
        """Wait for something to do, and do one round of it: a call, then `_serve_once`; False at the end."""
        with self._changed:
            self._changed.notify_all()  # drain may be waiting
            self._changed.wait_for(lambda: self._rows or self._calls or self._stopping or self.slots.rows)
            if self._stopping:
                return False
            call = self._calls.popleft() if self._calls else None
            self._active = len(self.slots.rows) + (call is not None)
        if call is not None:
            self._run_call(call)
        self._serve_once()
        return True

    def _serve_once(self) -> bool:
        """A micro-batch, texts for free slots and a step of all slots, each where there is one; whether there was any."""
        with self._changed:
            batch, texts = self._take()
            self._active = len(self.slots.rows) + len(texts) + len(batch) + (self._call is not None)
        if not (batch or texts or self.slots.rows):
            return False
        start, finished = time.perf_counter(), self.counters.finished
        try:
            if batch:
                self.counters.forward(len(batch))
                answer(self.run.model, self._collate, batch)
            if texts:
                self.slots.admit(texts)
            if self.slots.rows:
                self.slots.step()
        except Exception as error:  # noqa: BLE001 (of the engine's own making: whom it may concern is told, and the next are served)
            for row in (*batch, *texts, *self.slots.rows):
                row.ticket.finish(failure(error))
            self.slots.clear()
        self.counters.tokens = self.slots.tokens
        self._active = len(self.slots.rows) + (self._call is not None)
        self._pace.note(time.perf_counter() - start, self.counters.finished - finished)
        return True

    def _take(self) -> tuple[list[Row], list[Row]]:
        """(a micro-batch, texts for free slots) of what waits, first come first served; what nobody waits for any more is let go."""
        batch: list[Row] = []
        texts: list[Row] = []
        left: deque[Row] = deque()
        for row in self._rows:
            if not row.ticket.open:
                continue
            if row.slotted and len(texts) < self.slots.free:
                texts.append(row)
            elif not row.slotted and len(batch) < AT_ONCE and (not batch or row.kind == batch[0].kind):
                batch.append(row)
            else:
                left.append(row)
        self._rows = left
        return batch, texts

    def _run_call(self, call: Call) -> None:
        self.counters.calls += 1
        if not call.future.set_running_or_notify_cancel():
            return
        self._call, call.passed = call, time.perf_counter()
        try:
            with self._reading:
                found = call.function()
            call.future.set_result(found)
        except BaseException as error:  # noqa: BLE001 (it is the caller's)
            call.future.set_exception(error)
        finally:
            self._call = None

    def _warm_up(self) -> None:
        """One real forward of the first task: blank media, one word of text. Where the step is compiled, that too."""
        blank: dict[str, Any] = {
            "text": "a",
            "image": np.zeros((32, 32, 3), np.uint8),
            "audio": np.zeros(16_000, np.float32),
        }
        inputs = self.run.recipe.inputs
        parts = {name: blank[spec.modality] for name, spec in inputs.items() if spec.modality in blank}
        task = self.run.task_for(self.run.columns_of(parts))
        parts |= {side: blank["text"] for side in task.texts if task.view == "towers"}  # what is compared need not be an input
        opened = self.run.open([parts])
        with self._reading:
            step = Collator([task], self.run.processor, unlabelled=True, empty=True)(opened)
        for batch in step.to(self.run.model.device).batches:
            task.predict(self.run.model, batch, self.run.model.encode(step.pool))
        if self.compiler and self.slots.able and task.writes:
            self._compile(Work(parts, task.name, max_new_tokens=4, temperature=0.0))

    def _compile(self, work: Work) -> None:
        """Write texts alone and side by side, which are compiled apart; of several lengths, and without one input or another, so that the
        sizes are left open."""
        media = [name for name, value in work.parts.items() if not isinstance(value, str)]
        longer = {name: value if name in media else f"{value} {value}" for name, value in work.parts.items()}
        rows = [work.parts, longer, *({n: v for n, v in work.parts.items() if n != name} for name in media)]
        works = [replace(work, parts=parts) for parts in rows if parts]
        self.slots.count = lambda rows: None
        for group in (*([one] for one in works), works, works[::-1]):
            read = []
            for one in group[: self.slots.size]:
                with suppress(ChiasmError):  # the task cannot do without that input
                    read.append(self._read(one))
            self.slots.admit(read)
            while self.slots.rows:
                self.slots.step()
            for row in read:
                row.ticket.wait(0)  # raises what went wrong
        self.slots.compile_no_more()
        self.slots.tokens, self.slots.count = 0, self.counters.forward  # what nobody asked for is not counted

    def _abandon(self) -> None:
        """Tell whoever still waits that nothing comes."""
        with self._changed:
            for row in (*self._rows, *self.slots.rows):
                row.ticket.finish(Stopped("the server stopped before this request was answered"))
            for call in self._calls:
                with suppress(InvalidStateError):
                    call.future.set_exception(Stopped("the server stopped before this call was made"))
            self._rows.clear()
            self._calls.clear()
            self.slots.clear()
            self._active = 0
            self._changed.notify_all()
