r"""Emoji drawn by two artists, with their names -> tables for recipes/clip.yaml: learn from one artist, be tested on the other.

    python examples/emoji.py ATLAS DIR [--stamps TABLE]
    chiasm train clip:tiny name=emoji data.builtin=null data.root=DIR data.train=train.parquet data.validation=validation.parquet \
        "data.splits={test_new: test_new.parquet, test_other_artist: test_other_artist.parquet, test_both_new: test_both_new.parquet}" \
        "inputs.image={modality: image, size: 48, augment: {flip: true, shift: 0.1, jitter: 0.3}}" \
        "encoders.image={arch: resnet, embedding_size: 32, hidden_sizes: [32, 64, 128], depths: [1, 1, 1], layer_type: basic, grid: 3}" \
        backbone.tokenizer=bpe tasks.align.width=128 stages.0.steps=600
    chiasm index runs/emoji DIR/test_other_artist.parquet --output INDEX --sides image
    chiasm search INDEX "red heart"

ATLAS is a parquet file with the columns hex, group, name_en, keywords_en and two of pictures, noto and twemoji. A fifth of the emoji is set
apart by a hash of their code. What is trained on is one artist's drawings of the others, each with its name and with its keywords; the
tests are pictures that were not trained on: `test_new` the same artist's drawings of emoji that were set apart, `test_other_artist` the
other artist's drawings of emoji whose names were trained on, `test_both_new` the other artist's of those set apart. `--stamps` adds
`test_stamps`, photographs and drawings of something else altogether (columns id, png, category, caption_en; Tux Paint's stamps, say).
"""

from __future__ import annotations

import argparse
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

APART, VALIDATION = 0.2, 0.1
ARTIST, OTHER = "noto", "twemoji"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("atlas", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--stamps", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(options.atlas, columns=["hex", "group", "name_en", "keywords_en", ARTIST, OTHER]).to_pylist()
    known, held_out, new = ([row for row in rows if part_of(row["hex"]) == part] for part in ("train", "validation", "test"))
    tables = {
        "train": [row for emoji in known for row in (named(emoji, ARTIST), keyworded(emoji, ARTIST))],
        "validation": [named(emoji, ARTIST) for emoji in held_out],
        "test_new": [named(emoji, ARTIST) for emoji in new],
        "test_other_artist": [named(emoji, OTHER) for emoji in known],
        "test_both_new": [named(emoji, OTHER) for emoji in new],
    }
    if options.stamps is not None:
        stamps = pq.read_table(options.stamps, columns=["png", "category", "caption_en"]).to_pylist()
        tables["test_stamps"] = [
            {"image": row["png"], "caption": row["caption_en"].lower().strip(" ."), "kind": row["category"]} for row in stamps
        ]
    for name, table in tables.items():
        pq.write_table(pa.Table.from_pylist(table), options.directory / f"{name}.parquet")
        print(f"{name}: {len(table)} rows")


def named(emoji: dict[str, Any], artist: str) -> dict[str, Any]:
    return {"image": emoji[artist], "caption": emoji["name_en"].lower(), "kind": emoji["group"]}


def keyworded(emoji: dict[str, Any], artist: str) -> dict[str, Any]:
    return {"image": emoji[artist], "caption": " ".join(emoji["keywords_en"]).lower(), "kind": emoji["group"]}


def part_of(code: str) -> str:
    """Which part an emoji belongs to, the same every time."""
    place = int.from_bytes(blake2b(code.encode(), digest_size=8).digest()) / 2**64
    return "test" if place < APART else "validation" if place < APART + VALIDATION else "train"


if __name__ == "__main__":
    main()
