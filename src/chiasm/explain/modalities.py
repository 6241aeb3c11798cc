"""How much of an answer each input is worth: exact Shapley values over all subsets of inputs, and what pairs of them do together.

L. S. Shapley, "A value for n-person games" (1953); M. Grabisch and M. Roubens, "An axiomatic approach to the concept of interaction among
players in cooperative games" (1999); for models of several modalities L. Parcalabescu and A. Frank, "MM-SHAP" (2023), who report the
shares without their sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from typing import Any

from chiasm.explain.subject import Subject
from chiasm.types import ChiasmError

MOST = 6  # inputs: 64 subsets
Group = frozenset[str]


def coalitions(subject: Subject, absent: Mapping[str, Any], nothing: float | None = None) -> dict[Group, float]:
    """Every subset of the inputs -> the number with only those; `absent`: what stands for each of the others; `nothing`: the number with
    none of them, where it is known."""
    names = list(absent)
    if len(names) > MOST:
        raise ChiasmError(f"{len(names)} inputs have {2 ** len(names)} subsets, more than are tried (up to {MOST} inputs); use level token")
    groups = [frozenset(group) for size in range(nothing is not None, len(names)) for group in combinations(names, size)]
    found = subject.values([{name: absent[name] for name in names if name not in group} for group in groups])
    known = {} if nothing is None else {frozenset[str](): nothing}
    return {frozenset(names): subject.whole, **known, **dict(zip(groups, found.tolist(), strict=True))}


def shapley(values: Mapping[Group, float]) -> dict[str, float]:
    """What each input adds when it joins, averaged over all orders of joining; they sum to values[all] - values[none]."""
    players = sorted(frozenset().union(*values))
    return {player: _index(values, players, (player,)) for player in players}


def interactions(values: Mapping[Group, float]) -> dict[tuple[str, str], float]:
    """What two inputs add together beyond what each adds alone: above 0 they need each other, below 0 each has what the other has."""
    players = sorted(frozenset().union(*values))
    return {(a, b): _index(values, players, (a, b)) for a, b in combinations(players, 2)}


def _index(values: Mapping[Group, float], players: Sequence[str], chosen: Sequence[str]) -> float:
    """The Shapley value of one player, or the interaction index of several: the mean over what joined before of their joint difference."""
    others = [player for player in players if player not in chosen]
    count, together = len(players), len(chosen)
    total = 0.0
    for size in range(len(others) + 1):
        weight = factorial(size) * factorial(count - size - together) / factorial(count - together + 1)
        for group in map(frozenset, combinations(others, size)):
            for joined in range(together + 1):
                for some in combinations(chosen, joined):
                    total += weight * (-1) ** (together - joined) * values[group.union(some)]
    return total
