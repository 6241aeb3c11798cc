"""The shared collection of broken and awkward media, and what its manifest says of each file; it need not be on a machine."""

from __future__ import annotations

import json
from pathlib import Path

AWKWARD = Path(__file__).parents[2] / "shared" / "data" / "broken-media"
KINDS = {
    ".jpg": "image",
    ".png": "image",
    ".gif": "image",
    ".webp": "image",
    ".tiff": "image",
    ".wav": "audio",
    ".flac": "audio",
    ".mp4": "video",
}  # a file's ending -> its modality; what has another one is no media


def entries() -> list[dict[str, str]]:
    """The manifest: file, expect (ok, error or either)."""
    manifest = AWKWARD / "manifest.json"
    return json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else []
