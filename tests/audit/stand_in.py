"""A server on this machine that speaks chat completions and whose behaviour is known."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from coloured import COLOURS

from chiasm.media.image import Image

Reply = tuple[int, dict[str, str], Any]  # status, headers, body


def colour_of(content: list[dict[str, Any]]) -> str | None:
    """What colour the message's picture is; None where it has none."""
    for part in content:
        if part["type"] == "image_url":
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            mean = Image(Image.Options(size="original")).open(data)[0].reshape(-1, 3).mean(0)
            return min(COLOURS, key=lambda name: abs(mean - COLOURS[name]).sum())
    return None


def said(text: str) -> Reply:
    return 200, {}, {"choices": [{"message": {"role": "assistant", "content": text}}]}


@contextmanager
def serving(answer: Callable[[dict[str, Any], int], Reply]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address, what was asked of it). `answer(body, number of the request)`."""
    seen: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            self.reply(answer(body, len(seen)))

        def do_GET(self) -> None:
            self.reply((200, {}, {"data": [{"id": "stand-in"}]}))

        def reply(self, given: Reply) -> None:
            status, headers, body = given
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *given: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
