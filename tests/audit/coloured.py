"""Rows whose answers are known to be in the picture, or known not to be: squares of one colour, and a question about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.media.image import png_bytes

COLOURS = {"red": (220, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 220)}
QUESTIONS = ("what colour is it ?", "which colour ?")


def rows_at(folder: Path, count: int, *, seed: int = 0, shuffled: bool = False, size: int = 16) -> Path:
    """A jsonl of `count` rows with a picture each, all different; `shuffled`: the picture is any row's, so that it tells nothing."""
    draws = np.random.default_rng(seed)
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    lines: list[dict[str, Any]] = []
    for number in range(count):
        colour = str(draws.choice(list(COLOURS)))
        pixels = np.clip(np.array(COLOURS[colour]) + draws.normal(0, 12, (size, size, 3)), 0, 255).astype(np.uint8)
        name = f"pictures/{seed}-{number}.png"
        (folder / name).write_bytes(png_bytes(pixels))
        lines.append({"image": name, "question": str(draws.choice(QUESTIONS)), "answer": colour})
    if shuffled:
        order = draws.permutation(count)
        lines = [{**line, "image": lines[other]["image"]} for line, other in zip(lines, order, strict=True)]
    path = folder / f"rows-{seed}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
