"""Accuracy, balanced accuracy, F1, areas and calibration, against figures worked out by hand."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score

from chiasm.components import find
from chiasm.metrics.base import label, normalise
from chiasm.types import Prediction


def rows(*pairs, probabilities=None):
    given = probabilities or [None] * len(pairs)
    return [Prediction(str(i), "t", o, t, probabilities=p) for i, ((o, t), p) in enumerate(zip(pairs, given, strict=True))]


def value(name, predictions, variant="", **options):
    return find("metric", name)(**options).compute(predictions)[variant]


CATS = rows(("cat", "cat"), ("cat", "cat"), ("cat", "dog"), ("dog", "cat"))


def test_accuracy_and_balanced_accuracy():
    assert value("accuracy", CATS) == 0.5
    assert value("balanced_accuracy", CATS) == pytest.approx((2 / 3 + 0) / 2)


def test_a_number_and_its_text_are_the_same_label():
    assert value("accuracy", rows(("1", 1), ("true", True), ("2", 2.0))) == 1.0
    assert label(np.float64(3.5)) == "3.5"
    assert label(None) == ""


def test_f1_is_macro_and_per_class():
    found = find("metric", "f1")().compute(CATS)
    assert found["[class=cat]"] == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))  # 2 hits, 1 false alarm, 1 miss
    assert found["[class=dog]"] == 0.0
    assert found[""] == pytest.approx(found["[class=cat]"] / 2)


def test_several_labels_a_row():
    predictions = rows((["a"], ["a", "b"]), (["a", "b"], ["b", "a"]), ([], ["c"]))
    assert value("accuracy", predictions) == pytest.approx(1 / 3)
    f1 = find("metric", "f1")().compute(predictions)
    assert (f1["[class=a]"], f1["[class=b]"], f1["[class=c]"]) == (1.0, pytest.approx(2 / 3), 0.0)
    assert value("balanced_accuracy", predictions) == pytest.approx((1 + (0.5 + 1) / 2 + (0 + 1) / 2) / 3)


def test_areas_of_two_classes_are_of_the_positive_one():
    yes = [0.9, 0.8, 0.3, 0.1]
    predictions = rows(("yes", "yes"), ("yes", "no"), ("no", "yes"), ("no", "no"), probabilities=[{"no": 1 - p, "yes": p} for p in yes])
    assert value("auroc", predictions) == 0.75  # 3 of 4 pairs are in order
    assert value("pr_auc", predictions) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)


def test_areas_of_three_classes_are_the_mean_over_classes():
    p = [{"a": 0.6, "b": 0.3, "c": 0.1}, {"a": 0.2, "b": 0.7, "c": 0.1}, {"a": 0.1, "b": 0.2, "c": 0.7}, {"a": 0.4, "b": 0.35, "c": 0.25}]
    predictions = rows(("a", "a"), ("b", "b"), ("c", "c"), ("a", "b"), probabilities=p)
    assert value("auroc", predictions) == 1.0
    predictions[3].target = "c"  # its a (0.4) and b (0.35) stay below the true ones, c (0.25) is second
    assert value("auroc", predictions) == 1.0
    predictions[3].target = "a"
    predictions[0].target = "c"  # a: 0.4 is beaten by 0.6: 2 of 3 pairs; c: 0.1 ties with one, loses to one, 0.7 wins
    assert value("auroc", predictions) == pytest.approx((2 / 3 + 1 + (0.5 + 0 + 2) / 4) / 3)


def test_areas_are_undefined_with_one_class_or_without_probabilities():
    one_class = rows(("a", "a"), ("a", "a"), probabilities=[{"a": 1.0, "b": 0.0}] * 2)
    assert find("metric", "auroc")().compute(one_class) == {}
    assert find("metric", "pr_auc")().compute(CATS) == {}


def test_calibration_error_by_hand():
    predictions = [Prediction(str(i), "t", "a", "a" if i < 3 else "b", score=s) for i, s in enumerate([0.9, 0.9, 0.9, 0.9, 0.3])]
    # bin of 0.9: 4 rows, 3 right: |0.75 - 0.9|; bin of 0.3: 1 row, wrong: 0.3
    assert value("calibration_error", predictions, bins=10) == pytest.approx((4 * 0.15 + 0.3) / 5)


def test_calibration_error_of_several_labels_counts_every_pair():
    predictions = rows((["a"], ["a"]), (["a"], ["b"]), probabilities=[{"a": 0.8, "b": 0.2}, {"a": 0.8, "b": 0.2}])
    assert value("calibration_error", predictions, bins=10) == pytest.approx((2 * 0.3 + 2 * 0.3) / 4)


def test_calibration_error_is_zero_for_the_surely_right():
    assert value("calibration_error", [Prediction("0", "t", "x", "x", score=1.0), Prediction("1", "t", "x", "y", score=0.0)]) == 0.0


def test_normalise():
    assert normalise("  Two \n WORDS ") == "two words"
    assert normalise("Yes, sir!", punctuation=False) == "yes sir"
    assert normalise("\uff12") == "2"


@pytest.mark.parametrize("classes", [2, 4])
def test_the_same_as_scikit_learn_on_any_rows_with_ties(classes):
    random = np.random.default_rng(classes)
    names = np.array(list("abcd")[:classes])
    truth, answer = names[random.integers(classes, size=(2, 80))]
    sure = random.integers(1, 5, size=(80, classes)).astype(float)  # few levels, so that many rows tie
    sure /= sure.sum(1, keepdims=True)
    given = [dict(zip(names, p, strict=True)) for p in sure.tolist()]
    predictions = rows(*zip(answer, truth, strict=True), probabilities=given)
    columns = [1] if classes == 2 else range(classes)
    for drawn in (np.arange(80), random.integers(80, size=80), random.integers(80, size=30)):
        t, a, p = truth[drawn], answer[drawn], sure[drawn]
        areas = [[f((t == names[i]).astype(int), p[:, i]) for i in columns] for f in (roc_auc_score, average_precision_score)]
        expected = {
            "f1": f1_score(t, a, average="macro"),
            "balanced_accuracy": balanced_accuracy_score(t, a),
            "auroc": np.mean(areas[0]),
            "pr_auc": np.mean(areas[1]),
        }
        for name, value in expected.items():
            assert find("metric", name)().on_rows(predictions)(drawn)[""] == pytest.approx(value, abs=1e-12), name
