#!/usr/bin/env python3
"""Writes docs/systems.md from the recipes that have a small form and from the runs of those.

python scripts/write_systems_docs.py --train      train the small forms that have no run yet (about an hour), then write
python scripts/write_systems_docs.py              write from the runs that are there; a system without one is refused
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import chiasm
from chiasm_cli.fusions import strategies
from chiasm_cli.shelf import files, headline

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "systems.md"
CHECKPOINTS = {  # recipe -> the tests that make small random checkpoints of that system
    "vit_gpt2_caption": "test_vision_encoder_decoder",
    "clip": "test_towers",
    "llava": "test_llava",
    "visualbert": "test_visual_bert",
}
TESTED = {  # recipe -> the test that compares its fusion with transformers' own layer
    "lxmert": "test_co_attention_is_lxmerts_cross_modality_layer",
    "flamingo": "test_closed_gates_are_the_bare_language_model_to_the_bit",
    "coca": "test_own_weights_compute_gpt2s_cross_attention_where_they_stand_in_its_place",
}
INTRO = """# Every system by its name

This file is made by `scripts/write_systems_docs.py` from the recipes and from trained runs; do not edit it. Train one of them with
`chiasm train NAME data.train=YOUR.jsonl` (pretrained weights) or `chiasm train NAME:tiny` (fresh weights, built-in data). `python
scripts/write_systems_docs.py --train` trains every small form and writes this file again.

The figures are those of the small form: one seed, trained for the minutes given on a CPU that was busy with other work too, on data that
only shows that the system learns and uses what it declares. They say nothing about how the systems rank, nor what the full forms reach.
*Without* is the best score of the same model with one of its inputs shuffled among the rows (its name follows): had the model ignored
that input, it would have lost nothing. *Parity* is with transformers: the largest difference of any output over several small random
checkpoints that `chiasm convert` made runs of, or the test in `tests/parity/test_strategies.py` that compares the fusion with
transformers' own layer.
"""
HEADER = "| recipe | is | meet | score of the small form | without | minutes | parity |\n|---|---|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of the runs")
    parser.add_argument("--train", action="store_true", help="train the small forms that have no run there")
    chosen = parser.parse_args()
    for name in systems() if chosen.train else ():
        if not (chosen.runs / f"{name}-tiny" / "metrics.json").exists():
            print(f"training {name}:tiny")
            chiasm.train(f"{name}:tiny", output=chosen.runs / f"{name}-tiny")
    TARGET.write_text(render(chosen.runs), encoding="utf-8")
    print(f"wrote {TARGET}")


def systems() -> list[str]:
    """The names of the recipes that have a small form."""
    return [file.stem for file in files() if headline(file)["tiny"]]


def render(runs: Path) -> str:
    """The whole file."""
    acts = {strategy["name"]: strategy["acts"] for strategy in strategies()}
    about = {file.stem: headline(file) for file in files()}
    parts, equal = [INTRO], parities()
    for group in sorted({about[name]["group"] for name in systems()}):
        parts += [f"## {group[0].upper()}{group[1:]}\n", HEADER]
        for name in (name for name in systems() if about[name]["group"] == group):
            parts += rows(name, about[name]["description"], acts, runs / f"{name}-tiny", equal.get(name, ""))
        parts.append("")
    return "\n".join(parts)


def parities() -> dict[str, str]:
    """Recipe -> how equal its system is to transformers' own."""
    found = {name: f"`{test}`" for name, test in TESTED.items()}
    sys.path.insert(0, str(ROOT / "tests" / "convert"))
    for name, module in CHECKPOINTS.items():
        tests, worst = importlib.import_module(module), 0.0
        with tempfile.TemporaryDirectory() as folder:
            for number, case in enumerate(tests.CASES.values()):
                tests.save(Path(folder) / f"{number}", *case)
                done = chiasm.convert(Path(folder) / f"{number}", Path(folder) / f"run{number}")
                worst = max(worst, *done.differences.values())
        found[name] = f"{worst:.1e} over {len(tests.CASES)} checkpoints"
    return found


def rows(name: str, description: str, acts: dict[str, str], folder: Path, equal: str) -> list[str]:
    """A line for each task of one system's last stage."""
    if not (folder / "metrics.json").exists():
        return [f"| `{name}` | {description} | | not measured yet | | | {equal} |"]
    recipe = chiasm.load_recipe(folder / "recipe.yaml")
    fusion = recipe.fusion.type
    meet = f"{acts.get(fusion, 'several')} (`{fusion}`)" if fusion != "none" else "nowhere (`none`)"
    found = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))["test"]
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    lines = []
    for task in recipe.stages[-1].tasks or recipe.tasks:
        key = next((key for key in scores if key.startswith(f"{task}.")), None)
        if key is None:
            continue
        low, high = found["intervals"][key]
        system = [f"`{name}`", description, meet] if not lines else [""] * 3
        score = f"{task}: {key.partition('.')[2]} {scores[key]:.3f} [{low:.3f}, {high:.3f}]"
        last = ["", ""] if lines else [minutes(folder), equal]
        lines.append(f"| {' | '.join([*system, score, without(key, scores), *last])} |")
    return lines


def without(key: str, scores: dict[str, Any]) -> str:
    """The best score of a metric among those with one input shuffled, and that input."""
    metric, bracket, inside = key.partition("[")
    begin = f"{metric}[{inside.rstrip(']')}, " if bracket else f"{metric}["
    shuffled = {k: v for k, v in scores.items() if k.startswith(begin) and k.endswith(" shuffled]") and "=" not in k}
    if not shuffled:
        return "reads nothing else"
    best = max(shuffled, key=lambda k: shuffled[k])
    return f"{shuffled[best]:.3f} ({best.removeprefix(begin).removesuffix(' shuffled]')})"


def minutes(folder: Path) -> str:
    """How long the run's stages had trained when each took its last step."""
    events = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {event["stage"]: event["seconds"] for event in events if "seconds" in event and "stage" in event}
    return f"{sum(last.values()) / 60:.1f}"


if __name__ == "__main__":
    main()
