"""A run: the folder a recipe makes. `train` fills one, `load` opens one; the methods of Run are the verbs of the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import torch

from chiasm.components import did_you_mean
from chiasm.data.collate import Collator
from chiasm.data.opening import open_file, open_source, split_names
from chiasm.data.sources.base import Source
from chiasm.data.split import Split
from chiasm.evaluation.baselines import Baseline, majority, question_only
from chiasm.evaluation.evaluate import ROWS_READ, evaluate
from chiasm.evaluation.result import Evaluation, read_json
from chiasm.media.vocabulary import Vocabulary
from chiasm.model_files import MANIFEST, load_model
from chiasm.notes import Note, notes_of
from chiasm.quantized import count_parameters
from chiasm.reading import EARLIER
from chiasm.recipe import Recipe, load_recipe
from chiasm.recipe_check import check_components
from chiasm.report.gather import gather
from chiasm.report.html import write_report
from chiasm.training.distributed import joined
from chiasm.training.loop import train as run_training
from chiasm.training.materials import assemble, open_split, rows_of, split_of
from chiasm.training.precision import pick_device
from chiasm.types import BadInput, BadSample, ChiasmError, Opened, Prediction, RecipeError, Sample, StepBatches

BASELINE_ROWS = 200_000  # training rows that the blind baselines are counted on
CONTROL_ROWS = 2_000  # rows that are also scored with each input shuffled and missing: an interval of about 2 points
PREDICT_ROWS = 256  # rows of one batch at use

Progress = Callable[[int, int], None]


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    output: str | Path | None = None,
    resume: bool = False,
    allow_changed: bool = False,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> Run:
    """Train a recipe (a file, a shipped name, a mapping) into a run folder, evaluate it on its test splits, and write its report.

    `overrides` are `key=value`; `allow_changed` lets a resumed run go on with another data or seed key. The folder is runs/NAME where
    `output` is not given. Started by torchrun, all processes train one run together, and the first evaluates it. Raises RecipeError for
    what cannot be run as it stands.
    """
    resolved = load_recipe(recipe, overrides)
    check_components(resolved)
    folder = Path(output) if output is not None else Path("runs") / resolved.name
    made: list[Run] = []

    def judge() -> None:
        made.append(run := load(folder))
        for split in run.test_splits():
            run.evaluate(split, write=True)
        run.write_report()

    with joined(resolved) as processes:
        run_training(
            resolved, output=folder, resume=resume, allow_changed=allow_changed, progress=progress, build=assemble, processes=processes
        )
        processes.on_main(judge)
    return made[0] if made else load(folder)


def load(folder: str | Path) -> Run:
    """Open a run folder that `train` made, or a folder that `export` made for the Hub."""
    folder = Path(folder)
    if not folder.exists():
        raise ChiasmError(f"{folder}: not a run folder (there is no such folder){did_you_mean(str(folder), runs_beside(folder))}")
    if not is_run(folder):
        what = "a recipe, but nothing that was trained by it" if (folder / "recipe.yaml").is_file() else "it has no recipe.yaml"
        raise ChiasmError(f"{folder}: not a run folder ({what}); name one that chiasm train RECIPE --output RUN made")
    recipe, config = folder / "recipe.yaml", (folder if (folder / MANIFEST).is_file() else model_folder(folder)) / "config.json"
    if recipe.is_file() and not config.is_file() and not _was_finished(folder):
        raise ChiasmError(f"{folder}: training has not finished; go on with chiasm train {recipe} --output {folder} --resume")
    for file in (recipe, config):
        if not file.is_file():
            raise ChiasmError(f"{file}: missing; copy the folder again from where it is whole")
    return Run(folder)


def is_run(folder: Path) -> bool:
    """Whether a run is there, whole or not: two of what training or an export leaves, where data with their recipe have but one."""
    traces = (("recipe.yaml",), ("checkpoints",), ("log.jsonl",), ("model", "config.json", MANIFEST), (f"model/{MANIFEST}",))
    return sum(any((folder / name).exists() for name in names) for names in traces) > 1


def runs_beside(folder: Path) -> list[str]:
    """The run folders where `folder` would be."""
    return [str(path) for path in folder.parent.iterdir() if is_run(path)] if folder.parent.is_dir() else []


def _was_finished(folder: Path) -> bool:
    """Whether the model was written: it is put in its place whole, and training notes that in its log."""
    if (folder / "model").exists() or not (folder / "checkpoints").exists():
        return True
    log = folder / "log.jsonl"
    return log.is_file() and '"event": "finished"' in log.read_text("utf-8")


class Run:
    """A trained model with its recipe and its figures."""

    def __init__(self, folder: Path, *, recipe: Recipe | None = None, built: tuple[Any, Any] | None = None):
        """`built`: its (model, processor) by `recipe`, where there is no folder to load them from."""
        self.folder = folder
        self.recipe = recipe if recipe is not None else load_recipe(folder / "recipe.yaml")
        self.model, self.processor = built if built is not None else load_model(model_folder(folder))
        self.vocabulary = Vocabulary(self.processor.tokenizer)
        self.model.to(pick_device(self.recipe.train.device)).eval()
        self.text_inputs = [name for name, spec in self.recipe.inputs.items() if spec.modality == "text"]
        self._splits: dict[str, Split] = {}

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """RUN/metrics.json: split -> key -> figure."""
        return read_json(self.folder / "metrics.json")

    @property
    def details(self) -> dict[str, dict[str, Any]]:
        """RUN/evaluation.json: split -> intervals, differences and verdicts."""
        return read_json(self.folder / "evaluation.json")

    @property
    def data_counts(self) -> dict[str, dict[str, Any]]:
        """RUN/data.json: split -> how many rows were read, used, quarantined and filtered."""
        return read_json(self.folder / "data.json")

    @property
    def tasks(self) -> dict[str, Any]:
        return self.model.tasks

    def test_splits(self) -> list[str]:
        """The splits that are reported: those called test..., else validation."""
        return reported_splits(self.recipe)

    # ---- verbs

    def answer(self, *, task: str | None = None, **inputs: Any) -> Any:
        """One prediction: `run.answer(image="cat.png", question="what colour is the cat ?")`.

        Media are paths, bytes, arrays or PIL images. `task` is needed only where several tasks read the same inputs; else the first that
        reads exactly the texts that are given answers. Raises ChiasmError for an input that the run does not read or cannot use.
        """
        return self.predict([inputs], task=task)[0].output

    def predict(self, rows: Iterable[Mapping[str, Any]], *, task: str | None = None) -> list[Prediction]:
        """Predictions for rows of inputs, in order; raises for the first row that cannot be used."""
        opened = self.open(rows)
        if not opened:
            return []
        chosen = self.task_for(opened[0].sample.parts, task)
        size = self.rows_at_once
        return [p for start in range(0, len(opened), size) for p in self.predict_opened(chosen, opened[start : start + size])]

    def reading(self, source: Source, *, only: Container[str] | None = None) -> Split:
        """Any source, read as this run reads its own data; `only` these inputs are opened, where given."""
        split = split_of(self.recipe, source, self.processor)
        if only is not None:
            split.modalities = {name: modality for name, modality in split.modalities.items() if name in only}
        return split

    def evaluate(
        self, split: str = "test", *, data: str | Path | None = None, progress: Progress | None = None, write: bool | None = None
    ) -> Evaluation:
        """Score every task that has targets there, with each input shuffled and missing. `data`: a file of your own instead of a split.

        Written to the run's metrics.json unless `data` is given or `write` is False.
        """
        opened = self.reading(open_file(data)) if data is not None else self.split(split)
        tasks, blind = self._scored(opened), self.baselines
        found = evaluate(self.model, self.processor, opened, tasks, controls=CONTROL_ROWS, baselines=blind, progress=progress)
        if write if write is not None else data is None:
            found.write(self.folder, split)
        return found

    def write_report(self) -> Path:
        """RUN/report.html with pictures, answers and retrieval rows of the first test split."""
        names = self.test_splits()
        samples, retrieval = gather(self, names[0]) if names else ([], [])
        count = count_parameters(self.model)
        return write_report(self.folder, facts={"Parameters": f"{count:,}"}, samples=samples, retrieval=retrieval)

    def examples(self, count: int = 8) -> list[str]:
        """A few answers of the first test split, as lines."""
        name = next((name for name in self.test_splits() if (self.folder / "predictions" / f"{name}.jsonl").is_file()), None)
        if name is None:
            return []
        written = (self.folder / "predictions" / f"{name}.jsonl").read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in written[: 40 * count]]
        split = self.split(name)
        index = {split.source.origin(i)[0]: i for i in range(len(split))}
        lines = []
        for row in rows[:: max(1, len(rows) // count)][:count]:
            parts = split.read(index[row["sample"] or row["id"]]).parts
            asked = " ".join(str(parts[text]) for text in self.text_inputs if parts.get(text))
            mark = "" if row["target"] is None else "  ok" if row["output"] == row["target"] else f"  (right: {row['target']})"
            lines.append(f"  {row['task']}: {asked or '-'} -> {row['output']}{mark}")
        return lines

    # ---- what the verbs share

    def open(self, rows: Iterable[Mapping[str, Any]], *, root: str | None = "/") -> list[Opened]:
        """Rows of inputs with their media decoded, in order; raises BadInput for the first that cannot be used.

        root: the folder that paths of media may not leave; None: no paths, only media themselves.
        """
        samples = [Sample(str(i), self.columns_of(row), file="inputs", line=i + 1, root=root) for i, row in enumerate(rows)]
        opened = self.reading(_Given(samples)).open_rows(range(len(samples)))
        return [refused(row) if isinstance(row, BadSample) else row for row in opened]

    def collate(self, task: Any, opened: Sequence[Opened | BadSample]) -> StepBatches:
        """What `task` reads of opened rows; raises BadInput for the first that it cannot use."""
        step = Collator([task], self.processor, unlabelled=True)(opened)
        return refused(step.bad[0]) if step.bad else step

    @cached_property
    def baselines(self) -> dict[str, list[Baseline]]:
        """What an answerer that never looks would say, per task that predicts one column, counted on the training rows."""
        found: dict[str, list[Baseline]] = {}
        stage = self.recipe.stages[-1]
        try:
            source = open_source(self.recipe.data, stage.data)
        except RecipeError:
            return found  # the training data is not on this machine: no baseline, the scores stand alone
        for name, task in self.tasks.items():
            if len(task.targets) != 1 or task.view != "fused" or not task.guessable or (stage.tasks and name not in stage.tasks):
                continue
            texts = [text for text in task.reads if task.declared[text] == "text"]
            rows = [(s.parts, s.parts[task.targets[0]]) for s in rows_of(source, BASELINE_ROWS) if task.wants(s)]
            if rows:
                found[name] = [majority(rows), *([question_only(rows, texts)] if texts and getattr(task, "prompt", None) else [])]
        return found

    def split(self, name: str) -> Split:
        """A split of the recipe's data; ChiasmError names the nearest where there is none."""
        known = split_names(self.recipe.data)
        if name not in known:
            raise ChiasmError(f"this run's data has no split '{name}'{did_you_mean(name, known)}")
        if name not in self._splits:
            self._splits[name] = open_split(self.recipe, name, self.processor)
        return self._splits[name]

    def _scored(self, split: Split) -> list[Any]:
        """The tasks that some row of the split has targets for."""
        columns = set(split.source.columns)
        return [task for task in self.tasks.values() if {*task.targets, *task.lists} <= columns | set(self.recipe.inputs)]

    def columns_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's values under the recipe's input names; an unknown name is an error, but `image=` finds the only image input."""
        parts = {}
        for key, value in row.items():
            same = [name for name, spec in self.recipe.inputs.items() if spec.modality == key]
            texts, streams = ([n for n, spec in self.recipe.inputs.items() if spec.modality == kind] for kind in ("text", "tokens"))
            if key in self.recipe.inputs:
                name = key
            elif len(same) == 1:
                name = same[0]
            elif key == "question" and len(texts or streams) == 1:
                name = (texts or streams)[0]
            elif key in self._own_columns():
                parts[key] = value
                continue
            else:
                raise ChiasmError(f"this run reads no '{key}'{did_you_mean(key, [*self.recipe.inputs, *self._own_columns()])}")
            media = self.recipe.inputs[name].modality in ("image", "audio", "video")
            if media and isinstance(value, str | Path):
                value = str(Path(value).absolute())
            column = self.recipe.inputs[name].options.get("column", name)
            parts |= value if isinstance(value, Mapping) else {column: value}
        return parts

    def notes(self, row: Mapping[str, Any], *, task: str | None = None) -> tuple[Note, ...]:
        """What `answer` of the same inputs does not know or is not given: words outside the vocabulary, and inputs that are not there."""
        parts = self.columns_of(row)
        return notes_of(self, self.task_for(parts, task), parts)

    @property
    def rows_at_once(self) -> int:
        """How many rows go through the model together at use."""
        return ROWS_READ if self.processor.reads else PREDICT_ROWS

    def _own_columns(self) -> set[str]:
        """Columns that are given by their own names: a table's, records that a prompt repeats, texts that are compared."""
        found = {column for task in self.tasks.values() for column in (*task.lists, *(c for c in task.columns if c in task.texts))}
        for modality in self.processor.modalities.values():
            found |= {*getattr(modality, "number_columns", ()), *getattr(modality, "category_columns", ())}
        return found | ({EARLIER} if self.processor.reader is not None else set())

    def named(self, task: str) -> str:
        """A task's name; ChiasmError names the nearest where there is none."""
        if task not in self.tasks:
            raise ChiasmError(f"this run has no task '{task}'{did_you_mean(task, self.tasks)}")
        return task

    def task_for(self, parts: Mapping[str, Any], name: str | None = None) -> Any:
        """The task called `name`; without a name the first whose prompt reads exactly the texts given, else the first that predicts."""
        if name is not None:
            return self.tasks[self.named(name)]
        usable = [task for task in self.tasks.values() if task.view == "fused"] or list(self.tasks.values())
        if not usable:
            raise ChiasmError(f"this run has no task that answers; its tasks: {', '.join(self.tasks)}")
        given = {name for name in self.text_inputs if parts.get(self.recipe.inputs[name].options.get("column", name)) is not None}
        exact = [task for task in usable if {name for name in task.reads if task.declared[name] == "text"} == given]
        return (exact or usable)[0]

    def predict_opened(self, task: Any, opened: Sequence[Opened | BadSample]) -> list[Prediction]:
        """One task's predictions for rows that are open, all in one batch."""
        step = self.collate(task, opened).to(self.model.device)
        with torch.no_grad():
            streams = self.model.encode(step.pool)
            return [p for batch in step.batches for p in task.predict(self.model, batch, streams)]


def model_folder(folder: Path) -> Path:
    """Where a run keeps its model: in RUN/model, or beside the recipe as the Hub wants it."""
    return folder if (folder / "config.json").is_file() else folder / "model"


def reported_splits(recipe: Recipe) -> list[str]:
    """The splits of a recipe's data called test..., else validation."""
    names = split_names(recipe.data)
    return [name for name in names if name.startswith("test")] or [name for name in names if name == "validation"]


class _Given(Source):
    """Rows that a caller hands over."""

    def __init__(self, samples: Sequence[Sample]):
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, index: int) -> Sample:
        return self.samples[index]

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return self.samples[index].id, "inputs", index + 1

    @property
    def columns(self) -> list[str]:
        return list({column for sample in self.samples for column in sample.parts})


def refused(bad: BadSample) -> NoReturn:
    """Raise what is wrong with a row."""
    raise BadInput(bad.reason, f"{bad.input or 'input'}: {bad.message} ({bad.reason})", input=bad.input, item=bad.item)
