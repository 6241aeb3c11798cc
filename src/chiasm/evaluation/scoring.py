"""From predictions to figures: scores, groups, controls with paired intervals, and the verdict of each input. No model here."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chiasm.components import find
from chiasm.evaluation.intervals import Difference, bootstrap, number, paired, verdict
from chiasm.evaluation.result import Evaluation
from chiasm.metrics.base import Metric
from chiasm.types import Prediction

MOST_GROUPS = 40  # values of one group column that get a figure of their own
MARGIN = 0.02  # within this of the question-only level counts as at it


@dataclass(slots=True)
class Answers:
    """All that one task answered on a split. Controls and references are lists of predictions about (some of) the same ids."""

    task: str
    metrics: Sequence[str]  # the first one is the task's main figure
    real: list[Prediction] = field(default_factory=list)
    controls: dict[tuple[str, str], list[Prediction]] = field(default_factory=dict)  # (input, "shuffled"|"missing")
    references: dict[str, list[Prediction]] = field(default_factory=dict)  # "question only" -> what it would say
    present: dict[str, set[str]] = field(default_factory=dict)  # input -> ids of the rows that have it
    media: dict[str, dict[str, Hashable]] = field(default_factory=dict)  # input -> id -> key of its picture or clip


def score(answers: Answers, found: Evaluation, *, seed: int = 0) -> None:
    """Add the figures of one task to `found`."""
    real = [p for p in answers.real if p.target is not None]
    if not answers.real:
        found.notes.append(f"{answers.task}: no row of this split is for this task")
        return
    if not real:
        found.notes.append(f"{answers.task}: no row has a target, so there is no score")
        return
    answers = dataclasses.replace(answers, real=real)
    clusters = cluster_of(answers)
    for place, name in enumerate(answers.metrics):
        metric = find("metric", name)()
        values = metric.compute(real)
        if not values:
            found.notes.append(f"{answers.task}.{name} is undefined on these {len(real)} rows")
        for variant, value in values.items():
            found.metrics[key(answers.task, name, variant)] = value
        for variant, interval in bootstrap(metric, real, [clusters[p.id] for p in real], seed=seed).items():
            found.intervals[key(answers.task, name, variant)] = interval
        found.notes += [f"{answers.task}: {note}" for note in metric.notes(real)]
        _groups(answers, metric, name, clusters, found, seed=seed)
        _controls(answers, metric, name, clusters, found, main=place == 0, seed=seed)
    _verdicts(answers, found)


def key(task: str, metric: str, variant: str = "", *labels: str) -> str:
    """("align", "recall", "1[image->caption]", "image shuffled") -> "align.recall@1[image->caption, image shuffled]"."""
    head, _, inside = variant.removesuffix("]").partition("[")
    brackets = ", ".join(part for part in (inside, *labels) if part)
    return f"{task}.{metric}" + (f"@{head}" if head else "") + (f"[{brackets}]" if brackets else "")


def cluster_of(answers: Answers) -> dict[str, Hashable]:
    """Row id -> its cluster: the input whose pictures or clips are shared by most rows; a row without one is on its own."""
    shared = min(answers.media.values(), key=lambda keys: len(set(keys.values())) - len(keys), default={})
    return {p.id: ("media", shared[p.id]) if p.id in shared else ("row", p.id) for p in answers.real}


def _groups(answers: Answers, metric: Metric, name: str, clusters: Mapping[str, Hashable], found: Evaluation, *, seed: int) -> None:
    for column, value, rows in grouped(answers.real):
        for variant, figure in _main_variants(metric.compute(rows)).items():
            found.metrics[key(answers.task, name, variant, f"{column}={value}")] = figure
        if metric.per_sample:
            for variant, interval in bootstrap(metric, rows, [clusters[p.id] for p in rows], seed=seed).items():
                found.intervals[key(answers.task, name, variant, f"{column}={value}")] = interval


def grouped(predictions: Sequence[Prediction]) -> list[tuple[str, str, list[Prediction]]]:
    """(column, value, its rows), in order; a column with too many values (an id, say) is left out."""
    groups: dict[str, dict[str, list[Prediction]]] = {}
    for p in predictions:
        for column, value in p.groups.items():
            groups.setdefault(column, {}).setdefault(str(value), []).append(p)
    return [(c, v, values[v]) for c, values in sorted(groups.items()) if len(values) <= MOST_GROUPS for v in sorted(values)]


def _controls(
    answers: Answers, metric: Metric, name: str, clusters: Mapping[str, Hashable], found: Evaluation, *, main: bool, seed: int
) -> None:
    """Score each control and reference. The figure is over all rows; the paired difference over the rows that have the input at all."""
    by_id = {p.id: p for p in answers.real}
    controls = [(f"{i} {how}", rows, answers.present[i]) for (i, how), rows in answers.controls.items() if answers.present.get(i)]
    for title, rows, present in [*controls, *((name, rows, None) for name, rows in answers.references.items())]:
        rows = [p for p in rows if p.id in by_id]
        if not rows:
            continue
        for variant, value in _main_variants(metric.compute(rows)).items():
            found.metrics[key(answers.task, name, variant, title)] = value
        having = [p for p in rows if present is None or p.id in present]
        if having and (main or metric.per_sample):
            differences = paired(metric, [by_id[p.id] for p in having], having, [clusters[p.id] for p in having], seed=seed)
            for variant, difference in _main_variants(differences).items():
                found.differences[key(answers.task, name, variant, title)] = _as_json(difference)
        if main and present is not None:
            for column, value, members in grouped(rows):
                for variant, figure in _main_variants(metric.compute(members)).items():
                    found.metrics[key(answers.task, name, variant, f"{column}={value}", title)] = figure


def _main_variants(values: dict[str, Any]) -> dict[str, Any]:
    return {variant: value for variant, value in values.items() if not variant.startswith("[class=")}


def _as_json(d: Difference) -> dict[str, Any]:
    figures = {"real": d.real, "control": d.other, "difference": d.difference, "interval": list(d.interval)}
    return {**figures, "rows": d.rows, "clusters": d.clusters}


def _verdicts(answers: Answers, found: Evaluation) -> None:
    """One sentence per input from the task's main figure (its first variant), and one on the question-only level."""
    name = answers.metrics[0]
    metric = find("metric", name)()
    variant = next(iter(metric.compute(answers.real)), None)
    if variant is None:
        return
    shown = key("", name, variant)[1:]
    for input in dict.fromkeys(i for i, _ in answers.controls):
        if not answers.present.get(input):
            found.verdicts.append(f"{answers.task}: no row of this split has `{input}`")
            continue
        for how in ("shuffled", "missing"):
            found_difference = found.differences.get(key(answers.task, name, variant, f"{input} {how}"))
            if found_difference is not None:
                break
        else:
            continue
        difference = _from_json(found_difference)
        found.verdicts.append(f"{answers.task}: " + verdict(input, shown, difference, how=how, higher_is_better=metric.higher_is_better))
        _question_only(answers, metric, name, variant, input, how, found)


def _from_json(d: Mapping[str, Any]) -> Difference:
    return Difference(d["real"], d["control"], tuple(d["interval"]), d["rows"], d["clusters"])


def _question_only(answers: Answers, metric: Metric, name: str, variant: str, input: str, how: str, found: Evaluation) -> None:
    """Say whether a control falls to what the question alone gives, for inputs that every row has."""
    reference = found.metrics.get(key(answers.task, name, variant, "question only"))
    control = found.metrics.get(key(answers.task, name, variant, f"{input} {how}"))
    everywhere = len(answers.present[input]) >= len(answers.real)
    if reference is None or control is None or not everywhere or not metric.higher_is_better or input not in answers.media:
        return
    level = f"the question-only level {number(reference)} (the best training answer for each question)"
    place = "stays above" if control > reference + MARGIN else "is below" if control < reference - MARGIN else "is at"
    source = "" if control > reference + MARGIN else f": what is above it comes from `{input}`"
    found.verdicts.append(f"{answers.task}: with `{input}` {how}, {number(control)} {place} {level}{source}")


def is_finite(value: Any) -> bool:
    """Whether every number in an output (number, list, dict of embeddings, None, text) is finite."""
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_finite, value))
    return bool(np.isfinite(value)) if isinstance(value, (float, np.floating)) else True
