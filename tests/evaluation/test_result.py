"""The files an evaluation leaves in a run folder."""

import json

import numpy as np
import pytest

from chiasm.evaluation.result import Evaluation, merge_json, write_text
from chiasm.types import ChiasmError, Prediction


def test_splits_are_merged_and_json_has_no_nan(tmp_path):
    rows = [Prediction("a:1", "answer", "red", "blue", score=np.float32(0.5), groups={"kind": "colour"})]
    found = Evaluation({"answer.exact_match": 0.5}, {"answer.exact_match": (0.4, 0.6)}, predictions=rows, counts={"read": 1})
    found.write(tmp_path, "test")
    Evaluation({"answer.exact_match": float("nan")}).write(tmp_path, "other")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics == {"test": {"answer.exact_match": 0.5}, "other": {"answer.exact_match": None}}
    details = json.loads((tmp_path / "evaluation.json").read_text())
    assert details["test"]["intervals"] == {"answer.exact_match": [0.4, 0.6]}
    line = json.loads((tmp_path / "predictions" / "test.jsonl").read_text())
    assert (line["id"], line["output"], line["score"], line["groups"]) == ("a:1", "red", 0.5, {"kind": "colour"})
    assert not list(tmp_path.rglob(".*"))


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_text(path, "{}")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize("text", ["not json", "[1]"])
def test_a_broken_file_is_named(tmp_path, text):
    (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(ChiasmError, match=r"metrics\.json"):
        merge_json(tmp_path / "metrics.json", {"test": {}})
