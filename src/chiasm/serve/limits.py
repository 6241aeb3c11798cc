"""What a request may be, checked while it is read: before anything is parsed, and before the server holds more than it is ready to.

Three ASGI layers, from the outside in: `Identified` gives each request an id and counts it, `Guarded` asks for the API key, and `Limited`
reads the body. Each answers with an error of its own and lets the rest of the body go unread.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.serve import errors
from chiasm.serve.errors import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MEGABYTE = 1 << 20
SHORT = 64 << 10  # bytes of a body that are read sooner than a new connection is made
OPEN_PATHS = frozenset({"/health/live"})
PLAIN_ID = re.compile(r"[\w.:-]{1,100}")
TOKENS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},:]|NaN|Infinity', re.DOTALL)  # possessive: never looked at twice
HALF = re.compile(r"\\u[dD][89a-fA-F]")  # half of a character, in JSON's writing; the other half may be missing
PAGES = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'self'; base-uri 'none'; form-action 'self'"
)


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one request may have."""

    body: int = 24 * MEGABYTE  # bytes
    all_bodies: int = 192 * MEGABYTE  # bytes of all requests that are being read at once
    depth: int = 32  # of lists and objects in one another
    keys: int = 5_000
    items: int = 300_000  # of lists and objects together: vectors are long
    choices: int = 4
    tokens: int = 4096  # written for one choice
    images: int = 8
    clips: int = 4  # sounds and videos
    audio_seconds: float = 60.0
    messages: int = 256
    characters: int = 100_000  # of all texts
    stops: int = 4
    rows: int = 256  # of one embeddings or classify request


class Identified:
    """Gives every answer an id (the caller's own, where it is a plain word), counts it, and turns what nobody caught into a 500."""

    def __init__(self, app: App, *, count: Callable[[Scope, int, float], None], log: Callable[[str, BaseException], None]):
        self.app, self.count, self.log = app, count, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = header(scope, b"x-request-id").decode("latin-1")
        name = given if PLAIN_ID.fullmatch(given) else secrets.token_hex(12)
        status, counted, began = 0, False, time.monotonic()

        def count() -> None:
            nonlocal counted
            if not counted:
                counted = True
                self.count(scope, status, time.monotonic() - began)

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.body" and not message.get("more_body"):
                count()
            if message["type"] == "http.response.start":
                status = message["status"]
                more = [(b"x-request-id", name.encode()), (b"x-content-type-options", b"nosniff")]
                if any(value.startswith(b"text/html") for key, value in message.get("headers", []) if key == b"content-type"):
                    more.append((b"content-security-policy", PAGES.encode()))
                message = {**message, "headers": [*message.get("headers", []), *more]}
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception as error:  # noqa: BLE001
            if not isinstance(error, Refused):
                self.log(name, error)
            if not status:
                await errors.answer(error)(scope, receive, named)
        finally:
            count()  # where no answer went out: the caller was gone


class Guarded:
    """Lets in who has a key: `Authorization: Bearer KEY`, or, for a person with a browser, the key as the password it asks for."""

    def __init__(self, app: App, *, keys: Sequence[bytes]):
        self.app, self.keys = app, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and scope["path"] not in OPEN_PATHS:
            given = given_key(header(scope, b"authorization"))
            known = [hmac.compare_digest(given or b"", key) for key in self.keys]  # all are looked at
            if not any(known):
                person = b"text/html" in header(scope, b"accept")
                scheme = 'Basic realm="chiasm, the API key is the password", charset="UTF-8"' if person else "Bearer"
                why = "that API key is not known here" if given is not None else "this server wants an API key: Authorization: Bearer KEY"
                raise Refused(401, why, headers={"www-authenticate": scheme, **left_unread(scope)})
        await self.app(scope, receive, send)


class Limited:
    """Reads the body of a request under its limits, and hands it on whole. `check_room` raises Refused where the model has no time for it:
    before a large body is read, and before any is parsed."""

    def __init__(self, app: App, *, limits: Limits, check_room: Callable[[], None] = lambda: None):
        self.app, self.limits, self.check_room, self.held = app, limits, check_room, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        self._check_head(scope)
        held = 0
        chunks: list[bytes] = []
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                piece = message.get("body", b"")
                held += len(piece)
                self.held += len(piece)
                chunks.append(piece)
                if held > self.limits.body:
                    raise too_large(self.limits)
                if self.held > self.limits.all_bodies:
                    raise Refused(
                        429, "other requests fill the server's memory; try again", headers={"retry-after": "2", "connection": "close"}
                    )
                if len(chunks) > 1000:
                    chunks = [b"".join(chunks)]
                if not message.get("more_body"):
                    break
            whole = b"".join(chunks)
            chunks.clear()
            self.check_room()
            check_json(whole, self.limits)
            await self.app(scope, replay(whole, receive), send)
        finally:
            self.held -= held

    def _check_head(self, scope: Scope) -> None:
        """What the headers alone say."""
        unread = left_unread(scope)
        if header(scope, b"content-encoding") not in (b"", b"identity"):
            raise Refused(415, "content-encoding: send the body uncompressed", code="compressed", headers=unread)
        length = header(scope, b"content-length")
        if length and (not length.isdigit() or int(length[:20]) > self.limits.body):
            raise too_large(self.limits)
        kind = header(scope, b"content-type").partition(b";")[0].strip().lower()
        if unread and kind != b"application/json":
            raise Refused(415, "send JSON, with the header content-type: application/json", headers=unread)
        if unread and (not length or int(length) > SHORT):
            try:
                self.check_room()
            except Refused as error:
                error.headers |= unread
                raise


def header(scope: Scope, name: bytes) -> bytes:
    """A request's header; b"" where it has none."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def left_unread(scope: Scope) -> dict[str, str]:
    """The headers of an answer to a request whose body nobody reads: the connection ends, or the body would count as the next request."""
    body = header(scope, b"content-length") not in (b"", b"0") or header(scope, b"transfer-encoding")
    return {"connection": "close"} if body else {}


def too_large(limits: Limits) -> Refused:
    message = f"the request is larger than {limits.body // MEGABYTE} MB ({limits.body} bytes); send smaller pictures, or fewer"
    return Refused(413, message, headers={"connection": "close"})


def replay(whole: bytes, receive: Receive) -> Receive:
    """A body that was read, handed on once; after it, what the connection says (that the caller is gone)."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": whole, "more_body": False}

    return again


def check_json(data: bytes, limits: Limits) -> None:
    """Refuse what would cost much to parse (deep or wide JSON), and what is JSON to Python alone (NaN). One pass, no recursion."""
    if b"\0" in data[:4]:
        raise Refused(400, "the body is not JSON in UTF-8", code="not_json")
    depth = keys = items = 0
    for found in TOKENS.finditer(data):
        token = found[0]
        if token in (b"[", b"{"):
            depth += 1
            if depth > limits.depth:
                raise Refused(400, f"the body's JSON is more than {limits.depth} deep", code="too_deep")
        elif token in (b"]", b"}"):
            depth -= 1
        elif token == b":":
            keys += 1
        elif token == b",":
            items += 1
        elif token in (b"NaN", b"Infinity"):
            raise Refused(400, f"the body is not JSON: {token.decode()} is no number in it", code="not_json")
        elif token == b'"':
            raise Refused(400, "the body is not JSON: a string does not end", code="not_json")
        if keys > limits.keys or items > limits.items:
            raise Refused(400, f"the body's JSON has more than {limits.keys} keys or {limits.items} values", code="too_many")
    try:
        if HALF.search(data.decode("utf-8")):
            json.dumps(json.loads(data), ensure_ascii=False).encode("utf-8")
    except UnicodeError:
        raise Refused(400, "the body is not JSON in UTF-8, or has half a character in it", code="not_json") from None
    except ValueError:
        return  # what is no JSON at all is said where it is parsed


def given_key(authorization: bytes) -> bytes | None:
    """The key in an Authorization header; None where there is none."""
    scheme, _, rest = authorization.strip().partition(b" ")
    if scheme.lower() == b"bearer":
        return rest.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return None


def dumps(data: Any) -> str:
    """JSON as short as it can be."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
