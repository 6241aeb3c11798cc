"""HTTP/1.1 with deadlines: who opens a connection and says nothing, or a byte a second, is answered with 408 and let go.

uvicorn alone waits for ever. A request has `DEADLINE` seconds to arrive, and one more for each `SLOWEST` bytes of it that have.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from chiasm.serve import errors

DEADLINE = 10.0  # seconds
SLOWEST = 16 << 10  # bytes a second


class TimedProtocol(H11Protocol):
    """uvicorn's protocol, which also watches the time while a request is on its way."""

    deadline = DEADLINE

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        # asyncio does this for sockets that were made as TCP by name alone; without it a body waits 40 ms for the head to be acknowledged
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._began, self._received = self.loop.time(), 0
        self._timer: asyncio.TimerHandle | None = None
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        super().data_received(data)
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._watch()
        else:
            self._unwatch()

    def on_response_complete(self) -> None:
        self._unwatch()  # from here on uvicorn counts how long the connection idles
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, msg)

    def _watch(self) -> None:
        if self._timer is None:
            self._began, self._received = self.loop.time(), 0
            self._timer = self.loop.call_later(self.deadline, self._check)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        """Is it time? What keeps coming gets the time that it needs."""
        left = self._began + self.deadline + self._received / SLOWEST - self.loop.time()
        if left > 0:
            self._timer = self.loop.call_later(left, self._check)
            return
        self._timer = None
        self._refuse(408, f"the request did not arrive within {self.deadline:g} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer without the application, which may not have been reached, and close."""
        if self.transport.is_closing():
            return
        content = json.dumps(errors.body(status, message)).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(content))), ("connection", "close")]
        try:
            head = self.conn.send(h11.Response(status_code=status, headers=headers, reason=STATUS_PHRASES[status]))
            rest = [self.conn.send(h11.Data(data=content)), self.conn.send(h11.EndOfMessage())]
            self.transport.write(b"".join(part for part in (head, *rest) if part))
        except h11.LocalProtocolError:
            self.logger.debug("the answer had begun: closed without a word")
        self.transport.close()
