"""Prediction of files: every row is answered or refused, in order, whatever stops it and however it is cut."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import PIL.Image
import pyarrow.parquet as pq
import pytest

import chiasm
from chiasm_cli.main import run as chiasm_command

RECIPE: dict[str, Any] = {
    "name": "tiny",
    "inputs": {"text": "text", "table": {"modality": "table", "columns": ["price"]}},
    "backbone": {
        "arch": "bert",
        "kind": "bidirectional",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "tokenizer": "words",
    },
    "fusion": "early",
    "tasks": {"label": {"type": "classify", "prompt": "{text}", "target": "label"}},
    "stages": [{"steps": 2, "batch_size": 8, "learning_rate": 1e-3}],
    "train": {"precision": "fp32"},
}


def records(count: int) -> list[str]:
    """Lines of a jsonl; every seventh is broken in one of two ways."""
    made = [{"text": f"a {'new' if n % 3 else 'used'} cup", "price": n % 50, "label": "yes" if n % 2 else "no"} for n in range(count)]
    lines = [json.dumps(record) for record in made]
    lines[::7] = ["{" if n % 2 else '{"text": 5.5e400, "price": "cheap"}' for n in range(len(lines[::7]))]
    return lines


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("train", "validation", "input"):
        (folder / f"{name}.jsonl").write_text("\n".join(records(40)) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    splits = {name: str(data / f"{name}.jsonl") for name in ("train", "validation")}
    return chiasm.train({**RECIPE, "data": splits}, output=tmp_path_factory.mktemp("runs") / "tiny", progress=False)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chiasm.run.PREDICT_ROWS", 4)


@pytest.fixture
def whole(run: chiasm.Run, data: Path, tmp_path: Path) -> bytes:
    """What an undisturbed run writes."""
    chiasm.predict_file(run, data / "input.jsonl", tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_bytes()


class Killed(BaseException):
    pass


def killed_after(rows: int):
    def progress(done: int, total: int) -> None:
        if done >= rows:
            raise Killed

    return progress


def test_every_row_has_its_line_in_order(run: chiasm.Run, data: Path, whole: bytes, tmp_path: Path):
    lines = [json.loads(line) for line in whole.splitlines()]
    assert [line["id"] for line in lines] == [f"input.jsonl:{n + 1}" for n in range(40)]
    refused = [line for line in lines if "error" in line]
    assert [line["line"] for line in refused] == list(range(1, 41, 7))
    assert {line["reason"] for line in refused} >= {"bad_json"}
    assert all(line["output"] in ("yes", "no") and 0.5 <= line["score"] <= 1 for line in lines if "error" not in line)
    done = chiasm.predict_file(run, data / "input.jsonl", tmp_path / "whole.jsonl")  # a second time: nothing is left to do
    assert (done.rows, sum(done.refused.values()), done.whole) == (40, len(refused), True)
    assert (tmp_path / "whole.jsonl").read_bytes() == whole


@pytest.mark.parametrize("torn", [0, 3, 400])
def test_it_goes_on_where_it_was_stopped(run: chiasm.Run, data: Path, whole: bytes, tmp_path: Path, torn: int):
    output = tmp_path / "out.jsonl"
    for rows in (8, 20, 32):
        with pytest.raises(Killed):
            chiasm.predict_file(run, data / "input.jsonl", output, progress=killed_after(rows))
        assert not output.exists()
        writing = tmp_path / "out.jsonl.partial" / "1-of-1" / "writing.jsonl"
        with writing.open("rb+") as file:
            file.truncate(max(0, writing.stat().st_size - torn))
        kept = writing.read_bytes().count(b"\n") // 4 * 4
    started: list[int] = []
    chiasm.predict_file(run, data / "input.jsonl", output, progress=lambda done, total: started.append(done))
    assert started[0] == kept > 0
    assert output.read_bytes() == whole
    assert not (tmp_path / "out.jsonl.partial").exists()


def test_two_shards_are_one_run(run: chiasm.Run, data: Path, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    output = tmp_path / "out.jsonl"
    first = chiasm.predict_file(run, data / "input.jsonl", output, shard=(2, 2))
    assert not first.whole and not output.exists() and first.rows == 20
    monkeypatch.setenv("RANK", "0")  # as torchrun has it
    monkeypatch.setenv("WORLD_SIZE", "2")
    second = chiasm.predict_file(run, data / "input.jsonl", output)
    assert second.whole and second.rows == 40 and output.read_bytes() == whole
    assert first.missing == (1,) and not second.before
    assert chiasm.predict_file(run, data / "input.jsonl", output).before
    with pytest.raises(chiasm.ChiasmError, match="input.jsnl: no such file or folder; did you mean 'input.jsonl'"):
        chiasm.predict_file(run, data / "input.jsnl", output)
    with pytest.raises(chiasm.ChiasmError, match="shards was 2, is 3"):
        chiasm.predict_file(run, data / "input.jsonl", output, shard=(1, 3))


def test_what_has_changed_is_named(run: chiasm.Run, data: Path, tmp_path: Path):
    output, mine = tmp_path / "out.jsonl", tmp_path / "mine.jsonl"
    mine.write_bytes((data / "input.jsonl").read_bytes())
    with pytest.raises(Killed):
        chiasm.predict_file(run, mine, output, progress=killed_after(8))
    with pytest.raises(chiasm.ChiasmError, match="task was None, is label"):
        chiasm.predict_file(run, mine, output, task="label")
    mine.write_text(mine.read_text() + '{"text": "a cup"}\n')
    with pytest.raises(chiasm.ChiasmError, match="input was .*rows was 40, is 41"):
        chiasm.predict_file(run, mine, output)
    assert chiasm.predict_file(run, mine, output, overwrite=True).rows == 41
    (tmp_path / "own.jsonl").write_text("mine")
    with pytest.raises(chiasm.ChiasmError, match="not of `predict`"):
        chiasm.predict_file(run, mine, tmp_path / "own.jsonl")
    with pytest.raises(chiasm.ChiasmError, match=".txt: predictions are written as .jsonl, .csv, .parquet"):
        chiasm.predict_file(run, mine, tmp_path / "out.txt")
    with pytest.raises(chiasm.ChiasmError, match="lable"):
        chiasm.predict_file(run, mine, tmp_path / "new.jsonl", task="lable")


def test_csv_and_parquet_hold_the_same(run: chiasm.Run, data: Path, whole: bytes, tmp_path: Path):
    lines = [json.loads(line) for line in whole.splitlines()]
    for name in ("out.csv", "out.parquet"):
        chiasm.predict_file(run, data / "input.jsonl", tmp_path / name)
    with (tmp_path / "out.csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    for line, cell, row in zip(lines, cells, rows, strict=True):
        for key in ("id", "output", "reason", "error"):
            assert (cell[key] or None) == row[key] == line.get(key)
        assert row["score"] == line.get("score") and (float(cell["score"]) if cell["score"] else None) == line.get("score")
        assert json.loads(row["probabilities"] or "null") == line.get("probabilities")


def test_a_folder_of_pictures(tmp_path: Path):
    """Pictures that cannot be opened are lines like the others."""
    pictures = tmp_path / "pictures"
    for label in ("dark", "light"):
        (pictures / label).mkdir(parents=True)
        for number in range(3):
            PIL.Image.new("L", (16, 16), number + (200 if label == "light" else 0)).save(pictures / label / f"{number}.png")
    encoder = {"arch": "resnet", "embedding_size": 8, "hidden_sizes": [8], "depths": [1], "layer_type": "basic", "grid": 1}
    recipe = {**RECIPE, "inputs": {"image": {"modality": "image", "size": 16}}, "encoders": {"image": encoder}}
    recipe["tasks"] = {"label": {"type": "classify", "target": "label", "prompt": "label :"}}
    made = chiasm.train({**recipe, "data": {"train": str(pictures), "validation": str(pictures)}}, output=tmp_path / "run", progress=False)
    (pictures / "torn.png").write_bytes((pictures / "dark" / "0.png").read_bytes()[:40])
    chiasm.predict_file(made, pictures, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines[-2:]] == ["pictures/light/2.png", "pictures/torn.png"]
    assert len(lines) == 7 and lines[-1]["reason"] and "output" not in lines[-1]


def test_the_command(run: chiasm.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    output = tmp_path / "out.csv"
    assert chiasm_command(["predict", str(run.folder), str(data / "input.jsonl"), "-o", str(output), "--shard", "1/2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["whole"] is False
    assert chiasm_command(["predict", str(run.folder), str(data / "input.jsonl"), "-o", str(output), "--shard", "2/2"]) == 0
    assert "34 predicted, 6 refused; bad_type 3; bad_json 3" in capsys.readouterr().out
    assert chiasm_command(["predict", str(run.folder), str(data / "input.jsonl"), "-o", str(output), "--shard", "2"]) == 2
    assert "write I/N, as 1/4" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_thousand_rows_and_five_kills(run: chiasm.Run, tmp_path: Path):
    (tmp_path / "input.jsonl").write_text("\n".join(records(100_000)) + "\n")
    command = [sys.executable, "-m", "chiasm_cli", "predict", str(run.folder), str(tmp_path / "input.jsonl"), "--output"]
    begun = time.monotonic()
    subprocess.run([*command, str(tmp_path / "whole.jsonl")], check=True, capture_output=True)
    seconds, draws, kills = time.monotonic() - begun, random.Random(0), 0
    writing = tmp_path / "out.jsonl.partial" / "1-of-1" / "writing.jsonl"
    for kill in range(5):
        process = subprocess.Popen([*command, str(tmp_path / "out.jsonl")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = writing.stat().st_size if writing.exists() else 0
        wanted = before + draws.uniform(0.05, 0.15) * (tmp_path / "whole.jsonl").stat().st_size
        while process.poll() is None and not (writing.exists() and writing.stat().st_size > wanted):
            time.sleep(0.01)
        assert process.poll() is None, f"finished before kill {kill + 1}"
        process.kill()
        kills += process.wait() < 0
    subprocess.run([*command, str(tmp_path / "out.jsonl")], check=True, capture_output=True)
    assert kills == 5
    lines = [json.loads(line)["id"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert lines == [f"input.jsonl:{n + 1}" for n in range(100_000)]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    print(f"100,000 rows, 5 kills, none lost or doubled; undisturbed {100_000 / seconds:,.0f} rows/s")


@pytest.mark.slow
def test_torchrun_shares_it(run: chiasm.Run, data: Path, tmp_path: Path):
    monkey = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = ["predict", str(run.folder), str(data / "input.jsonl"), "--output"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "chiasm_cli"]
    subprocess.run([*torchrun, *arguments, str(tmp_path / "two.jsonl")], check=True, capture_output=True, env=monkey)
    subprocess.run(
        [sys.executable, "-m", "chiasm_cli", *arguments, str(tmp_path / "one.jsonl")], check=True, capture_output=True, env=monkey
    )
    one, two = ((tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("one", "two"))
    assert [json.loads(line)["id"] for line in one] == [json.loads(line)["id"] for line in two]
    assert [json.loads(line).get("output") for line in one] == [json.loads(line).get("output") for line in two]
