"""Opening rows: bad data comes back as a value, shared pictures are opened once, draws are of seed, epoch and what is drawn."""

import numpy as np
import pytest

from chiasm.data.split import Split, fit_modalities, items_of
from chiasm.types import BadInput, BadSample, Opened


def split_of(fakes, records):
    return Split(fakes.Records(records), {"image": fakes.Vector()}, text_inputs={"question": fakes.Words()}, text_columns=["answer"])


def test_bad_data_is_a_value(fakes):
    split = split_of(fakes, [None, {"image": "bad:1"}, {"image": "dot:1", "question": 7}, {"image": "dot:1", "question": " a "}])
    rows = [split.open(i) for i in range(4)]
    assert [(r.id, r.reason, r.input) for r in rows[:3]] == [
        ("r:0", "bad_json", ""),
        ("r:1", "truncated", "image"),
        ("r:2", "bad_type", "question"),
    ]
    assert all(isinstance(r, BadSample) for r in rows[:3]) and isinstance(rows[3], Opened)
    assert rows[3].sample.parts["question"] == "a" and rows[3].notes == ("question: stripped",)


def test_inputs_stand_under_their_names(fakes):
    image = fakes.Vector(fakes.Vector.Options(column="png"))
    question = fakes.Words(fakes.Words.Options(column="Review Text"))
    split = Split(fakes.Records([{"png": "dot:1", "Review Text": "hi"}, {}]), {"image": image}, text_inputs={"question": question})
    assert {**split.open(0).sample.parts} == {"png": "dot:1", "Review Text": "hi", "image": "dot:1", "question": "hi"}
    assert split.open(1).values == {} and split.open(1).sample.parts == {"image": None, "question": None}


def test_shared_pictures_are_opened_once_and_augmented_alike(fakes):
    split = split_of(fakes, [{"image": "dot:1"}, {"image": "dot:1"}, {"image": ["dot:1", "dot:2"]}, {"image": []}])
    rows = split.open_rows(range(4), seed=1, epoch=2, augment=True)
    assert split.modalities["image"].opened == 2
    assert rows[0].values["image"] is rows[1].values["image"] is rows[2].values["image"][0]
    assert rows[2].keys["image"] == ("dot:1", "dot:2") and "image" not in rows[3].values


def test_draws_are_of_seed_epoch_and_picture(fakes):
    split = split_of(fakes, [{"image": "dot:1"}, {"image": "dot:2"}])

    def drawn(index, **key):
        return float(split.open(index, augment=True, **key).values["image"][0]) % 1

    assert drawn(0, seed=1, epoch=0) == drawn(0, seed=1, epoch=0)
    assert len({drawn(0, seed=1, epoch=0), drawn(0, seed=1, epoch=1), drawn(0, seed=2, epoch=0), drawn(1, seed=1, epoch=0)}) == 4


def test_items_of():
    assert items_of(["a", b"b"]) == ["a", b"b"]
    assert items_of([0.5, 1.0]) is None and items_of("a") is None and items_of(np.ones(3)) is None
    with pytest.raises(BadInput, match="item 2"):
        items_of(["a", None])


def test_fit_sees_raw_training_values(fakes):
    counted = fakes.Counted()
    split = Split(fakes.Records([{"image": f"dot:{i}"} for i in range(10)] + [None, {}]), {"image": counted})
    fit_modalities(split, split.modalities)
    assert counted.seen == [f"dot:{i}" for i in range(10)]
    full = Split(fakes.Records([{"image": f"dot:{i}"} for i in range(10)]), {"image": counted})
    fit_modalities(full, full.modalities, limit=4)
    assert len(counted.seen) == 4


def test_outline(fakes):
    split = split_of(
        fakes, [{"image": "dot:1", "question": "abc", "answer": "de"}, {"image": "dot:2"}, None, {"image": "dot:1", "question": "a"}]
    )
    assert split.outline().lengths.tolist() == [5, 0, 0, 1]
    groups = split.outline().groups.tolist()
    assert groups[0] == groups[3] and len(set(groups)) == 3
