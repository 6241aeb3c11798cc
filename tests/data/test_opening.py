"""From `data` of a recipe to sources: endings, patterns, joins, held-out rows, groups, and errors that name the nearest."""

import json

import pytest

from chiasm.data.opening import check_groups, open_source, shared_groups, split_names
from chiasm.recipe import DataSpec
from chiasm.types import BadInput, RecipeError


def write(path, records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def test_pattern_of_files_has_unique_ids(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "part.jsonl", [{"x": name}])
    source = open_source(DataSpec(train="*/part.jsonl", validation="a/part.jsonl"), "train", tmp_path)
    assert [source.read(i).id for i in range(2)] == ["a/part.jsonl:1", "b/part.jsonl:1"]
    assert source.read(1).root == str(tmp_path / "b")


def test_root_is_where_media_start(tmp_path):
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "t.jsonl", [{"x": 1}])
    spec = DataSpec(root="d", train="t.jsonl", test="t.jsonl", validation="t.jsonl")
    assert open_source(spec, "train", tmp_path).read(0).root == str(tmp_path / "d")


def test_join_adds_the_second_table(tmp_path):
    write(tmp_path / "q.jsonl", [{"image_id": 1, "q": "a"}, {"image_id": 7, "q": "b"}, {"q": "c"}])
    (tmp_path / "i.csv").write_text("image_id,image\n1,one.png\n2,two.png\n")
    spec = DataSpec(train="q.jsonl", validation="q.jsonl", join={"file": "i.csv", "key": "image_id"})
    source = open_source(spec, "train", tmp_path)
    assert source.read(0).parts == {"image_id": 1, "q": "a", "image": "one.png"}
    for index in (1, 2):
        with pytest.raises(BadInput, match="not in the joined table"):
            source.read(index)
    assert source.columns == ["image_id", "q", "image"]
    assert source.column("image") == ["one.png", None, None]


def test_join_key_must_be_unique_and_known(tmp_path):
    write(tmp_path / "q.jsonl", [{"image_id": 1}])
    write(tmp_path / "i.jsonl", [{"image_id": 1}, {"image_id": 1}])
    with pytest.raises(RecipeError, match="occurs twice"):
        open_source(DataSpec(train="q.jsonl", test="q.jsonl", join={"file": "i.jsonl", "key": "image_id"}), "test", tmp_path)
    with pytest.raises(RecipeError, match="did you mean 'image_id'"):
        open_source(DataSpec(test="q.jsonl", join={"file": "i.jsonl", "key": "imageid"}), "test", tmp_path)


def test_held_out_rows_keep_groups_together(tmp_path):
    write(tmp_path / "t.jsonl", [{"n": i, "patient": i // 5} for i in range(1000)])
    spec = DataSpec(train="t.jsonl", group_by="patient")
    train, held = (open_source(spec, name, tmp_path) for name in ("train", "validation"))
    assert len(train) + len(held) == 1000 and 50 <= len(held) <= 160
    assert sorted(train.column("n") + held.column("n")) == list(range(1000))
    assert not shared_groups({"train": train, "validation": held}, "patient")
    assert f"{len(held)} of 1000 training records" in train.notes[0]
    assert open_source(spec, "validation", tmp_path).column("n") == held.column("n")


def test_groups_in_two_splits_are_an_error_with_counts(tmp_path):
    write(tmp_path / "a.jsonl", [{"patient": p} for p in (1, 2, 3)])
    write(tmp_path / "b.jsonl", [{"patient": p} for p in (2, 3, 4)])
    spec = DataSpec(train="a.jsonl", validation="b.jsonl")
    sources = {name: open_source(spec, name, tmp_path) for name in ("train", "validation")}
    assert shared_groups(sources, "patient") == {("train", "validation"): ["2", "3"]}
    with pytest.raises(RecipeError, match="2 values of 'patient' stand in both train and validation"):
        check_groups(sources, "patient")
    with pytest.raises(RecipeError, match="did you mean 'patient'"):
        check_groups(sources, "pateint")


def test_errors_name_the_nearest(tmp_path):
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "train.jsonl", [{"x": 1}])

    def message(**spec):
        with pytest.raises(RecipeError) as error:
            open_source(DataSpec(**spec), "train", tmp_path)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "did you mean 'train.jsonl'" in message(train="data/trian.jsonl")
    assert "did you mean 'data'" in message(train="dta/train.jsonl")
    assert "no file matches" in message(train="data/*.csv")
    (tmp_path / "data" / "train.xlsx").write_text("")
    assert ".jsonl" in message(train="data/train.xlsx")
    assert "no split 'train'" in message(test="data/train.jsonl", validation="data/train.jsonl")
    assert "no built-in set" in message(builtin="jsonl")


def test_chat_form(tmp_path):
    turn = [{"role": "user", "content": "<image>what is this?"}, {"role": "assistant", "content": "a cat"}]
    parts = [{"type": "image", "image": "b.png"}, {"type": "text", "text": "and now?"}]
    write(
        tmp_path / "t.jsonl",
        [
            {"messages": turn, "images": ["a.png"]},
            {"messages": [{"role": "system", "content": "be brief"}, *turn, {"role": "user", "content": parts}], "images": ["a.png"]},
            {"messages": turn, "images": ["a.png", "b.png"]},
            {"messages": turn},
            {"messages": "hello"},
        ],
    )
    source = open_source(DataSpec(train="t.jsonl", validation="t.jsonl"), "train", tmp_path)
    first = source.read(0).parts
    assert (first["prompt"], first["answer"], first["image"]) == ("what is this?", "a cat", "a.png")
    assert set(source.columns) == {"messages", "images", "prompt", "answer", "question", "history", "image"}
    second = source.read(1).parts
    assert second["prompt"] == "system: be brief\nuser: what is this?\nassistant: a cat\nuser: and now?"
    assert second["image"] == ["a.png", "b.png"] and "answer" not in second
    with pytest.raises(BadInput, match="1 <image> in the messages, but 2 given"):
        source.read(2)
    assert second["question"] == "and now?" and second["history"] == [{"question": "be brief what is this?", "answer": "a cat"}]
    assert first["question"] == "what is this?" and first["history"] == []
    third = source.read(3).parts
    assert third["prompt"] == "<image>what is this?" and "image" not in third
    with pytest.raises(BadInput, match="list of"):
        source.read(4)
    assert source.column("answer")[0] == "a cat"


def test_split_names(tmp_path):
    assert split_names(DataSpec(train="a.jsonl", test="b.jsonl", splits={"hard": "c.jsonl"})) == ["train", "validation", "test", "hard"]


def test_a_part_of_a_split_holds_every_smaller_one_and_nothing_that_is_held_out(tmp_path):
    write(tmp_path / "t.jsonl", [{"n": i} for i in range(2000)])
    few = {f"s{share}": {"file": "t.jsonl", "keep": share / 100} for share in (5, 25, 100)}
    spec = DataSpec(train="t.jsonl", splits=few)
    kept = {name: set(open_source(spec, name, tmp_path).column("n")) for name in (*few, "train", "validation")}
    assert kept["s5"] < kept["s25"] < kept["s100"] == kept["train"]
    assert 60 <= len(kept["s5"]) <= 120 and 400 <= len(kept["s25"]) <= 500
    assert not kept["train"] & kept["validation"]
    other = open_source(spec.model_copy(update={"seed": 1, "validation": spec.train}), "s5", tmp_path)
    assert set(other.column("n")) != kept["s5"]
    assert "of 2000 records" in other.notes[-1]
    builtin = DataSpec(builtin="quiz", splits={"few": {"file": "train", "keep": 0.05}})
    assert 430 <= len(open_source(builtin, "few")) <= 570
