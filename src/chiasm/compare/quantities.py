"""From a Comparison's answers to quantities: every row's score, its change under each control, its additive part, and Shapley's shares."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chiasm.compare.bootstrap import RESAMPLES, Quantity, Sampler, Seeds
from chiasm.compare.result import Cell, Comparison, Row
from chiasm.compare.shapley import coalition_values, shapley
from chiasm.compare.statistics import half_width
from chiasm.components import find
from chiasm.types import ChiasmError, Prediction

FEW_CONTROLLED = 50  # draws of the controls' items for a metric that is no mean: there are many controls
CONTROL = re.compile(r"^(?P<input>.+) (?P<how>[a-z]+)(?: (?P<level>[\d.]+))?$")

Answers = tuple[Sequence[Any], Sequence[dict[str, float]] | None]  # outputs, probabilities
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """The same items twice: as they are, and under a control (or projected to what is additive)."""

    real: Quantity
    other: Quantity
    items: int


@dataclass(slots=True)
class RowMeasures:
    """What is known about one row; what was not measured is not there."""

    score: Quantity | None = None
    by_seed: list[float] = field(default_factory=list)
    item_half_width: float | None = None  # of one seed's score, from the number of items alone
    calibration: list[float] = field(default_factory=list)  # calibration error of each seed
    controls: dict[str, Change] = field(default_factory=dict)  # "image missing 0.5" -> change
    additive: Change | None = None  # `other` is the score of the additive projection
    shares: dict[str, Quantity] = field(default_factory=dict)  # input -> its part of the true label's probability
    all_inputs: Quantity | None = None  # probability of the true label with every input there
    no_inputs: Quantity | None = None


def measure(comparison: Comparison, *, resamples: int = RESAMPLES) -> tuple[dict[str, RowMeasures], list[str]]:
    """(row name -> its quantities, what could not be measured). Raises ChiasmError where a list does not fit the items."""
    if not comparison.ids or len(comparison.targets) != len(comparison.ids):
        raise ChiasmError(f"the comparison has {len(comparison.ids)} test items and {len(comparison.targets)} targets; measure it again")
    gathered = _Gathered(comparison)
    for row in comparison.rows:
        gathered.row(row)
    found = gathered.drawn(resamples)
    rows = {row.name: _row_measures(row, gathered, found) for row in comparison.rows}
    return rows, gathered.notes


def _row_measures(row: Row, gathered: _Gathered, found: Mapping[Key, Quantity]) -> RowMeasures:
    measures = RowMeasures(score=found.get((row.name, "score")), calibration=gathered.calibration[row.name])
    measures.by_seed = gathered.by_seed.get((row.name, "score"), [])
    measures.item_half_width = gathered.half_widths.get(row.name)
    pairs = gathered.changes[row.name]
    changes = {name: Change(found[a], found[b], items) for name, (a, b, items) in pairs.items() if {a, b} <= found.keys()}
    measures.additive = changes.pop("additive", None)
    measures.controls = changes
    shares = {key[2]: q for key, q in found.items() if key[:2] == (row.name, "share")}
    measures.shares = {name: shares[name] for name in row.inputs if name in shares}
    measures.all_inputs, measures.no_inputs = found.get((row.name, "all")), found.get((row.name, "none"))
    return measures


class _Gathered:
    """Scores of every item, or functions of drawn items, before anything is drawn."""

    def __init__(self, comparison: Comparison):
        self.comparison = comparison
        self.metric = find("metric", comparison.metric)()
        self.variant = ""  # which of the metric's figures: the first one it gives
        self.chosen = False
        self.places = {"all": list(range(len(comparison.ids))), "controlled": comparison.controlled}
        self.scores: dict[Key, tuple[str, Seeds, np.ndarray]] = {}  # means over items: which items, seeds, [S, N]
        self.functions: dict[Key, tuple[str, Seeds, list[Callable[[np.ndarray], dict[str, float]]]]] = {}  # and all others
        self.changes: dict[str, dict[str, tuple[Key, Key, int]]] = {}
        self.calibration: dict[str, list[float]] = {}
        self.by_seed: dict[Key, list[float]] = {}
        self.half_widths: dict[str, float] = {}
        self.notes: list[str] = []

    def row(self, row: Row) -> None:
        """Take in one row: its score, calibration, controls, additive projection and coalitions."""
        cells = sorted(row.cells, key=lambda cell: cell.seed)
        self.changes[row.name] = {}
        self.calibration[row.name] = self._calibration(row, cells)
        if not cells:
            self.notes.append(f"{row.name}: nothing was measured")
            return
        self._add((row.name, "score"), "all", row, [(c.seed, (c.outputs, c.probabilities)) for c in cells])
        for name in dict.fromkeys(name for cell in cells for name in cell.controls):
            having = [c for c in cells if name in c.controls]
            self._changed(row, "controlled", name, having, [c.controls[name] for c in having])
        if having := [c for c in cells if c.additive]:
            projected = [c.additive or [] for c in having]
            self._changed(row, self._first(len(projected[0])), "additive", having, projected)
        if having := [c for c in cells if c.coalitions and c.probabilities]:
            self._shares(row, having)

    def _changed(self, row: Row, which: str, name: str, cells: Sequence[Cell], answers: Sequence[Sequence[Any]]) -> None:
        """Other answers of the same seeds on some of the items, and the real ones beside them."""
        key, target = (row.name, "changed", name), self.comparison.targets[0]
        self._add(key, which, row, [(c.seed, as_answers(other, target)) for c, other in zip(cells, answers, strict=True)])
        self.changes[row.name][name] = (self._real(row, cells, which), key, len(self.places[which]))

    def _real(self, row: Row, cells: Sequence[Cell], which: str) -> Key:
        """The key of the row's score on some of its items and seeds."""
        key = (row.name, "real", which, *(str(c.seed) for c in cells))
        if key not in self.scores and key not in self.functions:
            self._add(key, which, row, [(c.seed, self._at(c.outputs, c.probabilities, which)) for c in cells])
        return key

    def _at(self, outputs: Sequence[Any], probabilities: Sequence[Any] | None, which: str) -> Answers:
        places = self.places[which]
        return [outputs[i] for i in places], None if probabilities is None else [probabilities[i] for i in places]

    def _first(self, number: int) -> str:
        """The first items of those that the controls were run on."""
        name = f"first {number}"
        self.places[name] = self.comparison.controlled[:number]
        return name

    def _predictions(self, answers: Answers, which: str, what: str) -> list[Prediction]:
        outputs, probabilities = answers
        places, c = self.places[which], self.comparison
        for name, values in (("outputs", outputs), ("probabilities", probabilities)):
            if values is not None and len(values) != len(places):
                raise ChiasmError(f"{what}: {len(values)} {name} for {len(places)} test items; measure the comparison again")
        known = probabilities or [None] * len(places)
        return [Prediction(c.ids[i], c.task, o, c.targets[i], None, p) for i, o, p in zip(places, outputs, known, strict=True)]

    def _add(self, key: Key, which: str, row: Row, answers: Sequence[tuple[int, Answers]]) -> None:
        """Score the answers of each seed; seeds on which the metric is undefined are left out, and so is a key without any."""
        seeds, kept = [], []
        for seed, answer in answers:
            scored = self._scored(self._predictions(answer, which, f"{' '.join(key[:1] + key[2:])}, seed {seed}"))
            if scored is not None:
                seeds.append(seed)
                kept.append(scored)
        if not kept:
            where = "its answers" if key[1] == "score" else "its answers under controls"
            note = f"{row.name}: {self.comparison.metric} is undefined on {where}"
            self.notes += [note] if note not in self.notes else []
        elif self.metric.per_sample:
            self.scores[key] = (which, tuple(seeds), np.stack(kept))
        else:
            self.functions[key] = (which, tuple(seeds), kept)

    def _scored(self, predictions: list[Prediction]) -> Any:
        """[N] scores, or the metric as a function of item indices; None where it is undefined."""
        if self.metric.per_sample:
            scores = self.metric.scores_by_variant(predictions)
            self._choose(scores)
            found = scores.get(self.variant)
            return None if found is None or np.isnan(found).all() else found
        compute = self._on_rows(predictions)
        whole = compute(np.arange(len(predictions)))
        self._choose(whole)
        return compute if self.variant in whole else None

    def _choose(self, variants: Mapping[str, Any]) -> None:
        """The first figure that the metric gives is the one that is compared, for all rows."""
        if not self.chosen and variants:
            self.variant, self.chosen = next(iter(variants)), True

    def _on_rows(self, predictions: list[Prediction]) -> Callable[[np.ndarray], dict[str, float]]:
        statistics = self.metric.statistics(predictions)
        if statistics is None:
            return self.metric.on_rows(predictions)
        return lambda rows: self.metric.from_statistics(statistics[rows].sum(0))

    def _calibration(self, row: Row, cells: Sequence[Cell]) -> list[float]:
        metric, found = find("metric", "calibration_error")(), []
        for cell in cells:
            if cell.probabilities is not None:
                found += metric.compute(
                    self._predictions((cell.outputs, cell.probabilities), "all", f"{row.name}, seed {cell.seed}")
                ).values()
        return found

    def _shares(self, row: Row, cells: Sequence[Cell]) -> None:
        """Add the parts that each input has in the true label's probability."""
        targets = [self.comparison.targets[i] for i in self.places["controlled"]]
        parts: list[dict[Key, np.ndarray]] = []
        for cell in cells:
            if wrong := [name for name, rows in cell.coalitions.items() if len(rows) != len(targets)]:
                what = f"{row.name}, seed {cell.seed}, only '{wrong[0]}'"
                raise ChiasmError(
                    f"{what}: {len(cell.coalitions[wrong[0]])} answers for {len(targets)} items; measure the comparison again"
                )
            values = coalition_values(cell.coalitions, targets)
            if (found := shapley(values)) is None:
                self.notes.append(f"{row.name}: no shares of its inputs, since not every combination of them was run")
                return
            parts.append({("share", name): part for name, part in found.items()})
            parts[-1] |= {("all",): values[max(values, key=len)], ("none",): values[frozenset()]}
        for key in parts[0]:
            self.scores[row.name, *key] = ("controlled", tuple(c.seed for c in cells), np.stack([part[key] for part in parts]))

    def drawn(self, resamples: int) -> dict[Key, Quantity]:
        """Draw items and seeds for everything that was taken in."""
        clusters = self.comparison.clusters or self.comparison.ids
        if len(clusters) != len(self.comparison.ids):
            raise ChiasmError(f"the comparison has {len(clusters)} clusters for {len(self.comparison.ids)} test items; measure it again")
        found: dict[Key, Quantity] = {}
        for which, places in self.places.items():
            few = {"few": FEW_CONTROLLED} if which == "controlled" else {}
            sampler = Sampler([clusters[i] for i in places], resamples=resamples, **few)
            means = {key: (seeds, scores) for key, (w, seeds, scores) in self.scores.items() if w == which}
            found |= dict(zip(means, sampler.of_means(list(means.values())), strict=True))
            for key, (_, scores) in means.items():
                if key[1] == "score":
                    self._of_seeds(key, [float(np.nanmean(line)) for line in scores], np.sqrt((sampler.moves(scores) ** 2).sum(1)))
            for key, (w, seeds, functions) in self.functions.items():
                if w == which:
                    by_seed = np.array([f(np.arange(len(places))).get(self.variant, np.nan) for f in functions])
                    draws = np.array([[f(rows).get(self.variant, np.nan) for f in functions] for rows in sampler.rows])
                    found[key] = sampler.of_draws(seeds, by_seed, draws)
                    if key[1] == "score":
                        self._of_seeds(key, by_seed.tolist(), np.nanstd(draws, axis=0))
        return found

    def _of_seeds(self, key: Key, values: list[float], errors: np.ndarray) -> None:
        self.by_seed[key] = values
        self.half_widths[key[0]] = half_width(float(np.mean(errors)))


def as_answers(values: Sequence[Any], target: Any) -> Answers:
    """Answers from a list of outputs, or of what is held for likely, as an answer of the kind of `target` is made of it.

    {label: probability} gives the likeliest label (the first of equals), or every label from one half on where a target is a list of
    labels; {"value": number}, of a task that predicts numbers, gives the number.
    """
    if not values or not all(isinstance(v, Mapping) and v and all(isinstance(p, float | int) for p in v.values()) for v in values):
        return values, None
    if isinstance(target, list | tuple):
        return [[name for name, p in v.items() if p >= 0.5] for v in values], values
    if all(v.keys() == {"value"} for v in values):
        return [v["value"] for v in values], None
    return [max(v, key=lambda name: v[name]) for v in values], values


def parse_control(name: str) -> tuple[str, str, float | None]:
    """("image", "missing", 0.25) of "image missing 0.25"; the level is None where none is named."""
    found = CONTROL.match(name)
    if found is None:
        return name, "", None
    return found["input"], found["how"], None if found["level"] is None else float(found["level"])
