"""From answers to figures: scores, controls, interaction, shares, and what is never said of noise."""

import dataclasses
import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, f1_score

from chiasm.compare.quantities import as_answers, parse_control
from chiasm.compare.result import Cell, Comparison, Row
from chiasm.compare.summary import cheapest, summarise
from chiasm.compare.verdict import verdict
from chiasm.components import find
from chiasm.types import ChiasmError, Prediction

FAST = 1000


def row_of(summary, name):
    return next(row for row in summary["rows"] if row["name"] == name)


def test_no_winner_is_named_where_there_is_none(simulate):
    """True difference zero between eight rows that are all trained three times: 100 comparisons."""
    accuracies = {"majority": 0.25, "text alone": 0.7, "ensemble": 0.75, **{f"operator{i}": 0.75 for i in range(5)}}
    better, winners = 0, []
    for seed in range(100):
        summary = summarise(simulate(accuracies, items=150, seeds=3, seed=seed, sd=0.02), resamples=500)
        winners += [verdict(summary).winner]
        better += any((row["against_reference"] or {}).get("outcome") == "better" for row in summary["rows"])
    assert winners.count(None) >= 98
    assert better <= 5


def test_ten_points_are_found_with_five_seeds_and_a_thousand_items(simulate):
    accuracies = {"majority": 0.25, "text alone": 0.7, "ensemble": 0.75, "early": 0.85, "late": 0.75, "stacked": 0.74}
    for seed in range(3):
        summary = summarise(simulate(accuracies, items=1000, seed=seed), resamples=FAST)
        assert verdict(summary).winner == "early"
        assert summary["top"] == ["early"]
        found = row_of(summary, "early")["against_reference"]
        assert found["interval"][0] < 0.10 < found["interval"][1] or abs(found["difference"] - 0.10) < 0.04
        assert row_of(summary, "late")["against_reference"]["outcome"] == "tie"


def test_figures_are_those_of_the_answers(complete):
    comparison = complete(items=120, seeds=3)
    summary = summarise(comparison, resamples=FAST)
    for row, found in zip(comparison.rows, summary["rows"], strict=True):
        scores = [accuracy_score(comparison.targets, cell.outputs) for cell in row.cells]
        assert found["by_seed"] == pytest.approx(scores)
        assert found["score"] == pytest.approx(np.mean(scores))
        assert found["interval"][0] <= found["score"] <= found["interval"][1]
        assert found["sd"] == (pytest.approx(np.std(scores, ddof=1), abs=1e-9) if len(scores) > 1 else None)
        for name, control in found["controls"].items():
            assert control["score"] == pytest.approx(np.mean([accuracy_score(comparison.targets, c.controls[name]) for c in row.cells]))
            assert control["difference"] == pytest.approx(control["score"] - control["real"])
            assert control["interval"][0] <= control["difference"] <= control["interval"][1]
    early = comparison.rows[5].cells
    metric = find("metric", "calibration_error")()
    told = [
        [
            Prediction(str(i), "t", o, t, None, p)
            for i, (o, t, p) in enumerate(zip(c.outputs, comparison.targets, c.probabilities, strict=True))
        ]
        for c in early
    ]
    assert row_of(summary, "early")["calibration_error"] == pytest.approx(np.mean([metric.compute(p)[""] for p in told]))
    assert row_of(summary, "early")["cost"]["train_seconds"] == pytest.approx(np.mean([c.train_seconds for c in early]))
    assert row_of(summary, "early")["cost"]["peak_memory"] == max(c.peak_memory for c in early)
    assert summary["notes"] == comparison.notes


def test_controls_are_about_the_controlled_items(complete):
    comparison = complete(items=90, controlled=40, projected=20, seeds=2)
    summary = summarise(comparison, resamples=FAST)
    early, cells = row_of(summary, "early"), comparison.rows[5].cells
    control = early["controls"]["image missing 0.5"]
    assert (control["input"], control["how"], control["level"], control["items"]) == ("image", "missing", 0.5, 40)
    assert control["real"] == pytest.approx(np.mean([accuracy_score(comparison.targets[:40], c.outputs[:40]) for c in cells]))
    assert early["interaction"]["items"] == 20
    real = np.mean([accuracy_score(comparison.targets[:20], c.outputs[:20]) for c in cells])
    additive = np.mean([accuracy_score(comparison.targets[:20], [max(p, key=p.get) for p in c.additive]) for c in cells])
    assert early["interaction"]["value"] == pytest.approx(real - additive)


def test_shares_sum_to_what_is_known(complete):
    summary = summarise(complete(items=150, seeds=3), resamples=FAST)
    shares = row_of(summary, "early")["shares"]
    assert sum(part["part"] for part in shares["inputs"].values()) == pytest.approx(shares["all"] - shares["none"])
    assert sum(abs(part["share"]) for part in shares["inputs"].values()) == pytest.approx(1.0)
    for part in shares["inputs"].values():
        assert part["interval"][0] < part["part"] < part["interval"][1]
        assert part["share_interval"][0] < part["share"] < part["share_interval"][1]
    assert row_of(summary, "text alone")["shares"]["inputs"]["text"]["share"] == 1.0
    assert row_of(summary, "majority")["shares"] is None


def test_a_misleading_input_has_a_negative_share(complete):
    comparison = complete(items=150, seeds=2)
    for cell in comparison.rows[5].cells:
        cell.coalitions["image"], cell.coalitions[""] = cell.coalitions[""], cell.coalitions["image"]
        cell.coalitions["text"], cell.coalitions["image+text"] = cell.coalitions["image+text"], cell.coalitions["text"]
    shares = row_of(summarise(comparison, resamples=FAST), "early")["shares"]["inputs"]
    assert shares["image"]["part"] < 0 and shares["image"]["interval"][1] < 0
    assert shares["image"]["share"] < 0 < shares["text"]["share"]


def xor(interacts, *, items=200, seeds=3):
    """Answers to "are the two bits different": from both bits together, or from the sum of two parts, which cannot know it."""
    random = np.random.default_rng(0)
    bits = random.integers(2, size=(items, 2))
    targets = [str(a ^ b) for a, b in bits.tolist()]

    def believes(first, second):
        likely = (first ^ second) if interacts else first
        return [{"0": 0.9 - 0.8 * p, "1": 0.1 + 0.8 * p} for p in likely.tolist()]

    real = believes(bits[:, 0], bits[:, 1])
    table = np.array([[belief["1"] for belief in believes(np.full(items, bit), bits[:, 1])] for bit in bits[:, 0]])
    added = table.mean(1) + table.mean(0) - table.mean()
    cells = [
        Cell(s, [max(p, key=p.get) for p in real], real, additive=[{"0": 1 - p, "1": p} for p in added.tolist()]) for s in range(seeds)
    ]
    rows = [Row("majority", "majority", [], [Cell(0, [max("01", key=targets.count)] * items)]), Row("early", "fusion", ["a", "b"], cells)]
    names = [f"r{i}" for i in range(items)]
    return Comparison({}, "", "", "xor", "accuracy", True, "test", list(range(seeds)), names, targets, list(range(items)), rows)


def test_interaction_is_worth_nothing_where_parts_add_up_and_everything_in_xor():
    summary = summarise(xor(False), resamples=FAST)
    assert row_of(summary, "early")["interaction"]["value"] == 0.0
    assert row_of(summary, "early")["interaction"]["interval"] == [0.0, 0.0]
    summary = summarise(xor(True), resamples=FAST)
    found = row_of(summary, "early")["interaction"]
    assert found["value"] > 0.4 and found["interval"][0] > 0.3
    assert "Interaction is necessary: without it `early` would be at chance." in verdict(summary).line


def test_equal_answers_give_equal_figures_to_the_last_digit(complete):
    comparison = complete(items=100, seeds=2)
    stored = json.dumps(summarise(comparison, resamples=FAST), sort_keys=True)
    again = Comparison.from_json(json.loads(json.dumps(comparison.to_json())))
    assert json.dumps(summarise(again, resamples=FAST), sort_keys=True) == stored


def test_cells_may_come_in_any_order(complete):
    comparison = complete(items=100, seeds=3)
    stored = summarise(comparison, resamples=FAST)["rows"]
    for row in comparison.rows:
        row.cells.reverse()
    assert summarise(comparison, resamples=FAST)["rows"] == stored


@pytest.mark.parametrize("name", ["f1", "pr_auc", "balanced_accuracy"])
def test_metrics_that_are_no_means(complete, name):
    comparison = dataclasses.replace(complete(items=100, seeds=2, projected=20), metric=name)
    comparison.rows[0].cells[0].probabilities = None
    summary = summarise(comparison, resamples=FAST)
    early, cells = row_of(summary, "early"), comparison.rows[5].cells
    if name == "f1":
        assert early["by_seed"] == pytest.approx([f1_score(comparison.targets, c.outputs, average="macro") for c in cells])
    if name == "pr_auc":
        truth = np.array([[t == label for label in "abcd"] for t in comparison.targets])
        sure = [np.array([list(p.values()) for p in c.probabilities]) for c in cells]
        assert early["by_seed"] == pytest.approx([average_precision_score(truth, p, average="macro") for p in sure])
        assert "majority: pr_auc is undefined on its answers" in summary["notes"]
        assert "early: pr_auc is undefined on its answers under controls" in summary["notes"]
        assert row_of(summary, "majority")["score"] is None and early["controls"] == {}
        assert early["interaction"]["value"] is not None
    else:
        assert early["controls"]["image shuffled"]["difference"] < 0
    assert early["interval"][0] < early["score"] < early["interval"][1]
    as_mean = summarise(dataclasses.replace(comparison, metric="accuracy"), resamples=FAST)
    wide, usual = ((r["interval"][1] - r["interval"][0]) for r in (early, row_of(as_mean, "early")))
    assert 0.4 * usual < wide < 2.5 * usual
    assert verdict(summary).line


def test_a_metric_that_comes_from_sums(complete):
    comparison = complete(items=80, seeds=2, projected=20)
    words = {"a": "the red cat sat down", "b": "the blue dog ran away", "c": "a small bird sang well", "d": "two old fish swam home"}
    for cell in comparison.rows[5].cells:
        cell.outputs, cell.controls = [words[o] for o in cell.outputs], {}
    comparison.rows, comparison.targets = [comparison.rows[5]], [words[t] for t in comparison.targets]
    comparison.metric = "bleu"
    early = row_of(summarise(comparison, resamples=FAST), "early")
    metric = find("metric", "bleu")()
    told = [[Prediction("", "t", o, t) for o, t in zip(c.outputs, comparison.targets, strict=True)] for c in comparison.rows[0].cells]
    assert early["by_seed"] == pytest.approx([metric.compute(p)[""] for p in told])
    assert early["interval"][0] < early["score"] < early["interval"][1]


def test_controls_may_hold_probabilities(complete):
    comparison = complete(items=100, seeds=2, projected=20)
    plain = row_of(summarise(comparison, resamples=FAST), "early")["controls"]["text shuffled"]
    for cell in comparison.rows[5].cells:
        said = cell.controls["text shuffled"]
        cell.controls["text shuffled"] = [{name: 0.7 if name == label else 0.1 for name in "abcd"} for label in said]
    assert row_of(summarise(comparison, resamples=FAST), "early")["controls"]["text shuffled"] == plain
    found = summarise(dataclasses.replace(comparison, metric="auroc"), resamples=FAST)
    assert row_of(found, "early")["controls"]["text shuffled"]["difference"] < 0


def test_what_is_held_for_likely_becomes_an_answer():
    told = [{"a": 0.2, "b": 0.8}, {"a": 0.5, "b": 0.5}]
    assert as_answers(told, "a") == (["b", "a"], told)
    assert as_answers([{"a": 0.6, "b": 0.7}, {"a": 0.1, "b": 0.2}], ["a"])[0] == [["a", "b"], []]
    assert as_answers([{"value": 1.5}], 2.0) == ([1.5], None)
    assert as_answers(["a", "b"], "a") == (["a", "b"], None)


def test_names_of_controls():
    assert parse_control("image missing 0.25") == ("image", "missing", 0.25)
    assert parse_control("my image shuffled") == ("my image", "shuffled", None)
    assert parse_control("image missing 1") == ("image", "missing", 1.0)
    assert parse_control("odd") == ("odd", "", None)


def regression(*, seeds=5, items=200):
    random = np.random.default_rng(0)
    targets = random.normal(size=items)
    rows = [Row("majority", "majority", [], [Cell(0, [0.0] * items)])]
    for name, kind, error in (("a alone", "unimodal", 0.8), ("early", "fusion", 0.3), ("late", "fusion", 0.8)):
        cells = [Cell(s, (targets + error * random.normal(size=items)).tolist()) for s in range(seeds)]
        for cell in cells:
            cell.controls["a shuffled"] = random.permutation(cell.outputs).tolist()
            cell.additive = [{"value": v * 0.9} for v in cell.outputs[:50]]
        rows.append(Row(name, kind, ["a", "b"], cells, parameters=100))
    names = [f"r{i}" for i in range(items)]
    given = (targets.tolist(), list(range(items)), rows)
    return Comparison({}, "", "", "speed", "mean_absolute_error", False, "test", list(range(seeds)), names, *given)


def test_where_lower_is_better():
    summary = summarise(regression(), resamples=FAST)
    said = verdict(summary)
    assert said.winner == "early" and summary["best"] == "early" and summary["top"] == ["early"]
    assert summary["unit"] == "" and summary["reference"] == "a alone"
    early = row_of(summary, "early")
    assert early["against_reference"]["difference"] < 0 and early["above_majority"] is True
    assert early["controls"]["a shuffled"]["difference"] > 0
    assert early["shares"] is None and early["calibration_error"] is None
    assert "`early` uses `a`: mean_absolute_error rises" in " ".join(said.sentences)


def test_the_reference_is_the_ensemble_of_all_inputs(simulate):
    accuracies = {"majority": 0.25, "image alone": 0.6, "text alone": 0.7, "3x text ensemble": 0.72, "ensemble": 0.7, "early": 0.7}
    comparison = simulate(accuracies, items=100, seeds=2)
    comparison.rows[3].inputs = ["text"]
    assert summarise(comparison, resamples=FAST)["reference"] == "ensemble"
    for gone, reference in ((3, "text alone"), (1, "majority")):
        comparison.rows = (
            [row for row in comparison.rows if row.kind != "ensemble"] if gone == 3 else [comparison.rows[0], comparison.rows[-1]]
        )
        assert summarise(comparison, resamples=FAST)["reference"] == reference
    comparison.rows = comparison.rows[-1:]
    summary = summarise(comparison, resamples=FAST)
    assert summary["reference"] is None and "no row to test" in verdict(summary).line


def test_one_seed_is_never_better(simulate):
    summary = summarise(simulate({"majority": 0.25, "ensemble": 0.5, "early": 0.9}, seeds=1), resamples=FAST)
    assert row_of(summary, "early")["against_reference"]["outcome"] == "small"
    assert verdict(summary).winner is None
    assert "Screening with 1 seed: too few to know what chance does, so no row is called better." in verdict(summary).line


def test_a_lottery_is_not_recommended(simulate):
    comparison = simulate({"majority": 0.25, "ensemble": 0.9, "early": 0.9, "late": 0.9, "merged": 0.9}, seeds=4)
    lottery = simulate({"majority": 0.25, "early": 0.3}, seeds=4, seed=0).rows[1].cells
    comparison.rows[-1].cells[:2] = [dataclasses.replace(cell, seed=i) for i, cell in enumerate(lottery[:2])]
    comparison.rows[-1].parameters = 1
    summary = summarise(comparison, resamples=FAST)
    assert row_of(summary, "merged")["unstable"] and "merged" in summary["top"]
    assert all(0 <= bound <= 1 for row in summary["rows"] for bound in row["interval"]), "a share has bounds, whatever its spread"
    assert summary["recommended"] != "merged"
    assert any("`merged` is a lottery" in sentence for sentence in verdict(summary).sentences)


def cost(name, parameters, macs=None, p50=None, kind="fusion"):
    return {"name": name, "kind": kind, "cost": {"parameters": parameters, "macs": macs, "p50": p50}}


def test_the_cheapest():
    assert cheapest([cost("a", 200), cost("b", 100), cost("c", None)]) == "b"
    assert cheapest([cost("a", 103, 5), cost("b", 100, 9), cost("c", 300, 1)]) == "a"  # 3 % more parameters are matched ones
    assert cheapest([cost("a", 100, 5, 2.0), cost("b", 100, 5, 1.0)]) == "b"
    assert cheapest([cost("a", None), cost("b", None)]) == "a"
    assert cheapest([cost("a", 1), cost("m", None, kind="majority")]) == "m"
    assert cheapest([]) is None


def test_lists_that_do_not_fit_are_named(complete):
    comparison = complete(items=50, seeds=2, projected=20)
    comparison.rows[5].cells[1].outputs.pop()
    with pytest.raises(ChiasmError, match=r"early, seed 1: 49 outputs for 50 test items"):
        summarise(comparison, resamples=FAST)
    comparison = complete(items=50, seeds=2, projected=20)
    comparison.rows[5].cells[0].controls["image shuffled"].pop()
    with pytest.raises(ChiasmError, match=r"early image shuffled, seed 0: 49 outputs"):
        summarise(comparison, resamples=FAST)
    comparison = complete(items=50, seeds=2, projected=20)
    comparison.rows[5].cells[0].coalitions["image"].pop()
    with pytest.raises(ChiasmError, match=r"early, seed 0, only 'image': 49 answers for 50 items"):
        summarise(comparison, resamples=FAST)
    with pytest.raises(ChiasmError, match="0 test items"):
        summarise(dataclasses.replace(comparison, ids=[], targets=[]), resamples=FAST)
    with pytest.raises(ChiasmError, match="3 clusters"):
        summarise(dataclasses.replace(complete(items=50, seeds=2, projected=20), clusters=["a", "b", "c"]), resamples=FAST)


def test_items_of_one_picture_widen_the_intervals(simulate):
    comparison = simulate({"majority": 0.25, "ensemble": 0.7, "early": 0.7}, items=300, hard=0.0)
    hard = np.repeat(np.random.default_rng(0).random(60) < 0.3, 5)
    for cell in comparison.rows[2].cells:
        cell.outputs = [o if not wrong else "none" for o, wrong in zip(comparison.targets, hard, strict=True)]
    apart = row_of(summarise(comparison, resamples=FAST), "early")["interval"]
    comparison.clusters = [f"picture{i // 5}" for i in range(300)]
    together = row_of(summarise(comparison, resamples=FAST), "early")["interval"]
    assert together[1] - together[0] > 1.8 * (apart[1] - apart[0])


def test_a_row_without_cells_is_told(simulate):
    comparison = simulate({"majority": 0.25, "ensemble": 0.7, "early": 0.7}, items=60, seeds=2)
    comparison.rows[2].cells = []
    summary = summarise(comparison, resamples=FAST)
    assert "early: nothing was measured" in summary["notes"]
    assert "No fusion was measured." in verdict(summary).line
