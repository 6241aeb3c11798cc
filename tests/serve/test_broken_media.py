"""Every broken or awkward file of the shared collection, sent to the server: an answer or a clear error, as its manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_server import WORDS, audio, image, video

DATA = Path(__file__).parents[3] / "shared" / "data" / "broken-media"
PARTS = {"image": image, "audio": audio, "video": video}
KINDS = {
    ".jpg": "image",
    ".png": "image",
    ".gif": "image",
    ".webp": "image",
    ".tiff": "image",
    ".wav": "audio",
    ".flac": "audio",
    ".mp4": "video",
}


def listed() -> list[tuple[str, str, str]]:
    """(file, modality, what is expected)."""
    if not (DATA / "manifest.json").is_file():
        return []
    entries = json.loads((DATA / "manifest.json").read_text("utf-8"))
    found = [(e["file"], KINDS.get(Path(e["file"]).suffix, "image"), e["expect"]) for e in entries]
    animated = [(file, "video", "ok") for file, _, _ in found if file.startswith("animated")]
    foreign = {file for file, _, _ in found if Path(file).suffix not in KINDS}  # tables and a pickle: no picture is in them
    return [(file, kind, "error" if file in foreign else expect) for file, kind, expect in found] + animated


@pytest.mark.skipif(not listed(), reason="the shared collection is not on this machine")
@pytest.mark.parametrize(("file", "kind", "expect"), listed())
def test_a_file(client, file, kind, expect):
    found = client.chat(WORDS[0], PARTS[kind]((DATA / file).read_bytes()))
    if expect == "error":
        assert found.status == 400
    elif expect == "ok":
        assert found.status == 200, found.body
    if found.status != 200:
        assert found.status == 400 and found.error["type"] == "invalid_request_error" and found.error["param"] == kind
        assert found.error["code"] not in ("bad_request", None) and kind in found.error["message"]
    assert client.chat(WORDS[0]).status == 200
