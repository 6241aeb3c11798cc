"""What a training is made of: model, processor, tasks and splits, built once from a recipe."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from chiasm import components
from chiasm.assemble import build
from chiasm.data.opening import check_groups, open_source, split_names
from chiasm.data.randomness import some_of
from chiasm.data.split import Split
from chiasm.recipe import Recipe
from chiasm.tasks.listed import make_tasks
from chiasm.tasks.template import as_text, spoken
from chiasm.training.balance import Balance
from chiasm.training.loss_weights import LossWeights
from chiasm.types import BadInput, RecipeError, Sample

LEARN_ROWS = 100_000  # at most so many training rows, evenly spaced, teach tables, labels and scales
UNKNOWN_TEXTS = 20_000  # texts that are searched for words the tokenizer does not know
WORD_ROWS = 20_000  # and so many of every split that is trained on teach a fresh tokenizer


@dataclass(frozen=True, slots=True)
class Materials:
    """`split(name)` opens a split of the recipe's data; `has(name)` says whether there is one."""

    model: Any
    processor: Any
    tasks: Mapping[str, Any]
    split: Callable[[str], Any]
    has: Callable[[str], bool]
    notes: Sequence[str] = ()  # what was decided while opening the data


def assemble(recipe: Recipe) -> Materials:
    """Open the data, learn from the training split what is learned from data, and build processor and model."""
    sources = open_sources(recipe)
    if recipe.data.group_by is not None:
        check_groups(sources, recipe.data.group_by)
    tasks = list(make_tasks(recipe).values())
    check_columns(recipe, sources)
    trained = {stage.data: _split(recipe, sources[stage.data], {}, tasks) for stage in recipe.stages}
    samples = list(rows_of(trained[recipe.stages[-1].data], LEARN_ROWS)) if _learns(recipe) else []
    model, processor = build(recipe, samples, _texts(tasks, trained.values()))
    if recipe.train.balance is not None:
        model.balance = Balance(recipe.train.balance, model, model.tasks, model.get_input_embeddings().weight.shape[1])
    if recipe.train.loss_weights == "learned":
        model.loss_weights = LossWeights(model.tasks)
    splits = {name: _split(recipe, source, processor.modalities, tasks) for name, source in sources.items()}
    notes = dict.fromkeys([*model.notes, *(note for source in sources.values() for note in source.notes)])
    if unknown := unknown_words(processor.tokenizer, _texts(tasks, trained.values())):
        notes[unknown] = None
    return Materials(model, processor, model.tasks, splits.__getitem__, splits.__contains__, tuple(notes))


def open_sources(recipe: Recipe) -> dict[str, Any]:
    """Every split of the recipe's data; where there is no such data, the error names the recipe's small form, which needs none."""
    names = split_names(recipe.data)
    for stage in recipe.stages:
        if stage.data not in names:
            raise RecipeError(f"stages.{stage.name}.data: no split '{stage.data}'{components.did_you_mean(stage.data, names)}")
    try:
        return {name: open_source(recipe.data, name) for name in names}
    except RecipeError as error:
        small = recipe.document.small
        raise RecipeError(f"{error}; write data.train=YOUR.jsonl, or take {small}, which needs no files" if small else str(error)) from None


def unknown_words(tokenizer: Any, texts: Iterable[str]) -> str:
    """A note where the tokenizer does not know every word of some training text; empty where it does."""
    if tokenizer.unk_token_id is None:
        return ""
    found = list(itertools.islice(texts, UNKNOWN_TEXTS))
    ids = [i for text in (tokenizer(found, add_special_tokens=False)["input_ids"] if found else []) for i in text]
    unknown = ids.count(tokenizer.unk_token_id)
    share = unknown / max(1, len(ids))
    return f"tokenizer: {share:.1%} of the words in a sample of the training text are unknown to it" if unknown else ""


def check_columns(recipe: Recipe, sources: Mapping[str, Any]) -> None:
    """RecipeError where a task that a stage learns names a column, or reads an input, that the stage's data does not have."""
    tasks = make_tasks(recipe)
    for stage in recipe.stages:
        known = set(sources[stage.data].columns)
        for name in stage.tasks or tasks:
            for target in tasks[name].targets:
                if target not in known and target not in recipe.inputs:
                    raise RecipeError(f"tasks.{name}: {stage.data} has no column '{target}'{components.did_you_mean(target, known)}")
            for listed in tasks[name].lists:
                if listed not in known:
                    near = components.did_you_mean(listed, known)
                    raise RecipeError(f"tasks.{name}.repeat: {stage.data} has no column '{listed}'{near}")
            for read in tasks[name].reads:
                options = recipe.inputs[read].options
                several = [column for key in ("columns", "numbers", "categories") for column in options.get(key, ())]
                for column in several or [options.get("column", read)]:
                    if column not in known:
                        near = components.did_you_mean(column, known)
                        raise RecipeError(f"inputs.{read}: {stage.data} has no column '{column}', which tasks.{name} reads{near}")


def open_split(recipe: Recipe, name: str, processor: Any) -> Split:
    """One split of a recipe's data, opened as the processor's inputs want it."""
    return split_of(recipe, open_source(recipe.data, name), processor)


def split_of(recipe: Recipe, source: Any, processor: Any) -> Split:
    """Any source, read as a recipe reads its own splits."""
    return _split(recipe, source, processor.modalities, list(make_tasks(recipe).values()))


def rows_of(records: Any, limit: int) -> Iterator[Sample]:
    """At most `limit` readable records of a source or split."""
    for index in some_of(len(records), limit):
        try:
            yield records.read(index)
        except BadInput:
            continue  # counted when it is trained on


def _split(recipe: Recipe, source: Any, modalities: Mapping[str, Any], tasks: Sequence[Any]) -> Split:
    text = components.find("modality", "text")
    inputs = {name: text(text.Options(**spec.options)) for name, spec in recipe.inputs.items() if spec.modality == "text"}
    columns = dict.fromkeys(column for task in tasks for column in task.columns)
    of_media = {name: spec.options.get("column", name) for name, spec in recipe.inputs.items() if spec.modality != "text"}
    gather = partial(_gathered, tasks, of_media) if any(task.lists for task in tasks) else None
    return Split(source, modalities, text_inputs=inputs, text_columns=columns, gather=gather)


def _gathered(tasks: Sequence[Any], columns: Mapping[str, str], sample: Sample) -> Sample:
    """The row with the pictures and clips that its lists of records hold under their inputs' columns."""
    for task in tasks:
        sample = task.gathered(sample, columns)
    return sample


def _learns(recipe: Recipe) -> bool:
    """Whether a task or an input must see the training rows before the model is built."""
    named = [("task", spec.type) for spec in recipe.tasks.values()] + [("modality", spec.modality) for spec in recipe.inputs.values()]
    return any(components.find(kind, name).fit is not components.base_class(kind).fit for kind, name in named)


def _texts(tasks: Sequence[Any], splits: Iterable[Split]) -> Iterator[str]:
    """Everything a fresh tokenizer must be able to read and write."""
    columns = list(dict.fromkeys(column for task in tasks for column in task.columns))
    lists = list(dict.fromkeys(column for task in tasks for column in task.lists))
    for task in tasks:
        yield from task.words
    for split in splits:
        for sample in rows_of(split, WORD_ROWS):
            for column in (*split.text_inputs, *columns):
                if isinstance(value := sample.parts.get(column), str | int | float):
                    yield as_text(value)
            for column in lists:
                yield from spoken(sample.parts.get(column))
