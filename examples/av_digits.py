"""Handwritten digits, spoken digits and misspelt number words, paired -> records and media files for recipes/av_digits.yaml.

    python examples/av_digits.py PAIRS SPEECH DIR
    chiasm train av_digits data.root=DIR
    chiasm compare av_digits_vectors data.root=DIR      with ready-made vectors, which take seconds instead of minutes a model

PAIRS holds digits8x8.npz (images [N, 8, 8] of 0 to 16) and TASK_train.jsonl and TASK_val.jsonl for the tasks same, sum2 and sum3, whose
rows name a picture (image_index), a recording (audio_id) and a word (text); SPEECH is a parquet table of recordings (id, audio: bytes of
a FLAC file). DIR gets images/ID.png, audio/ID.flac and, per task, train and val records such as
{"image": "images/401.png", "audio": "audio/8_jackson_11.flac", "text": "eight",
 "image_digit": 5, "audio_digit": 8, "text_digit": 8, "label": 13}
and the same rows in vectors_TASK_train.parquet and vectors_TASK_val.parquet, with 64 pixels (0 to 1) as `image` and a log-mel spectrogram
(8 stretches of time, 16 bands) as `audio`.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from chiasm.data.digits.vectors import spectrum

KEPT = ("text", "image_digit", "audio_digit", "text_digit", "label")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("speech", type=Path)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    pictures, sounds = options.directory / "images", options.directory / "audio"
    for folder in (pictures, sounds):
        folder.mkdir(parents=True, exist_ok=True)
    images = np.load(options.pairs / "digits8x8.npz")["images"]
    for number, pixels in enumerate(images):
        grey = np.rint(pixels * (255 / 16)).astype(np.uint8)  # [8, 8]
        PIL.Image.fromarray(grey).save(pictures / f"{number}.png")
    spectra = {}
    for record in pq.read_table(options.speech, columns=["id", "audio"]).to_pylist():
        (sounds / f"{record['id']}.flac").write_bytes(record["audio"])
        samples, rate = soundfile.read(io.BytesIO(record["audio"]), dtype="float32")
        spectra[record["id"]] = spectrum(samples, rate)
    for file in sorted(options.pairs.glob("*_*.jsonl")):
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        _write_vectors(options.directory / f"vectors_{file.stem}.parquet", rows, images, spectra)
        lines = [json.dumps(_record(row), ensure_ascii=False) for row in rows]
        (options.directory / file.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"{file.name}: {len(rows)} records")


def _write_vectors(file: Path, rows: list[dict[str, Any]], images: np.ndarray, spectra: Mapping[str, np.ndarray]) -> None:
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in KEPT}
    columns["image"] = [(images[row["image_index"]].ravel() / 16).astype(np.float32).tolist() for row in rows]
    columns["audio"] = [spectra[row["audio_id"]].tolist() for row in rows]
    pq.write_table(pa.table(columns), file)


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of pairs with its media as paths."""
    media = {"image": f"images/{row['image_index']}.png", "audio": f"audio/{row['audio_id']}.flac"}
    return {**media, **{name: row[name] for name in KEPT}}


if __name__ == "__main__":
    main()
