"""The page of a run: whole, self-contained, escaped, and there for a run of any completeness."""

import base64
import json
import re

import pytest

from chiasm.report.html import duration, write_report
from chiasm.types import ChiasmError
from html_page import read


def opened(path):
    """(the page's text as written, what it is made of, what is seen)."""
    page = path.read_text(encoding="utf-8")
    return page, *read(page, between=" ")


def test_everything_is_on_the_page(run_folder, shown):
    _, checker, text = opened(write_report(run_folder, **shown))
    for part in (
        "demo", "1.04 M, all trained", "3,997", "4 min 00 s", "cross_attention",
        "0.947", "[0.938, 0.955]", "-0.757 [-0.777, -0.737]", "question only", "test_new_pairs",
        "exact_match falls from 0.95 to 0.19 when shuffled", "By kind (7)", "spoken", "recall@1 image → caption", "among 100 candidates",
        "what colour is the cup?", "(7)", "its caption", "Search, both ways",
        "Loss", "Validation", "Learning rate", "4,000 steps", "backbone, fusion, tasks.answer",
        "39,985", "image: truncated", "× 2", "train.jsonl:7", "chiasm evaluate", "The whole recipe",
    ):  # fmt: skip
        assert part in text, part
    assert {"svg", "img", "audio", "table"} <= checker.tags


def test_nothing_comes_from_outside_and_no_script_runs(run_folder, shown):
    page, checker, _ = opened(write_report(run_folder, **shown))
    assert all(a.startswith(("data:", "#")) for a in checker.addresses)
    assert {a[1:] for a in checker.addresses if a.startswith("#")} <= checker.ids
    assert not re.search(r"<script|@import|url\(|<link", page)
    assert "prefers-color-scheme: dark" in page
    picture = next(a for a in checker.addresses if a.startswith("data:image/png"))
    assert base64.b64decode(picture.partition(",")[2]).startswith(b"\x89PNG")


def test_texts_are_escaped(run_folder):
    evil = "<script>alert(1)</script>"
    quarantine = {"split": "train", "id": evil, "input": "image", "reason": evil, "message": evil}
    (run_folder / "quarantine.jsonl").write_text(json.dumps(quarantine) + "\n")
    log = [{"step": s, "stage": evil + str(s), "loss": 1.0, "losses": {evil: 1.0, "b": 2.0}} for s in (1, 2)]
    (run_folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    samples = [{"rows": [(evil, evil, evil, False)], "caption": evil, "predicted_caption": evil, "title": evil}]
    page, _, text = opened(write_report(run_folder, samples=samples, commands=[(evil, evil)], facts={evil: evil}))
    assert "<script>" not in page
    assert text.count(evil) >= 8


def test_a_run_that_was_only_begun(tmp_path):
    (tmp_path / "recipe.yaml").write_text("tasks: {answer: {type: generate}}\n")
    _, _, text = opened(write_report(tmp_path))
    assert "chiasm train" in text
    assert "Scores" not in text


def test_unfinished_lines_and_nan_do_not_stop_it(run_folder):
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"step": 5000, "stage": "finetune", "loss": NaN, "losses": {"answer": NaN}}\n{"step": 5001, "lo')
    metrics = json.loads((run_folder / "metrics.json").read_text())
    metrics["test"]["answer.exact_match"] = None
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    page, _, text = opened(write_report(run_folder))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert "as it is –" in text


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ChiasmError, match="not a run"):
        write_report(tmp_path)


def test_duration():
    assert [duration(s) for s in (0, 44.2, 450, 7500)] == ["", "45 s", "7 min 30 s", "2 h 05 min"]
