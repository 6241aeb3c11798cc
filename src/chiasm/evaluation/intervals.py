"""Bootstrap intervals: of a score, of a paired difference on the same rows, and the sentence that says what it means.

Rows that share a picture are not independent, so whole clusters (all rows of one picture) are drawn, with replacement. The interval is
the 2.5 and 97.5 percentile. Everything that is a mean, or comes from sums (BLEU), costs one matrix product for all resamples.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from chiasm.metrics.base import Metric
from chiasm.types import Prediction

RESAMPLES = 2000
SLOW_ROWS = 500_000  # rows in all resamples together, for metrics that must be computed anew on each (areas under curves)
FEWEST_CLUSTERS = 20  # below this an interval says nothing, and neither does a verdict
CHUNK = 4_000_000  # weights in memory at once

Interval = tuple[float, float]


class Resampler:
    """Draws of clusters with replacement; `clusters` names the cluster of each row (N). Seeded: equal seeds draw equally."""

    def __init__(self, clusters: Sequence[Hashable], *, resamples: int = RESAMPLES, seed: int = 0):
        names: dict[Hashable, int] = {}
        self.cluster = np.array([names.setdefault(c, len(names)) for c in clusters], dtype=int)  # [N]
        self.count, self.resamples, self.seed = len(names), resamples, seed

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sums over the drawn rows: values [N, S] -> [resamples, S]."""
        by_cluster = np.stack([np.bincount(self.cluster, weights=column, minlength=self.count) for column in values.T], axis=1)
        return np.concatenate([weights @ by_cluster for weights in cluster_draws(self.count, self.resamples, self.seed)])

    def means(self, scores: np.ndarray) -> np.ndarray:
        """Means over the drawn rows: scores [N, K], NaN where a row has no part in it -> [resamples, K]."""
        there = ~np.isnan(scores)
        total, count = np.split(self.sums(np.concatenate([np.where(there, scores, 0.0), there], axis=1)), 2, axis=1)
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)

    def rows(self) -> Iterator[np.ndarray]:
        """Row indices of each resample, for what can only be computed anew: 50 to 200 resamples, by the number of rows."""
        resamples = int(np.clip(SLOW_ROWS // max(len(self.cluster), 1), 50, 200))
        starts = np.cumsum(np.bincount(self.cluster))[:-1]
        members = np.split(np.argsort(self.cluster, kind="stable"), starts)
        for weights in cluster_draws(self.count, resamples, self.seed):
            for drawn in weights:
                yield np.concatenate([members[c] for c in np.repeat(np.arange(self.count), drawn.astype(int))])


def cluster_draws(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` clusters is drawn: chunks [b, count] of floats, `resamples` rows in all. The same for the same numbers."""
    step = max(CHUNK // max(count, 1), 1)
    if resamples <= step:
        yield _drawn(count, resamples, seed)
        return
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, step):
        yield _tally(generator, count, min(step, resamples - start))


@lru_cache(maxsize=12)
def _drawn(count: int, resamples: int, seed: int) -> np.ndarray:
    return _tally(np.random.default_rng(seed), count, resamples)


def _tally(generator: np.random.Generator, count: int, rows: int) -> np.ndarray:
    drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(float)


def percentile_interval(values: np.ndarray, *, level: float = 0.95) -> Interval:
    """The middle `level` of the values [resamples]; NaNs (an empty draw) are left out."""
    values = values[np.isfinite(values)]
    if not len(values):
        return (float("nan"), float("nan"))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return (float(low), float(high))


def bootstrap(metric: Metric, predictions: Sequence[Prediction], clusters: Sequence[Hashable], *, seed: int = 0) -> dict[str, Interval]:
    """Variant of the metric -> its 95 % interval."""
    found = resampled(metric, predictions, Resampler(clusters, seed=seed))
    return {variant: percentile_interval(values) for variant, (_, values) in found.items()}


def resampled(metric: Metric, predictions: Sequence[Prediction], resampler: Resampler) -> dict[str, tuple[float, np.ndarray]]:
    """Variant -> the metric's value, and its value on every resample."""
    if metric.per_sample:
        scores = metric.scores_by_variant(predictions)
        means = resampler.means(np.stack(list(scores.values()), axis=1)).T
        return {variant: (float(np.nanmean(scores[variant])), column) for variant, column in zip(scores, means, strict=True)}
    statistics = metric.statistics(predictions)
    if statistics is not None:
        whole = metric.from_statistics(statistics.sum(0))
        values = [metric.from_statistics(total) for total in resampler.sums(statistics)]
    else:
        compute = metric.on_rows(predictions)
        whole = compute(np.arange(len(predictions)))
        values = [compute(rows) for rows in resampler.rows()]
    return {variant: (value, np.array([v.get(variant, np.nan) for v in values])) for variant, value in whole.items()}


@dataclass(frozen=True, slots=True)
class Difference:
    """Other minus real of one metric variant on the same rows, e.g. a picture shuffled against the real picture."""

    real: float
    other: float
    interval: Interval  # of other - real
    rows: int
    clusters: int

    @property
    def difference(self) -> float:
        return self.other - self.real


def paired(
    metric: Metric,
    real: Sequence[Prediction],
    other: Sequence[Prediction],
    clusters: Sequence[Hashable],
    *,
    seed: int = 0,
) -> dict[str, Difference]:
    """Variant -> difference. Both lists are about the same rows in the same order; each resample draws the same rows of both."""
    assert [p.id for p in real] == [p.id for p in other], "paired() needs the same rows twice"
    resampler = Resampler(clusters, seed=seed)
    before, after = resampled(metric, real, resampler), resampled(metric, other, resampler)
    found = {}
    for variant in before.keys() & after.keys():
        (value, values), (value_other, values_other) = before[variant], after[variant]
        interval = percentile_interval(values_other - values)
        found[variant] = Difference(value, value_other, interval, len(real), resampler.count)
    return {variant: found[variant] for variant in before if variant in found}


def verdict(input: str, metric: str, difference: Difference, *, how: str = "shuffled", higher_is_better: bool = True) -> str:
    """One sentence by rule, e.g. "uses `image`: exact_match falls from 0.94 to 0.19 when shuffled [-0.78, -0.72]"."""
    low, high = difference.interval
    if difference.clusters < FEWEST_CLUSTERS or not np.isfinite([low, high]).all():
        return f"too few samples to say whether `{input}` is used ({difference.clusters} independent, {FEWEST_CLUSTERS} needed)"
    span = f"[{number(low, sign=True)}, {number(high, sign=True)}]"
    change = f"{metric} {{}} from {number(difference.real)} to {number(difference.other)} when {how} {span}"
    worse, better = (high < 0, low > 0) if higher_is_better else (low > 0, high < 0)
    moves = "falls" if difference.difference < 0 else "rises"
    if worse:
        return f"uses `{input}`: {change.format(moves)}"
    if better:
        return f"`{input}` does harm: {change.format(moves)}"
    return f"no measurable use of `{input}`: {change.format('goes')}"


def number(value: float, *, sign: bool = False) -> str:
    """A figure for people: two decimals, three where it is small; `sign` shows a plus."""
    digits = 2 if abs(value) >= 0.095 or value == 0 else 3
    digits = 1 if abs(value) >= 100 else digits
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
