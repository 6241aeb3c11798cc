"""What every metric promises, over all that are found: finite, a direction, perfect is best, order does not matter."""

import math
import random

import numpy as np
import pytest

from chiasm.components import find, names
from chiasm.metrics.base import Metric
from chiasm.types import Prediction

NUMERIC = {"mean_absolute_error", "mean_squared_error", "r2", "pearson"}
TEXTS = ["a red sun above a cloud", "two green cups on the left", "the king is near the castle now"]


def predictions(name: str, *, perfect: bool, rows: int = 60) -> list[Prediction]:
    """A generic set fit for the metric: numbers, embeddings of two sides, or texts with probabilities."""
    draw = random.Random(7)
    return [_prediction(name, i, draw, perfect) for i in range(rows)]


def _prediction(name: str, i: int, draw: random.Random, perfect: bool) -> Prediction:
    if name in NUMERIC:
        target = draw.gauss(3, 2)
        return Prediction(f"r{i}", "t", target if perfect else target + draw.gauss(0, 1), target)
    if name == "recall":
        image = [draw.gauss(0, 1) for _ in range(8)]
        return Prediction(f"r{i}", "t", {"image": image, "caption": image if perfect else [v + draw.gauss(0, 1) for v in image]})
    target = draw.choice(TEXTS)
    output = target if perfect or draw.random() < 0.6 else draw.choice(TEXTS)
    sure = 1.0 if perfect else draw.uniform(0.4, 0.9)
    probabilities = {text: sure if text == output else (1 - sure) / 2 for text in TEXTS}
    surprise = (0.0 if perfect else draw.uniform(1.0, 9.0), draw.randrange(1, 6))
    return Prediction(f"r{i}", "t", output, target, score=sure, probabilities=probabilities, surprise=surprise)


@pytest.mark.parametrize("name", names("metric"))
def test_finite_and_named(name):
    metric = find("metric", name)()
    assert isinstance(metric, Metric)
    assert isinstance(metric.higher_is_better, bool)
    found = metric.compute(predictions(name, perfect=False))
    assert found
    assert all(isinstance(v, float) and math.isfinite(v) for v in found.values())
    assert all(isinstance(note, str) for note in metric.notes(predictions(name, perfect=False)))


@pytest.mark.parametrize("name", names("metric"))
def test_perfect_predictions_give_the_best_value(name):
    metric = find("metric", name)()
    assert all(v == pytest.approx(metric.best) for v in metric.compute(predictions(name, perfect=True)).values())
    imperfect = metric.compute(predictions(name, perfect=False))
    assert all(v <= metric.best if metric.higher_is_better else v >= metric.best for v in imperfect.values())


@pytest.mark.parametrize("name", names("metric"))
def test_order_does_not_matter(name):
    rows = predictions(name, perfect=False)
    shuffled = random.Random(1).sample(rows, len(rows))
    assert find("metric", name)().compute(shuffled) == pytest.approx(find("metric", name)().compute(rows))


@pytest.mark.parametrize("name", names("metric"))
def test_on_rows_is_compute_of_those_rows(name):
    metric, rows = find("metric", name)(), predictions(name, perfect=False)
    chosen = np.array([3, 3, 7, 12, 20, 21, 40, 41, 58, 59])
    assert metric.on_rows(rows)(chosen) == pytest.approx(metric.compute([rows[i] for i in chosen]))


@pytest.mark.parametrize("name", names("metric"))
def test_scores_or_sums_agree_with_compute(name):
    metric, rows = find("metric", name)(), predictions(name, perfect=False)
    whole = metric.compute(rows)
    if metric.per_sample:
        scores = metric.scores_by_variant(rows)
        assert {v: s[s == s].mean() for v, s in scores.items()} == pytest.approx(whole)
    elif (statistics := metric.statistics(rows)) is not None:
        assert metric.from_statistics(statistics.sum(0)) == pytest.approx(whole)
