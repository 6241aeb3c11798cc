"""The rules that keep a comparison honest: Holm's correction, the group of rows that tie with the best, what a number of seeds can show."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from math import sqrt
from statistics import NormalDist
from typing import TypeVar

import numpy as np

from chiasm.compare.bootstrap import Quantity

LEVEL = 0.05  # of every test
POWER = 0.8
SCREENING = 5  # fewer seeds than this are only a screening
FEWEST = 3  # fewer seeds than this show nothing

Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjusted p-values, so that the chance of any false finding among them stays below the level.

    The k-th smallest of m is multiplied by m - k + 1, made monotone, and kept below 1 (S. Holm, "A simple sequentially rejective multiple
    test procedure", Scandinavian Journal of Statistics 6(2), 1979).
    """
    found, highest = {}, 0.0
    for place, name in enumerate(sorted(p_values, key=lambda n: p_values[n])):
        highest = max(highest, min((len(p_values) - place) * p_values[name], 1.0))
        found[name] = highest
    return {name: found[name] for name in p_values}


def ties_with_best(quantities: Mapping[str, Quantity], *, higher_is_better: bool = True) -> dict[str, float]:
    """Row -> p-value of "no other row is better than this one". Rows at or above the level tie with the best.

    Multiple comparisons with the best (J. C. Hsu, "Simultaneous confidence intervals for all distances from the 'best'", Annals of
    Statistics 9(5), 1981): a row is tested against all others at once, by the largest of their studentised differences, whose distribution
    is that of the joint draws. So whichever row is truly the best, it is left out with a chance of at most the level.
    """
    names, sign = list(quantities), 1 if higher_is_better else -1
    values = np.array([sign * q.value for q in quantities.values()])  # [R]
    found = {}
    for i, name in enumerate(names):
        others = [j for j in range(len(names)) if j != i]
        if not others:
            return {name: 1.0}
        differences = [quantities[names[j]] - quantities[name] for j in others]
        errors = np.array([max(d.error, 1e-12) for d in differences])
        seen = (np.round(values[others] - values[i], 12) / errors).max()
        chance = (sign * np.stack([d.draws() - d.value for d in differences]) / errors[:, None]).max(0)  # [resamples]
        found[name] = 1.0 if seen <= 0 else float((1 + (chance >= seen).sum()) / (1 + len(chance)))
    return found


def detectable_difference(arms: Sequence[tuple[float, int]], *, level: float = LEVEL, power: float = POWER) -> float:
    """The smallest true difference of two means that a two-sided test finds with probability `power`. `arms`: (sd over seeds, seeds).

    (z(1 - level/2) + z(power)) * sqrt(sd_a^2 / S_a + sd_b^2 / S_b), which is the usual sample size S = 2 (z + z)^2 sd^2 / difference^2
    solved for the difference (C. Colas, O. Sigaud, P.-Y. Oudeyer, "How many random seeds?", arXiv:1806.08295, 2018). With sd .4, .7 and
    1.0 a difference of 1 takes 3, 8 and 16 seeds. One arm (standard error of a difference, 1) gives what the test items can show.
    """
    normal = NormalDist()
    return (normal.inv_cdf(1 - level / 2) + normal.inv_cdf(power)) * sqrt(sum(sd**2 / seeds for sd, seeds in arms))


def half_width(error: float, *, level: float = LEVEL) -> float:
    """Half of the normal interval of a standard error: 752 items at 76 % leave .031 to either side."""
    return NormalDist().inv_cdf(1 - level / 2) * error
