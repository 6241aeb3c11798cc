"""The spoken words: every voice says every thing's word in a few takes, which differ in pitch and speed.

`speech/VOICE.ogg` holds a voice's clips one after the other, `speech/index.json` their lengths; scripts/make_speech.py makes both.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.media.clips import read_clips
from chiasm.types import Sound

FOLDER = Path(__file__).parent / "speech"


@cache
def speech_index() -> dict[str, Any]:
    """{rate: Hz, gap: samples, words: [...], voices: {name: {split, espeak, lengths: [take][word] in samples}}}."""
    return json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))


@cache
def speakers(people: str) -> tuple[tuple[str, int], ...]:
    """(voice, take) of every way in which these people ("train", "validation" or "test") say a word."""
    voices = speech_index()["voices"].items()
    return tuple((name, take) for name, voice in voices if voice["split"] == people for take in range(len(voice["lengths"])))


def say(word: str, voice: str, take: int) -> Sound:
    """One clip, float32 mono."""
    return Sound(_clips(voice)[take, word].copy(), speech_index()["rate"])


@cache
def _clips(voice: str) -> dict[tuple[int, str], np.ndarray]:
    index = speech_index()
    samples = read_clips(FOLDER / f"{voice}.ogg")[0].clip(-1, 1)  # Opus may overshoot by a little
    clips, start = {}, 0
    for take, lengths in enumerate(index["voices"][voice]["lengths"]):
        for word, length in zip(index["words"], lengths, strict=True):
            clips[take, word] = samples[start : start + length]
            start += length + index["gap"]
    return clips
