"""Models on this machine: a run, or a vision-language model of transformers, which becomes a run that is never written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from chiasm.assemble import build
from chiasm.audit.rows import ANSWERS, QUESTIONS, Asked, column, there, whole_paths
from chiasm.components import did_you_mean
from chiasm.recipe import load_recipe
from chiasm.run import Run, load
from chiasm.tasks.classify import Classify
from chiasm.tasks.generate import Generate
from chiasm.tasks.template import as_text, is_missing
from chiasm.types import ChiasmError, Sample

FROM_FILES = ("image", "audio", "video")


class Local:
    """Answers of one task of a run. `renames`: input -> the column of the data that it is read from."""

    what = "{} rows through the model"

    def __init__(self, run: Run, task: str | None, *, title: str, score: str, renames: Mapping[str, str], answer: str | None = None):
        self.run, self.title, self.score, self.renames = run, title, score, dict(renames)
        answering = [name for name, one in run.tasks.items() if isinstance(one, Generate | Classify)]
        if not answering:
            raise ChiasmError(f"{title}: no task of it answers (generate or classify); chiasm evaluate {title} scores what it has")
        if task is not None and task not in answering:
            raise ChiasmError(f"{title}: no task '{task}' that answers{did_you_mean(task, answering)}")
        self.task, self.answer = run.tasks[task or answering[0]], answer
        self.inputs = {name: run.recipe.inputs[name].modality for name in self.task.inputs}

    @property
    def at_once(self) -> int:
        return self.run.rows_at_once

    def asked(self, sample: Sample) -> Asked | None:
        """A record as this model is asked it; None without an answer. Raises BadInput."""
        found = {}
        for name, modality in self.inputs.items():
            if modality == "text":
                given = sample.parts.get(self.renames.get(name) or self.run.recipe.inputs[name].options.get("column", name))
            else:
                given = self.run.processor.modalities[name].raw(sample.parts, name)
            found[name] = whole_paths(given, sample.root) if modality in FROM_FILES else given
        target = self._target(sample)
        if is_missing(target) if isinstance(target, str | float) else target is None:
            return None
        lists = {name: sample.parts[name] for name in self.task.lists if sample.parts.get(name) is not None}
        return Asked(sample.id, {name: found[name] for name in there(found, list(found))} | lists, target)

    def _target(self, sample: Sample) -> Any:
        if self.answer is not None:
            return sample.parts.get(self.answer)
        if isinstance(self.task, Generate):
            return self.task.target.render(sample.parts) if self.task.wants(sample) else None
        value = sample.parts.get(self.task.options.target)
        return as_text(value) if not isinstance(value, list) else value

    def answers(self, rows: Sequence[Mapping[str, Any]]) -> list[str | None]:
        return [as_text(p.output) for p in self.run.predict(rows, task=self.task.name)]


def run_at(folder: Path, *, task: str | None, score: str | None, columns: Sequence[str], question: str | None, answer: str | None) -> Local:
    """A run folder's own task."""
    run = load(folder)
    texts = [name for name, spec in run.recipe.inputs.items() if spec.modality == "text"]
    if answer is not None:
        column(columns, answer, (), "answer")
    renames = {texts[0]: column(columns, question, (), "question")} if question and len(texts) == 1 else {}
    return Local(run, task, title=str(folder), score=score or "exact_match", renames=renames, answer=answer)


def whole_model(name: str, *, score: str | None, columns: Sequence[str], question: str | None, answer: str | None, tokens: int) -> Local:
    """A vision-language model of transformers, by folder or name, asked by its own chat template."""
    if "image" not in columns:
        raise ChiasmError(f"{name}: a vision-language model reads `image`, and the data have no such column: {', '.join(columns)}")
    asked, wanted = column(columns, question, QUESTIONS, "question"), column(columns, answer, ANSWERS, "answer")
    task = {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": tokens}}
    recipe = load_recipe(
        {"name": "audit", "inputs": {"image": "image", "question": "text"}, "backbone": {"model": name}, "tasks": {"answer": task}}
    )
    model, processor = build(recipe, [])
    run = Run(Path(name), recipe=recipe, built=(model, processor))
    if "image" not in processor.reads:
        raise ChiasmError(f"{name}: not a vision-language model; give a run folder, or a URL")
    return Local(run, "answer", title=name, score=score or "contains", renames={"question": asked}, answer=wanted)
