"""The preparation scripts under examples/: what they write is what their recipes read."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from chiasm.data.opening import open_source
from chiasm.recipe import load_recipe

ROOT = Path(__file__).parents[1]


def run(name: str, *arguments: object) -> str:
    command = [sys.executable, ROOT / "examples" / f"{name}.py", *arguments]
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def png() -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "PNG")
    return file.getvalue()


def test_easy_vqa(tmp_path):
    pq.write_table(pa.table({"image_id": [0, 1, 2], "png": [png()] * 3}), tmp_path / "train_images.parquet")
    asked = {"question": ["what color?", "is there a circle?", "what shape?"], "answer": ["red", "no", "circle"], "image_id": [0, 0, 2]}
    pq.write_table(pa.table({**asked, "answer": pa.array(asked["answer"]).dictionary_encode()}), tmp_path / "train_questions.parquet")
    said = run("easy_vqa", tmp_path, tmp_path / "out", "--from-id", 2)
    assert said.splitlines() == ["train: 2 questions about 1 pictures", "validation: 1 questions about 1 pictures"]
    data = load_recipe(ROOT / "recipes" / "easy_vqa.yaml", [f"data.root={tmp_path / 'out'}"]).data
    first, held_out = open_source(data, "train").read(0).parts, open_source(data, "validation").read(0).parts
    assert (first["answer"], first["colour"], first["shape"]) == ("red", "red", None)
    assert held_out["shape"] == "circle" and held_out["png"] == png()
    assert open_source(data, "pictures").column("image_id") == [0, 1]


def test_av_digits(tmp_path):
    np.savez(tmp_path / "digits8x8.npz", images=np.full((2, 8, 8), 16, np.uint8))
    clip = io.BytesIO()
    soundfile.write(clip, np.sin(np.arange(4000) / 5), 8000, format="FLAC")
    pq.write_table(pa.table({"id": ["3_a_0"], "audio": [clip.getvalue()]}), tmp_path / "speech.parquet")
    digits = {"text": "tow", "image_digit": 1, "audio_digit": 3, "text_digit": 2}
    for split in ("train", "val"):
        row = {"task": "sum2", "image_index": 1, "audio_id": "3_a_0", **digits, "label": 4}
        (tmp_path / f"sum2_{split}.jsonl").write_text(json.dumps(row) + "\n")
    run("av_digits", tmp_path, tmp_path / "speech.parquet", tmp_path / "out")
    data = load_recipe(ROOT / "recipes" / "av_digits.yaml", [f"data.root={tmp_path / 'out'}"]).data
    record = open_source(data, "validation").read(0).parts
    assert record == {"image": "images/1.png", "audio": "audio/3_a_0.flac", **digits, "label": 4}
    assert np.asarray(PIL.Image.open(tmp_path / "out" / record["image"])).tolist() == [[255] * 8] * 8
    assert (tmp_path / "out" / record["audio"]).read_bytes() == clip.getvalue()
    vectors = load_recipe(ROOT / "recipes" / "av_digits_vectors.yaml", [f"data.root={tmp_path / 'out'}"]).data
    same = open_source(vectors, "validation").read(0).parts
    assert same["image"] == [1.0] * 64 and len(same["audio"]) == 128 and np.isfinite(same["audio"]).all()
    assert {name: same[name] for name in (*digits, "label")} == {**digits, "label": 4}


def test_mosi(tmp_path):
    features = {"text_feat": [[0.5] * 3] * 3, "audio_feat": [[1.0] * 2] * 3, "video_feat": [[0.0] * 4] * 3}
    rows = {**features, "label": [1, 0, 1], "video_id": ["a", "a", "b"], "split": ["train", "train", "val"]}
    pq.write_table(pa.table(rows), tmp_path / "mosi.parquet")
    said = run("mosi", tmp_path / "mosi.parquet", tmp_path / "out")
    assert said.splitlines() == ["train: 2 utterances of 1 videos", "validation: 1 utterances of 1 videos"]
    recipe = load_recipe(ROOT / "recipes" / "mosi.yaml", [f"data.root={tmp_path / 'out'}"])
    record = open_source(recipe.data, "train").read(1).parts
    assert record["label"] == 0 and set(features) <= set(record)


def test_vqa_rad(tmp_path):
    names = [f"{number}.jpg" for number in range(40)]
    pq.write_table(pa.table({"image": names, "jpg": [png()] * 40}), tmp_path / "images.parquet")
    asked = {"image": names * 2, "question": ["Is it? "] * 80, "answer": ["Yes"] * 80, "answer_type": ["CLOSED "] * 40 + ["OPEN"] * 40}
    pq.write_table(pa.table(asked), tmp_path / "questions.parquet")
    said = run("vqa_rad", tmp_path / "questions.parquet", tmp_path / "images.parquet", tmp_path / "out")
    assert [line.split(":")[0] for line in said.splitlines()] == ["train", "test"]
    join = "join: {file: images.parquet, key: image_id}, group_by: image_id"
    recipe = load_recipe("medical_qa:tiny", [f"data={{root: {tmp_path / 'out'}, train: train.parquet, test: test.parquet, {join}}}"])
    train, test = (open_source(recipe.data, split) for split in ("train", "test"))
    first = train.read(0).parts
    assert (first["question"], first["answer"], first["kind"], first["image"]) == ("Is it?", "yes", "closed", png())
    assert test.column("image_id") and not set(train.column("image_id")) & set(test.column("image_id"))


def test_tuxpaint(tmp_path):
    rows = {"id": [f"s{n}" for n in range(40)], "png": [png()] * 40, "category": ["food"] * 40, "caption_en": ["A pear."] * 40}
    pq.write_table(pa.table(rows), tmp_path / "stamps.parquet")
    run("tuxpaint", tmp_path / "stamps.parquet", tmp_path / "out")
    files = ", ".join(f"{split}: {tmp_path / 'out' / split}.parquet" for split in ("train", "test"))
    data = load_recipe("clip:tiny", [f"data={{{files}}}"]).data
    assert open_source(data, "train").read(0).parts == {"image": png(), "caption": "A pear.", "kind": "food"}
    assert 0 < len(open_source(data, "test")) < 20
