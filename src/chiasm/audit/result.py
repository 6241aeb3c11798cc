"""What an audit found: scores under every condition, and for each input a verdict that also says what could not be told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from chiasm.components import find
from chiasm.evaluation.intervals import FEWEST_CLUSTERS, bootstrap, number
from chiasm.evaluation.result import Evaluation, plain
from chiasm.evaluation.scoring import Answers, cluster_of, key, score

TASK, TEXT_ONLY = "answer", "text only"
WIDEST = 0.1  # of a score between 0 and 1: an interval that reaches farther below 0 cannot say that an input is not used
SCORED = {
    "exact_match": "exact match after normalisation (case and spaces)",
    "contains": "the expected answer stands in what is said, word for word (case and punctuation aside)",
}


@dataclass(frozen=True, slots=True)
class Score:
    """One condition: its score over all rows, and the `difference` to the inputs as they are, paired, over the `rows` with the input."""

    condition: str
    score: float
    interval: Sequence[float] | None = None
    difference: float | None = None
    difference_interval: Sequence[float] | None = None
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict`: uses, no measurable use, hurts or cannot tell."""

    input: str
    verdict: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Audit:
    title: str
    data: str
    metric: str
    rows: int
    scores: Sequence[Score]
    verdicts: Sequence[Verdict]
    notes: Sequence[str] = ()
    predictions: Sequence[Mapping[str, Any]] = field(default=())  # {id, condition, output, target}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return plain({**asdict(self), "scored": SCORED[self.metric]})

    def html(self) -> str:
        """A page of its own: nothing from outside, light and dark."""
        from chiasm.audit.page import render

        return render(self)

    def lines(self) -> list[str]:
        """For a terminal."""
        width = max(len(one.condition) for one in self.scores)
        lines = [f"{self.title}, {self.rows} rows of {self.data}", f"scored: {SCORED[self.metric]}", ""]
        for one in self.scores:
            bar = "█" * round(24 * one.score)
            lines.append(f"  {one.condition:<{width}}  {one.score:.3f}  {bar:<24}  {change(one)}".rstrip())
        lines += ["", f"scores are over all {self.rows} rows, differences to `as it is` over the rows that have the input"]
        return [*lines, "", *(verdict.sentence for verdict in self.verdicts), *(f"note: {note}" for note in self.notes)]


def change(one: Score) -> str:
    """A condition's difference with its interval, and over how many rows; of the inputs as they are, the interval of the score."""
    if one.difference is not None:
        return f"{number(one.difference, sign=True)} {_span(one.difference_interval, sign=True)} over {one.rows} rows"
    return _span(one.interval)


def _span(interval: Sequence[float] | None, *, sign: bool = False) -> str:
    return "" if interval is None else "[{}, {}]".format(*(number(edge, sign=sign) for edge in interval))


def conclude(answers: Answers, *, title: str, data: str, inputs: Mapping[str, str], notes: Sequence[str]) -> Audit:
    """Scores with intervals, and a verdict for each input."""
    metric, found = answers.metrics[0], Evaluation()
    score(answers, found)
    real = key(TASK, metric)
    scores = [Score("as it is", found.metrics[real], found.intervals.get(real), rows=len(answers.real))]
    clusters = cluster_of(answers)
    others = {f"{name} {how}": rows for (name, how), rows in answers.controls.items()} | answers.references
    for name, rows in others.items():
        if (d := found.differences.get(own := key(TASK, metric, "", name))) is not None:
            interval = bootstrap(find("metric", metric)(), rows, [clusters[p.id] for p in rows])[""]
            scores.append(Score(name, found.metrics[own], interval, d["difference"], d["interval"], d["rows"]))
    verdicts = [one for name in inputs if (one := judged(name, metric, found)) is not None]
    said = [{"condition": "as it is", "id": p.id, "output": p.output, "target": p.target} for p in answers.real]
    for (name, how), predictions in answers.controls.items():
        said += [{"condition": f"{name} {how}", "id": p.id, "output": p.output, "target": p.target} for p in predictions]
    return Audit(title, data, metric, len(answers.real), scores, verdicts, [*notes, *found.notes], said)


def judged(input: str, metric: str, found: Evaluation) -> Verdict | None:
    """By rule, from the shuffled input (the missing one where it could not be shuffled): does the score fall by more than chance?"""
    for how in ("shuffled", "missing"):
        difference = found.differences.get(key(TASK, metric, "", f"{input} {how}"))
        if difference is not None:
            break
    else:
        return None
    low, high = difference["interval"]
    change = f"{metric} {number(difference['real'])} -> {number(difference['control'])} when {how}"
    span = f"[{number(low, sign=True)}, {number(high, sign=True)}]"
    count = f"{difference['clusters']} independent rows"
    if difference["clusters"] < FEWEST_CLUSTERS:
        return Verdict(input, "cannot tell", f"cannot tell whether `{input}` is used: {count}, {FEWEST_CLUSTERS} needed")
    if max(difference["real"], difference["control"]) < WIDEST:
        low_score = f"with so few right answers there is nothing to lose ({number(difference['real'])} {metric}, {count})"
        return Verdict(input, "cannot tell", f"cannot tell whether `{input}` is used: {low_score}")
    if high < 0:
        return Verdict(input, "uses", f"uses `{input}`: {change} {span}")
    if low > 0:
        return Verdict(input, "hurts", f"`{input}` hurts: {change} {span}")
    if low < -WIDEST:
        wide = f"cannot tell whether `{input}` is used: {change} {span}; with {count} a fall of up to {number(abs(low))} would not show"
        return Verdict(input, "cannot tell", wide)
    sentence = f"no measurable use of `{input}`: {change} {span}; a fall of more than {number(abs(low))} is ruled out"
    return Verdict(input, "no measurable use", sentence)
