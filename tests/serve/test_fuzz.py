"""Thousands of requests that nobody would send on purpose: none breaks the server, each gets an answer in the known form."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import logging
import random
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from tiny_server import WORDS, Client, audio, clip, image, moving, png, running, text, video

ROUTES = [
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/classify",
    "/v1/search",
    "/v1/explain",
    "/v1/models",
    "/v1/models/tiny",
    "/v1/report",
    "/health/live",
    "/metrics",
    "/openapi.json",
    "/",
    "/page/index.html",
]
VERBS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "X" * 40]
ODD: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**63,
    -(2**63),
    1e308,
    0.5,
    "",
    "a",
    "\0",
    "\x1b[2J",
    "é" * 50,
    "a" * 5000,
    [],
    {},
    [[]],
    [None],
]
ODD += [
    {"a": 1},
    "../../etc/passwd",
    "data:image/png;base64,AAAA",
    "http://127.0.0.1/",
    "<image>",
    "</s><|endoftext|>",
    "{question}",
    "%s%n",
]
KEYS = [
    "model",
    "messages",
    "stream",
    "n",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "stop",
    "task",
    "inputs",
    "input",
    "query",
]
KEYS += ["labels", "k", "level", "stream_options", "encoding_format", "dimensions", "tools", "nonsense", "messages.0.role", ""]

MEDIA = [image(png(1)), audio(clip(1, "FLAC")), video(moving(1))]


def good_body(path: str, chance: random.Random) -> dict[str, Any]:
    """A request that the route can answer."""
    if path == "/v1/embeddings":
        return {"model": "tiny", "input": [chance.choice(WORDS), copy.deepcopy(MEDIA[0])]}
    if path == "/v1/classify":
        return {"model": "tiny", "input": copy.deepcopy(MEDIA[0]), "labels": chance.choice([None, ["yes", "no"]])}
    if path == "/v1/search":
        return {"model": "tiny", "query": chance.choice(WORDS), "k": 3}
    content = [text(chance.choice(WORDS[:3])), *copy.deepcopy(chance.sample(MEDIA, chance.randint(0, 2)))]
    messages = [{"role": "user", "content": chance.choice([WORDS[0], content])}]
    if path == "/v1/explain":
        return {"model": "tiny", "messages": messages, "level": "modality"}
    return {"model": "tiny", "messages": messages, "max_tokens": 2, "stream": chance.random() < 0.2}


def paths_in(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The place of everything in a JSON value."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from paths_in(inner, (*at, key))


def twisted(body: Any, chance: random.Random) -> Any:
    """A JSON value with some of its values replaced, removed, repeated or added."""
    for _ in range(chance.randint(1, 3)):
        place = chance.choice(list(paths_in(body)))
        if not place:
            if isinstance(body, dict):
                body = {**body, chance.choice(KEYS): copy.deepcopy(chance.choice(ODD))}
            continue
        holder = body
        for key in place[:-1]:
            holder = holder[key]
        how = chance.random()
        if how < 0.6:
            holder[place[-1]] = copy.deepcopy(chance.choice(ODD))
        elif how < 0.8:
            del holder[place[-1]]
        elif isinstance(holder, list):
            holder.insert(place[-1], copy.deepcopy(holder[place[-1]]))
        else:
            holder[chance.choice(KEYS)] = copy.deepcopy(holder[place[-1]])
    return body


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them changed, cut out or repeated."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 8)):
        place = chance.randrange(len(found)) if found else 0
        how = chance.random()
        if how < 0.5 and found:
            found[place] = chance.randrange(256)
        elif how < 0.75:
            del found[place : place + chance.randint(1, 20)]
        else:
            found[place:place] = found[place : place + chance.randint(1, 20)] or b"{"
    return bytes(found)


def ask(client: Client, connection: http.client.HTTPConnection, chance: random.Random) -> tuple[int, bytes]:
    """One odd request over a connection that is kept."""
    path = chance.choice(ROUTES) if chance.random() < 0.5 else ROUTES[0]
    body = json.dumps(twisted(good_body(path, chance), chance) if chance.random() < 0.9 else good_body(path, chance)).encode()
    if chance.random() < 0.3:
        body = mutated(body, chance)
    verb = ("POST" if path in ROUTES[:5] else "GET") if chance.random() < 0.9 else chance.choice(VERBS)
    if chance.random() < 0.1:
        path += chance.choice(["/", "?a=b&c", "/..%2f..", "%00", "//", ";a", "/" + "a" * 300])
    headers = {"content-type": "application/json" if chance.random() < 0.95 else chance.choice(["text/plain", "", "a/b;c=d"])}
    if chance.random() < 0.05:
        headers[chance.choice(["authorization", "x-request-id", "accept", "range", "expect", "upgrade"])] = chance.choice(
            ["", "a" * 200, "bytes=0-", "100-continue"]
        )
    connection.request(verb, path, body, headers)
    found = connection.getresponse()
    return found.status, found.read()


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_odd_requests(run, count, caplog):
    caplog.set_level(logging.WARNING)
    chance = random.Random(count)
    statuses: dict[int, int] = {}
    with running(run) as client, contextlib.closing(http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)) as connection:
        alone = client.chat(WORDS[0], max_tokens=2).text
        for number in range(count):
            try:
                status, body = ask(client, connection, chance)
            except (http.client.HTTPException, ConnectionError):
                connection.close()  # the server ends connections whose body it does not read
                continue
            statuses[status] = statuses.get(status, 0) + 1
            assert status < 500 or (status == 503 and b"retrieval" in body), body
            if status >= 400 and body:
                error = json.loads(body)["error"]
                assert set(error) == {"message", "type", "param", "code"} and len(error["message"]) <= 600
            if number % 100 == 99:
                assert client.chat(WORDS[0], max_tokens=2).text == alone
    assert statuses[200] > count / 20 and statuses[400] > count / 4, statuses
    assert "Traceback" not in caplog.text and not [r for r in caplog.records if r.levelno >= logging.ERROR]


def said(port: int, data: bytes) -> bytes:
    """What comes first of the answer to some bytes; nothing where the server closes at once."""
    with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=30)) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(65536)
    return b""


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_odd_bytes(run, count, caplog):
    """What is hardly HTTP: request lines, headers and lengths with bytes changed."""
    chance = random.Random(7)
    body = json.dumps(good_body(ROUTES[0], random.Random(1))).encode()
    whole = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    with running(run, deadline=0.3) as client:
        for number in range(count):
            found = said(client.port, mutated(whole, chance) + body)
            assert not found or 200 <= int(found.split()[1]) < 500, found
            if number % 50 == 49:
                assert client.chat(WORDS[0], max_tokens=2).status == 200
    assert "Traceback" not in caplog.text
