"""Every broken or awkward file of the shared collection, sent to the server: an answer or a clear error, as its manifest says."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from tiny_server import WORDS, audio, clip, image, png, video

from awkward_media import AWKWARD, KINDS, entries

PARTS = {"image": image, "audio": audio, "video": video}


def listed() -> list[tuple[str, str, str]]:
    """(file, modality, what is expected)."""
    found = [(e["file"], KINDS.get(Path(e["file"]).suffix, "image"), e["expect"]) for e in entries()]
    animated = [(file, "video", "ok") for file, _, _ in found if file.startswith("animated")]
    foreign = {file for file, _, _ in found if Path(file).suffix not in KINDS}  # tables and a pickle: no picture is in them
    return [(file, kind, "error" if file in foreign else expect) for file, kind, expect in found] + animated


@pytest.mark.skipif(not listed(), reason="the shared collection is not on this machine")
@pytest.mark.parametrize(("file", "kind", "expect"), listed())
def test_a_file(client, file, kind, expect):
    found = client.chat(WORDS[0], PARTS[kind]((AWKWARD / file).read_bytes()))
    if expect == "error":
        assert found.status == 400
    elif expect == "ok":
        assert found.status == 200, found.body
    if found.status != 200:
        assert found.status == 400 and found.error["type"] == "invalid_request_error" and found.error["param"] == "messages.0.content.1"
        assert found.error["code"] not in ("bad_request", None) and kind in found.error["message"]
    assert client.chat(WORDS[0]).status == 200


@pytest.mark.skipif(not listed(), reason="the shared collection is not on this machine")
def test_all_of_them_at_once_do_not_reach_their_neighbours(client):
    """Good requests among all the bad ones get the very texts that they get alone."""
    good = [(WORDS[number % len(WORDS)], image(png(number)), audio(clip(number))) for number in range(4)]
    alone = [client.chat(*asked).text for asked in good]
    with ThreadPoolExecutor(12) as pool:
        bad, sound = [], []
        for place, (file, kind, expect) in enumerate(listed()):
            sound.append((place % 4, pool.submit(client.chat, *good[place % 4])))
            bad.append((expect, pool.submit(client.chat, WORDS[0], PARTS[kind]((AWKWARD / file).read_bytes()))))
        assert [one.result().text for _, one in sound] == [alone[number] for number, _ in sound]
        assert all(one.result().status == 400 for expect, one in bad if expect == "error")
        assert {one.result().status for _, one in bad} == {200, 400}
