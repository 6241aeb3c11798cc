"""A conversation -> one row of a run's inputs, for the server and for the chat in a terminal.

- What the user said last is the run's question; a picture, sound or video is the newest that was shown: one may go on asking about it.
- Where the prompt repeats records that hold the answer (`repeat: {history: "question: {question} answer: {answer} ."}`), the turns before
  are those records, each with its own pictures where the records have places for them.
- Where the run was trained on chats as one text (an input that reads the column `prompt`), they are written there, "role: text" a line.
- Where the backbone is a vision-language model with a chat template, they are written by that.
- A model that reads nothing of this kind reads one turn. What it does not read is said in `notes`, never dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from chiasm.notes import Note, notes_of
from chiasm.reading import EARLIER
from chiasm.types import BadInput

ROLES = ("system", "user", "assistant")
MEDIA = ("image", "audio", "video")
PROMPT = "prompt"  # the column that chat records are written to as one text


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a message: a text, or a picture, sound or video as bytes. `input` names the one it is for, where that matters; `where` is
    what an error calls the piece."""

    modality: str
    value: Any
    input: str | None = None
    where: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said."""

    role: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        return " ".join(part.value for part in self.parts if part.modality == "text" and part.value)


@dataclass(frozen=True, slots=True)
class Asked:
    """A row for `Run.answer` and the task that answers it; `notes`: what of the conversation the model does not know or is not given."""

    task: Any
    row: Mapping[str, Any]
    notes: tuple[Note, ...] = ()
    places: Mapping[str, Sequence[str]] = field(default_factory=dict)  # input -> what an error calls each piece that it is made of

    def where(self, error: BadInput) -> str | None:
        """What the piece is called that an error is about; its input where that is made of several."""
        places = self.places.get(error.input, ())
        if error.item is not None:
            places = places[error.item : error.item + 1]
        return (places[0] if len(places) == 1 else "") or error.input or None


def asked(run: Any, turns: Sequence[Turn], *, task: str | None = None, inputs: Mapping[str, Any] | None = None) -> Asked:
    """The row that a conversation is. `inputs`: values of inputs that no message can hold (a table's columns, features, a second text).

    Raises BadInput or ChiasmError for a part that the run does not read, and for a conversation that asks nothing.
    """
    before, last = _split(turns)
    for turn in turns:
        _check_read(run, turn)
    row: dict[str, Any] = dict(inputs or {})
    text = " ".join(turn.text for turn in last if turn.role == "user" and turn.text)
    places: dict[str, list[str]] = {}
    if text:
        row[name := question_input(run, given=row)] = text
        places[name] = [part.where for turn in last for part in turn.parts if part.modality == "text" and part.value]
    media = {name: items for name, items in _media(run, turns, last).items() if name not in row}
    row |= {name: items[-1].value for name, items in media.items()}
    if not row:
        raise BadInput("empty", f"the last message holds nothing that this run reads; it reads: {reads(run)}", input="messages")
    chosen = run.task_for(run.columns_of(row), task)
    notes: list[Note] = []
    for name, items in media.items():
        wanted = _items(run, chosen, name, len(items))
        row[name] = items[-1].value if wanted == 1 else [item.value for item in items[-wanted:]]
        places[name] = [item.where for item in items[-wanted:]]
        if len(items) > wanted:
            said = f"{len(items)} of '{name}' were given; the model reads {'the last' if wanted == 1 else f'the last {wanted}'}"
            notes.append(Note(said, "newest_only", input=name, given=len(items), read=wanted))
    notes += notes_of(run, chosen, run.columns_of(row))
    earlier = _earlier(run, chosen, before, last, text, notes)
    if any(set(record) & set(media) for record in earlier.get(_record_column(chosen) or "", ())):
        places = {}  # pictures of earlier turns stand ahead of these
    return Asked(chosen, {**row, **earlier}, tuple(notes), places)


def reads(run: Any) -> str:
    """What a run reads, for a message: "image, question (text)"."""
    inputs = {name: spec.modality for name, spec in run.recipe.inputs.items()}
    return ", ".join(name if name == modality else f"{name} ({modality})" for name, modality in inputs.items())


def texts_of(run: Any) -> list[str]:
    """The inputs that a message's text can be: those that are text, or texts with an encoder of their own where there are none."""
    found = [[n for n, spec in run.recipe.inputs.items() if spec.modality == kind] for kind in ("text", "tokens")]
    return found[0] or found[1]


def question_input(run: Any, given: Mapping[str, Any] = {}) -> str:
    """The input that is the user's words: the one called `question`, or the only text that is not given already."""
    known = texts_of(run)
    open_ones = [name for name in known if name not in given]
    if not known:
        raise BadInput("not_read", f"this run reads no text; it reads: {reads(run)}", input="messages")
    if "question" in open_ones:
        return "question"
    if len(open_ones) != 1:
        raise BadInput("not_read", f"this run reads several texts ({', '.join(known)}); give them by name in `inputs`", input="inputs")
    return open_ones[0]


def reads_history(run: Any, task: Any) -> bool:
    """Whether earlier turns reach the model in some way when `task` answers."""
    return _record_column(task) is not None or _one_text(run, task) or _templated(run, task)


def reads_several(run: Any, task: Any, name: str) -> bool:
    """Whether `task` reads more than one picture or clip of an input with one question."""
    return _items(run, task, name, 2) > 1


# ---- what the earlier turns become


def _earlier(run: Any, task: Any, before: Sequence[Turn], last: Sequence[Turn], text: str, notes: list[Note]) -> dict[str, Any]:
    """Parts of the row that the turns before the last question are, or a note that the model does not read them."""
    system = [turn for turn in (*before, *last) if turn.role == "system" and turn.text]
    spoken = [turn for turn in before if turn.role != "system"]
    if not system and not spoken:
        return {}
    if (column := _record_column(task)) is not None:
        question, records = _records(run, task, column, before, last)
        name = next((n for n in task.reads if task.declared[n] == "text"), None)
        return {column: records} | ({name: question} if name and text else {})
    whole = [turn for turn in (*before, *last) if turn.text]
    if _templated(run, task):
        own = [turn for turn in (*before, *(t for t in last if t.role == "system")) if turn.text]
        return {EARLIER: [(turn.role, turn.text) for turn in own]}
    if _one_text(run, task):
        return {question_input(run): "\n".join(f"{turn.role}: {turn.text}" for turn in whole)}
    what = [f"{len(spoken)} earlier message(s)"] * bool(spoken) + ["the system message"] * bool(system)
    said = f"this model reads one turn only: it was not given {' and '.join(what)}"
    notes.append(Note(said, "one_turn", earlier=len(spoken), system=bool(system)))
    return {}


def _records(run: Any, task: Any, column: str, before: Sequence[Turn], last: Sequence[Turn]) -> tuple[str, list[dict[str, Any]]]:
    """(the last question, a record per answer before it), as data.chat makes them; what the system said stands in front."""
    fields = [name for name, is_field in task.prompt.repeat[column] if is_field]
    streams = [name for name in fields if task.declared.get(name, "text") != "text"]
    answer = next(name for name in fields if name in task.targets)
    question = next((name for name in fields if name != answer and name not in streams), None)
    records: list[dict[str, Any]] = []
    heard: list[Turn] = []
    for turn in before:
        if turn.role != "assistant":
            heard.append(turn)
        elif heard or not records:
            texts = " ".join(t.text for t in heard if t.text)
            shown = {name: items[-1].value for name, items in _media(run, heard, heard).items() if name in streams}
            records.append({answer: turn.text, **shown, **({question: texts} if question else {})})
            heard = []
        else:
            records[-1][answer] += f" {turn.text}"
    return " ".join(t.text for t in (*heard, *last) if t.text), records


def _record_column(task: Any) -> str | None:
    """The column of records that a dialogue can be: each record has a place for what was answered."""
    prompt: Any = getattr(task, "prompt", None)
    for column in task.lists:
        fields = {name for name, is_field in prompt.repeat[column] if is_field}
        if fields & set(task.targets):
            return column
    return None


def _one_text(run: Any, task: Any) -> bool:
    """Whether the task's only text was a chat as one text in training."""
    texts = [name for name in task.reads if task.declared[name] == "text"]
    return len(texts) == 1 and (run.recipe.inputs[texts[0]].options.get("column") or texts[0]) == PROMPT


def _templated(run: Any, task: Any) -> bool:
    reader = run.processor.reader
    return reader is not None and reader.spec["chat"] and task.view == "fused"


# ---- parts


def _split(turns: Sequence[Turn]) -> tuple[Sequence[Turn], Sequence[Turn]]:
    """(what was said before, the turns of the last question)."""
    if not turns or turns[-1].role != "user":
        raise BadInput("bad_messages", "the last message must be the user's", input="messages")
    last = len(turns)
    while last and turns[last - 1].role != "assistant":
        last -= 1
    return turns[:last], turns[last:]


def _check_read(run: Any, turn: Turn) -> None:
    if turn.role not in ROLES:
        raise BadInput("bad_messages", f"a message has the role '{turn.role}'; known: {', '.join(ROLES)}", input="messages")
    kinds = {spec.modality for spec in run.recipe.inputs.values()}
    for part in turn.parts:
        if part.modality == "text":
            continue
        if turn.role != "user":
            raise BadInput("bad_messages", f"a message of the {turn.role}'s holds {part.modality}; only a user's can", input="messages")
        if part.modality not in kinds:
            raise BadInput("not_read", f"this run reads no {part.modality}; it reads: {reads(run)}", input="messages")


def _media(run: Any, turns: Sequence[Turn], last: Sequence[Turn]) -> dict[str, list[Part]]:
    """Input -> its pictures or clips: those of the last question, or else the newest that was shown before.

    Where several inputs are of one modality, a part says which it is for, or they are filled in the order of the recipe.
    """
    found: dict[str, list[Part]] = {}
    for modality in MEDIA:
        names = [name for name, spec in run.recipe.inputs.items() if spec.modality == modality]
        newest = next((t for t in reversed(turns) if any(p.modality == modality for p in t.parts)), None)
        own = [part for turn in last for part in turn.parts if part.modality == modality]
        parts = own or ([part for part in newest.parts if part.modality == modality] if newest is not None else [])
        for number, part in enumerate(parts):
            if part.input is not None and part.input not in names:
                raise BadInput("not_read", f"this run has no {modality} input '{part.input}'; it has: {', '.join(names)}", input="messages")
            if names:
                found.setdefault(part.input or names[number % len(names)], []).append(part)
    return found


def _items(run: Any, task: Any, name: str, given: int) -> int:
    """How many pictures or clips of an input the task's prompt takes, of those that are given with the last question."""
    if name in run.processor.reads:
        return given
    pieces = getattr(getattr(task, "prompt", None), "pieces", ())
    return max(1, min(given, sum(is_field and piece == name for piece, is_field in pieces)))
