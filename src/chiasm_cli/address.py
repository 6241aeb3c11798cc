"""The address that `chiasm serve` listens on, opened before anything slow is imported: what cannot be had is said at once."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Generator

import typer

REFUSED = {
    errno.EADDRINUSE: "port {port} of {host} is in use already; take another --port, or 0 for any that is free",
    errno.EADDRNOTAVAIL: "--host {host}: this machine has no such address; 127.0.0.1 is for itself alone, 0.0.0.0 for all of its addresses",
    errno.EACCES: "port {port} may not be opened by this user; take a --port from 1024 up",
}


@contextlib.contextmanager
def listening(host: str, port: int) -> Generator[socket.socket]:
    """A socket that listens there; usage error where it cannot."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(f"--host {host}: {_reason(error)}") from None
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(512)
        except OSError as error:
            said = REFUSED.get(error.errno or 0, "{host}:{port} cannot be listened on: " + _reason(error))
            raise typer.BadParameter(said.format(host=host, port=port)) from None
        yield sock


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
