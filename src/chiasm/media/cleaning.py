"""How a raw text is made clean, for every modality that reads one; look-alikes of special tokens are kept."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Literal

from pydantic import Field

from chiasm.media import base
from chiasm.types import BadInput

CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # all but tab, line feed and carriage return
SURROGATE = re.compile("[\ud800-\udfff]")


class TextOptions(base.Options):
    """What every input that is written has."""

    normalise: Literal["NFC", "NFKC", "none"] = "NFC"
    """Unicode form, so that an accent written in two ways is one text."""
    max_chars: int = Field(100_000, gt=0)
    """Longer texts are refused, before they are tokenised."""


def clean(value: Any, options: TextOptions) -> tuple[str, tuple[str, ...]]:
    """A string or UTF-8 bytes -> (text without control characters, in one Unicode form; notes). Raises BadInput."""
    notes: list[str] = []
    text = _decoded(value, options.max_chars)
    if len(text) > options.max_chars:
        raise BadInput("too_long", f"text of {len(text)} characters, more than max_chars ({options.max_chars}); shorten it")
    half = SURROGATE.search(text)
    if half:
        raise BadInput("bad_encoding", f"text with half a surrogate pair at character {half.start()}; write the character itself in UTF-8")
    if text.startswith("\ufeff"):
        notes.append("byte order mark removed")
        text = text.lstrip("\ufeff")
    text, stripped = CONTROL.subn("", text)
    if stripped:
        notes.append("control characters removed")
    if options.normalise != "none" and not unicodedata.is_normalized(options.normalise, text):
        notes.append("normalised")
        text = unicodedata.normalize(options.normalise, text)
    if not text.strip():
        raise BadInput("empty", "empty text; write something, or leave it out")
    return text, tuple(notes)


def _decoded(value: Any, max_chars: int) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, (bytes, bytearray)):
        raise BadInput("bad_type", f"expected text, found {type(value).__name__} {str(value)[:40]!r}; write it in quotes")
    if len(value) > 4 * max_chars:
        raise BadInput("too_long", f"text of {len(value)} bytes, more than max_chars ({max_chars}) allows; shorten it")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadInput("bad_encoding", f"text is not UTF-8 at byte {error.start}; save the file as UTF-8") from None
