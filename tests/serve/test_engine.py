"""The engine under many requests: bounded, patient with bad ones, and done when it is told to be."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from tiny_engine import parts, picture, tiny_run

from chiasm.serve.engine import Engine
from chiasm.serve.work import Busy, Failed, Finished, Stopped, Work
from chiasm.types import BadInput, ChiasmError


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(tiny_run("hybrid"), slots=4, waiting=16).start()
    asyncio.run(until(lambda: made.ready))  # the model is then free for the tests' own `predict`
    yield made
    made.stop()


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


async def answered(engine: Engine, *works: Work) -> list[Any]:
    """Finished, or the exception, for each."""

    async def one(work: Work) -> Finished:
        return await (await engine.submit(work)).result()

    return await asyncio.gather(*map(one, works), return_exceptions=True)


async def until(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.005)


def test_it_is_ready_after_a_forward(monkeypatch: pytest.MonkeyPatch):
    run = tiny_run("hybrid")
    passes, gate = [], threading.Event()
    forward = run.model.model.forward
    monkeypatch.setattr(run.model.model, "forward", lambda *a, **k: (gate.wait(30), passes.append(1), forward(*a, **k))[-1])
    engine = Engine(run).start()
    assert not engine.ready
    gate.set()
    asyncio.run(until(lambda: engine.ready))
    assert passes
    engine.stop()
    assert not engine.ready


def test_a_model_that_cannot_be_run_says_so(monkeypatch: pytest.MonkeyPatch):
    run = tiny_run("hybrid")
    monkeypatch.setattr(run.model.model, "forward", broken)
    engine = Engine(run).start()
    asyncio.run(until(lambda: engine.error))
    (found,) = asyncio.run(answered(engine, Work(parts(0))))
    assert isinstance(found, Stopped) and "no memory" in str(found) and not engine.ready
    engine.stop()


def broken(*_: Any, **__: Any) -> None:
    raise RuntimeError("no memory")


def test_answers_are_those_of_predict(engine: Engine):
    """Of both tasks, mixed; texts, labels and probabilities."""
    rows = [parts(i) for i in range(10)]
    works = [Work(row, task) for row in rows for task in ("answer", "choose")][:16]
    found = asyncio.run(answered(engine, *works))
    asyncio.run(until(lambda: engine.counters.finished == 16 and not engine.active))
    for work, result in zip(works, found, strict=True):
        (expected,) = engine.run.predict([work.parts], task=work.task)
        assert result.prediction.output == expected.output
        if work.task == "choose":
            assert result.prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-5)
            assert result.completion_tokens == 0 and result.finish_reason == "stop"
        else:
            assert 1 <= result.completion_tokens <= 6 and result.prompt_tokens > 0
    counters = engine.counters
    assert counters.requests == counters.finished == 16 and sum(counters.batch_sizes.values()) == counters.forwards
    assert sum(size * often for size, often in counters.batch_sizes.items()) == counters.rows
    assert counters.tokens == sum(result.completion_tokens for result in found) and max(counters.batch_sizes) > 1
    assert engine.waiting == engine.active == 0


def test_text_comes_in_pieces(engine: Engine):
    async def listen() -> tuple[list[str], Finished]:
        ticket = await engine.submit(Work(parts(0), "answer", max_new_tokens=20))
        pieces = [piece async for piece in ticket]
        return pieces, await ticket.result()

    pieces, result = asyncio.run(listen())
    assert len(pieces) > 1 and "".join(pieces) == result.prediction.output


def bad_works() -> list[tuple[Work, type[Exception], str]]:
    good = parts(0)
    return [
        (Work({**good, "image": b""}, "answer"), BadInput, "empty"),
        (Work({**good, "image": png(0)[:60]}, "answer"), BadInput, "image"),
        (Work({**good, "image": b"<html>no picture</html>"}, "answer"), BadInput, "html"),
        (Work({**good, "image": "/etc/passwd"}, "answer"), BadInput, "path"),
        (Work({**good, "audio": np.full(800, np.nan, np.float32)}, "answer"), BadInput, "audio"),
        (Work({}, "answer"), BadInput, "none of the inputs"),
        (Work({"question": "yes " * 400}, "answer"), BadInput, "longer than"),
        (Work({**good, "picture": png(0)}, "answer"), ChiasmError, "reads no 'picture'"),
        (Work(good, "anser"), ChiasmError, "did you mean"),
        (Work(good, "answer", temperature=float("nan")), ChiasmError, "temperature"),
        (Work(good, "answer", top_p=0.0), ChiasmError, "top_p"),
        (Work(good, "answer", top_k=-1), ChiasmError, "top_k"),
        (Work(good, "answer", max_new_tokens=0), ChiasmError, "max_new_tokens"),
    ]


def test_bad_inputs_leave_good_ones_alone(engine: Engine):
    """Each is refused by name; those that came with it get what they get alone."""
    expected = [p.output for p in engine.run.predict([parts(i) for i in range(3)], task="answer")]
    for work, kind, word in bad_works():
        first, refused, *others = asyncio.run(answered(engine, Work(parts(0), "answer"), work, *(Work(parts(i), "answer") for i in (1, 2))))
        assert isinstance(refused, kind) and word in str(refused).lower(), refused
        assert "\n" not in str(refused)
        assert [found.prediction.output for found in (first, *others)] == expected
    assert engine.ready and engine.waiting == 0


@pytest.mark.parametrize("task", ["answer", "choose"])
def test_a_forward_that_fails_fails_its_own(engine: Engine, monkeypatch: pytest.MonkeyPatch, task: str):
    """A row that breaks the model, in a batch with others, of either kind of task; then all is as before."""
    run = engine.run
    expected = [p.output for p in run.predict([parts(i) for i in range(4)], task=task)]
    encode, collate = type(run.model).encode, run.collate

    def fragile(model: Any, pool: Any) -> Any:
        if any((tensor == 77).any() for tensors in pool.values() for tensor in tensors.values()):
            raise RuntimeError("cannot take 77")
        return encode(model, pool)

    monkeypatch.setattr(type(run.model), "encode", fragile)
    monkeypatch.setattr(run, "collate", lambda task, rows: marked(collate(task, rows), rows), raising=False)
    poison = {**parts(0), "audio": np.full(800, 0.5, np.float32)}
    found = asyncio.run(answered(engine, *(Work(poison if i == 2 else parts(i), task) for i in range(4))))
    monkeypatch.undo()
    assert isinstance(found[2], Failed) and "cannot take 77" in str(found[2])
    assert [found[i].prediction.output for i in (0, 1, 3)] == [expected[i] for i in (0, 1, 3)]
    (again,) = asyncio.run(answered(engine, Work(parts(2), task)))
    assert again.prediction.output == expected[2]


def marked(step: Any, rows: Any) -> Any:
    """The pool of a step with the poison row has 77 in it."""
    if any(np.all(np.asarray(getattr(v, "samples", 0.0)) == 0.5) for row in rows for n, v in row.values.items() if n == "audio"):
        step.pool["audio"]["input_values"][..., 0] = 77
    return step


def test_nan_in_probabilities_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch):
    head = engine.run.model.heads["choose"]
    monkeypatch.setattr(head, "forward", lambda x: torch.full((len(x), 2), torch.nan))
    (found,) = asyncio.run(answered(engine, Work(parts(0), "choose")))
    assert isinstance(found, Failed) and "NaN" in str(found)


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch):
    run = tiny_run("hybrid")
    engine = Engine(run, slots=2, waiting=5)  # not started: nothing is taken away

    async def press() -> tuple[list[Any], list[int]]:
        highest: list[int] = []

        async def one(i: int) -> Any:
            highest.append(engine.waiting)
            return await engine.submit(Work(parts(i), "answer"))

        tickets = await asyncio.gather(*map(one, range(20)), return_exceptions=True)
        highest.append(engine.waiting)
        return tickets, highest

    async def calm(tickets: list[Any]) -> None:
        engine.start()
        for ticket in tickets:
            assert isinstance(await ticket.result(), Finished)
        assert isinstance(await (await engine.submit(Work(parts(0), "answer"))).result(), Finished)

    found, highest = asyncio.run(press())
    refused = [one for one in found if isinstance(one, Busy)]
    assert len(refused) == 15 == engine.counters.refused and max(highest) == 5
    assert all(type(busy.retry_after) is int and 1 <= busy.retry_after <= 60 for busy in refused)
    asyncio.run(calm([one for one in found if not isinstance(one, Exception)]))
    assert engine.waiting == 0
    engine.stop()


def test_cancelled_work_stops_within_a_step(engine: Engine):
    async def leave() -> tuple[int, int]:
        ticket = await engine.submit(Work(parts(0), "answer", max_new_tokens=40))
        async for _ in ticket:
            break
        before = engine.counters.tokens
        ticket.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ticket.result()
        await until(lambda: not engine.slots.rows)
        return before, engine.counters.tokens

    before, after = asyncio.run(leave())
    assert after - before <= 2  # the step that was in progress, and the count of the one before it
    assert engine.slots.free == 4


def test_cancelled_while_it_waits():
    engine = Engine(tiny_run("hybrid"), slots=2)

    async def leave() -> None:
        tickets = [await engine.submit(Work(parts(i), "answer")) for i in range(3)]
        tickets[1].cancel()
        engine.start()
        assert isinstance(await tickets[2].result(), Finished)
        await until(lambda: engine.counters.finished == 3)

    asyncio.run(leave())
    assert engine.waiting == engine.active == 0
    engine.stop()


def test_many_aborts_leave_nothing(engine: Engine):
    async def leave(count: int) -> None:
        for start in range(0, count, 8):
            tickets = [await engine.submit(Work(parts(0), "answer", max_new_tokens=30)) for _ in range(start, start + 8)]
            await asyncio.sleep(0.002)
            for ticket in tickets:
                ticket.cancel()
        await until(lambda: not (engine.active or engine.waiting))

    asyncio.run(leave(8))
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.take_snapshot()
    asyncio.run(leave(40))
    gc.collect()
    growth = sum(change.size_diff for change in tracemalloc.take_snapshot().compare_to(before, "filename"))
    tracemalloc.stop()
    assert growth < 300_000 and not engine.slots.rows


def test_calls_run_between_steps(engine: Engine):
    async def both() -> tuple[Any, Any, Any]:
        ticket = await engine.submit(Work(parts(0), "answer", max_new_tokens=20))
        name = await engine.call(lambda: threading.current_thread().name)
        error = (await asyncio.gather(engine.call(broken), return_exceptions=True))[0]
        return name, error, await ticket.result()

    name, error, result = asyncio.run(both())
    assert name == "chiasm-model" and "no memory" in str(error) and isinstance(result, Finished)
    assert engine.counters.calls == 2


def test_a_long_call_lets_the_others_in(engine: Engine):
    """What is asked while it runs is answered before it ends, with the same text; the call goes on where it was."""
    begun, until = threading.Event(), time.monotonic() + 60

    def long() -> bool:
        begun.set()
        while engine.counters.finished == finished and time.monotonic() < until:
            engine.breathe()
        return engine.counters.finished > finished

    async def both() -> tuple[Any, bool]:
        call = asyncio.ensure_future(engine.call(long))
        await asyncio.to_thread(begun.wait)
        result = await (await engine.submit(Work(parts(0), "answer", max_new_tokens=12))).result()
        return result, await call

    alone = asyncio.run(answered(engine, Work(parts(0), "answer", max_new_tokens=12)))[0]
    finished = engine.counters.finished
    result, let_in = asyncio.run(both())
    assert result.prediction.output == alone.prediction.output and let_in


def test_a_long_call_does_not_make_requests_look_slow(engine: Engine):
    async def long() -> None:
        await engine.call(lambda: time.sleep(1.0))

    asyncio.run(long())
    assert engine._pace.seconds < 0.5


def test_a_call_that_nobody_waits_for_ends(engine: Engine):
    passes = 0

    def endless() -> None:
        nonlocal passes
        while True:
            passes += 1
            engine.breathe()

    async def leave() -> None:
        call = asyncio.ensure_future(engine.call(endless))
        await until(lambda: passes > 3)
        call.cancel()
        await until(lambda: not engine.active)

    asyncio.run(leave())
    last = passes
    assert asyncio.run(answered(engine, Work(parts(0), "answer")))[0].prediction.output and passes == last


def test_who_is_refused_comes_back_the_later_the_more_there_are():
    engine = Engine(tiny_run("hybrid"), slots=1, waiting=2)
    engine._pace.note(10.0, 10)  # about a second for each

    async def refusals() -> list[int]:
        for i in range(2):
            await engine.submit(Work(parts(i), "answer"))
        found = await asyncio.gather(*(engine.submit(Work(parts(i), "answer")) for i in range(20)), return_exceptions=True)
        return [one.retry_after for one in found if isinstance(one, Busy)]

    seconds = asyncio.run(refusals())
    assert len(seconds) == 20 == engine.counters.refused
    assert seconds == sorted(seconds) and seconds[-1] >= seconds[0] + 10


def test_drain_finishes_what_was_accepted(engine: Engine):
    async def close() -> tuple[list[Any], Any, bool]:
        tickets = [await engine.submit(Work(parts(i), "answer", max_new_tokens=20)) for i in range(10)]
        draining = asyncio.create_task(asyncio.to_thread(engine.drain, 60))
        await until(lambda: engine._draining)
        late = (await asyncio.gather(engine.submit(Work(parts(0))), return_exceptions=True))[0]
        return [await ticket.result() for ticket in tickets], late, await draining

    found, late, done = asyncio.run(close())
    assert done and isinstance(late, Stopped) and all(isinstance(one, Finished) for one in found)


def test_stop_tells_who_waits():
    engine = Engine(tiny_run("hybrid"), slots=1).start()

    async def close() -> list[Any]:
        tickets = [await engine.submit(Work(parts(i), "answer", max_new_tokens=40)) for i in range(8)]
        await asyncio.to_thread(engine.stop)
        return await asyncio.gather(*(ticket.result() for ticket in tickets), return_exceptions=True)

    found = asyncio.run(close())
    assert any(isinstance(one, Stopped) for one in found) and all(isinstance(one, Stopped | Finished) for one in found)


def test_an_encoder_decoder_is_served_too():
    """Greedily as `predict`; sampled with a seed alike each time; to a stop string; cut by length."""
    run = tiny_run("early", "bart", tasks="answer")
    engine = Engine(run).start()
    rows = [parts(i) for i in (3, 4, 5)]
    sampled = [Work(rows[0], temperature=1.5, seed=seed) for seed in (1, 1)]
    *greedy, first, second = asyncio.run(answered(engine, *map(Work, rows), *sampled))
    expected = [p.output for p in run.predict(rows)]
    assert [found.prediction.output for found in greedy] == expected
    assert first.prediction.output == second.prediction.output
    assert all(0 < found.completion_tokens <= 6 for found in greedy)
    row, text = next((row, text) for row, text in zip(rows, expected, strict=True) if len(set(text.split())) > 1)
    word = next(word for word in text.split() if word != text.split()[0])
    (cut,) = asyncio.run(answered(engine, Work(row, stop=(word,))))
    assert cut.prediction.output == text[: text.index(word)].rstrip() and cut.finish_reason == "stop"
    engine.stop()
