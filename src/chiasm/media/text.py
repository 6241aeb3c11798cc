"""The text modality: a raw string or UTF-8 bytes -> clean text. Tokenising is the tasks' work."""

from __future__ import annotations

from typing import Any

from chiasm.media import base, cleaning


class Text(base.Modality):
    """A text. Decoded: str, without control characters, in one Unicode form."""

    class Options(cleaning.TextOptions):
        pass

    def open(self, value: Any, *, root: str | None = None) -> tuple[str, tuple[str, ...]]:
        return cleaning.clean(value, self.options)
