"""Errors of predicted numbers, against figures worked out by hand."""

import pytest

from chiasm.components import find
from chiasm.types import Prediction


def rows(*pairs):
    return [Prediction(str(i), "t", output, target) for i, (output, target) in enumerate(pairs)]


def value(name, predictions):
    return find("metric", name)().compute(predictions)[""]


def test_regression_by_hand():
    predictions = rows((1.0, 2.0), (2.0, 2.0), (5.0, 3.0), (4.0, 5))
    assert value("mean_absolute_error", predictions) == 1.0
    assert value("mean_squared_error", predictions) == 1.5
    assert value("r2", predictions) == pytest.approx(0.0)  # variance 1.5 as well
    assert value("pearson", predictions) == pytest.approx(5 / 60**0.5)  # covariance 5, variances 10 and 6


def test_regression_of_a_constant_is_undefined_not_nan():
    assert find("metric", "r2")().compute(rows((1.0, 2.0), (2.0, 2.0))) == {}
    assert find("metric", "pearson")().compute(rows((2.0, 1.0), (2.0, 2.0))) == {}


def test_several_numbers_a_row_are_averaged():
    assert value("mean_absolute_error", rows(([1.0, 2.0], [1.0, 4.0]), ([0.0, 0.0], [1.0, 1.0]))) == 1.0
