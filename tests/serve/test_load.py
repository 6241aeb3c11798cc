"""Many at once, more than fit, those who leave, those who dawdle, and those whose input is poison: the others do not notice."""

from __future__ import annotations

import json
import logging
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_server import WORDS, Client, audio, clip, image, png, running, slowed, wait_for

LONG = 40  # tokens


def payload(stream: bool, words: str = WORDS[0], tokens: int = LONG) -> bytes:
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": words}], "stream": stream, "max_tokens": tokens}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def opened(client: Client, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", client.port), timeout=60)
    connection.sendall(data)
    return connection


def resident() -> float:
    """Megabytes of memory that this process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


# ---- more than fit


def test_overload_is_refused_at_once_and_passes(run):
    with running(run, slots=2, waiting=4) as client, slowed(run, 0.02), ThreadPoolExecutor(40) as pool:
        engine, longest, over = client.service.engine, 0, threading.Event()

        def watch() -> None:
            nonlocal longest
            while not over.is_set():
                longest = max(longest, engine.waiting)
                time.sleep(0.001)

        watcher = threading.Thread(target=watch)
        watcher.start()
        found = list(pool.map(lambda number: client.chat(WORDS[number % 3], max_tokens=8), range(60)))
        over.set()
        watcher.join()
        assert {one.status for one in found} == {200, 429}
        for one in found:
            if one.status == 429:
                assert int(one.headers["retry-after"]) >= 1 and one.error["type"] == "rate_limit_error"
        assert longest <= 4
        wait_for(lambda: not engine.waiting and not engine.active)
        assert client.chat(WORDS[0]).status == 200
        shown = client.get("/metrics").body.decode()
        assert f"chiasm_engine_refused_total {sum(one.status == 429 for one in found)}\n" in shown


def test_where_no_more_fit_nothing_is_parsed(run):
    """A body that would be refused for what is in it is refused for want of room; a large one is not even read."""
    with running(run, slots=1, waiting=1) as client, slowed(run, 0.05), ThreadPoolExecutor(2) as pool:
        engine, full = client.service.engine, []
        for there in (lambda: engine.active and not engine.waiting, lambda: engine.waiting == 1):
            full.append(pool.submit(client.chat, WORDS[0], max_tokens=LONG))
            wait_for(there)
        found = client.post("/v1/chat/completions", b"{nonsense")
        assert found.status == 429 and int(found.headers["retry-after"]) >= 1 and "connection" not in found.headers
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n"
        answer = closing(opened(client, head))
        assert b"HTTP/1.1 429" in answer and b"connection: close" in answer and b"retry-after" in answer
        assert client.get("/v1/models").status == 200
        shown = client.get("/metrics").body.decode()
        assert 'chiasm_http_requests_total{method="POST",route="/v1/chat/completions",status="429"} 2\n' in shown
        assert [one.result().status for one in full] == [200, 200]
        assert client.post("/v1/chat/completions", b"{nonsense").status == 400


# ---- those who leave


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_stops_the_work(run, stream, caplog):
    with running(run) as client, slowed(run, 0.03) as steps:
        engine = client.service.engine
        connection = opened(client, payload(stream))
        if stream:
            assert b"data:" in connection.recv(65536) + connection.recv(65536)
        wait_for(lambda: len(steps) >= 3)
        connection.close()
        wait_for(lambda: not engine.active and not engine.waiting)
        assert len(steps) < LONG - 5
        assert client.service.counts.cancelled == 1
        assert client.chat(WORDS[0], max_tokens=1).status == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def left_at_once(client: Client, times: int) -> None:
    for number in range(times):
        connection = opened(client, payload(number % 2 == 0, WORDS[number % 3]))
        if number % 3 == 0:
            connection.recv(10)
        connection.close()
        if number % 20 == 0:
            wait_for(lambda: client.service.engine.waiting < 30)
    wait_for(lambda: not client.service.engine.active and not client.service.engine.waiting)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("times", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_leaving_leaves_nothing_behind(run, times, caplog):
    with running(run) as client:
        left_at_once(client, 40)
        before = resident()
        left_at_once(client, times)
        assert resident() - before <= 10
        assert client.chat(WORDS[0]).status == 200
        wait_for(lambda: len(client.server.server_state.connections) == 0)
    assert "Traceback" not in caplog.text


# ---- those who dawdle


def closing(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    found = b""
    while piece := connection.recv(65536):
        found += piece
    connection.close()
    return found


@pytest.mark.parametrize("sockets", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_slow_requests_are_let_go(run, sockets):
    head, _, body = payload(False).partition(b"\r\n\r\n")
    with running(run, deadline=0.5 if sockets < 100 else 3.0) as client:
        silent = [opened(client, b"") for _ in range(sockets)]
        slow_head = opened(client, head[:20])
        slow_body = opened(client, head + b"\r\n\r\n" + body[:5])
        second = opened(client, payload(False, tokens=1))
        assert b"200 OK" in second.recv(65536)
        second.sendall(head[:30])  # a second request on the same connection, which never ends
        assert client.chat(WORDS[0]).status == 200
        for connection in (*silent, slow_head, slow_body, second):
            found = closing(connection)
            assert b"HTTP/1.1 408" in found and json.loads(found[found.rindex(b"\r\n\r\n") + 4 :])["error"]["code"] == "too_slow"


def drip(connection: socket.socket, data: bytes) -> None:
    """A byte every now and then; returns where nobody ends it."""
    for byte in data[:200]:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_a_byte_at_a_time_is_too_slow_but_a_steady_upload_is_not(run):
    with running(run, deadline=0.5) as client:
        dripping = opened(client, b"")
        with pytest.raises(OSError, match=r"."):
            drip(dripping, payload(False))
        dripping.close()
        padded = json.dumps(
            {"model": "tiny", "messages": [{"role": "user", "content": WORDS[0]}], "metadata": {"a": "b" * 200_000}}
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(padded)}\r\n\r\n"
        steady = opened(client, head.encode())
        for place in range(0, len(padded), 20_000):
            steady.sendall(padded[place : place + 20_000])
            time.sleep(0.1)  # a second in all, twice the deadline
        assert b"200 OK" in steady.recv(65536)
        steady.close()


# ---- those whose input breaks the model (that of others: test_poison.py)


def test_a_row_that_breaks_the_model_breaks_alone(run, monkeypatch):
    """Whatever the model throws at one row of a batch, the others are answered."""
    encode = type(run.model).encode

    def breaks(self: Any, pool: Any) -> Any:
        if "audio" in pool:
            raise FloatingPointError("poison")
        return encode(self, pool)

    with running(run) as client:
        alone = client.chat(WORDS[0], image(png(1))).text
        monkeypatch.setattr(type(run.model), "encode", breaks)
        with ThreadPoolExecutor(6) as pool:
            sound = [pool.submit(client.chat, WORDS[0], audio(clip(9))) for _ in range(3)]
            seen = [pool.submit(client.chat, WORDS[0], image(png(1))) for _ in range(3)]
            assert {one.result().status for one in sound} == {500}
            assert [one.result().text for one in seen] == [alone] * 3


# ---- what is remembered of one picture is never another's


def pictures() -> list[bytes]:
    """Pictures that a careless key would take for one another."""
    import io

    import numpy as np
    from PIL import Image

    ramp = np.arange(30 * 150, dtype=np.uint32).astype(np.uint8)
    wide, tall = Image.fromarray(ramp.reshape(30, 150)), Image.fromarray(ramp.reshape(150, 30))
    colours = np.random.default_rng(0).integers(0, 255, (24, 24, 4), dtype=np.uint8)
    clear, other = colours.copy(), colours.copy()
    clear[..., 3], other[..., 3] = 255, 40
    made = [wide, tall, wide.convert("RGB").rotate(180), Image.fromarray(clear), Image.fromarray(other), Image.fromarray(colours[..., :3])]
    found = []
    for one in made:
        file = io.BytesIO()
        one.save(file, "PNG")
        found.append(file.getvalue())
    return found


def test_pictures_that_are_nearly_alike_are_not_mixed_up(run):
    made = pictures()
    wanted = [run.predict([{"image": one, "question": WORDS[0]}], task="kind")[0].probabilities["yes"] for one in made]
    with running(run) as client, ThreadPoolExecutor(6) as pool:
        for _ in range(3):
            found = list(pool.map(lambda one: client.chat(WORDS[0], image(one), task="kind").json["chiasm"]["probabilities"]["yes"], made))
            assert found == pytest.approx(wanted, abs=1e-5)
    assert min(abs(a - b) for i, a in enumerate(wanted[:3]) for b in wanted[:i]) > 1e-4
