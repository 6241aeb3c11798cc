"""VQA-RAD's questions and pictures -> tables for recipes/medical_qa.yaml, with a fifth of the pictures set apart as a test.

    python examples/vqa_rad.py QUESTIONS IMAGES DIR
    chiasm train medical_qa data="{root: DIR, train: train.parquet, test: test.parquet, group_by: image_id, \\
        join: {file: images.parquet, key: image_id}}"

QUESTIONS is a parquet table with the columns image, question, answer and answer_type (CLOSED or OPEN); IMAGES one with image and jpg (the
file's bytes). DIR gets images.parquet, train.parquet and test.parquet. The split is by picture, so no picture of the test is met in
training; the official test questions are about other pictures again, and published figures are for those.
"""

from __future__ import annotations

import argparse
from hashlib import blake2b
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

TEST = 0.2  # of the pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    images = pq.read_table(options.images)
    pq.write_table(pa.table({"image_id": images["image"], "image": images["jpg"]}), options.directory / "images.parquet")
    rows = [record(row) for row in pq.read_table(options.questions).to_pylist()]
    for name, wanted in (("train", False), ("test", True)):
        chosen = [row for row in rows if is_test(row["image_id"]) == wanted]
        pq.write_table(pa.Table.from_pylist(chosen), options.directory / f"{name}.parquet")
        closed = sum(row["kind"] == "closed" for row in chosen)
        print(f"{name}: {len(chosen)} questions ({closed} closed) about {len({row['image_id'] for row in chosen})} pictures")


def record(row: dict[str, str]) -> dict[str, str]:
    """One question in the recipe's columns; `kind` groups the report."""
    return {
        "image_id": row["image"],
        "question": row["question"].strip(),
        "answer": str(row["answer"]).strip().lower(),
        "kind": row["answer_type"].strip().lower(),
    }


def is_test(image: str) -> bool:
    """A fifth of the pictures, the same ones every time."""
    return int.from_bytes(blake2b(image.encode(), digest_size=8).digest()) < TEST * 2**64


if __name__ == "__main__":
    main()
