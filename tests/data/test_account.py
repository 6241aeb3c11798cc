"""read = used + quarantined + filtered, and the two ways to stop."""

import json

import pytest

from chiasm.data.account import Accounting
from chiasm.types import BadSample, ChiasmError, StepBatches


def step(rows, outcomes, notes=None):
    bad = [BadSample(f"r:{r}", "r", r, "image", "truncated", "cut") for r, o in zip(rows, outcomes, strict=True) if o == "quarantined"]
    return StepBatches({}, [], bad, len(rows), notes=notes or {}, rows=rows, outcomes=outcomes)


def test_a_sample_counts_once_and_use_wins_over_filter():
    account = Accounting()
    account.add("train", 4, step([0, 1], ["filtered", "used"], {"image: rotated": 1}))
    account.add("train", 4, step([0, 1], ["used", "filtered"], {"image: rotated": 1}), epoch=1)
    account.add("train", 4, step([2], ["quarantined"]), epoch=1)
    assert account.counts()["train"] == {"read": 3, "used": 2, "quarantined": 1, "filtered": 0}
    assert account.notes() == {"train": {"image: rotated": 1}} and account.quarantined()[0]["epoch"] == 1


def test_state_is_json():
    account = Accounting()
    account.add("train", 9, step([3], ["quarantined"]))
    other = Accounting()
    other.load_state(json.loads(json.dumps(account.state())))
    assert other.counts() == account.counts() and other.quarantined() == account.quarantined()


def test_error_stops_at_the_first():
    with pytest.raises(ChiasmError, match="bad sample r:1: truncated"):
        Accounting(bad_samples="error").add("train", 4, step([0, 1], ["used", "quarantined"]))


def test_max_bad():
    account = Accounting(max_bad=0.05)
    account.add("train", 1000, step(list(range(100)), ["quarantined"] * 5 + ["used"] * 95))
    account.add("train", 1000, step(list(range(100, 200)), ["quarantined"] * 5 + ["used"] * 95))
    with pytest.raises(ChiasmError, match=r"11 of 201 samples are bad \(5.5%\), more than train.max_bad=0.05"):
        account.add("train", 1000, step([200], ["quarantined"]))


def test_written_files(tmp_path):
    account = Accounting()
    account.add("test", 2, step([0], ["quarantined"], {"a": 1}))
    account.write(tmp_path)
    assert json.loads((tmp_path / "data.json").read_text())["test"] == {
        "read": 1,
        "used": 0,
        "quarantined": 1,
        "filtered": 0,
        "notes": {"a": 1},
    }
    line = json.loads((tmp_path / "quarantine.jsonl").read_text())
    assert line == {
        "split": "test",
        "id": "r:0",
        "file": "r",
        "line": 0,
        "input": "image",
        "reason": "truncated",
        "message": "cut",
        "item": None,
        "epoch": 0,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.json", "quarantine.jsonl"]
