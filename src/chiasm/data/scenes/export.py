"""Writes the built-in set as plain files: one jsonl table per split beside its pictures and sounds. Own data may look just like it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from chiasm.data.scenes.layout import SPLITS
from chiasm.data.sources.scenes import Scenes
from chiasm.media.write import write_picture, write_sound
from chiasm.types import ChiasmError, Drawn, Sound

DEFAULT_SPLITS = ("train", "validation", "test", "test_new_pairs")

_README = """The data set 'scenes' as files. Data of your own may look the same.

TABLE.jsonl   one record per line: its columns, and for pictures and sounds their paths relative to the table.
              A column that a record lacks is left out.
images/       PNG files, one per scene (or per single thing). Several lines may name the same picture.
audio/        FLAC files, one per word, voice and manner of speaking.
recipe.yaml   says which columns are read, what reads them and what is learned. Train with:

    chiasm check recipe.yaml
    chiasm train recipe.yaml

A line about a picture, one that asks about it, and one where the thing asked about is heard:

"""

_RECIPE = """# Answers written and spoken questions about pictures. What is not said has a default; paths are relative to this file.
inputs:   # columns that are read: the kind of each
  image: {modality: image, size: 64}
  audio: audio
  question: text
encoders:
  image: {arch: resnet, embedding_size: 32, hidden_sizes: [64, 96, 128], depths: [1, 1, 1], layer_type: basic,
          first_pooling: false, grid: 4}
  audio: {arch: resnet, embedding_size: 32, hidden_sizes: [32, 64, 128], depths: [1, 1, 1], layer_type: basic, tokens: 8}
backbone: {arch: gpt2, n_embd: 128, n_layer: 2, n_head: 4, activation_function: gelu_pytorch_tanh, tokenizer: words}
fusion:   {type: cross_attention}
tasks:    # columns used as targets (caption, answer) need no declaration
  align:  {type: contrast, between: [image, caption]}
  answer: {type: generate, prompt: "{question}", target: "{answer}"}
data:
%s
stages:
  - {name: learn, epochs: 3, batch_size: 256, learning_rate: 2e-3}
"""


def export(
    folder: str | PathLike[str], *, seed: int = 0, scenes_per_split: int | None = None, splits: Sequence[str] = DEFAULT_SPLITS
) -> dict[str, int]:
    """Fill `folder` (new or empty) with SPLIT.jsonl, images/, audio/, README.txt and recipe.yaml; the number of records of each split.

    `scenes_per_split` keeps every split's first scenes (or things, or words) only.
    """
    folder = Path(folder)
    sources = {split: Scenes(split, seed=seed, scenes=scenes_per_split) for split in splits}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ChiasmError(f"{folder} is not an empty folder; name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    written: set[str] = set()  # pictures and sounds
    for split, source in sources.items():
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as table:
            for index in range(len(source)):
                parts = source.read(index).parts
                record = {column: _plain(folder, value, written) for column, value in parts.items()}
                table.write(json.dumps(record) + "\n")
    _explain(folder, splits)
    return {split: len(source) for split, source in sources.items()}


def _plain(folder: Path, value: Any, written: set[str]) -> Any:
    """A part as JSON has it: a picture or a sound as the path of its file, also in a list of records."""
    if isinstance(value, list):
        return [{key: _plain(folder, part, written) for key, part in record.items()} for record in value]
    return _write(folder, value, written) if isinstance(value, Drawn) else value


def _write(folder: Path, part: Drawn, written: set[str]) -> str:
    """The path, relative to the folder, of the file that holds this picture or sound; equal ones share a file."""
    in_images, in_audio = f"images/{part.key}.png", f"audio/{part.key}.flac"
    for name in (in_images, in_audio):
        if name in written:
            return name
    value: Any = part.draw()
    name = in_audio if isinstance(value, Sound) else in_images
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    if isinstance(value, Sound):
        write_sound(folder / name, value)
    else:
        write_picture(folder / name, value)
    written.add(name)
    return name


def _explain(folder: Path, splits: Sequence[str]) -> None:
    """README.txt with three of the records, and a recipe that names the tables."""
    lines = (folder / f"{splits[0]}.jsonl").read_text(encoding="utf-8").splitlines()[:8]
    shown = "".join(f"    {lines[number]}\n" for number in sorted({0, len(lines) // 2, len(lines) - 1}))
    (folder / "README.txt").write_text(_README + shown, encoding="utf-8")
    main = [split for split in splits if split in ("train", "validation", "test")]
    further = [split for split in splits if SPLITS[split].unit == "scene" and split not in main]
    data = [f"  {split}: {split}.jsonl" for split in main]
    data += ["  splits: {" + ", ".join(f"{split}: {split}.jsonl" for split in further) + "}"] if further else []
    (folder / "recipe.yaml").write_text(_RECIPE % "\n".join(data), encoding="utf-8")
