"""OpenAI's content parts -> parts of a conversation: pictures, sounds and videos come in the request itself, and from nowhere else.

No address is ever fetched and no file of this machine opened, whatever a request names: a server that fetches what strangers tell it to
reaches what they cannot. What a picture really is, is told by its bytes later (chiasm.media), never by what the request calls it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from chiasm.components import did_you_mean
from chiasm.conversation import Part
from chiasm.media.audio import seconds_of
from chiasm.serve.errors import Refused
from chiasm.serve.limits import Limits

DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?((?:;[\w.+-]+=[\w.+-]*)*)(;base64)?,", re.IGNORECASE)


class Body(BaseModel):
    """A JSON object of which every key is known."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, data: Any) -> Any:
        for key in data.keys() - cls.model_fields.keys() if isinstance(data, dict) else ():
            shown = str(key)[:60]
            near = did_you_mean(shown, list(cls.model_fields))
            raise PydanticCustomError("unknown_field", "unknown field '{field}'{near}", {"field": shown, "near": near})
        return data


class TextPart(Body):
    """Words."""

    type: Literal["text"]
    text: str


class ImageAddress(Body):
    """A picture as a data: URI."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None
    """Of OpenAI; pictures are read here as the model was trained to, whatever it says."""


class ImagePart(Body):
    """A picture."""

    type: Literal["image_url"]
    image_url: ImageAddress
    input: str | None = None
    """Which of the run's inputs it is for, where several are pictures."""


class Sound(Body):
    """A sound in base64."""

    data: str
    format: Literal["wav", "mp3", "flac"] | None = None


class AudioPart(Body):
    """A sound."""

    type: Literal["input_audio"]
    input_audio: Sound
    input: str | None = None
    """Which of the run's inputs it is for, where several are sounds."""


class VideoAddress(Body):
    """A video as a data: URI."""

    url: str


class VideoPart(Body):
    """A video, or an animated picture."""

    type: Literal["video_url"]
    video_url: VideoAddress
    input: str | None = None
    """Which of the run's inputs it is for, where several are videos."""


ContentPart = Annotated[TextPart | ImagePart | AudioPart | VideoPart, Field(discriminator="type")]


def part_of(given: TextPart | ImagePart | AudioPart | VideoPart, where: str) -> Part:
    """A content part as a part of a conversation. `where`: how an error names it."""
    if isinstance(given, TextPart):
        return Part("text", given.text, where=where)
    if isinstance(given, ImagePart):
        return Part("image", from_uri(given.image_url.url, f"{where}.image_url.url"), given.input, where)
    if isinstance(given, VideoPart):
        return Part("video", from_uri(given.video_url.url, f"{where}.video_url.url"), given.input, where)
    return Part("audio", from_base64(given.input_audio.data, f"{where}.input_audio.data"), given.input, where)


def from_uri(uri: str, where: str) -> bytes:
    """The bytes of a base64 data: URI; anything else is refused, an address or a path before all."""
    head = DATA.match(uri[:300])
    if head is None or not head[3]:
        scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]{0,20}(?=:)", uri)
        what = f"a {scheme[0].lower()}: address" if scheme and scheme[0].lower() != "data" else "what is no data: URI in base64"
        raise Refused(
            400,
            f"{where}: {what} is not read, since this server fetches nothing; send the file itself: data:TYPE;base64,...",
            param=where,
            code="not_a_data_uri",
        )
    return from_base64(uri[head.end() :], where)


def from_base64(text: str, where: str) -> bytes:
    try:
        return b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise Refused(400, f"{where}: not base64; send the file's bytes in base64", param=where, code="not_base64") from None


def check_media(parts: list[Part], limits: Limits) -> None:
    """Refuse more media, or longer sounds, than one request may have."""
    counts = {kind: sum(part.modality == kind for part in parts) for kind in ("image", "audio", "video")}
    clips = counts["audio"] + counts["video"]
    for found, most, what in ((counts["image"], limits.images, "pictures"), (clips, limits.clips, "sounds and videos")):
        if found > most:
            raise Refused(400, f"{found} {what}; one request may have {most}", param="messages", code="too_many")
    if (characters := sum(len(part.value) for part in parts if part.modality == "text")) > limits.characters:
        raise Refused(400, f"{characters} characters of text; one request may have {limits.characters}", param="messages", code="too_long")
    for part in parts:
        seconds = seconds_of(part.value) if part.modality == "audio" else None
        if seconds is not None and seconds > limits.audio_seconds:
            message = f"a sound of {seconds:.0f} s; one may be {limits.audio_seconds:g} s long"
            raise Refused(400, message, param=part.where or "messages", code="too_long")
