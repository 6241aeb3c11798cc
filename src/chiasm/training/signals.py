"""SIGTERM and SIGINT ask for a stop after the current step; a second SIGINT exits at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from chiasm.types import ChiasmError


class Stopped(ChiasmError):
    """Training was asked to stop, and a checkpoint was written."""

    def __init__(self, number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + number


class StopRequest:
    """Inside the block `asked` is the number of the signal that came, or None. Outside the main thread it listens to nothing."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._owner = os.getpid()
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._owner:  # a data worker, forked with this handler: Ctrl-C is the main process's, SIGTERM ends it
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = number
