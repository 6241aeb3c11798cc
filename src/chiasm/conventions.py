"""Names and parts by which other tools know a processor: placeholders, preprocessors, token counts, the media of a conversation.

vLLM, TRL, sentence-transformers and transformers' own server read these; nothing in this package does.
"""

from __future__ import annotations

import base64
import binascii
import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.processing_utils import MultiModalData, ProcessorMixin
from transformers.utils.chat_template_utils import render_jinja_template

from chiasm.types import BadInput, Sound

HOLDS = ("image", "audio", "video")  # types of a message's parts that are media; `..._url` and `input_audio` are OpenAI's names
SETTINGS = (  # of a processor's call, as transformers names them; each is read in ChiasmProcessor.__call__
    *("return_tensors", "padding", "padding_side", "truncation", "max_length", "pad_to_multiple_of", "add_special_tokens"),
    *("return_attention_mask", "return_offsets_mapping", "return_mm_token_type_ids", "return_text_replacement_offsets", "sampling_rate"),
)
GROUPS = ("text_kwargs", "images_kwargs", "videos_kwargs", "audio_kwargs", "common_kwargs")


@dataclass(frozen=True)
class Preprocessor:
    """What a tool may ask of an image or audio preprocessor. Media are opened by the processor, which has one path for everything."""

    model_input_names: list[str]
    size: dict[str, int] | None = None
    sampling_rate: int | None = None


class ProcessorConventions(ProcessorMixin):
    """Mixed into ChiasmProcessor, whose inputs and modalities it describes."""

    modalities: dict[str, Any]
    inputs: dict[str, Any]
    placeholder_counts: dict[str, int]
    reads: tuple[str, ...]  # inputs that a vision-language backbone reads itself, by the processor of `reader`
    reader: Any

    def named(self, modality: str) -> str | None:
        """The first input of a modality."""
        return next((name for name, spec in self.inputs.items() if spec["modality"] == modality), None)

    def mark(self, modality: str) -> str | None:
        """The placeholder of a modality's first input; None where its tokens do not enter the sequence."""
        name = self.named(modality)
        if name in self.reads:
            return self.reader.image_token
        return f"<{name}>" if name is not None and self.placeholder_counts.get(name) else None

    image_token = property(lambda self: self.mark("image"))
    audio_token = property(lambda self: self.mark("audio"))
    image_token_id = property(lambda self: self._mark_id("image"))
    audio_token_id = property(lambda self: self._mark_id("audio"))

    def _mark_id(self, modality: str) -> int | None:
        mark = self.mark(modality)
        return None if mark is None else self.tokenizer.convert_tokens_to_ids(mark)

    def _image_processor(self) -> Any:
        name = self._preprocessed("image")
        if name in self.reads:
            return self.reader.processor.image_processor
        size = self.modalities[name].options.size
        sides = (size, size) if isinstance(size, int) else size
        return Preprocessor(
            ["pixel_values", f"{name}_index"], None if size == "original" else dict(zip(("height", "width"), sides, strict=True))
        )

    def _feature_extractor(self) -> Preprocessor:
        name = self._preprocessed("audio")
        return Preprocessor(
            ["input_values", "input_values_mask", f"{name}_index"], sampling_rate=self.modalities[name].options.sampling_rate
        )

    image_processor: Any = property(_image_processor)
    feature_extractor: Any = property(_feature_extractor)

    def _preprocessed(self, modality: str) -> str:
        if (name := self.named(modality)) is None:
            raise AttributeError(f"this model reads no {modality}")  # so that hasattr says no
        return name

    def replace_image_token(self, image_inputs: Any = None, image_idx: int = 0, **kwargs: Any) -> str:
        """What one picture's placeholder becomes: as many of them as it has tokens."""
        return self._run_of("image")

    def replace_audio_token(self, audio_inputs: Any = None, audio_idx: int = 0, **kwargs: Any) -> str:
        return self._run_of("audio")

    def _run_of(self, modality: str) -> str:
        name = self._preprocessed(modality)
        if name in self.reads:
            raise TypeError(f"how many tokens '{name}' takes depends on its size; the backbone's own processor decides it")
        return f"<{name}>" * self.placeholder_counts.get(name, 0)

    def _get_num_multimodal_tokens(
        self, image_sizes: Sequence[Any] | None = None, audio_lengths: Sequence[int] | None = None, **kwargs: Any
    ) -> MultiModalData:
        """Tokens of each picture and clip, which here do not depend on its size or length; every picture is one patch of rows."""
        found: dict[str, list[int]] = {}
        if image_sizes is not None and self._preprocessed("image") in self.reads:
            return self.reader.processor._get_num_multimodal_tokens(image_sizes=image_sizes, **kwargs)
        if image_sizes is not None:
            count = self.placeholder_counts.get(self._preprocessed("image"), 0)
            found |= {"num_image_tokens": [count] * len(image_sizes), "num_image_patches": [1] * len(image_sizes)}
        if audio_lengths is not None:
            found["num_audio_tokens"] = [self.placeholder_counts.get(self._preprocessed("audio"), 0)] * len(audio_lengths)
        return MultiModalData(**found)

    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: Any = None,
        documents: Any = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool | str = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "pt",
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: Any = None,
        sanitize_control_tokens: bool = False,
        **kwargs: Any,
    ) -> Any:
        """A conversation, or several, as text, or (tokenize) as the model's inputs with the pictures and sounds that the messages hold.

        A part holds a medium as `image`, `audio` (a picture, samples, a path), `path`, `base64`, or `url`; a `url` must be a data URI:
        who writes messages to a server may not name its files. `assistant_masks` [R, T] is 1 on what the template marks as generated.
        """
        if load_audio_from_video or sanitize_control_tokens:
            raise ValueError("this processor has neither load_audio_from_video nor sanitize_control_tokens; leave them out")
        settings = {**{k: kwargs.pop(k) for k in list(kwargs) if k in (*SETTINGS, *GROUPS)}, **(processor_kwargs or {})}
        template = chat_template if chat_template is not None else self.chat_template
        if isinstance(template, dict):
            template = template["default"]
        if template is None:
            raise ValueError("this model has no chat template: none of its tasks writes text")
        several = isinstance(conversation[0], list | tuple)
        read = [_split(messages) for messages in (conversation if several else [conversation])]
        texts, spans = render_jinja_template(
            conversations=[messages for messages, _ in read],
            tools=tools,
            documents=documents,
            chat_template=template,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            continue_final_message=continue_final_message,
            add_generation_prompt=add_generation_prompt,
            **{**self.tokenizer.special_tokens_map, **kwargs},
        )
        if not tokenize:
            return texts if several else texts[0]
        media = {kind: [held[kind] for _, held in read] for kind in HOLDS}
        given = {f"{kind}s" if kind != "audio" else kind: rows for kind, rows in media.items() if any(rows)}
        settings |= {
            "return_tensors": None if return_tensors == "auto" else return_tensors,
            "return_offsets_mapping": return_assistant_tokens_mask,
        }
        found = self(text=texts, **given, **settings)
        if return_assistant_tokens_mask:
            masks = [
                [int(any(start < end_ and stop > begin for begin, end_ in marked)) for start, stop in row]
                for row, marked in zip(found.pop("offset_mapping"), spans, strict=True)
            ]
            found["assistant_masks"] = found["input_ids"].new_tensor(masks)
        return found if return_dict else found["input_ids"]


def _split(messages: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """Messages -> the same with bare media parts, and the media by type, in order."""
    held: dict[str, list[Any]] = {kind: [] for kind in HOLDS}
    plain = []
    for message in messages:
        content = message.get("content") or ""
        if not isinstance(content, str):
            parts = []
            for part in content:
                kind = part["type"].removesuffix("_url").removeprefix("input_")
                if kind in HOLDS:
                    held[kind] += [value] if (value := _medium(part, kind)) is not None else []
                    parts.append({"type": kind})
                else:
                    parts.append(dict(part))
            content = parts
        plain.append({**copy.copy(message), "content": content})
    return plain, held


def _medium(part: Mapping[str, Any], kind: str) -> Any:
    """The medium of a message's part; None where the part only marks the place of one that is given apart."""
    if part["type"] != kind:  # OpenAI's form: the part holds a url, or a mapping with it or with the data
        inner = part[part["type"]]
        part = {key: inner[key] for key in ("url", "data") if key in inner} if isinstance(inner, Mapping) else {"url": inner}
    for key in (kind, "path"):
        if part.get(key) is not None:
            return part[key]
    for key in ("base64", "data"):
        if part.get(key) is not None:
            return decoded(part[key])
    if (url := part.get("url")) is None:
        return None
    if not str(url).startswith("data:"):
        raise BadInput("outside_root", f"{kind}: a message's url must be a data URI (data:...;base64,...), not {str(url)[:80]!r}")
    return decoded(url)


def decoded(text: str) -> bytes:
    """The bytes of a data URI, or of base64 alone."""
    try:
        return base64.b64decode(text.partition(",")[2] if text.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("corrupt", "the base64 of a message's medium cannot be decoded") from None


def opened(modality: Any, value: Any, sampling_rate: int | None) -> Any:
    """One medium as a caller of the processor may give it: a path, a data URI, bytes, a picture, samples of a given rate."""
    if not modality.from_files:
        return modality.open(value)[0]
    if isinstance(value, str) and value.startswith("data:"):
        value = decoded(value)
    elif isinstance(value, str | Path):
        return modality.open(str(Path(value).absolute()), root="/")[0]
    elif isinstance(value, np.ndarray) and value.ndim == 1 and sampling_rate is not None:
        value = Sound(value, sampling_rate)
    return modality.open(value)[0]
