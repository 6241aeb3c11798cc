"""What a metric is: a name, a direction, and a number computed from predictions.

`compute` names its variants by what follows the metric's name in a key: `""` is `answer.f1`, `"[class=cat]"` is `answer.f1[class=cat]`,
`"1[image->caption]"` is `align.recall@1[image->caption]`. A variant that is undefined (one class only, a constant) is left out.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from chiasm.types import Prediction


class Metric:
    """One file a metric; its file name is the metric's name. `compute` is pure, so bootstrap and groups can call it on any subset."""

    higher_is_better: ClassVar[bool] = True
    best: ClassVar[float] = 1.0  # the value of perfect predictions
    per_sample: ClassVar[bool] = False  # whether the number is the mean of one score per prediction

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        """[len(predictions)] one score each, where `per_sample`; used for paired intervals."""
        raise NotImplementedError

    def scores_by_variant(self, predictions: Sequence[Prediction]) -> dict[str, np.ndarray]:
        """Variant -> [len(predictions)] scores whose mean is that variant; NaN where a prediction has no part in it."""
        return {"": self.scores(predictions)}

    def statistics(self, predictions: Sequence[Prediction]) -> np.ndarray | None:
        """[len(predictions), S] counts whose sum over any subset gives the number by `from_statistics`; None where there are none."""
        return None

    def from_statistics(self, total: np.ndarray) -> dict[str, float]:
        """The number from a sum [S] of `statistics`."""
        raise NotImplementedError

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        """A function of row indices (repeats allowed) that gives `compute` of those rows; prepares once what many resamples share."""
        return lambda rows: self.compute([predictions[i] for i in rows])

    def notes(self, predictions: Sequence[Prediction]) -> list[str]:
        """What a reader must know beside the number, e.g. among how many candidates."""
        return []

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """{"": value}, or several variants {"variant": value}, e.g. {"1[image->caption]": 0.9} for recall@1."""
        return {"": float(np.mean(self.scores(predictions)))}


class MeanError(Metric):
    """The mean size of output - target: 0 where all is right, and the less the better."""

    higher_is_better = False
    best = 0.0
    per_sample = True

    def size(self, error: np.ndarray) -> np.ndarray:
        """[...] errors -> [...] how much each counts."""
        raise NotImplementedError

    def scores(self, predictions: Sequence[Prediction]) -> np.ndarray:
        target, output = numbers(predictions)
        return self.size(output - target).mean(1)


class ClassArea(Metric):
    """An area under a curve of probabilities: of the positive class where there are two, else the mean over classes."""

    def area(self, truth: np.ndarray, probability: np.ndarray) -> float:
        """[N] 0/1 and [N] probabilities of one class, of which both kinds occur -> the area."""
        raise NotImplementedError

    def compute(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        return self.on_rows(predictions)(np.arange(len(predictions)))

    def on_rows(self, predictions: Sequence[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        names, truth, probability = probability_table(predictions)
        binary = len(names) == 2 and not is_multi_label(predictions)
        columns = [names.index(positive(names))] if binary else range(len(names))
        known = np.isfinite(probability.sum(axis=1))

        def mean_area(rows: np.ndarray) -> dict[str, float]:
            rows = rows[known[rows]]
            varied = [i for i in columns if 0 < truth[rows, i].sum() < len(rows)]
            values = [float(self.area(truth[rows, i], probability[rows, i])) for i in varied]
            return {"": sum(values) / len(values)} if values else {}

        return mean_area


def threshold_counts(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(true, false) positives [T] at each distinct threshold, from the highest down, of [N] 0/1 and [N] probabilities."""
    order = np.argsort(-probability, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(probability[order])), len(order) - 1)  # rows of equal probability come in together
    hits = np.cumsum(truth[order])[ends]
    return hits, ends + 1 - hits


def normalise(text: Any, *, punctuation: bool = True) -> str:
    """Text for comparing answers: NFKC, lower case, single spaces; without punctuation where `punctuation` is False."""
    return _normalise(label(text), punctuation)


@lru_cache(maxsize=100_000)
def _normalise(text: str, punctuation: bool) -> str:
    folded = unicodedata.normalize("NFKC", text).casefold()
    if not punctuation:
        folded = folded.translate(str.maketrans("", "", string.punctuation))
    return " ".join(folded.split())


def accepted(target: Any) -> list[Any]:
    """The answers that count as right: a list is several, anything else is one."""
    return [target] if isinstance(target, str) or not isinstance(target, (list, tuple, set, frozenset)) else list(target)


def label(value: Any) -> str:
    """A class name as text, so that 1, 1.0, True from a table and "1", "true" from a model are the same."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, (bool, np.bool_)):
        return "true" if value else "false"
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def is_multi_label(predictions: Sequence[Prediction]) -> bool:
    """Whether targets are lists of labels, any number of which may hold at once."""
    return any(isinstance(p.target, (list, tuple, set, frozenset)) for p in predictions)


def label_table(predictions: Sequence[Prediction]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names, truth [N, C], answer [N, C]) with 0/1 entries, for one label a row as well as for several; names are the labels seen."""
    truth = [{label(v) for v in accepted(p.target)} for p in predictions]
    answer = [{label(v) for v in accepted(p.output)} for p in predictions]
    names = sorted(set().union(*truth, *answer) - {""})
    return names, _indicator(truth, names), _indicator(answer, names)


def probability_table(predictions: Sequence[Prediction]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """(names, truth [N, C] 0/1, probability [N, C]); NaN in the rows that carry no probabilities."""
    by_name = [{label(k): v for k, v in (p.probabilities or {}).items()} for p in predictions]
    names = sorted(set().union(*by_name))
    lines = [[row.get(name, 0.0) for name in names] if row else [np.nan] * len(names) for row in by_name]
    probability = np.array(lines, dtype=float).reshape(len(lines), len(names))
    return names, _indicator([{label(v) for v in accepted(p.target)} for p in predictions], names), probability


def positive(names: Sequence[str]) -> str:
    """Of two class names, the one that means yes: 1, true, yes, positive; else the last in order, as in scikit-learn."""
    return next((n for n in names if n.casefold() in {"1", "true", "yes", "positive"}), max(names))


def numbers(predictions: Sequence[Prediction]) -> tuple[np.ndarray, np.ndarray]:
    """(target [N, D], output [N, D]) of a regression; D is 1 for a single number. A missing output is NaN."""
    target = np.array([np.ravel(p.target) for p in predictions], dtype=float)
    missing = np.full(target.shape[1:], np.nan)
    return target, np.array([missing if p.output is None else np.ravel(p.output) for p in predictions], dtype=float)


def _indicator(rows: Sequence[set[str]], names: Sequence[str]) -> np.ndarray:
    return np.array([[name in row for name in names] for row in rows], dtype=int).reshape(len(rows), len(names))
