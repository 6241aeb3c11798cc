"""Indexing what a run compares, and finding it again by anything else that it compares."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chiasm
from chiasm.data.scenes.export import export
from chiasm.data.split import Split
from chiasm_cli.main import run as chiasm_command

sys.path.insert(0, str(Path(__file__).parent.parent / "export"))
from tiny_run import RECIPE

TASKS = {
    "align": {"type": "contrast", "between": ["image", "caption"]},
    "see": {"type": "contrast", "between": ["image", "answer"], "project": False},
    "hear": {"type": "contrast", "between": ["audio", "answer"], "project": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "scenes"
    export(folder, scenes_per_split=6)
    return folder


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Run:
    splits = {name: str(data / f"{name}.jsonl") for name in ("train", "validation")}
    inputs = {name: RECIPE["inputs"][name] for name in ("image", "audio")}
    recipe = {
        **RECIPE,
        "inputs": inputs,
        "fusion": "none",
        "tasks": TASKS,
        "stages": [{"steps": 2, "batch_size": 8, "learning_rate": 1e-3}],
        "data": splits,
    }
    return chiasm.train(recipe, output=tmp_path_factory.mktemp("runs") / "run", progress=False)


@pytest.fixture(scope="module")
def index(run: chiasm.Run, data: Path, tmp_path_factory: pytest.TempPathFactory) -> chiasm.Index:
    return chiasm.index(run, data / "train.jsonl", tmp_path_factory.mktemp("indexes") / "index")


def pictures(data: Path) -> list[Path]:
    rows = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    return list(dict.fromkeys(data / row["image"] for row in rows if row.get("image")))


def test_vectors_have_length_one_and_do_not_depend_on_company(run: chiasm.Run, data: Path):
    rows = [{"image": path} for path in pictures(data)[:3]] + [{"text": "a red cat"}, {"caption": "a red cat"}]
    vectors = chiasm.embed(run, rows)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[1], chiasm.embed(run, rows[1:2])[0], atol=1e-5)
    assert (vectors[3] == vectors[4]).all()


def test_tasks_without_a_projection_share_their_space(run: chiasm.Run, data: Path):
    sound = next((data / "audio").rglob("*.*"))
    vectors = chiasm.embed(run, [{"image": pictures(data)[0]}, {"audio": sound}, {"text": "cat"}], task="hear")
    assert vectors.shape == (3, 32)
    with pytest.raises(chiasm.ChiasmError, match="reads no 'sound'"):
        chiasm.embed(run, [{"sound": sound}])
    with pytest.raises(chiasm.ChiasmError, match="no contrast task 'hare'; did you mean 'hear'"):
        chiasm.embed(run, [{"audio": sound}], task="hare")
    with pytest.raises(chiasm.ChiasmError, match="one thing to find by"):
        chiasm.embed(run, [{"image": pictures(data)[0], "text": "cat"}])
    with pytest.raises(chiasm.ChiasmError, match="not_found"):
        chiasm.embed(run, [{"image": "nowhere.png"}])


def test_a_run_that_compares_nothing_says_so(run: chiasm.Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(run), "tasks", {})
    with pytest.raises(chiasm.ChiasmError, match="no task of this run compares"):
        chiasm.embed(run, [{"text": "a"}])


def test_everything_is_found_by_itself(run: chiasm.Run, data: Path, index: chiasm.Index):
    account = index.facts["account"]
    assert account["indexed"]["image"] == len(pictures(data)) and account["shared"]["image"] > 0 and not account["refused"]
    for path in pictures(data):
        [hit] = index.search(chiasm.embed(run, [{"image": path}])[0], 1, find="image")
        assert hit.media == str(path) and hit.score == pytest.approx(1, abs=1e-4) and hit.modality == "image"
    [hit] = index.search(chiasm.embed(run, [{"text": hit.columns["caption"]}])[0], 1, find="text")
    assert hit.side == "caption" and hit.score == pytest.approx(1, abs=1e-4)


def test_search_is_the_full_search(run: chiasm.Run, data: Path, index: chiasm.Index):
    vectors = np.load(index.folder / "image.vectors.npy", allow_pickle=False)
    query = chiasm.embed(run, [{"text": "a red sun"}])[0]
    hits = index.search(query, 4, asked="text")  # words find pictures, where there are any
    assert {hit.side for hit in hits} == {"image"}
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(vectors @ query)[::-1][:4], atol=1e-6)
    both = index.search(query, 100)
    assert len(both) == len(index) and [h.score for h in both] == sorted((h.score for h in both), reverse=True)
    with pytest.raises(chiasm.ChiasmError, match="holds no video"):
        index.search(query, find="video")
    with pytest.raises(chiasm.ChiasmError, match="vectors of 128 numbers"):
        index.search(query[:5])
    with pytest.raises(chiasm.ChiasmError, match="--backend lancedb"):
        index.search(query, where="kind = 'spoken'")


def test_bad_rows_are_counted_by_name_and_reason(run: chiasm.Run, data: Path, tmp_path: Path):
    good = pictures(data)[0]
    (tmp_path / "torn.png").write_bytes(good.read_bytes()[:60])
    shutil.copy(good, tmp_path / "good.png")
    rows = ['{"image": "good.png"}', '{"image": "torn.png"}', "{", '{"image": "nowhere.png"}', '{"caption": "a cat"}', '{"kind": "x"}']
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    made = chiasm.index(run, tmp_path / "rows.jsonl", tmp_path / "index")
    account = made.facts["account"]
    assert account["read"] == 6 and account["indexed"] == {"image": 1, "caption": 1} and sum(account["refused"].values()) == 4
    assert {"bad_json", "not_found", "all_missing"} <= set(account["refused"])
    refused = [json.loads(line) for line in (made.folder / "refused.jsonl").read_text().splitlines()]
    assert {row["id"] for row in refused} == {f"rows.jsonl:{n}" for n in (2, 3, 4, 6)}
    assert all(row["message"] for row in refused)


def stopped_after(batches: int) -> Any:
    """A progress that ends everything there, as a kill does."""

    def progress(done: int, total: int) -> None:
        nonlocal batches
        batches -= 1
        if batches < 0:
            raise KeyboardInterrupt

    return progress


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_index_goes_on_where_it_was(run: chiasm.Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Killed between batches, within one (files longer than the journal knows), and at the end: the same bytes as in one piece."""
    monkeypatch.setattr(chiasm.Run, "rows_at_once", 4)
    rows = [*(data / "train.jsonl").read_text().splitlines(), '{"image": "nowhere.png"}', "{"]
    (data / "more.jsonl").write_text("\n".join([*rows, *rows]) + "\n")
    given = run, data / "more.jsonl"
    whole = chiasm.index(*given, tmp_path / "whole")
    partial, opened = tmp_path / ".index.partial", []
    open_rows = Split.open_rows
    monkeypatch.setattr(Split, "open_rows", lambda split, rows: opened.extend(rows) or open_rows(split, rows))
    with pytest.raises(KeyboardInterrupt):
        chiasm.index(*given, tmp_path / "index", progress=stopped_after(3))
    with (partial / "rows.jsonl").open("ab") as file, (partial / "image.vectors.raw").open("ab") as vectors:
        file.write(b'{"half a row')
        vectors.write(b"123")
    (partial / "caption.codes.npy").write_bytes(b"of an end that was not reached")
    with pytest.raises(KeyboardInterrupt):
        chiasm.index(*given, tmp_path / "index", progress=stopped_after(2))
    with (partial / "journal.jsonl").open("ab") as file:
        file.write(b'{"done": 999, "fi')
    assert not (tmp_path / "index").exists()
    made = chiasm.index(*given, tmp_path / "index")
    assert opened == list(range(len(rows) * 2))  # each once
    assert files_of(made.folder) == files_of(whole.folder) and not partial.exists()
    assert made.facts["account"]["refused"] == {"not_found": 2, "bad_json": 2}


def test_what_was_begun_otherwise_is_begun_anew(run: chiasm.Run, data: Path, tmp_path: Path, index: chiasm.Index):
    with pytest.raises(KeyboardInterrupt):
        chiasm.index(run, data / "validation.jsonl", tmp_path / "index", progress=stopped_after(1))
    made = chiasm.index(run, data / "train.jsonl", tmp_path / "index")
    assert files_of(made.folder) == files_of(index.folder)


def test_a_folder_of_pictures(run: chiasm.Run, data: Path, tmp_path: Path):
    made = chiasm.index(run, data / "images", tmp_path / "index", sides=["image"])
    assert list(made.sides) == ["image"] and len(made) > 6
    [hit] = made.search(chiasm.embed(run, [{"image": pictures(data)[2]}])[0], 1)
    assert hit.media == str(pictures(data)[2])
    with pytest.raises(chiasm.ChiasmError, match="compares no 'imgae'; did you mean 'image'"):
        chiasm.index(run, data / "images", tmp_path / "other", sides=["imgae"])
    with pytest.raises(chiasm.ChiasmError, match="exists already"):
        chiasm.index(run, data / "images", tmp_path / "index")
    (tmp_path / "empty.jsonl").write_text('{"kind": "x"}\n')
    with pytest.raises(chiasm.ChiasmError, match="no row has image or caption that can be used .all_missing 1"):
        chiasm.index(run, tmp_path / "empty.jsonl", tmp_path / "none")
    assert not [path for path in tmp_path.iterdir() if "none" in path.name]


def test_a_torn_index_is_refused(index: chiasm.Index, tmp_path: Path):
    for name in ("MANIFEST.json", "image.vectors.npy", "index.json"):
        copy = tmp_path / name
        shutil.copytree(index.folder, copy)
        (copy / name).unlink()
        with pytest.raises(chiasm.ChiasmError, match=name):
            chiasm.Index.open(copy)
    shutil.copytree(index.folder, tmp_path / "changed")
    codes = tmp_path / "changed" / "caption.codes.npy"
    codes.write_bytes(codes.read_bytes()[:-1] + b"\x01")
    with pytest.raises(chiasm.ChiasmError, match=r"caption\.codes\.npy: not as it was written"):
        chiasm.Index.open(tmp_path / "changed")


def test_another_model_is_refused(run: chiasm.Run, index: chiasm.Index, tmp_path: Path):
    shutil.copytree(run.folder, tmp_path / "same")
    assert index.space(chiasm.load(tmp_path / "same")).task == "align"  # moved, not changed
    manifest = tmp_path / "same" / "model" / "MANIFEST.json"
    other = chiasm.load(tmp_path / "same")
    manifest.write_text(manifest.read_text().replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(chiasm.ChiasmError, match="made by another model"):
        index.space(other)


def test_the_commands(run: chiasm.Run, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    index, picture = str(tmp_path / "index"), str(pictures(data)[0])
    assert chiasm_command(["index", str(run.folder), str(data / "train.jsonl"), "--output", index]) == 0
    said = capsys.readouterr()
    assert "6 image" in said.out and f"chiasm search {index} --image FILE" in said.err and f'chiasm search {index} "words"' in said.err
    assert chiasm_command(["index", str(run.folder), str(data / "train.jsonl"), "--output", f"{index}2", "--sides", "image"]) == 0
    assert f'chiasm search {index}2 "words"' in capsys.readouterr().err
    assert chiasm_command(["search", index, "--image", picture, "--find", "image", "-k", "2", "--json"]) == 0
    hits = json.loads(capsys.readouterr().out)
    assert len(hits) == 2 and hits[0]["media"] == picture
    assert chiasm_command(["search", index, "a red cat", "-k", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["score", "side", "file", "row"]
    assert chiasm_command(["search", index]) == 2
    assert chiasm_command(["search", index, "words", "--image", picture]) == 2
    capsys.readouterr()
    assert chiasm_command(["classify", str(run.folder), "--labels", "red,blue", "--image", picture, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["label"] in ("red", "blue") and sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert "warnings" not in found


def test_words_outside_the_vocabulary(run: chiasm.Run, data: Path, index: chiasm.Index, capsys: pytest.CaptureFixture[str]):
    classify, search = ["classify", str(run.folder), "--image", str(pictures(data)[0]), "--labels"], ["search", str(index.folder)]
    said = "not in this model's vocabulary: "
    assert chiasm_command([*classify, "red,zorblatt,你好"]) == 2
    assert f"labels: {said}zorblatt, 你好; use words" in capsys.readouterr().err
    assert chiasm_command([*classify, "red,a blue zorblatt"]) == 0
    assert capsys.readouterr().err.startswith(f"note: {said}zorblatt\n")
    assert chiasm_command([*classify, "red,a blue zorblatt", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["warnings"] == [f"{said}zorblatt"] and shown.err == ""
    assert chiasm_command([*search, "你好"]) == 2
    assert f"query: {said}你好" in capsys.readouterr().err
    assert chiasm_command([*search, "a red 你好", "--json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) and shown.err == f"note: {said}你好\n"


def test_a_lancedb_index_takes_more_rows(run: chiasm.Run, data: Path, index: chiasm.Index, tmp_path: Path):
    pytest.importorskip("lancedb", reason="the extra `retrieval` is not installed")
    made = chiasm.index(run, data / "train.jsonl", tmp_path / "index", backend="lancedb", sides=["image"])
    query = chiasm.embed(run, [{"text": "a red sun"}])[0]
    assert [hit.id for hit in made.search(query, 5)] == [hit.id for hit in index.search(query, 5, find="image")]
    more = chiasm.update_index(run, data / "validation.jsonl", tmp_path / "index")
    assert len(more) > len(made) == 6 and len(more.facts["updates"]) == 1
    again = chiasm.update_index(run, data / "validation.jsonl", tmp_path / "index")
    assert len(again) == len(more) and len(again.facts["updates"]) == 2
    caption = more.search(query, 1, find="caption")[0].columns["caption"]
    assert {hit.columns["caption"] for hit in more.search(query, 9, where=f"caption = '{caption}'")} == {caption}
    with pytest.raises(chiasm.ChiasmError, match="written once"):
        chiasm.update_index(run, data / "validation.jsonl", index.folder)


def test_classes_are_scored_as_in_training(run: chiasm.Run, data: Path):
    """The probabilities are the softmax of the task's own scaled similarities."""
    labels, picture = ["cat", "red", "sun"], {"image": pictures(data)[0]}
    found = chiasm.classify(run, [picture], labels, template="a {label}")[0]
    texts, image = chiasm.embed(run, [{"text": f"a {label}"} for label in labels]), chiasm.embed(run, [picture])[0]
    scores = np.exp(run.model.heads["align"].scale().item() * texts @ image)
    np.testing.assert_allclose(found, scores / scores.sum(), rtol=1e-4)
    with pytest.raises(chiasm.ChiasmError, match="where the label stands"):
        chiasm.classify(run, [picture], labels, template="a picture")
    with pytest.raises(chiasm.ChiasmError, match="two or more"):
        chiasm.classify(run, [picture], ["cat"])
