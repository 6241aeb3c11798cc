"""Pictures with captions -> tables for recipes/clip.yaml, with a fifth of them set apart as a test.

    python examples/tuxpaint.py TABLE DIR
    chiasm train clip "data={train: DIR/train.parquet, test: DIR/test.parquet}"

TABLE is a parquet file with the columns id, png (bytes), category and caption_en: the stamps of Tux Paint, say. Every picture is of another
thing, so a thing of the test is never met in training: from scratch there is little to be found, and that is what the figures then say.
"""

from __future__ import annotations

import argparse
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEST = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    rows = pq.read_table(options.table, columns=["id", "png", "category", "caption_en"]).to_pylist()
    for name, wanted in (("train", False), ("test", True)):
        chosen = [{"image": r["png"], "caption": r["caption_en"], "kind": r["category"]} for r in rows if is_test(r["id"]) == wanted]
        pq.write_table(pa.Table.from_pylist(chosen), options.directory / f"{name}.parquet")
        print(f"{name}: {len(chosen)} pictures")


def is_test(name: str) -> bool:
    """A fifth of the pictures, the same ones every time."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest()) < TEST * 2**64


if __name__ == "__main__":
    main()
