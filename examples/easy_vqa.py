"""easy-VQA's parquet files -> tables for recipes/easy_vqa.yaml, split by picture: no picture is on both sides.

    python examples/easy_vqa.py SOURCE DIR [--from-id 3500]
    chiasm train easy_vqa data.root=DIR

SOURCE holds train_images.parquet (image_id, png) and train_questions.parquet (question, answer, image_id). DIR gets

    train.parquet, validation.parquet   {question, answer, image_id}; validation asks about the pictures from --from-id on
    pictures.parquet                    {image_id} of every training picture
    images.parquet                      {image_id, png, shape, colour}, joined to the others by image_id; shape and colour are what
                                        the answers about that picture say, and empty where no question asked for them
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SHAPES = ("circle", "rectangle", "triangle")
YES_NO = ("yes", "no")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--from-id", type=int, default=3500, help="the first picture of the validation part")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(options.source / "train_questions.parquet", columns=["question", "answer", "image_id"])
    questions = pa.table({name: _plain(table[name]) for name in table.column_names})
    images = _with_things(pq.read_table(options.source / "train_images.parquet", columns=["image_id", "png"]), questions)
    pq.write_table(images, options.directory / "images.parquet")
    pictures = images.select(["image_id"])
    pq.write_table(pictures.filter(pc.less(pictures["image_id"], options.from_id)), options.directory / "pictures.parquet")
    held_out = pc.greater_equal(questions["image_id"], options.from_id)
    for name, rows in (("train", pc.invert(held_out)), ("validation", held_out)):
        part = questions.filter(rows)
        pq.write_table(part, options.directory / f"{name}.parquet")
        print(f"{name}: {part.num_rows} questions about {len(pc.unique(part['image_id']))} pictures")


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of repeated words as plain text."""
    return column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column


def _with_things(images: pa.Table, questions: pa.Table) -> pa.Table:
    """The pictures with the shape and the colour that answers name."""
    shapes: dict[int, str] = {}
    colours: dict[int, str] = {}
    for row in questions.select(["image_id", "answer"]).to_pylist():
        if row["answer"] not in YES_NO:
            (shapes if row["answer"] in SHAPES else colours)[row["image_id"]] = row["answer"]
    for name, found in (("shape", shapes), ("colour", colours)):
        images = images.append_column(name, pa.array([found.get(i) for i in images["image_id"].to_pylist()], pa.string()))
    return images


if __name__ == "__main__":
    main()
