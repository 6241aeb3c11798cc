"""Files as answers, whole or one range of them (a browser that plays a clip asks for ranges)."""

from __future__ import annotations

import os
import re

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")


class File(FileResponse):
    """A range that cannot be given is passed over, as RFC 9110 (14.2) allows: the whole file is, and no error in another form."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name != b"range" or self.has(value.decode("latin-1"))]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def has(self, asked: str) -> bool:
        """Whether there are such bytes in the file."""
        found = RANGE.fullmatch(asked.replace(" ", ""))
        if found is None:
            return False
        first, last = found.groups()
        return int(first) < os.stat(self.path).st_size and (not last or int(first) <= int(last))
