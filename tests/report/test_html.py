"""The page of a run: whole, self-contained, escaped, and there for a run of any completeness."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from chiasm.report.html import duration, write_report
from chiasm.types import ChiasmError

VOID = {"meta", "img", "br", "line", "circle", "polyline", "link", "input"}


class Checker(HTMLParser):
    """Collects addresses, anchors and visible text; fails on tags that do not nest."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.tags, self.text = [], [], set(), set(), []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        found = dict(attrs)
        self.addresses += [found[a] for a in ("src", "href", "xlink:href") if a in found]
        self.ids |= {found["id"]} if "id" in found else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read(path):
    page = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    return page, checker, " ".join(" ".join(checker.text).split())


def test_everything_is_on_the_page(run_folder, shown):
    _, checker, text = read(write_report(run_folder, **shown))
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
    page, checker, _ = read(write_report(run_folder, **shown))
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
    page, _, text = read(write_report(run_folder, samples=samples, commands=[(evil, evil)], facts={evil: evil}))
    assert "<script>" not in page
    assert text.count(evil) >= 8


def test_a_run_that_was_only_begun(tmp_path):
    (tmp_path / "recipe.yaml").write_text("tasks: {answer: {type: generate}}\n")
    _, _, text = read(write_report(tmp_path))
    assert "chiasm train" in text
    assert "Scores" not in text


def test_unfinished_lines_and_nan_do_not_stop_it(run_folder):
    with (run_folder / "log.jsonl").open("a") as file:
        file.write('{"step": 5000, "stage": "finetune", "loss": NaN, "losses": {"answer": NaN}}\n{"step": 5001, "lo')
    metrics = json.loads((run_folder / "metrics.json").read_text())
    metrics["test"]["answer.exact_match"] = None
    (run_folder / "metrics.json").write_text(json.dumps(metrics))
    page, _, text = read(write_report(run_folder))
    assert not re.search(r"\bnan\b", page, re.IGNORECASE)
    assert "as it is –" in text


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(ChiasmError, match="not a run"):
        write_report(tmp_path)


def test_duration():
    assert [duration(s) for s in (0, 44.2, 450, 7500)] == ["", "45 s", "7 min 30 s", "2 h 05 min"]
