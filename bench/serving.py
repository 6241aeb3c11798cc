"""How a server holds under load: a closed loop of clients that ask in words, pictures and sounds; prints latencies, errors, throughput.

    python bench/serving.py RUN [--clients 32] [--seconds 60] [--port 8000] [--overload] [--silent 500] [--compile]

--overload then lets ten times as many clients come, who wait as long as a refusal tells them to, and after that as many as before.
--silent then opens connections that say nothing beside the clients, and new ones as the server closes them.
Starts `chiasm serve RUN` itself, or asks the one that runs at --port. The first and the last sixth of the time are compared, which shows
whether it slows down. Every client waits for its answer before it asks again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import http.client
import io
import json
import math
import os
import statistics
import struct
import subprocess
import sys
import time
import wave
import zlib
from collections.abc import Iterator
from typing import Any

WARM_UP = 5.0  # seconds before counting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--port", type=int, default=0, help="of a server that runs already")
    parser.add_argument("--overload", action="store_true", help="then ten times as many clients, and as many as before again")
    parser.add_argument("--silent", type=int, default=0, help="connections that say nothing, beside the clients")
    parser.add_argument("--compile", action="store_true", help="start the server with --compile")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        port = options.port or stack.enter_context(started(options.run, *(["--compile"] if options.compile else [])))
        about = described(port)
        bodies = mixed(about)
        print(f"{about['id']}: {options.clients} clients, {options.seconds:g} s, {len(bodies)} kinds of request, {os.cpu_count()} cores")
        held = report(load(port, bodies, options.clients, options.seconds), options.seconds)
        if options.overload:
            overload(port, bodies, options.clients, options.seconds / 3, held)
        if options.silent:
            print(f"{options.silent} connections that say nothing beside {options.clients} clients:")
            found = load(port, bodies, options.clients, options.seconds, silent=options.silent)
            print(f"p99 {report(found, options.seconds) / held:.1f} times that without them")


def overload(port: int, bodies: list[bytes], clients: int, seconds: float, held: float) -> None:
    """Ten times as many clients, and then as many as before again; `held` is the 99th percentile that they had."""
    print(f"{10 * clients} clients:")
    found = load(port, bodies, 10 * clients, seconds)
    refused = [duration for _, duration, status in found if status == 429]
    ratio = report([one for one in found if one[2] != 429], seconds) / held
    print(f"p99 of those admitted {ratio:.1f} times that of {clients} clients; {len(refused)} refused", end="")
    print(f", in {1000 * statistics.median(refused):.0f} ms (median)" if refused else "")
    print(f"{clients} clients again:")
    print(f"p99 {report(load(port, bodies, clients, seconds), seconds) / held:.1f} times that of before")


@contextlib.contextmanager
def started(run: str, *more: str) -> Iterator[int]:
    """A server for the run on a free port."""
    command = [sys.executable, "-m", "chiasm_cli", "serve", run, "--port", "0", *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout or ():
                if line.startswith("serving"):
                    yield int(line.split(" at ")[1].split("/v1")[0].rpartition(":")[2])
                    break
        finally:
            server.terminate()


def described(port: int) -> dict[str, Any]:
    """What the server says of its run."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
        connection.request("GET", "/v1/models")
        return json.load(connection.getresponse())["data"][0]


def mixed(about: dict[str, Any]) -> list[bytes]:
    """Requests with and without each kind of input that the run reads."""
    words = [{"type": "text", "text": "what is in the picture ?"}] if about["texts"] else []
    picture = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded(png())}"}}] if "image" in about["media"] else []
    sound = [{"type": "input_audio", "input_audio": {"data": encoded(wav()), "format": "wav"}}] if "audio" in about["media"] else []
    kinds = [[*words, *picture, *sound], *([[*words, *picture], [*words, *sound], words] if words else [])]
    messages = [[{"role": "user", "content": content}] for content in kinds if content]
    return [json.dumps({"model": about["id"], "messages": message}).encode() for message in messages]


def load(port: int, bodies: list[bytes], clients: int, seconds: float, *, silent: int = 0) -> list[tuple[float, float, int]]:
    """(when it was answered, how long that took, status) of each request after the warm-up."""
    return asyncio.run(all_of(port, [request(body) for body in bodies], clients, seconds, silent))


async def all_of(port: int, requests: list[bytes], clients: int, seconds: float, silent: int) -> list[tuple[float, float, int]]:
    found: list[tuple[float, float, int]] = []
    began = time.monotonic() + WARM_UP
    quiet = [asyncio.ensure_future(say_nothing(port, number)) for number in range(silent)]
    await asyncio.gather(*(client(port, number, requests, (began, began + seconds), found) for number in range(clients)))
    for task in quiet:
        task.cancel()
    return found


async def say_nothing(port: int, number: int) -> None:
    await asyncio.sleep(number * 0.005)
    while True:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await reader.read()  # until the server has had enough
        writer.close()


async def client(port: int, number: int, requests: list[bytes], span: tuple[float, float], found: list[tuple[float, float, int]]) -> None:
    """Asks one request after the other; where it is refused, it waits as long as it is told to."""
    began, ends = span
    loop, line, turn = asyncio.get_running_loop(), None, number
    await asyncio.sleep(number * 0.001)  # they do not all come in the same moment
    while (now := time.monotonic()) < ends:
        if line is None or line.closed:
            _, line = await loop.create_connection(Line, "127.0.0.1", port)
        status, wait = await line.ask(requests[turn % len(requests)])
        turn += 1
        done = time.monotonic()
        if now >= began:
            found.append((done - began, done - now, status))
        await asyncio.sleep(wait)
    if line is not None:
        line.transport.close()


class Line(asyncio.Protocol):
    """A connection that asks, and reads no more of an answer than its status and how long to wait: the machine is the server's."""

    def connection_made(self, transport: Any) -> None:
        self.transport, self.closed, self.held = transport, False, b""

    def ask(self, data: bytes) -> asyncio.Future[tuple[int, int]]:
        """(status, seconds to wait); status 0 where the connection ends."""
        self.answer: asyncio.Future[tuple[int, int]] = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self.held += data
        head, end, body = self.held.partition(b"\r\n\r\n")
        headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if end and len(body) >= int(headers[b"content-length"]):
            self.held = b""
            self.closed = headers.get(b"connection") == b"close"
            self.answer.set_result((int(head.split()[1]), int(headers.get(b"retry-after", 0))))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if not self.answer.done():
            self.answer.set_result((0, 0))


def request(body: bytes) -> bytes:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def report(found: list[tuple[float, float, int]], seconds: float) -> float:
    """Print the figures; returns the 99th percentile in seconds."""
    took = sorted(duration for _, duration, status in found if status == 200)
    errors = sum(status != 200 for _, _, status in found)
    if len(took) < 100:
        sys.exit(f"only {len(took)} answers ({errors} errors): too few to say anything")
    cuts = statistics.quantiles(took, n=100)
    first, last = (sum(low <= at < low + seconds / 6 for at, _, _ in found) for low in (0.0, seconds * 5 / 6))
    print(f"answers {len(took)}, errors {errors}, throughput {len(took) / seconds:.1f}/s")
    print(f"p50 {1000 * cuts[49]:.0f} ms, p99 {1000 * cuts[98]:.0f} ms, p99/p50 {cuts[98] / cuts[49]:.1f}")
    print(f"throughput of the last sixth against the first: {100 * (last / max(1, first) - 1):+.1f} %")
    return cuts[98]


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(size: int = 64) -> bytes:
    """A picture of many colours, written without a library."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes((x * 7 + y * 13 + c * 40) % 256 for x in range(size) for c in range(3)) for y in range(size))
    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def wav(seconds: float = 1.0, rate: int = 8000) -> bytes:
    """A tone."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"".join(struct.pack("<h", int(9000 * math.sin(i / 4))) for i in range(int(rate * seconds))))
    return file.getvalue()


if __name__ == "__main__":
    main()
