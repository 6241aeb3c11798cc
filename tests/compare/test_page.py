"""The page and the table: whole, self-contained, escaped, and there for a comparison of any completeness."""

import dataclasses
import json
import re

import pytest

from chiasm.compare.charts import costs, curves, scores, shares
from chiasm.compare.figures import Unit, count, listed, memory, milliseconds, p_text, percent, seconds
from chiasm.compare.page import render, write_page
from chiasm.compare.summary import summarise
from chiasm.compare.table import lines
from chiasm.compare.verdict import verdict
from html_page import read


@pytest.fixture(scope="module")
def whole(complete):
    """A summary with everything; made once, since it is only read."""
    return summarise(complete(items=150, seeds=3, projected=30), resamples=500)


def test_everything_is_on_the_page(whole, tmp_path):
    path = write_page(whole, tmp_path / "comparison.html")
    checker, text = read(path.read_text(encoding="utf-8"))
    assert verdict(whole).line.replace("`", "") in text
    for part in (
        "invented", "150 of test", "3 (screening)", "the reference", "in the top group", "image shuffled", "text shuffled", "EMAP gap",
        "Shapley", "calibration error", "peak memory", "latency, ms", "With inputs missing", "Shares of inputs", "Cost and score",
        "parameters, to 3 %", "0123abcd", "chiasm compare invented --seeds 5", "sha256 " + "ab" * 32, "0, 1, 2", "Tuning trials a row",
        "perceiver is left out", "The whole recipe", "co_attention", "4.1 M", "120 M", "onnx",
    ):  # fmt: skip
        assert part in text, part
    for sentence in verdict(whole).sentences:
        assert sentence.replace("`", "") in text
    assert {"svg", "table", "rect", "polyline", "circle"} <= checker.tags


def test_nothing_comes_from_outside_and_no_script_runs(whole):
    page = render(whole)
    checker, _ = read(page)
    assert all(a.startswith("#") for a in checker.addresses)
    assert {a[1:] for a in checker.addresses} <= checker.ids
    assert not re.search(r"<script|@import|url\(|<link|https?://", page)
    assert "prefers-color-scheme: dark" in page


def test_a_page_of_the_least_there_can_be(simulate):
    comparison = simulate({"early": 0.7}, items=30, seeds=1)
    comparison.rows[0].parameters = comparison.rows[0].macs = None
    comparison.rows[0].note = "as it is"
    comparison.recipe, comparison.command, comparison.commit = {}, "", ""
    summary = json.loads(json.dumps(summarise(comparison, resamples=200)))
    checker, text = read(render(summary))
    assert verdict(summary).line.replace("`", "") in text
    for part in ("EMAP", "Shapley", "calibration", "peak memory", "With inputs", "Cost and score", "to the reference", "runs on"):
        assert part not in text, part
    assert {a[1:] for a in checker.addresses} <= checker.ids
    assert "Notes on rows (1) early as it is" in " ".join(re.sub(r"<[^>]+>", " ", render(summary)).split())
    assert any("early" in line for line in lines(summary, width=80))


@pytest.mark.parametrize("gone", ["majority", "ensemble", "unimodal", "fusion", "trees"])
def test_a_page_without_some_rows(complete, gone):
    comparison = complete(items=40, seeds=2, projected=10)
    comparison.rows = [row for row in comparison.rows if row.kind != gone]
    summary = summarise(comparison, resamples=200)
    _, text = read(render(summary))
    assert verdict(summary).line.replace("`", "") in text
    assert lines(summary, width=120)


def test_a_page_without_any_score(complete):
    comparison = dataclasses.replace(complete(items=30, seeds=2, projected=10), metric="auroc")
    for row in comparison.rows:
        row.cells = [dataclasses.replace(cell, probabilities=None, coalitions={}, additive=None) for cell in row.cells]
    summary = summarise(comparison, resamples=200)
    _, text = read(render(summary))
    assert "No fusion was measured." in text and "early: auroc is undefined on its answers" in text
    assert any("majority" in line for line in lines(summary, width=100))


def test_texts_are_escaped(simulate):
    evil = "<script>alert(1)</script>"
    comparison = simulate({"majority": 0.25, "ensemble": 0.7, evil: 0.7}, items=30, seeds=2)
    comparison.rows[2] = dataclasses.replace(comparison.rows[2], note=evil, inputs=[evil], runs_on={evil: evil})
    for cell in comparison.rows[2].cells:
        cell.controls = {f"{evil} shuffled": cell.outputs, f"{evil} missing 0.5": cell.outputs}
    comparison.notes, comparison.command, comparison.task, comparison.recipe = [evil], evil, evil, {"name": evil, "a": evil}
    page = render(summarise(comparison, resamples=200))
    assert "<script" not in page and "&lt;script&gt;" in page


def test_drawings(whole):
    drawn = scores(whole)
    assert drawn.count("mean top") == len(whole["top"]) and drawn.count("<text") > len(whole["rows"])
    assert [name for name, _ in curves(whole)["missing"]].count("early") == 1
    assert curves(whole)["missing"][0][1].count("<polyline") in (1, 2)
    assert shares(whole).count("<rect") == 2 * 6  # two inputs of the six rows that have two
    assert [title for title, _ in costs(whole)] == ["MACs", "latency p50, ms"]  # parameters are matched
    assert [title for title, _ in costs({**whole, "match": "macs"})] == ["parameters", "latency p50, ms"]
    flat = {**whole, "rows": [r for r in whole["rows"] if r["kind"] == "majority"]}
    assert costs(flat) == [] and curves(flat) == {} and shares(flat) == "" and "<svg" in scores(flat)


def test_the_table_fits_its_terminal(whole):
    for width in (40, 60, 80, 100, 160):
        text = lines(whole, width=width)
        assert max(map(len, text)) <= width
        joined = " ".join(" ".join(text).split())
        assert verdict(whole).line.replace("`", "") in joined
    wide = lines(whole, width=160)
    head = next(line for line in wide if "95 % interval" in line)
    for title in ("row", "accuracy", "to reference", "image shuffled", "interaction", "parameters", "MACs", "training", "p50, ms"):
        assert title in head
    order = [line.split()[0] for line in wide[: wide.index("")] if line.strip()]
    assert order[0] == "answer:" and order[-2:] == ["majority", "*"]
    assert "screening" in " ".join(wide)


def test_figures_as_text():
    points, plain = Unit(True), Unit(False)
    assert [points.score(0.762), points.score(0.0131, sign=True), points.score(-0.0001, sign=True)] == ["76.2", "+1.3", "0.0"]
    assert [plain.score(0.31234), plain.score(-1234.5, sign=True), plain.score(None)] == ["0.312", "-1.23e+03", "–"]
    assert points.interval([0.741, 0.782]) == "[74.1, 78.2]" and points.interval([None, 1.0]) == "" and points.interval(None) == ""
    assert [p_text(p) for p in (0.0004, 0.003, 0.05, 0.41, 0.999, None)] == ["p<.001", "p=.003", "p=.050", "p=.41", "p=1", ""]
    assert [count(v) for v in (420, 999_900, 12_345_678, 2.5e9, None)] == ["420", "1 M", "12.3 M", "2.5 G", "–"]
    assert [memory(1.2e9), memory(3.4e8), seconds(0.84), seconds(75), milliseconds(0.42), milliseconds(31.4)] == [
        "1.20 GB", "340 MB", "0.8 s", "1 min 15 s", "0.42", "31",
    ]  # fmt: skip
    assert [percent(0.62), percent(-0.04, sign=True), percent(None)] == ["62 %", "-4 %", "–"]
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["`a`", "`a` and `b`", "`a`, `b` and `c`"]
