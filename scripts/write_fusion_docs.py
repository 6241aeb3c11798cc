#!/usr/bin/env python3
"""Writes what docs/fusion.md does not say by hand: a drawing of every strategy in docs/fusion/, and the table of what each can and costs.

`--png FOLDER` also makes pictures to look at.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from draw_fusion import save
from draw_fusions import draw, plt
from trace_fusion import WORDS, backbone_cost, cost, traced

from chiasm import components
from chiasm_cli.fusions import strategies

DOCS = Path(__file__).resolve().parent.parent / "docs"
TABLE = re.compile(r"(?<=<!-- strategies:start -->\n).*?(?=<!-- strategies:end -->)", flags=re.DOTALL)
HEADER = """| strategy | acts | can represent an interaction | streams read the text | weights | multiply-adds |
|---|---|---|---|---|---|
"""
PARTS = [{"type": "cross_attention", "inputs": ["image"]}, {"type": "early", "inputs": ["audio"]}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--png", type=Path, help="also draw PNGs into this folder")
    png = parser.parse_args().png
    for folder in (DOCS / "fusion", *([png] if png else [])):
        folder.mkdir(parents=True, exist_ok=True)
    for name in components.names("fusion"):
        figure = draw(name, traced(keys(name)))
        save(figure, DOCS / "fusion" / f"{name}.svg")
        if png is not None:
            figure.savefig(png / f"{name}.png", dpi=110)
        plt.close(figure)
    page = DOCS / "fusion.md"
    page.write_text(TABLE.sub(lambda _: table(), page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote {DOCS / 'fusion'} and the table of {page}")


def keys(name: str) -> dict[str, Any]:
    """The recipe keys that are drawn and counted: the defaults; of hybrid, which has none, the demo's parts."""
    return {"type": name, **({"parts": PARTS} if name == "hybrid" else {})}


def table() -> str:
    """Every strategy, and the backbone alone to compare with."""
    return HEADER + "".join(map(row, components.names("fusion"))) + f"| the backbone | | | | {figures(*backbone_cost(WORDS))} |\n"


def row(name: str) -> str:
    """What is true of a strategy with its defaults, as a line of the table."""
    acts = next(found["acts"] for found in strategies() if found["name"] == name)
    trace, (weights, products) = traced(keys(name)), cost(keys(name))
    unstable = components.find("fusion", name).unstable
    interacts = ("yes" if trace.interacts else "no") + (f", unstable: {unstable}" if unstable else "")
    heard = "the prompt only" if trace.streams_read_text else "no"
    return f"| [`{name}`](#{name}) | {acts} | {interacts} | {heard} | {figures(weights, products)} |\n"


def figures(weights: int, products: int) -> str:
    return f"{weights / 1e6:.1f} M | {products / 1e9:.2f} G"


if __name__ == "__main__":
    main()
