"""What a comparison says, by rule: one line, and sentences beside it. Nobody is named a winner inside a tie.

"Better" needs two things: the difference to the reference is significant after Holm's correction, and it is larger than what the seeds can
reliably show. A winner must also be alone at the top. Everything is read from the summary, so a missing piece only drops its sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chiasm.compare.figures import Unit, count, listed, p_text, percent
from chiasm.compare.statistics import FEWEST
from chiasm.evaluation.intervals import Difference
from chiasm.evaluation.intervals import verdict as input_verdict

Summary = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """`winner` is the one operator that is better than the reference and than every other row; mostly there is none."""

    line: str
    sentences: list[str]
    winner: str | None = None


def verdict(summary: Summary) -> Verdict:
    """The verdict of a summary."""
    fusion = [row for row in summary["rows"] if row["kind"] == "fusion" and row["score"] is not None]
    winner = _winner(summary, fusion)
    parts = [_headline(summary, fusion, winner)]
    if not _nothing_learned(summary):
        parts += [_necessary(summary, fusion), _value(summary, fusion), _suffices(summary), _recommended(summary)]
    parts.append(_power(summary))
    return Verdict(" ".join(part for part in parts if part), _sentences(summary, fusion), winner)


def _winner(summary: Summary, fusion: Rows) -> str | None:
    return next((row["name"] for row in fusion if _is(row, "better") and summary["top"] == [row["name"]]), None)


def _is(row: Mapping[str, Any], outcome: str) -> bool:
    return (row["against_reference"] or {}).get("outcome") == outcome


def _nothing_learned(summary: Summary) -> bool:
    return summary["majority"] is not None and summary["majority"] in summary["top"]


def _headline(summary: Summary, fusion: Rows, winner: str | None) -> str:
    """Whether any operator beats the reference, and which, if they can be told apart."""
    if _nothing_learned(summary):
        return f"No row is distinguishable from `{summary['majority']}`: nothing was learned from any input."
    if not fusion:
        return "No fusion was measured."
    if summary["reference"] is None or not any(row["against_reference"] for row in fusion):
        return f"There is no row to test the operators against{f'; {_tie(summary)}' if len(summary['top']) > 1 else '.'}"
    better = [row for row in fusion if _is(row, "better")]
    if winner:
        found = _row(summary, winner)["against_reference"]
        return f"`{winner}` is better than {_reference(summary)}: {_figure(summary, found)}."
    if better:
        return _several(summary, fusion, better)
    return _none_better(summary, fusion)


def _several(summary: Summary, fusion: Rows, better: Rows) -> str:
    """Some operators beat the reference, but none stands alone at the top."""
    best = max(better, key=lambda row: _gain(summary, row))
    head = f"{len(better)} of {len(fusion)} operators {_be(better)} better than {_reference(summary)}"
    head += f" ({'by' if len(better) == 1 else 'by up to'} {_figure(summary, best['against_reference'])})"
    return head + (f", but {_tie(summary)}" if len(summary["top"]) > 1 else ".")


def _tie(summary: Summary) -> str:
    """Who ties; rows whose seeds are a lottery stand apart, since they tie with everything."""
    unstable = [name for name in summary["top"] if _row(summary, name)["unstable"]]
    stable = [name for name in summary["top"] if name not in unstable] or summary["top"]
    if len(stable) == 1:
        return f"no winner can be named beside {listed(stable)}: the seeds of {listed(unstable)} spread too far to tell."
    more = f" ({listed(unstable)} may be anywhere: too wide a spread over seeds)" if unstable and stable != summary["top"] else ""
    return f"no winner can be named: {listed(stable)} tie at the top{more}."


def _none_better(summary: Summary, fusion: Rows) -> str:
    reference, worse = _reference(summary), [row["name"] for row in fusion if _is(row, "worse")]
    if len(worse) == len(fusion):
        return f"Every operator is worse than {reference}."
    small = [row for row in fusion if _is(row, "small") and _gain(summary, row) > 0]
    if small:
        largest = max(small, key=lambda row: _gain(summary, row))
        found = largest["against_reference"]
        limit = found["detectable"]
        why = "which so few seeds cannot show" if limit is None else f"below the {_amount(summary, limit)} that its seeds can reliably show"
        much = f"the largest difference is that of `{largest['name']}`, {_figure(summary, found)}, {why}"
        return f"No operator is shown to beat {reference}: {much}."
    ties = [row["against_reference"]["p_holm"] for row in fusion if _is(row, "tie")]
    closest = f" ({p_text(min(ties))})" if ties else ""
    if len(ties) == len(fusion):
        return f"No operator is distinguishable from {reference}{closest}."
    return f"No operator beats {reference}{closest}{f'; {listed(worse)} {_be(worse)} worse' if worse else ''}."


def _reference(summary: Summary) -> str:
    """`ensemble`, and what it is where it is not the ensemble."""
    row = _row(summary, summary["reference"])
    kind = {"unimodal": " (the best single input: there is no ensemble)", "majority": " (there is neither an ensemble nor a single input)"}
    return f"`{row['name']}`{kind.get(row['kind'], '')}"


def _necessary(summary: Summary, fusion: Rows) -> str:
    """Interaction is necessary where every row that cannot interact is at chance while some other row is not."""
    known = [row for row in summary["rows"] if row["above_majority"] is not None]
    plain = [row for row in known if row["kind"] in ("unimodal", "ensemble")]
    above = [row for row in fusion if row["above_majority"]]
    at_chance = [row["name"] for row in known if row["above_majority"] is False and not row["unstable"]]
    projected = [row for row in above if row["interaction"] and _projects_to_chance(summary, row)]
    if not above or any(row["above_majority"] for row in plain) or not (plain or projected):
        return ""
    if not at_chance:
        return f"Interaction is necessary: without it {listed([row['name'] for row in projected])} would be at chance."
    low, high = f"{listed(at_chance)} {_be(at_chance)}", f"{listed([row['name'] for row in above])} {_be(above)}"
    return f"Interaction is necessary: {low} at chance (not above majority), {high} not."


def _be(rows: Sequence[Any]) -> str:
    return "is" if len(rows) == 1 else "are"


def _projects_to_chance(summary: Summary, row: Mapping[str, Any]) -> bool:
    """Whether most of what the row has over majority goes with its interactions."""
    chance, found = _row(summary, summary["majority"])["score"], row["interaction"]
    return abs(found["additive"] - chance) <= abs(found["real"] - chance) / 10


def _value(summary: Summary, fusion: Rows) -> str:
    """What interaction is worth in the best operator."""
    measured = [row for row in fusion if row["interaction"] and row["interaction"]["value"] is not None]
    if not measured:
        return ""
    best = max(measured, key=lambda row: (row["in_top"], _sign(summary) * row["score"]))
    unit, found = Unit.of(summary), best["interaction"]
    return f"Interaction value {unit.score(found['value'])} {unit.interval(found['interval'])}{unit.name} (`{best['name']}`)."


def _suffices(summary: Summary) -> str:
    alone = [row["name"] for row in summary["rows"] if row["kind"] == "unimodal" and row["in_top"]]
    if not alone or not any(row["kind"] in ("fusion", "ensemble") for row in summary["rows"]):
        return ""
    return f"One input suffices: {listed(alone)} {_be(alone)} in the top group."


def _recommended(summary: Summary) -> str:
    """What the top group comes to: its cheapest row, or its only one."""
    name = summary["recommended"]
    if name is None:
        return ""
    if len(summary["top"]) == 1:
        return f"`{name}` stands alone at the top."
    cost = _row(summary, name)["cost"]
    known = [f"{count(cost[k])} {what}" for k, what in (("parameters", "parameters"), ("macs", "MACs")) if cost[k] is not None]
    return f"Cheapest in the top group: `{name}`{f' ({known[0]})' if known else ''}."


def _power(summary: Summary) -> str:
    """How many seeds there were, and what they and the test items can show."""
    number, limit, items = len(summary["seeds"]), summary["detectable"], summary["item_detectable"]
    seeds = f"{'Screening with ' if summary['screening'] else ''}{number} seed{'s' * (number != 1)}"
    if number < FEWEST:
        return f"{seeds}: too few to know what chance does, so no row is called better."
    if limit is None:
        return f"{seeds}."
    more = f", the test items from {_amount(summary, items)} on" if items is not None and items > limit else ""
    return f"{seeds}: they can show differences from {_amount(summary, limit)} on{more}."


def _sentences(summary: Summary, fusion: Rows) -> list[str]:
    found: list[str] = []
    if len(summary["top"]) > 1:
        others = [name for name in summary["top"] if name != summary["best"]]
        found.append(f"Not distinguishable from the highest score (`{summary['best']}`): {listed(others)}.")
    found += [_against(summary, row) for row in fusion if row["against_reference"]]
    found += [_trees(summary, row) for row in summary["rows"] if row["kind"] == "trees" and row["score"] is not None]
    for row in [row for row in fusion if row["unstable"]]:
        spread = f"its seeds spread by {_amount(summary, row['sd'])} (sd)"
        found.append(f"`{row['name']}` is a lottery: {spread}; it is not recommended while another row is in the top group.")
    if shown := _shown(summary, fusion):
        found += _inputs(summary, shown) + ([] if _nothing_learned(summary) else _shares(shown))
    if summary["item_half_width"] is not None:
        half = _amount(summary, summary["item_half_width"])
        found.append(f"{summary['items']:,} test items leave ±{half} around one trained model's score; paired differences are narrower.")
    if summary["screening"]:
        found.append("Fewer than 5 seeds are a screening: a reason to look closer, not a result.")
    return found


def _against(summary: Summary, row: Mapping[str, Any]) -> str:
    """One operator beside the reference."""
    says = {"better": "is better than", "worse": "is worse than", "small": "differs from", "tie": "is not distinguishable from"}
    found = row["against_reference"]
    p = f", {p_text(found['p_holm'])} after Holm" if found["p_holm"] is not None else ""
    less = " - less than its seeds can reliably show" if found["outcome"] == "small" else ""
    unit = Unit.of(summary)
    return f"`{row['name']}` {says[found['outcome']]} `{summary['reference']}`: {unit.change(found)}{unit.name}{p}{less}."


def _trees(summary: Summary, row: Mapping[str, Any]) -> str:
    where = "is in the top group" if row["in_top"] else f"is not in the top group ({p_text(row['p_best'])})"
    return f"`{row['name']}`, without any training of a network, {where}."


def _shown(summary: Summary, fusion: Rows) -> Mapping[str, Any] | None:
    """The operator whose use of inputs is told: the recommended one, else the best in the top group, else the best."""
    return max(fusion, key=lambda r: (r["name"] == summary["recommended"], r["in_top"], _sign(summary) * r["score"]), default=None)


def _inputs(summary: Summary, row: Mapping[str, Any]) -> list[str]:
    """Whether one operator uses each input, in the words of an evaluation."""
    unit, found = Unit.of(summary), []
    for control in row["controls"].values():
        if control["how"] == "shuffled" and None not in control["interval"]:
            real, other, low, high = (v * unit.factor for v in (control["real"], control["score"], *control["interval"]))
            rows = min(control["items"], summary["independent"])
            change = Difference(real, other, (low, high), control["items"], rows)
            said = input_verdict(control["input"], summary["metric"], change, higher_is_better=summary["higher_is_better"])
            found.append(f"`{row['name']}` {said}." if not said.startswith(("no ", "too ")) else f"`{row['name']}`: {said}.")
    return found


def _shares(row: Mapping[str, Any]) -> list[str]:
    if not row["shares"]:
        return []
    each = ", ".join(f"`{name}` {percent(part['share'], sign=True)}" for name, part in row["shares"]["inputs"].items())
    return [f"Of what `{row['name']}` knows of the true label, its inputs give: {each} (Shapley's shares; a negative one misleads)."]


def _figure(summary: Summary, found: Mapping[str, Any]) -> str:
    """+1.3 [0.2, 2.4] points, p=.02."""
    unit = Unit.of(summary)
    return f"{unit.change(found)}{unit.name}, {p_text(found['p_holm'])}"


def _amount(summary: Summary, value: float) -> str:
    unit = Unit.of(summary)
    return f"{unit.score(value)}{unit.name}"


def _sign(summary: Summary) -> int:
    return 1 if summary["higher_is_better"] else -1


def _gain(summary: Summary, row: Mapping[str, Any]) -> float:
    return _sign(summary) * row["against_reference"]["difference"]


def _row(summary: Summary, name: str) -> Mapping[str, Any]:
    return next(row for row in summary["rows"] if row["name"] == name)
