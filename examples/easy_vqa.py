"""easy-VQA's parquet files -> tables for recipes/easy_vqa.yaml, split by picture: no picture is on both sides.

    python examples/easy_vqa.py SOURCE DIR [--from-id 3500]
    chiasm train easy_vqa data.root=DIR

SOURCE holds train_images.parquet (image_id, png) and train_questions.parquet (question, answer, image_id). DIR gets images.parquet and
train.parquet and validation.parquet, whose rows are {question, answer, image_id, thing}; `thing` is the answer where it names a shape or
a colour, and empty for yes and no. validation.parquet asks about the pictures whose id is at least --from-id.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--from-id", type=int, default=3500, help="the first picture of the validation part")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(options.source / "train_images.parquet", options.directory / "images.parquet")
    table = pq.read_table(options.source / "train_questions.parquet", columns=["question", "answer", "image_id"])
    table = pa.table({name: _plain(table[name]) for name in table.column_names})
    names_a_thing = pc.invert(pc.is_in(table["answer"], pa.array(["yes", "no"])))
    table = table.append_column("thing", pc.if_else(names_a_thing, table["answer"], None))
    held_out = pc.greater_equal(table["image_id"], options.from_id)
    for name, rows in (("train", pc.invert(held_out)), ("validation", held_out)):
        part = table.filter(rows)
        pq.write_table(part, options.directory / f"{name}.parquet")
        print(f"{name}: {part.num_rows} questions about {len(pc.unique(part['image_id']))} pictures")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of repeated words as plain text."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


if __name__ == "__main__":
    main()
