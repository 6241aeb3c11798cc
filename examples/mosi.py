"""One table of utterances with a column `split` -> a table per split, for recipes/mosi.yaml.

    python examples/mosi.py TABLE DIR
    chiasm train mosi data.root=DIR

TABLE is a parquet file with the columns text_feat, audio_feat and video_feat (lists of numbers), label (1: positive), video_id, and split
(train, val or test). DIR gets train.parquet, validation.parquet and, where there are such rows, test.parquet.

Then it says how well a linear model, fitted to a feature of some of a split's videos, tells the labels of its other videos. Features that
were made by a network which was trained on these very labels give themselves away: nearly all are told, by each of them alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FEATURES = ("text_feat", "audio_feat", "video_feat")
FOLDS = 5
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
        for name in FEATURES if len(pc.unique(rows["video_id"])) >= FOLDS else ():
            print(f"  {name}: {linear(rows, name):.3f} of the labels of other videos, by a linear model")


def linear(rows: pa.Table, name: str) -> float:
    """Accuracy of a logistic regression on one feature, cross-validated over videos."""
    values, labels, videos = np.stack(rows[name].to_pylist()), rows["label"].to_numpy(), rows["video_id"].to_pylist()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=2000))
    return float(cross_val_score(model, values, labels, groups=videos, cv=GroupKFold(FOLDS)).mean())


if __name__ == "__main__":
    main()
