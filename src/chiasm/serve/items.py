"""What `/v1/embeddings`, `/v1/classify` and `/v1/search` take: texts, pictures, sounds and videos, one or many."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from chiasm.conversation import Part
from chiasm.serve.errors import Refused
from chiasm.serve.limits import Limits
from chiasm.serve.parts import ContentPart, check_media, part_of


def _kind(value: Any) -> str:
    return "tagged-text" if isinstance(value, str) else "tagged-parts" if isinstance(value, list) else "tagged-part"


Item = Annotated[
    Annotated[str, Tag("tagged-text")]
    | Annotated[ContentPart, Tag("tagged-part")]
    | Annotated[list[ContentPart], Field(min_length=1), Tag("tagged-parts")],
    Discriminator(_kind),
]
Items = Annotated[
    Annotated[str, Tag("tagged-text")]
    | Annotated[ContentPart, Tag("tagged-part")]
    | Annotated[list[Item], Field(min_length=1), Tag("tagged-parts")],
    Discriminator(_kind),
]


def rows_of(given: Any, where: str, limits: Limits) -> list[tuple[Part, ...]]:
    """Each row's parts: a text or a part is a row, a list of parts is one row."""
    listed = given if isinstance(given, list) else [given]
    if len(listed) > limits.rows:
        raise Refused(400, f"{where}: {len(listed)} rows; one request may have {limits.rows}", param=where, code="too_many")
    rows = [parts_of(item, f"{where}.{number}") for number, item in enumerate(listed)]
    for row in rows:
        check_media(list(row), limits)
    if (characters := sum(len(part.value) for row in rows for part in row if part.modality == "text")) > limits.characters:
        raise Refused(
            400, f"{where}: {characters} characters of text; one request may have {limits.characters}", param=where, code="too_long"
        )
    return rows


def parts_of(item: Any, where: str) -> tuple[Part, ...]:
    if isinstance(item, str):
        return (Part("text", item, where=where),)
    if isinstance(item, list):
        return tuple(part_of(part, f"{where}.{number}") for number, part in enumerate(item))
    return (part_of(item, where),)


def thing_of(row: tuple[Part, ...], where: str) -> dict[str, Any]:
    """A row that is one thing, as `chiasm.retrieval.embed` takes it."""
    if len(row) != 1:
        raise Refused(400, f"{where}: one thing is embedded at a time: a text, a picture, a sound or a video", param=where, code="several")
    (part,) = row
    if part.modality == "text" and not part.value.strip():
        raise Refused(400, f"{where}: an empty text", param=where, code="empty")
    return {part.input or part.modality: part.value}
