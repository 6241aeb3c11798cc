"""One table of utterances with a column `split` -> a table per split, for recipes/mosi.yaml.

    python examples/mosi.py TABLE DIR
    chiasm train mosi data.root=DIR

TABLE is a parquet file with the columns text_feat, audio_feat and video_feat (lists of numbers), label (1: positive), video_id, and split
(train, val or test). DIR gets train.parquet, validation.parquet and, where there are such rows, test.parquet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(options.table)
    for split in sorted(set(table["split"].to_pylist())):
        rows = table.filter(pc.equal(table["split"], split))
        pq.write_table(rows.drop_columns("split"), options.directory / f"{NAMES[split]}.parquet")
        print(f"{NAMES[split]}: {len(rows)} utterances of {len(pc.unique(rows['video_id']))} videos")


if __name__ == "__main__":
    main()
