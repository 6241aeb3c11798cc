"""A comparison as figures: what the page, the table and the verdict take. Equal answers give equal figures, to the last digit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from chiasm.compare.bootstrap import RESAMPLES, Quantity
from chiasm.compare.quantities import Change, RowMeasures, measure, parse_control
from chiasm.compare.result import Comparison, Row
from chiasm.compare.statistics import FEWEST, LEVEL, SCREENING, detectable_difference, holm, ties_with_best
from chiasm.components import find
from chiasm.evaluation.intervals import percentile_interval
from chiasm.evaluation.result import plain

AS_CHEAP = 1.06  # budgets are matched to 3 % on either side, so costs within 6 % count as equal
UNSTABLE = 3.0  # times the usual sd over seeds (and beyond what the test items alone leave open): a lottery, which is not recommended
DIGITS = 10  # significant digits kept: another machine's sums may differ in the last ones
UNSCALED = ("pearson", "r2")  # of the metrics whose best is 1 and more is better, those that are no share


def summarise(comparison: Comparison, *, resamples: int = RESAMPLES) -> dict[str, Any]:
    """All figures of a comparison, as JSON values. Figures are in the metric's own unit; `unit` is "points" where they are shares of 1."""
    measures, notes = measure(comparison, resamples=resamples)
    sign = 1 if comparison.higher_is_better else -1
    scored = {name: m.score for name, m in measures.items() if m.score is not None}
    ties = ties_with_best(scored, higher_is_better=comparison.higher_is_better) if scored else {}
    top = [name for name, p in ties.items() if p >= LEVEL]
    reference = _reference(comparison.rows, scored, sign)
    majority = next((row.name for row in comparison.rows if row.kind == "majority" and row.name in scored), None)
    against = _differences(comparison.rows, scored, measures, reference, sign)
    rows = [_row(row, measures[row.name], scored.get(majority or ""), sign) for row in comparison.rows]
    for row in rows:
        row |= {"in_top": row["name"] in top, "p_best": ties.get(row["name"]), "against_reference": against.get(row["name"])}
    best = max(scored, key=lambda name: sign * scored[name].value, default=None)
    fusion = [row for row in rows if row["kind"] == "fusion"]
    usual = _median(row["sd"] for row in fusion)
    for row in rows:
        spread = row["sd"] if row["kind"] == "fusion" else None
        row["unstable"] = spread is not None and spread > max(UNSTABLE * (usual or 0.0), row["item_half_width"])
    candidates = [row for row in rows if row["in_top"]]
    protocol = _protocol(comparison, resamples)
    for row in rows if protocol["unit"] else ():
        row["interval"] = row["interval"] and tuple(
            float(np.clip(bound, 0, 1)) for bound in row["interval"]
        )  # Student's tails know no bounds
    found = {
        **protocol,
        "best": best,
        "reference": reference,
        "majority": majority,
        "top": top,
        "recommended": cheapest([row for row in candidates if not row["unstable"]] or candidates),
        "detectable": _median((row["against_reference"] or {}).get("detectable") for row in fusion),
        "item_detectable": _median((row["against_reference"] or {}).get("item_detectable") for row in fusion),
        "seed_sd": usual,
        "item_half_width": measures[best].item_half_width if best else None,
        "rows": rows,
        "notes": [*comparison.notes, *notes],
    }
    return _rounded(plain(found))


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.median(known)) if known else None


def _protocol(comparison: Comparison, resamples: int) -> dict[str, Any]:
    kept = ("task", "metric", "higher_is_better", "split", "seeds", "match", "trials", "command", "commit", "encoder_cache", "recipe")
    metric = find("metric", comparison.metric)
    share = metric.higher_is_better and metric.best == 1.0 and comparison.metric not in UNSCALED
    return {
        **{name: getattr(comparison, name) for name in kept},
        "unit": "points" if share else "",
        "screening": len(comparison.seeds) < SCREENING,
        "items": len(comparison.ids),
        "independent": len(set(comparison.clusters or comparison.ids)),
        "controlled": len(comparison.controlled),
        "resamples": resamples,
    }


def _reference(rows: Sequence[Row], scored: Mapping[str, Quantity], sign: int) -> str | None:
    """The ensemble of the most inputs, else the best row with one input, else majority."""
    known = [row for row in rows if row.name in scored]
    ensembles = [row for row in known if row.kind == "ensemble"]
    if ensembles:
        return max(ensembles, key=lambda row: len(row.inputs)).name
    alone = [row for row in known if row.kind == "unimodal"]
    if alone:
        return max(alone, key=lambda row: sign * scored[row.name].value).name
    return next((row.name for row in known if row.kind == "majority"), None)


def _differences(
    rows: Sequence[Row], scored: Mapping[str, Quantity], measures: Mapping[str, RowMeasures], reference: str | None, sign: int
) -> dict[str, dict[str, Any]]:
    """Row -> its paired difference to the reference. Holm's correction is over the fusion rows: they are what is compared."""
    if reference is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.name != reference and row.name in scored:
            difference = scored[row.name] - scored[reference]
            found[row.name] = _figures(difference) | {"p_holm": None, "outcome": None}
            found[row.name]["detectable"] = _detectable(row, measures[row.name], measures[reference])
            found[row.name]["item_detectable"] = detectable_difference([(difference.item_error, 1)])
    fusion = {row.name: found[row.name]["p"] for row in rows if row.kind == "fusion" and row.name in found}
    for name, p in holm(fusion).items():
        found[name] |= {"p_holm": p, "outcome": _outcome(sign * found[name]["difference"], p, found[name]["detectable"])}
    return found


def _outcome(gain: float, p: float, detectable: float | None) -> str:
    """better, worse, small (real, but smaller than these seeds can show reliably) or tie."""
    if p >= LEVEL:
        return "tie"
    if detectable is None or abs(gain) <= detectable:
        return "small"
    return "better" if gain > 0 else "worse"


def _detectable(row: Row, own: RowMeasures, reference: RowMeasures) -> float | None:
    """None where the row has so few seeds that nothing is known about their spread. A reference with one seed is taken to have none."""
    if len(own.by_seed) < FEWEST and row.kind == "fusion":
        return None
    return detectable_difference([(float(np.std(m.by_seed, ddof=1)), len(m.by_seed)) for m in (own, reference) if len(m.by_seed) > 1])


def _row(row: Row, measures: RowMeasures, majority: Quantity | None, sign: int) -> dict[str, Any]:
    score, by_seed = measures.score, measures.by_seed
    found: dict[str, Any] = {name: getattr(row, name) for name in ("name", "kind", "inputs", "note", "runs_on")}
    found |= {
        "score": score.value if score else None,
        "interval": score.interval() if score else None,
        "sd": float(np.std(by_seed, ddof=1)) if len(by_seed) > 1 else None,
        "by_seed": by_seed,
        "item_half_width": measures.item_half_width,
        "calibration_error": float(np.mean(measures.calibration)) if measures.calibration else None,
        "above_majority": None,
        "controls": {name: _control(name, change) for name, change in measures.controls.items()},
        "interaction": _interaction(measures.additive, sign),
        "shares": _shares(measures),
        "cost": _cost(row),
    }
    if score and majority and row.kind != "majority":
        above = _figures(score - majority)
        found["above_majority"] = bool(above["p"] < LEVEL and sign * above["difference"] > 0)
    return found


def _figures(quantity: Quantity) -> dict[str, Any]:
    return {"difference": quantity.value, "interval": quantity.interval(), "p": quantity.p_value()}


def _control(name: str, change: Change) -> dict[str, Any]:
    input, how, level = parse_control(name)
    where = {"input": input, "how": how, "level": level, "items": change.items}
    return {**where, "real": change.real.value, "score": change.other.value, **_figures(change.other - change.real)}


def _interaction(change: Change | None, sign: int) -> dict[str, Any] | None:
    """The EMAP gap: what the model loses when its probabilities are projected to a sum of parts, one per input (J. Hessel, L. Lee, "Does my
    multimodal model learn cross-modal interactions?", EMNLP 2020). Positive is a gain by interaction, whichever way the metric points."""
    if change is None:
        return None
    found = _figures(change.real - change.other if sign > 0 else change.other - change.real)
    return {"value": found.pop("difference"), **found, "real": change.real.value, "additive": change.other.value, "items": change.items}


def _shares(measures: RowMeasures) -> dict[str, Any] | None:
    """Parts of the true label's probability (they sum to all - none), and each as a signed share of their absolute sum."""
    if not measures.shares or measures.all_inputs is None or measures.no_inputs is None:
        return None
    draws = np.stack([q.draws() for q in measures.shares.values()])  # [M, resamples]
    total = np.abs(draws).sum(0).clip(1e-12)
    whole = max(sum(abs(q.value) for q in measures.shares.values()), 1e-12)
    inputs = {}
    for (name, q), line in zip(measures.shares.items(), draws, strict=True):
        share = {"share": q.value / whole, "share_interval": percentile_interval(line / total)}
        inputs[name] = {"part": q.value, "interval": q.interval(), **share}
    return {"inputs": inputs, "all": measures.all_inputs.value, "none": measures.no_inputs.value}


def _cost(row: Row) -> dict[str, float | None]:
    """What a row costs: means over seeds, of memory the highest; None where it was not measured."""

    def mean(values: Sequence[float]) -> float | None:
        return float(np.mean(values)) if values else None

    cells = row.cells
    return {
        "parameters": row.parameters,
        "trainable": row.trainable,
        "macs": row.macs,
        "train_seconds": mean([c.train_seconds for c in cells if c.train_seconds]),
        "peak_memory": max([c.peak_memory for c in cells if c.peak_memory], default=None),
        "p50": mean([c.latency["p50"] for c in cells if "p50" in c.latency]),
        "p99": mean([c.latency["p99"] for c in cells if "p99" in c.latency]),
    }


def cheapest(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The row with the fewest parameters; of equally many, the fewest multiply-accumulates, then the lowest median latency.

    Nothing is cheaper than the majority answer, and an unknown cost counts as higher than any known one.
    """
    if not rows:
        return None
    if majority := [row["name"] for row in rows if row["kind"] == "majority"]:
        return majority[0]
    for name in ("parameters", "macs", "p50"):
        known = [row["cost"][name] for row in rows if row["cost"][name] is not None]
        if known:
            rows = [row for row in rows if row["cost"][name] is not None and row["cost"][name] <= AS_CHEAP * min(known)]
    return rows[0]["name"]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
