"""Templates: a prompt such as "Question: {question} Answer:" -> token ids, with every picture's place in it.

A field is a text column, an input with an encoder, or a column of records (turns, examples, segments) that are written one after the other,
each with a template of its own. A user's text never becomes a special token; the template's own words may be.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from chiasm.components import did_you_mean
from chiasm.types import BadInput, RecipeError, Sample

FIELD = re.compile(r"\{([^{}]+)\}")
SEVERAL = ("image", "audio", "tokens")  # modalities of which a list is several items; else it is one vector


class Written(NamedTuple):
    """A stretch of a row: its ids, its text, and whether that is a user's."""

    ids: list[int]
    text: str = ""
    user: bool = False


class Template:
    """`extra`: text columns that may be named beside declared inputs. `repeat`: column of records -> what each of them is written with.

    Where an input is named once, all its items stand there. Named several times, or in what is repeated, the k-th place is the k-th item's.
    A record that has the input itself is where that item comes from; in a record that lacks it, when others have it, nothing is written.
    """

    def __init__(
        self, text: str, where: str, inputs: Mapping[str, str], extra: Sequence[str] = (), repeat: Mapping[str, str] | None = None
    ):
        self.text, self.inputs, self.repeat = text, inputs, {name: _pieces(each) for name, each in (repeat or {}).items()}
        self.pieces = _pieces(text)  # (literal or field name, is a field)
        known = [*inputs, *extra, *self.repeat]
        for piece, is_field in self.pieces:
            if is_field and piece not in known:
                raise RecipeError(f"{where}: {{{piece}}} is not a declared input{did_you_mean(piece, known)}")
        for name in self.repeat:
            if (name, True) not in self.pieces:
                raise RecipeError(f"{where}: it does not say where the records of '{name}' stand; write {{{name}}} in it")
        inner = [piece for pieces in self.repeat.values() for piece, is_field in pieces if is_field]
        named = [piece for piece, is_field in self.pieces if is_field]
        self.placed = {name for name in inputs if self.is_media(name) and (name in inner or named.count(name) > 1)}  # item by item

    def is_media(self, name: str) -> bool:
        """Whether a field is an input with an encoder."""
        return self.inputs.get(name, "text") != "text"

    @property
    def fields(self) -> tuple[str, ...]:
        """Text columns and inputs; not columns of records."""
        return tuple(dict.fromkeys(piece for piece, is_field in self.pieces if is_field and piece not in self.repeat))

    def order(self, names: Sequence[str]) -> list[str]:
        """`names` of inputs in the order in which a prompt shows them: those without a place of their own in front."""
        return [*(name for name in names if name not in self.fields), *(field for field in self.fields if field in names)]

    @property
    def literals(self) -> list[str]:
        return [piece for pieces in (self.pieces, *self.repeat.values()) for piece, is_field in pieces if not is_field]

    def check(self, sample: Sample) -> None:
        """BadInput where records are no records, or where a row has not as many items as places for them."""
        places = [name for name, _ in self._walk(sample) if self.is_media(name)]
        for name in sorted(self.placed):
            items, written = items_in(sample.parts.get(name), self.inputs[name]), places.count(name)
            if items and items != written:
                message = (
                    f"{sample.id}: {{{name}}} is written {written} time(s) for {items} item(s) of {name}; give as many as it is written"
                )
                raise BadInput("placeholder_mismatch", message, input=name)

    def gathered(self, sample: Sample, columns: Mapping[str, str]) -> Sample:
        """The row with the items that its records hold under the inputs' own columns (input -> column), in the order of their places."""
        parts: dict[str, Any] = {}
        for name in sorted(self.placed):
            if not any(holds(records_of(sample, column), name) for column in self.repeat):
                continue
            own, found = listed(sample.parts.get(columns[name])), []
            for field, record in self._walk(sample):
                if field == name:
                    found += [record[name]] if record is not None else own[:1]
                    own = own if record is not None else own[1:]
            parts[columns[name]] = found + own
        return replace(sample, parts={**sample.parts, **parts}) if parts else sample

    def _walk(self, sample: Sample) -> Iterator[tuple[str, Mapping[str, Any] | None]]:
        """(field, None) of the template itself, and (field, record) of what each record writes, in order."""
        for piece in (piece for piece, is_field in self.pieces if is_field):
            if piece not in self.repeat:
                yield piece, None
                continue
            records = records_of(sample, piece)
            for record in records:
                for inner, is_inner in self.repeat[piece]:
                    if is_inner and not (self.is_media(inner) and holds(records, inner) and is_missing(record.get(inner))):
                        yield inner, record

    def ids(self, samples: Sequence[Sample], processor: Any) -> list[list[int]]:
        """Token ids per row: literals, users' texts, and a run of placeholders for every scattered input that the row has."""
        apart = [[i for written in row for i in written.ids] for row in self.rows(samples, processor)]
        if not processor.layout.get("as_written") or self.repeat or self.placed:
            return apart
        return [other if (one := self._whole(sample, processor)) is None else one for sample, other in zip(samples, apart, strict=True)]

    def _whole(self, sample: Sample, processor: Any) -> list[int] | None:
        """A prompt tokenised as one text, for backbones that were trained so; None where a user's text might become a special token."""
        pieces = []
        for piece, is_field in self.pieces:
            media, value = is_field and self.is_media(piece), as_text(sample.parts.get(piece)) if is_field else piece
            pieces.append(("", piece) if media else (value, "user" if is_field else "literal"))
        ids = processor.encode_whole(pieces, sample)
        for name in (name for name in self.inputs if ids is not None and self.is_media(name) and name not in self.fields):
            run = processor.placeholders(name, sample)
            ids = run + ids if processor.placeholders_first else ids + run
        return ids

    def rows(self, samples: Sequence[Sample], processor: Any) -> list[list[Written]]:
        """What each row is made of, in order."""
        written = [self._row(sample, processor) for sample in samples]
        for user in (False, True):
            texts = list(dict.fromkeys(w.text for row in written for w in row if w.text and w.user == user))
            known = dict(zip(texts, processor.encode(texts, user=user), strict=True))
            written = [[w._replace(ids=known[w.text]) if w.text and w.user == user else w for w in row] for row in written]
        return written

    def _row(self, sample: Sample, processor: Any) -> list[Written]:
        """Texts are not encoded yet. A space belongs to the word that follows it."""
        row: list[Written] = []
        space, count = "", dict.fromkeys(self.placed, 0)

        def write(pieces: Sequence[tuple[str, bool]], parts: Mapping[str, Any], records: Sequence[Mapping[str, Any]] | None) -> None:
            nonlocal space
            for piece, is_field in pieces:
                if is_field and records is None and piece in self.repeat:
                    for record in (listed_records := records_of(sample, piece)):
                        space = " " if row else space
                        write(self.repeat[piece], record, listed_records)
                elif is_field and self.is_media(piece):
                    if records is not None and holds(records, piece) and is_missing(parts.get(piece)):
                        continue
                    item = count.get(piece)
                    row.append(Written(processor.placeholders(piece, sample, item)))
                    count[piece] = (item or 0) + 1
                elif is_field:
                    value = as_text(parts.get(piece))
                    if value or records is None:
                        row.append(Written([], space + value, user=True))
                        space = ""
                else:
                    body = piece.rstrip(" ")
                    lead = "" if body.startswith(" ") else space
                    if body:
                        row.append(Written([], lead + body if row or not self.repeat else body.lstrip(" ")))
                    space = " " if body != piece else ""

        write(self.pieces, sample.parts, None)
        for name in (name for name in self.inputs if self.is_media(name) and name not in count and name not in self.fields):
            run = Written(processor.placeholders(name, sample))
            row[:] = [run, *row] if processor.placeholders_first else [*row, run]
        return row

    def render(self, parts: Mapping[str, Any]) -> str:
        """The plain text of a template without inputs, e.g. a target "{answer}"."""
        return "".join(as_text(parts.get(piece)) if is_field else piece for piece, is_field in self.pieces)


def _pieces(text: str) -> list[tuple[str, bool]]:
    return [(piece, bool(i % 2)) for i, piece in enumerate(FIELD.split(text)) if piece]


def records_of(sample: Sample, column: str) -> Sequence[Mapping[str, Any]]:
    """A row's records; none where the column is empty. BadInput where it holds anything else."""
    value = sample.parts.get(column)
    if is_missing(value):
        return ()
    if not isinstance(value, list | tuple) or not all(isinstance(record, Mapping) for record in value):
        message = f'{sample.id}: column \'{column}\' must be a list of records, as [{{"question": ..., "answer": ...}}]'
        raise BadInput("bad_records", message, input=column)
    return value


def spoken(records: Any) -> Iterator[str]:
    """Every text that a list of records holds, whatever it is under; nothing of what is no list of records."""
    for record in records if isinstance(records, list | tuple) else ():
        if isinstance(record, Mapping):
            yield from (as_text(value) for value in record.values() if isinstance(value, str | int | float))


def holds(records: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether some record has the input itself."""
    return any(not is_missing(record.get(name)) for record in records)


def listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def items_in(value: Any, modality: str) -> int:
    """How many items a row's raw value of an input is."""
    return len(value) if isinstance(value, list) and modality in SEVERAL else int(value is not None)


def as_text(value: Any) -> str:
    """A column's value as text; whole numbers without a decimal point, nothing for a missing one."""
    if is_missing(value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def is_missing(value: Any) -> bool:
    """None, NaN or the empty string."""
    if value is None:
        return True
    return (isinstance(value, str) and value == "") or (isinstance(value, float) and math.isnan(value))
