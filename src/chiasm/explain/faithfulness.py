"""Is a map better than chance? Take parts away, those first that it marks, and put them back into nothing in the same order.

Deletion and insertion curves of V. Petsiuk, A. Das and K. Saenko, "RISE" (2018), against random orders of the same parts. Curves are of
probabilities (or the number itself) over the share of parts, in units of the largest difference that any of them shows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chiasm.data.randomness import generator
from chiasm.explain.occlusion import Map, variant
from chiasm.explain.subject import Subject

NEEDED = 0.15  # of the area under a curve that goes from 0 to 1
FEWEST = 4  # parts below which an order says nothing
STEPS = 8
RANDOM = 3  # orders


@dataclass(frozen=True, slots=True)
class Check:
    """Areas between the curves of random orders and those of the map; both above 0 where the map is better."""

    deletion: float
    insertion: float
    parts: int

    @property
    def margin(self) -> float:
        return (self.deletion + self.insertion) / 2

    @property
    def better(self) -> bool:
        return self.margin >= NEEDED


def check(subject: Subject, found: Map) -> Check | None:
    """None where there are too few parts, or where nothing that is taken away changes anything."""
    if len(found.units) < FEWEST:
        return None
    ranked = sorted(found.units, key=lambda unit: -unit.value)
    draws = generator("explain", len(ranked))
    orders = [ranked, *([ranked[i] for i in draws.permutation(len(ranked))] for _ in range(RANDOM))]
    steps = np.unique(np.linspace(0, len(ranked), min(STEPS, len(ranked)) + 1).round().astype(int))[1:-1].tolist()
    sets = [side for order in orders for step in steps for side in (order[:step], order[step:])]
    values = subject.values([variant(subject, [(unit.cut, unit.region) for unit in units]) for units in sets])
    curves = subject.target.plain(values).reshape(len(orders), len(steps), 2)  # deletion takes the first away, insertion has them alone
    ends = subject.target.plain(np.array([subject.whole, found.empty]))
    scale = max(float(curves.max()), float(ends.max())) - min(float(curves.min()), float(ends.min()))
    if scale <= 1e-9:
        return None
    share = np.array([0, *steps, len(ranked)]) / len(ranked)
    edges = np.broadcast_to(ends, (len(orders), 1, 2))
    deletion = np.concatenate([edges[..., 0], curves[..., 0], edges[..., 1]], 1)
    insertion = np.concatenate([edges[..., 1], curves[..., 1], edges[..., 0]], 1)
    down, up = np.trapezoid(deletion, share, axis=1) / scale, np.trapezoid(insertion, share, axis=1) / scale
    return Check(float(down[1:].mean() - down[0]), float(up[0] - up[1:].mean()), len(ranked))
