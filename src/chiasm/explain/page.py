"""EXPLANATION.html: bars of the inputs' shares, and marks over the picture, the words and the sound. No script, nothing from outside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chiasm.explain.result import Explanation, place
from chiasm.explain.subject import Subject
from chiasm.explain.units import Cut
from chiasm.media.audio import wav_bytes
from chiasm.media.image import Image, png_bytes
from chiasm.report.html import data_uri, page_template
from chiasm.types import Sound

LONGEST = 720  # pixels of a picture's longer side on the page
STRIP = 160  # of a frame's
PEAKS = 240  # bars of a waveform


def previews_of(subject: Subject, cuts: Sequence[Cut]) -> dict[tuple[str, int], Any]:
    """(input, item) -> pixels of a picture, pixels of a film's frames, or a sound."""
    found: dict[tuple[str, int], Any] = {}
    for cut in cuts:
        if cut.kind == "picture":
            found[cut.input, cut.item] = _smaller(subject.upright(cut.input, cut.item), LONGEST)
        elif cut.kind == "frames":
            found[cut.input, cut.item] = [_smaller(frame, STRIP) for frame in cut.value.frames]
        elif cut.kind == "sound":
            found[cut.input, cut.item] = cut.value
    return found


def render(found: Explanation) -> str:
    """The page as text."""
    largest = max((abs(m["value"]) for m in found.modalities), default=0.0) or 1.0
    return page_template("explanation.html.j2", "chiasm.explain").render(
        found=found,
        title=found.answer if found.answer is not None else found.quantity,
        largest=largest,
        parts=[_shown(part, found.previews.get((part["input"], part["item"]))) for part in found.parts],
    )


def _shown(part: Mapping[str, Any], preview: Any) -> dict[str, Any]:
    """A part with what the template draws: marks with a strength from -1 to 1, the strongest of each item in full."""
    most = max((abs(unit["value"]) for unit in part["units"]), default=0.0) or 1.0
    units: list[dict[str, Any]] = [{**unit, "strength": unit["value"] / most, "place": place(part, unit)} for unit in part["units"]]
    shown = {**part, "units": units, "best": sorted(units, key=lambda unit: -abs(unit["value"]))[:8]}
    if part["kind"] == "picture":
        shown["picture"] = data_uri(png_bytes(preview), "image/png")
    elif part["kind"] == "frames":
        shown["frames"] = [data_uri(png_bytes(frame), "image/png") for frame in preview]
    elif part["kind"] == "sound":
        shown |= {"sound": data_uri(wav_bytes(preview), "audio/wav"), "peaks": _peaks(preview)}
    elif part["kind"] == "words":
        shown["pieces"] = _pieces(part["text"], units)
    return shown


def _pieces(text: str, units: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any] | None]]:
    """A text as stretches: a unit's words, and what is between them."""
    found: list[tuple[str, Mapping[str, Any] | None]] = []
    at = 0
    for unit in sorted(units, key=lambda unit: unit["start"]):
        found += [(text[at : unit["start"]], None), (text[unit["start"] : unit["end"]], unit)]
        at = unit["end"]
    return [*found, (text[at:], None)]


def _peaks(sound: Sound) -> list[float]:
    """The loudest sample of each of up to PEAKS stretches, from 0 to 1."""
    loud = [float(np.abs(piece).max()) for piece in np.array_split(sound.samples, min(PEAKS, len(sound.samples)))]
    return [round(peak / (max(loud) or 1.0), 3) for peak in loud]


def _smaller(pixels: np.ndarray, longest: int) -> np.ndarray:
    """At most `longest` pixels on a side, in its own proportions."""
    scale = longest / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    size = (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))
    return Image(Image.Options(size=size)).open(pixels)[0]
