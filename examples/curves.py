"""Curves over three seeds, from small forms of recipes: what pre-training does for few labels, and joint training for each of its tasks.

    python examples/curves.py labels RUNS      recipes/few_label.yaml: 1, 5, 25 and 100 % of the labels, pre-trained or not
    python examples/curves.py joint RUNS       recipes/llm_joint.yaml: plain text, questions, or both, at fixed and at learned weights
    python examples/curves.py shots RUNS       recipes/flamingo.yaml: 0 to 4 examples in a prompt, of known and of new colours

Every point is a run in RUNS, and one that is there already is not trained again. Prints a table: the mean over seeds and its 95 % interval
(Student's t, which with three seeds is wide), on the 300 rows of the validation split, which no choice is made by
(`shots`: 200 rows of each kind).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

import chiasm

SHARES = (0.01, 0.05, 0.25, 1.0)
SCRATCH = "stages=[{name: label, tasks: [label], data: few, steps: 550, batch_size: 64, learning_rate: 1e-3}]"  # as many steps in all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("curve", choices=tuple(CURVES))
    parser.add_argument("runs", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    chosen = parser.parse_args()
    seeds = range(chosen.seeds)
    print("\n".join(CURVES[chosen.curve](chosen.runs, seeds)))


def labels(runs: Path, seeds: Sequence[int]) -> list[str]:
    """The table of label efficiency: a line per share of the labels."""
    lines = ["| labels | pre-trained | from scratch |", "|---|---|---|"]
    for share in SHARES:
        found = []
        for start, changes in (("pretrained", []), ("scratch", [SCRATCH])):
            few = f"data={{builtin: quiz, test: validation, splits: {{few: {{file: train, keep: {share}}}}}}}"
            scores = [trained("few_label", runs / f"{start}-{share}-{seed}", [few, *changes], seed) for seed in seeds]
            found.append(cell(scores, "label.exact_match"))
        lines.append(f"| {share:.0%} | {' | '.join(found)} |")
    return lines


def joint(runs: Path, seeds: Sequence[int]) -> list[str]:
    """The table of joint training: a line per way to weigh the two tasks."""
    lines = ["| trained on | questions: exact match | plain text: perplexity |", "|---|---|---|"]
    ways = {
        "plain text": ["stages.0.tasks=[language]"],
        "questions": ["stages.0.tasks=[answer]"],
        "both, fixed weights": [],
        "both, learned weights": ["train.loss_weights=learned"],
    }
    for way, changes in ways.items():
        named = runs / way.replace(", ", "-").replace(" ", "-")
        scores = [trained("llm_joint", Path(f"{named}-{seed}"), ["data.test=validation", *changes], seed) for seed in seeds]
        lines.append(f"| {way} | {cell(scores, 'answer.exact_match')} | {cell(scores, 'language.perplexity')} |")
    return lines


def shots(runs: Path, seeds: Sequence[int]) -> list[str]:
    """The table of few-shot learning: a line per number of examples."""
    lines = ["| examples | colours bound in training | colours never bound | image shuffled |", "|---|---|---|---|"]
    known, new = (
        [trained("flamingo", runs / f"shots-{seed}", [], seed, split) for seed in seeds] for split in ("test", "test_new_colours")
    )
    for count in range(5):
        kind = f"answer.exact_match[kind={count} shots"
        lines.append(f"| {count} | {cell(known, f'{kind}]')} | {cell(new, f'{kind}]')} | {cell(known, f'{kind}, image shuffled]')} |")
    return lines


def trained(recipe: str, folder: Path, changes: Sequence[str], seed: int, split: str = "test") -> dict[str, float]:
    """A split's figures of a run, which is trained where it is not there."""
    if not (folder / "metrics.json").exists():
        chiasm.train(
            f"{recipe}:tiny", overrides=[*changes, f"train.seed={seed}", f"data.seed={seed}", "train.evaluate_every=1000"], output=folder
        )
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))[split]


def cell(scores: Sequence[Mapping[str, float]], key: str) -> str:
    """`0.712 [0.650, 0.774]`: mean and interval over seeds, of a perplexity in logarithms, of a share within 0 and 1."""
    there, back = (np.log, np.exp) if key.endswith("perplexity") else (np.asarray, lambda value: np.clip(value, 0, 1))
    values = there(np.array([score[key] for score in scores]))
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    low, mean, high = back(np.array([values.mean() - half, values.mean(), values.mean() + half]))
    return f"{mean:.4g} [{low:.4g}, {high:.4g}]" if mean > 10 else f"{mean:.3f} [{low:.3f}, {high:.3f}]"


CURVES = {"labels": labels, "joint": joint, "shots": shots}


if __name__ == "__main__":
    main()
