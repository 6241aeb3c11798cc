"""What a request may be: sizes, shapes, numbers and addresses. Everything else is an error in OpenAI's form, and costs little."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import struct
import sys
import threading
import zlib
from pathlib import Path

import pytest
from tiny_server import WORDS, audio, clip, image, png, running, text, uri, video

from chiasm.serve.limits import Limits

SMALL = Limits(body=256 << 10)
ADDRESSES = [
    "http://127.0.0.1/a.png",
    "https://example.org/a.png",
    "HTTP://[::1]/a.png",
    "ftp://example.org/a.png",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:/etc/passwd",
    "/etc/passwd",
    "../../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "\\\\host\\share\\a.png",
    "//host/share/a.png",
    "/etc/passwd\0.png",
    "data:image/png,plain",
    "data:;base64",
    "data:image/svg+xml;utf8,<svg/>",
    "gopher://127.0.0.1:6379/_FLUSHALL",
    "",
]


def head(port: int, lines: list[str]) -> socket.socket:
    """A connection on which these lines were sent."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def answered(connection: socket.socket) -> tuple[int, bytes]:
    """(status, body) of what comes back until the other side closes."""
    found = b""
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass  # it closed with some of what was sent unread, as it should
    connection.close()
    first, _, rest = found.partition(b"\r\n\r\n")
    return int(first.split()[1]) if first else 0, rest


# ---- size and shape of a body


def post_head(length: str) -> list[str]:
    return ["POST /v1/chat/completions HTTP/1.1", "host: a", "content-type: application/json", length]


def test_a_giant_body_is_refused_by_its_header(run):
    with running(run, limits=SMALL) as client:
        status, body = answered(head(client.port, post_head("content-length: 10000000000")))
        assert status == 413 and json.loads(body)["error"]["code"] == "too_large"
        assert client.get("/health/live").status == 200


def test_a_body_without_end_is_read_as_far_as_the_limit(run):
    with running(run, limits=SMALL) as client:
        connection = head(client.port, post_head("transfer-encoding: chunked"))
        sent, piece = 0, b"x" * 1000
        try:
            while sent < 50 << 20:
                connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
                sent += len(piece)
        except OSError:
            pass  # the server closed
        assert sent < SMALL.body + (16 << 20)  # what the two kernels hold back included
        status, body = answered(connection)
        assert status in (413, 0) and (not body or json.loads(body)["error"]["code"] == "too_large")
        assert client.service.counts.requests["POST", "/v1/chat/completions", 413] == 1


def test_a_million_tiny_chunks(run):
    with running(run, limits=Limits(body=32 << 10)) as client:
        connection = head(client.port, post_head("transfer-encoding: chunked"))
        threading.Thread(target=lambda: _send_all(connection, b"1\r\n[\r\n" * 1_000_000), daemon=True).start()
        assert answered(connection)[0] in (413, 400, 0)
        assert client.chat(WORDS[0]).status == 200


def _send_all(connection: socket.socket, data: bytes) -> None:
    try:
        connection.sendall(data)
    except OSError:
        return


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_what_is_refused(run):
    def resident() -> int:
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1]) >> 10

    with running(run, limits=Limits(body=4 << 20)) as client:
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "a" * (6 << 20)}]}).encode()
        client.post("/v1/chat/completions", body[: 1 << 20])
        before = resident()
        for _ in range(10):
            connection = head(client.port, post_head("transfer-encoding: chunked"))
            _send_all(connection, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
            assert answered(connection)[0] in (413, 0)
        assert resident() - before <= 32


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"a":' * 64 + b"1" + b"}" * 64, "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b"{" + b",".join(b'"k%d":1' % i for i in range(10_000)) + b"}", "too_many"),
        (b"[" + b"1," * 400_000 + b"1]", "too_many"),
        (b'{"model": NaN}', "not_json"),
        (b'{"temperature": -Infinity}', "not_json"),
        (b'{"model": "tiny"', "not_json"),
        (b'{"model": "tin', "not_json"),
        (b'"' + b'\\"' * 50_000, "not_json"),
        (b"", "missing"),
        (b"null", None),
        (b"[]", None),
        (b"3", None),
        (b"\xff\xfe{\x00}\x00", "not_json"),
        (b'{"model": "\xff"}', "not_json"),
        ('{"model": "tiny"}'.encode("utf-16-le"), "not_json"),
        (b'{"model": "\\ud800", "messages": []}', "not_json"),
        (b"9" * 5000, None),
        (b'{"model": "tiny", "messages": [], "messages": 3}', None),
    ],
)
def test_what_is_no_json_or_costs_much_to_parse(client, body, code):
    found = client.post("/v1/chat/completions", body)
    assert found.status == 400 and (code is None or found.error["code"] == code), found


def test_compressed_bodies_and_other_types_are_refused(client):
    packed = gzip.compress(b"[" * (1 << 20))
    assert client.post("/v1/chat/completions", packed, {"content-encoding": "gzip"}).status == 415
    assert client.request("POST", "/v1/chat/completions", b"a=b", {"content-type": "application/x-www-form-urlencoded"}).status == 415
    assert client.request("POST", "/v1/chat/completions", b"{}", {"content-type": "text/plain"}).error["message"].startswith("send JSON")


def test_a_half_character_in_an_input_is_refused(client):
    body = b'{"model": "tiny", "messages": [{"role": "user", "content": "a"}], "inputs": {"\\ud800": "\\udc00"}}'
    assert client.post("/v1/chat/completions", body).status == 400
    whole = b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud83d\\ude00 a"}]}'
    assert client.post("/v1/chat/completions", whole).status == 200


# ---- numbers


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("n", value) for value in (0, -1, 5, 2**63, 1.5, "2")),
        *(("max_tokens", value) for value in (0, -1, 2**31, 2**63, 10**30)),
        *(("max_completion_tokens", value) for value in (0, 1_000_000)),
        *(("temperature", value) for value in (-0.1, 2.1, 1e308, "hot")),
        *(("top_p", value) for value in (0, -1, 1.01)),
        *(("top_k", value) for value in (-1, 2**70)),
        *(("seed", value) for value in (2**63, 2**70, 0.5)),
        ("stop", [str(i) for i in range(10_000)]),
        ("stop", ["a" * 300]),
        ("stop", [1]),
        ("stream", "maybe"),
        ("stream_options", {"include_usage": 5}),
    ],
)
def test_numbers_out_of_range_are_named(client, name, value):
    found = client.chat(WORDS[0], **{name: value})
    assert found.status == 400 and found.error["param"].startswith(name), found
    assert found.error["type"] == "invalid_request_error"


def test_too_much_in_one_request(client):
    assert client.chat(WORDS[0], *[image(png())] * 9).error["message"] == "9 pictures; one request may have 8"
    assert client.chat(WORDS[0], *[audio(clip())] * 5).error["code"] == "too_many"
    assert client.chat("a " * 60_000).error["code"] == "too_long"
    assert client.chat(WORDS[0], audio(clip(seconds=61))).error["message"] == "a sound of 61 s; one may be 60 s long"
    assert client.chat(WORDS[0], audio(clip(seconds=59))).status == 200
    many = [{"role": "user", "content": "a"}] * 257
    assert client.post("/v1/chat/completions", {"model": "tiny", "messages": many}).error["param"] == "messages"
    assert client.chat("is " * 100).error["code"] == "too_long"  # more than the model has positions for


def bomb() -> bytes:
    """A PNG of 60,000 x 60,000 pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = 60_000
    rows = zlib.compress(b"\0" * ((size // 8 + 1) * 600), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", rows)
        + chunk(b"IEND", b"")
    )


def test_a_picture_bomb_is_refused_by_its_header(client):
    assert client.chat(WORDS[0], image(bomb())).error["code"] == "too_many_pixels"


def test_settings_with_nothing_behind_them(client):
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logprobs": False,
        "user": "a",
        "store": True,
        "tools": [],
        "logit_bias": {},
    }
    assert client.chat(WORDS[0], **neutral, response_format={"type": "text"}, modalities=["text"], metadata={"a": "b"}).status == 200
    for name, value in {
        "tools": [{"type": "function"}],
        "logprobs": True,
        "frequency_penalty": 1,
        "response_format": {"type": "json_object"},
    }.items():
        assert client.chat(WORDS[0], **{name: value}).error["message"].startswith(f"{name} is not supported")
    assert "did you mean 'temperature'" in client.chat(WORDS[0], temprature=1).error["message"]


@pytest.mark.parametrize(
    ("path", "body", "param", "said"),
    [
        ("search", {"model": "tiny", "query": "a", "fnd": "image"}, "fnd", "unknown field 'fnd'; did you mean 'find'?"),
        ("search", {"model": "tiny", "qury": "a"}, "qury", "unknown field 'qury'; did you mean 'query'?"),
        ("embeddings", {"model": "tiny", "input": "a", "dimensions": 3}, "dimensions", "dimensions: is not supported; leave it out"),
        ("embeddings", {"model": "tiny"}, "input", "input: is needed, and was not given"),
        ("chat/completions", b"", None, "the body is empty; send a JSON object"),
        ("chat/complete", {}, None, "there is no /v1/chat/complete here; did you mean '/v1/chat/completions'?"),
        ("nothing", {}, None, "there is no /v1/nothing here; /docs lists what there is"),
    ],
)
def test_what_is_wrong_is_named_and_what_was_meant(client, path, body, param, said):
    error = client.post(f"/v1/{path}", body).error
    assert (error["param"], error["message"]) == (param, said)


def test_parts_and_methods_are_named_too(client):
    error = client.chat({"type": "image_uri", "image_url": {"url": "x"}}).error
    assert "there is no type 'image_uri'; did you mean 'image_url'?" in error["message"] and error["param"].endswith("content.0")
    assert "write {...}" in client.chat({"type": "image_url", "image_url": "x"}).error["message"]
    assert client.get("/v1/search").error["message"].startswith("/v1/search takes POST, not GET")


# ---- paths and addresses


@pytest.mark.parametrize("address", ADDRESSES)
def test_nothing_is_fetched_and_no_file_opened(client, address):
    opened: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple) -> None:
        if watching and event == "open" and "passwd" in str(arguments[0]):
            opened.append(str(arguments[0]))
        if watching and event in ("socket.connect", "socket.getaddrinfo") and threading.current_thread() is not threading.main_thread():
            opened.append(event)

    sys.addaudithook(watch)
    try:
        for part in ({"type": "image_url", "image_url": {"url": address}}, {"type": "video_url", "video_url": {"url": address}}):
            found = client.chat(WORDS[0], part)
            assert found.status == 400 and found.error["param"].endswith("url"), found
        sound = {"type": "input_audio", "input_audio": {"data": address, "format": "wav"}}
        assert client.chat(WORDS[0], sound).status == 400
    finally:
        watching = False
    assert not opened


@pytest.mark.parametrize(
    "name", ["..%2fapp.py", "%2e%2e/app.py", "..%5capp.py", "index.html%00.png", "/etc/passwd", "no.html", ".", "..", "~"]
)
def test_no_page_leads_out_of_its_folder(client, name):
    found = client.get(f"/page/{name}")
    assert found.status in (400, 404) and found.error["message"]


@pytest.mark.parametrize(
    ("asked", "status"), [("bytes=0-9", 206), ("", 200), ("a" * 200, 200), ("bytes=9-1", 200), ("bytes=99999999-", 200)]
)
def test_a_range_that_cannot_be_given_is_passed_over(client, asked, status):
    found = client.get("/page/index.html", range=asked)
    assert found.status == status and (status == 200 or len(found.body) == 10)


def test_a_link_among_the_pages_is_one_of_them(client):
    assert client.get("/page/index.html").status == 200
    assert client.get("/page/docs.js").headers["content-type"] == "text/javascript; charset=utf-8"


# ---- errors


def test_every_error_has_the_form(client):
    found = [
        client.get("/nothing"),
        client.request("DELETE", "/v1/models"),
        client.get("/v1/chat/completions"),
        client.get("/v1/models/other"),
        client.post("/v1/models", {}),
    ]
    assert [one.status for one in found] == [404, 405, 405, 404, 405]
    for one in found:
        assert one.error["message"] and one.headers["x-request-id"] and one.headers["content-type"] == "application/json"
    status, body = answered(head(client.port, ["GET  / HTTP/1.1 oh no", "host: a"]))
    assert status == 400 and json.loads(body)["error"]["type"] == "invalid_request_error"


def test_errors_neither_echo_nor_tell_paths(client):
    long = "QUJD" * 500
    for found in (
        client.chat(WORDS[0], image(b"not a picture " * 100)),
        client.chat(WORDS[0], model=long),
        client.chat(WORDS[0], task=long),
        client.chat(WORDS[0], inputs={long: 1}),
        client.chat(WORDS[0], **{long: 1}),
        client.chat(WORDS[0], {"type": long}),
        client.chat(WORDS[0], stop=long),
        client.chat(WORDS[0], {"type": "image_url", "image_url": {"url": long}}),
        client.get(f"/v1/models/{long}"),
    ):
        assert 400 <= found.status < 500
        assert not re.search(r"[A-Za-z0-9+/=]{101,}", found.error["message"]), found.error["message"]
        assert os.getcwd() not in found.body.decode() and "/tmp/" not in found.body.decode()


def test_a_request_keeps_its_id(client):
    assert client.get("/health/live", **{"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    assert client.get("/health/live", **{"x-request-id": "a b<c>"}).headers["x-request-id"] != "a b<c>"
    assert client.get("/health/live").headers["x-request-id"] != client.get("/health/live").headers["x-request-id"]


def test_a_failure_of_ours_says_nothing_of_the_inside(client, monkeypatch, caplog):
    def broken(*_: object, **__: object) -> None:
        raise KeyError("/secret/place")

    monkeypatch.setattr("chiasm.serve.routes.chat.asked", broken)
    found = client.chat(WORDS[0])
    assert found.status == 500 and found.error["type"] == "server_error" and "secret" not in found.body.decode()


def test_parts_that_are_none(client):
    for part in ({"type": "text"}, {"type": "image_url", "image_url": "a"}, {"type": "picture"}, {}, None, 3, [text("a")], {"type": None}):
        found = client.chat(WORDS[0], part)
        assert found.status == 400 and found.error["param"].startswith("messages.0.content"), found
    for content in ([], None, 3, {"type": "text"}):
        assert client.post("/v1/chat/completions", {"model": "tiny", "messages": [{"role": "user", "content": content}]}).status == 400
    for data in ("not base64!", "QUJ", "é"):
        broken = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
        assert client.chat(WORDS[0], broken).error["code"] == "not_base64"
    assert client.chat(WORDS[0], video(b"")).error["code"] == "empty"
    assert uri(b"") == "data:image/png;base64,"
