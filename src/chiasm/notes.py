"""What a model does not know or is not given of what it is asked: said to whoever asks, beside the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from chiasm.media.cleaning import TextOptions, clean
from chiasm.media.tokens import Tokens
from chiasm.media.vocabulary import Unknown
from chiasm.tasks.template import is_missing
from chiasm.types import BadInput


class Note(str):
    """A sentence for a person; `code` and `figures` say the same to a program.

    newest_only: {input, given, read}; one_turn: {earlier, system}, how many earlier messages, and whether a system message, it did not get;
    unknown_words: {input, words}, the first of them; not_given: {input}.
    """

    code: str
    figures: Mapping[str, Any]

    def __new__(cls, text: str, code: str, **figures: Any) -> Note:
        note = super().__new__(cls, text)
        note.code, note.figures = code, figures
        return note


def notes_of(run: Any, task: Any, parts: Mapping[str, Any]) -> tuple[Note, ...]:
    """What `task` does not get of a row's columns (`Run.columns_of`): words that it does not know, texts that are not there, and what it
    sees or hears where nothing of it is there. One side alone is what a task with towers is for, so nothing is missing there.
    """
    own = (column for column in task.columns if column in task.texts)
    columns = {name: _column(run, name) for name in task.reads} | {column: column for column in own}
    notes = [note for name, column in columns.items() for note in text_notes(run, name, parts.get(column))]
    missing = [name for name in task.reads if not _is_given(run, name, parts)] if task.view != "towers" else []
    streams = {name for name in task.reads if run.recipe.inputs[name].modality != "text"}
    if not streams <= set(missing):  # rows without one of several inputs are nothing new to a model; without any it has only words
        missing = [name for name in missing if name not in streams]
    return (*notes, *(_not_given(run, name) for name in missing))


def text_notes(run: Any, name: str, value: Any) -> list[Note]:
    """A note where a text for the input `name` has unknown words; none for what is no text."""
    found = unknown_words(run, name, value)
    return [_unknown(found, name)] if found else []


def known_notes(run: Any, name: str, texts: Iterable[Any], where: str, *, target: bool = False) -> list[Note]:
    """`text_notes` of texts that must mean something; BadInput for those without any known word: all of these are the same to the model."""
    found = [(text, unknown_words(run, name, text, target=target)) for text in texts]
    if alone := tuple(text for text, unknown in found if unknown.alone):
        message = f"{where}: not in this model's vocabulary: {Unknown(alone)}; use words that it was trained on"
        raise BadInput("unknown_words", message, input=where)
    return [_unknown(unknown, where) for _, unknown in found if unknown]


def unknown_words(run: Any, name: str, value: Any, *, target: bool = False) -> Unknown:
    """The words of a text for the input `name` that its tokenizer does not know; none of what is no text (media, a path of them).

    target: of a text that the model is to write.
    """
    modality = run.processor.modalities.get(name)
    if not isinstance(value, str) or not (modality is None or isinstance(modality, Tokens)):
        return Unknown(())
    try:
        text, _ = clean(value, _text_options(run, name))
    except BadInput:
        return Unknown(())  # refused, by name, when it is read
    if isinstance(modality, Tokens):  # a text with an encoder of its own has a tokenizer of its own
        return modality.unknown(text)
    return run.vocabulary.unknown(text, target=target)


def _unknown(found: Unknown, where: str) -> Note:
    alone = f"; '{where}' has no other words" if found.alone else ""
    return Note(f"not in this model's vocabulary: {found}{alone}", "unknown_words", input=where, words=found.shown)


def _not_given(run: Any, name: str) -> Note:
    modality = run.recipe.inputs[name].modality
    what = name if modality in (name, "text", "tokens") else f"'{name}' ({modality})"
    return Note(f"no {what} was given; this model reads one", "not_given", input=name)


def _text_options(run: Any, name: str) -> TextOptions:
    """How an input's texts are cleaned; a column that is no input, and what is to be written, as texts are by default."""
    spec = run.recipe.inputs.get(name)
    kept = {} if spec is None else {key: value for key, value in spec.options.items() if key in TextOptions.model_fields}
    return TextOptions(**kept)


def _column(run: Any, name: str) -> str:
    return run.recipe.inputs[name].options.get("column") or name


def _is_given(run: Any, name: str, parts: Mapping[str, Any]) -> bool:
    modality = run.processor.modalities.get(name)
    value = parts.get(_column(run, name)) if modality is None else modality.raw(parts, name)
    return not is_missing(value) and not (isinstance(value, list) and not value)
