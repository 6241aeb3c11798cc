"""AUDIT.html: scores under every condition and the verdicts, on one page. No script, nothing from outside."""

from __future__ import annotations

from chiasm.audit.result import SCORED, Audit, change
from chiasm.report.html import page_template

SHOWN = 12  # rows whose answers stand on the page
TONES = {"uses": "good", "hurts": "bad", "no measurable use": "bad", "cannot tell": "plain"}


def render(found: Audit) -> str:
    """The page as text."""
    answers: dict[str, dict[str, str]] = {}
    for said in found.predictions:
        answers.setdefault(said["id"], {"target": said["target"]})[said["condition"]] = said["output"]
    return page_template("audit.html.j2", "chiasm.audit").render(
        found=found,
        scored=SCORED[found.metric],
        rows=[(one, f"{100 * one.score:.1f}%", change(one)) for one in found.scores],
        tones=TONES,
        conditions=list(dict.fromkeys(said["condition"] for said in found.predictions)),
        answers=list(answers.items())[:SHOWN],
    )
