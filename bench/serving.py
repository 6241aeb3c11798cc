"""How a server holds under load: a closed loop of clients that ask in words, pictures and sounds; prints latencies, errors, throughput.

    python bench/serving.py RUN [--clients 32] [--seconds 60] [--port 8000] [--overload]

--overload then lets ten times as many clients come, who wait as long as a refusal tells them to, and after that as many as before.
Starts `chiasm serve RUN` itself, or asks the one that runs at --port. The first and the last sixth of the time are compared, which shows
whether it slows down. Every client waits for its answer before it asks again.
"""

from __future__ import annotations

import argparse
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
import threading
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
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        port = options.port or stack.enter_context(started(options.run))
        about = described(port)
        bodies = mixed(about)
        print(f"{about['id']}: {options.clients} clients, {options.seconds:g} s, {len(bodies)} kinds of request, {os.cpu_count()} cores")
        held = report(load(port, bodies, options.clients, options.seconds), options.seconds)
        if options.overload:
            overload(port, bodies, options.clients, options.seconds / 3, held)


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
def started(run: str) -> Iterator[int]:
    """A server for the run on a free port."""
    command = [sys.executable, "-m", "chiasm_cli", "serve", run, "--port", "0"]
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


def load(port: int, bodies: list[bytes], clients: int, seconds: float) -> list[tuple[float, float, int]]:
    """(when it was answered, how long that took, status) of each request after the warm-up."""
    found: list[tuple[float, float, int]] = []
    began = time.monotonic() + WARM_UP

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        turn = number
        while (now := time.monotonic()) < began + seconds:
            wait = 0
            try:
                connection.request("POST", "/v1/chat/completions", bodies[turn % len(bodies)], {"content-type": "application/json"})
                answer = connection.getresponse()
                status, wait = answer.status, int(answer.headers.get("retry-after", 0))
                answer.read()
            except OSError:
                status = 0
                connection.close()
            turn += 1
            done = time.monotonic()
            if now >= began:
                found.append((done - began, done - now, status))
            time.sleep(wait)
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


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
