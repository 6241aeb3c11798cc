"""What an input's item can be cut into: words of a text, areas of a picture, stretches of a sound, frames, vectors, columns of a table.

A region is (first, last + 1) of a sequence's atoms, or (top, left, bottom, right) in pixels of a decoded picture. `without` gives the
item with some regions taken away; `describe` says where a region is, as a person or a page can find it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from chiasm.explain.subject import ABSENT
from chiasm.media.table import Row
from chiasm.types import BadInput, Film, Sound

Region = tuple[int, ...]
SHORTEST = 0.02  # seconds of the shortest stretch of a sound
FINEST = 4  # pixels of the smallest area's side
CHILDREN = 4  # what a region is split into; of a picture 2 x 2


class Cut:
    """One item of an input and how it is cut. `size` atoms; a picture has as many as one likes."""

    kind: ClassVar[str] = ""

    def __init__(self, input: str, item: int, value: Any, fill: Any):
        self.input, self.item, self.value, self.fill = input, item, value, fill

    @property
    def size(self) -> int:
        raise NotImplementedError

    def coarse(self, most: int) -> list[Region]:
        """At most `most` regions that cover the item."""
        return _parts(0, self.size, most)

    def split(self, region: Region) -> list[Region]:
        """The region's parts; none where it cannot be cut."""
        parts = _parts(*region, CHILDREN)
        return parts if len(parts) > 1 else []

    def without(self, regions: Sequence[Region]) -> Any:
        """The item without some regions; ABSENT where nothing can be left."""
        raise NotImplementedError

    def describe(self, region: Region) -> dict[str, Any]:
        raise NotImplementedError

    def about(self) -> dict[str, Any]:
        """What a page must know of the whole item to draw its regions."""
        return {}


class Words(Cut):
    """A text: words are left out. `opens`: what makes of a text what the model reads, where it has an encoder of its own."""

    kind = "words"

    def __init__(self, input: str, item: int, value: Any, fill: Any, *, text: str, modality: Any = None):
        super().__init__(input, item, value, fill)
        self.text, self.modality = text, modality
        self.places = [found.span() for found in re.finditer(r"\S+", text)]

    @property
    def size(self) -> int:
        return len(self.places)

    def without(self, regions: Sequence[Region]) -> Any:
        gone = {number for first, last in regions for number in range(first, last)}
        text = " ".join(self.text[slice(*place)] for number, place in enumerate(self.places) if number not in gone)
        if self.modality is None or not text:
            return text or ABSENT
        try:
            return self.modality.open(text)[0]
        except BadInput:
            return ABSENT  # nothing that its tokenizer knows is left

    def describe(self, region: Region) -> dict[str, Any]:
        start, stop = self.places[region[0]][0], self.places[region[1] - 1][1]
        return {"text": self.text[start:stop], "start": start, "end": stop}

    def about(self) -> dict[str, Any]:
        return {"text": self.text}


class Picture(Cut):
    """A picture: areas of its decoded pixels, described in pixels of the upright original. `height`, `width`: that one's; `area`: which
    part of it was decoded, (top, left, bottom, right)."""

    kind = "picture"

    def __init__(self, input: str, item: int, value: np.ndarray, fill: np.ndarray, *, height: int, width: int, area: tuple[float, ...]):
        super().__init__(input, item, value, fill)
        self.height, self.width = height, width
        self.top, self.left = area[:2]
        # pixels of the original per decoded one
        self.down, self.across = (
            (area[2] - area[0]) / value.shape[0],
            (area[3] - area[1]) / value.shape[1],
        )

    @property
    def size(self) -> int:
        return self.value.shape[0] * self.value.shape[1]

    def coarse(self, most: int) -> list[Region]:
        """A square grid over what is picture and not padding."""
        side = min(4, max(1, math.isqrt(most)))
        top, bottom = max(0, round(-self.top / self.down)), min(self.value.shape[0], round((self.height - self.top) / self.down))
        left, right = max(0, round(-self.left / self.across)), min(self.value.shape[1], round((self.width - self.left) / self.across))
        return _grid((top, left, bottom, right), side)

    def split(self, region: Region) -> list[Region]:
        top, left, bottom, right = region
        return _grid(region, 2) if min(bottom - top, right - left) >= 2 * FINEST else []

    def without(self, regions: Sequence[Region]) -> np.ndarray:
        changed = self.value.copy()
        for top, left, bottom, right in regions:
            changed[top:bottom, left:right] = self.fill[top:bottom, left:right]
        return changed

    def describe(self, region: Region) -> dict[str, Any]:
        """box: [left, top, right, bottom] in pixels of the picture as it is shown, EXIF orientation applied."""
        top, bottom = (min(max(self.top + edge * self.down, 0.0), self.height) for edge in (region[0], region[2]))
        left, right = (min(max(self.left + edge * self.across, 0.0), self.width) for edge in (region[1], region[3]))
        return {"box": [round(edge, 2) for edge in (left, top, right, bottom)]}

    def about(self) -> dict[str, Any]:
        return {"width": self.width, "height": self.height}


class Stretch(Cut):
    """A sound: stretches become silent."""

    kind = "sound"

    @property
    def atom(self) -> int:
        return max(1, round(SHORTEST * self.value.rate))

    @property
    def size(self) -> int:
        return -(-len(self.value.samples) // self.atom)

    def without(self, regions: Sequence[Region]) -> Sound:
        samples = self.value.samples.copy()
        for first, last in regions:
            place = slice(first * self.atom, last * self.atom)
            samples[place] = self.fill.samples[place]
        return Sound(samples, self.value.rate)

    def describe(self, region: Region) -> dict[str, Any]:
        start, stop = region[0] * self.atom, min(region[1] * self.atom, len(self.value.samples))
        return {"start": round(start / self.value.rate, 4), "end": round(stop / self.value.rate, 4)}

    def about(self) -> dict[str, Any]:
        return {"seconds": round(len(self.value.samples) / self.value.rate, 4)}


class Frames(Cut):
    """A film: frames become one colour."""

    kind = "frames"

    @property
    def size(self) -> int:
        return len(self.value.frames)

    def without(self, regions: Sequence[Region]) -> Film:
        frames = self.value.frames.copy()
        for first, last in regions:
            frames[first:last] = self.fill.frames[first:last]
        return Film(frames, self.value.times)

    def describe(self, region: Region) -> dict[str, Any]:
        times = self.value.times
        return {"first": region[0], "last": region[1] - 1, "start": float(times[region[0]]), "end": float(times[region[1] - 1])}


class Columns(Cut):
    """A record: columns become gaps. `names`: of its numbers, then of its categories."""

    kind = "columns"

    def __init__(self, input: str, item: int, value: Row, fill: Row, *, names: Sequence[str]):
        super().__init__(input, item, value, fill)
        self.names = list(names)

    @property
    def size(self) -> int:
        return len(self.names)

    def without(self, regions: Sequence[Region]) -> Row:
        gone = {number for first, last in regions for number in range(first, last)}
        count = len(self.value.numbers)
        numbers = [self.fill.numbers[i] if i in gone else number for i, number in enumerate(self.value.numbers)]
        known = enumerate(self.value.categories)
        return Row(tuple(numbers), tuple(self.fill.categories[i] if i + count in gone else category for i, category in known))

    def describe(self, region: Region) -> dict[str, Any]:
        own = (*self.value.numbers, *self.value.categories)
        shown = [f"{own[i]:g}" if isinstance(own[i], float) else str(own[i]) for i in range(*region)]
        return {"column": ", ".join(self.names[slice(*region)]), "is": ", ".join(shown)}


class Vectors(Cut):
    """Ready-made features [L, W]: vectors become the mean one."""

    kind = "vectors"

    @property
    def size(self) -> int:
        return len(self.value)

    def without(self, regions: Sequence[Region]) -> np.ndarray:
        changed = np.array(self.value)
        for first, last in regions:
            changed[first:last] = self.fill[first:last]
        return changed

    def describe(self, region: Region) -> dict[str, Any]:
        return {"first": region[0], "last": region[1] - 1}


def _parts(first: int, last: int, most: int) -> list[Region]:
    """first..last in at most `most` nearly equal stretches."""
    edges = np.linspace(first, last, min(most, last - first) + 1).round().astype(int).tolist()
    return list(zip(edges[:-1], edges[1:], strict=True))


def _grid(area: Region, side: int) -> list[Region]:
    """side x side areas that cover `area`; fewer where it has not so many pixels."""
    top, left, bottom, right = area
    rows, columns = _parts(top, bottom, side), _parts(left, right, side)
    return [(up, start, down, stop) for up, down in rows for start, stop in columns]
