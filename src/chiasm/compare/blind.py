"""Rows of the table that train no network: the commonest answer, and means of what single-input models say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from chiasm.compare.items import Items, coalitions
from chiasm.compare.measure import NUMBER, Belief, Measured, rounded
from chiasm.compare.result import Cell
from chiasm.components import did_you_mean
from chiasm.evaluation.baselines import majority
from chiasm.tasks.classify import Classify
from chiasm.tasks.generate import Generate
from chiasm.tasks.regress import Regress
from chiasm.tasks.template import as_text
from chiasm.types import ChiasmError, RecipeError, Sample

Answers = Literal["label", "labels", "number", "text"]  # what a task answers with
SHORT = 8  # words of a text that can still be compared as a whole


def answers_of(name: str, task: Any) -> Answers:
    """What kind of answer a task gives; RecipeError where answers of its kind cannot be compared."""
    if isinstance(task, Classify):
        return "labels" if task.options.multi_label else "label"
    if isinstance(task, Regress):
        return "number"
    if isinstance(task, Generate):
        return "text"
    raise RecipeError(f"task {name}: compare needs a task that chooses (classify), measures (regress) or writes a short answer (generate)")


def pick_task(recipe: Any, tasks: Mapping[str, Any], asked: str | None) -> str:
    """The task that is compared: the one asked for, else the first comparable one of the last stage."""
    if asked is not None and asked not in tasks:
        raise RecipeError(f"--task: the recipe has no task '{asked}'{did_you_mean(asked, tasks)}")
    if asked is not None:
        answers_of(asked, tasks[asked])
        return asked
    last = recipe.stages[-1].tasks or list(tasks)
    for name in last:
        if isinstance(tasks[name], Classify | Regress | Generate):
            return name
    raise RecipeError(f"the last stage learns {', '.join(last)}, of which none has answers to compare; name another with --task")


def require_short(name: str, texts: Sequence[str]) -> None:
    """RecipeError where what is written is too long to be right or wrong as a whole."""
    if texts and np.median([len(text.split()) for text in texts]) > SHORT:
        raise RecipeError(f"task {name}: it writes long texts, and compare counts only exact answers; name another with --task")


def commonest(task: Any, answers: Answers, samples: Iterable[Sample], items: Items, seed: int) -> Cell:
    """What an answerer would say that never looks: the commonest label (with every label's share) or text, or the mean number."""
    wanted = [sample for sample in samples if task.wants(sample)]
    if not wanted:
        raise ChiasmError(f"task {task.name}: no training row has a target")
    belief: Belief | None = None
    if answers in ("label", "labels"):
        counts = Counter(label for sample in wanted for label in task.labels_of(sample))
        belief = {label: rounded(counts[label] / len(wanted)) for label in task.labels}
        said = decide(belief, answers)
    elif answers == "number":
        said = rounded(float(np.mean([task.number(sample) for sample in wanted])))
    else:
        said = majority((sample.parts, as_text(task.target.render(sample.parts))) for sample in wanted).answer({})
    return Cell(seed, [said] * len(items.ids), None if belief is None else [belief] * len(items.ids))


def ensemble(members: Sequence[Measured], inputs: Sequence[Sequence[str]], items: Items, answers: Answers, seed: int) -> Measured:
    """The mean of the members' probabilities (or numbers), under every control too; `inputs`: what each member looks at.

    An input that is shuffled or missing is so for the members that look at it; the others say what they said.
    """
    real = [beliefs_of(member) for member in members]
    mean = mean_of(real)
    cell = Cell(seed, [decide(belief, answers) for belief in mean], None if answers == "number" else mean)
    found = Measured(cell, members[0].targets)
    for control in dict.fromkeys(control for member in members for control in member.beliefs):
        each = [m.beliefs.get(control) or [own[i] for i in items.controlled] for m, own in zip(members, real, strict=True)]
        found.beliefs[control] = mean_of(each)
        cell.controls[control] = [decide(belief, answers) for belief in found.beliefs[control]]
    for present in coalitions(list(dict.fromkeys(name for own in inputs for name in own))):
        keys = ["+".join(name for name in own if name in present) for own in inputs]
        cell.coalitions["+".join(present)] = mean_of([m.cell.coalitions[key] for m, key in zip(members, keys, strict=True)])
    cell.train_seconds = sum(member.cell.train_seconds for member in members)
    cell.peak_memory = max(member.cell.peak_memory for member in members)
    cell.latency = {key: round(sum(member.cell.latency[key] for member in members), 3) for key in members[0].cell.latency}
    return found


def beliefs_of(member: Measured) -> list[Belief]:
    """A member's probabilities, or its numbers in the same form."""
    return member.cell.probabilities or [{NUMBER: value} for value in member.cell.outputs]


def mean_of(members: Sequence[Sequence[Belief]]) -> list[Belief]:
    """Item by item, the mean of what the members hold for likely."""
    return [{key: rounded(sum(b[key] for b in each) / len(each)) for key in each[0]} for each in zip(*members, strict=True)]


def decide(belief: Belief, answers: Answers) -> Any:
    """The answer that a belief comes to: the likeliest label, all labels above one half, or the number itself."""
    if answers == "number":
        return belief[NUMBER]
    if answers == "labels":
        return [label for label, p in belief.items() if p >= 0.5]
    return max(belief, key=lambda label: belief[label])
