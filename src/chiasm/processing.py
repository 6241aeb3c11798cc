"""ChiasmProcessor: text and media -> the model's inputs; saved as processor_config.json beside the tokenizer.

One path for everything: training, evaluation, prediction and `processor(text=..., images=...)` all open media through the same modalities
and build token ids with the same methods. A user's text never becomes a special token; placeholders are special in templates only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from chiasm import components
from chiasm.components import did_you_mean
from chiasm.config import in_order, is_read
from chiasm.reading import Reader
from chiasm.types import BadInput, Sample

SETTINGS = ("return_tensors", "padding", "padding_side", "text_kwargs", "images_kwargs", "audio_kwargs", "common_kwargs")


def build_modalities(inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Input name -> Modality for every input that is not plain text, with its saved state."""
    found = {}
    for name, spec in inputs.items():
        if spec["modality"] == "text":
            continue
        kind = components.find("modality", spec["modality"])
        found[name] = kind(kind.Options(**spec.get("options", {})))
        if spec.get("state"):
            found[name].load_state(spec["state"])
    return found


class ChiasmProcessor(ProcessorMixin):
    """Tokenizer plus one modality per non-text input.

    inputs: name -> {modality, options, state}; placeholder_counts: how many sequence places one item of an input takes, for those inputs
    whose tokens enter the sequence; layout: {first: whether placeholders stand in front, start: ids, close: ids,
    side: of the padding, absent: how many placeholders an absent input has,
    target: {before: id, start: ids, close: ids} where what is written is a text of its own}; reading: what the own processor of a
    vision-language backbone is rebuilt from.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        inputs: dict[str, Any] | None = None,
        placeholder_counts: dict[str, int] | None = None,
        layout: dict[str, Any] | None = None,
        reading: dict[str, Any] | None = None,
        chat_template: str | None = None,
    ):
        self.inputs = in_order(inputs or {})
        counts = placeholder_counts or {}
        self.placeholder_counts = {name: counts[name] for name in self.inputs if name in counts}
        self.layout = layout or {"first": True, "start": [], "close": [], "side": "left"}
        self.modalities = build_modalities(self.inputs)
        self.reading = reading
        self.reader = None if reading is None else Reader(reading, tokenizer)
        self.reads = tuple(name for name, spec in self.inputs.items() if is_read(spec))
        super().__init__(tokenizer, chat_template=chat_template)
        if tokenizer is not None:
            tokenizer.padding_side = self.layout["side"]

    # ---- what tasks ask of it

    @property
    def placeholders_first(self) -> bool:
        return self.layout["first"]

    @property
    def start_ids(self) -> list[int]:
        return self.layout["start"]

    @property
    def close_ids(self) -> list[int]:
        return self.layout["close"]

    @property
    def target_edges(self) -> tuple[list[int], list[int], list[int]] | None:
        """Of an encoder-decoder: what decoding starts with, and what a target begins and ends with. None: targets follow prompts."""
        target = self.layout.get("target")
        return None if target is None else ([target["before"]], target["start"], target["close"])

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def end_id(self) -> int:
        return self.tokenizer.eos_token_id

    def placeholder_id(self, name: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(placeholder(name))

    def placeholders(self, name: str, sample: Sample) -> list[int]:
        """The run of placeholder ids that one row needs for input `name`; empty where it does not enter the sequence.

        An absent input has none either, or one where the fusion shows a learned token in its place.
        """
        if not self.placeholder_counts.get(name):
            return []
        value = sample.parts.get(name)  # raw, under the input's name whatever its column; None where it is hidden
        several = isinstance(value, list) and self.inputs[name]["modality"] in ("image", "audio", "tokens")
        return self._run(name, len(value) if several else int(value is not None))

    def _run(self, name: str, items: int) -> list[int]:
        return [self.placeholder_id(name)] * (self.placeholder_counts[name] * items or self.layout.get("absent", 0))

    def encode(self, texts: Sequence[str], *, user: bool, target: bool = False) -> list[list[int]]:
        """Texts -> ids without special tokens around them; in a user's text special tokens are ordinary characters.

        target: as what a decoder writes, for which a translator's tokenizer (Marian's) may have other rules than for what is read.
        """
        if not texts:
            return []
        given = {"text_target" if target else "text": list(texts)}
        return self.tokenizer(**given, add_special_tokens=False, split_special_tokens=user, return_attention_mask=False)["input_ids"]

    def decode_texts(self, ids: Tensor) -> list[str]:
        """Generated ids [R, T] -> texts up to the end token."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    # ---- what the ecosystem asks of it

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **named: Any) -> BatchFeature:
        """Texts and media -> BatchFeature with input_ids, attention_mask and, per input, its tensors and `NAME_index` [R, items].

        `images` and `audio` go to the first input of that modality; any other input is passed by its name. Rows are matched in order.
        """
        given = {name: named.pop(name) for name in list(named) if name in self.modalities}
        for value, modality in ((images, "image"), (audio, "audio"), (videos, "video")):
            if value is not None:
                given[self._first(modality)] = value
        own = ("add_special_tokens",) if self.reader is not None else ()
        settings = {k: named.pop(k) for k in (*SETTINGS, *own) if k in named}
        for name in named:
            raise TypeError(f"processor got an unknown input '{name}'{did_you_mean(name, [*self.modalities, 'text', 'images', 'audio'])}")
        given = {name: list(value) if isinstance(value, list | tuple) else [value] for name, value in given.items()}
        texts = [text] if isinstance(text, str) else list(text or [""] * max((len(v) for v in given.values()), default=1))
        data: dict[str, Any] = {}
        for name, values in given.items():
            if len(values) != len(texts):
                raise ValueError(
                    f"{name}: {len(values)} item(s) for {len(texts)} text(s); give one per text, or a list of lists for several"
                )
            if name not in self.reads:
                data |= self._media(name, values)
        if self.reader is not None:
            pictures = next((given[name] for name in self.reads if name in given), None)
            return BatchFeature(data | self.reader.processed(texts, pictures, **settings))
        rows = [self._row(row, t, given) for row, t in enumerate(texts)]
        side = {**settings, **settings.get("text_kwargs", {})}.get("padding_side", self.tokenizer.padding_side)
        longest, left = max(map(len, rows)), side == "left"
        pads = [longest - len(row) for row in rows]
        data["input_ids"] = torch.tensor(
            [[self.pad_id] * p + r if left else r + [self.pad_id] * p for r, p in zip(rows, pads, strict=True)]
        )
        ones = [[0] * p + [1] * len(r) if left else [1] * len(r) + [0] * p for r, p in zip(rows, pads, strict=True)]
        data["attention_mask"] = torch.tensor(ones)
        return BatchFeature(data)

    def _first(self, modality: str) -> str:
        for name, spec in self.inputs.items():
            if spec["modality"] == modality:
                return name
        raise TypeError(f"this model reads no {modality}; its inputs are: {', '.join(self.inputs)}")

    def _media(self, name: str, values: list[Any]) -> dict[str, Tensor]:
        """One input's rows (None: absent; a list: several items) -> its tensors and index, under the model's argument names."""
        modality, opened, index = self.modalities[name], [], []
        for value in values:
            items = value if isinstance(value, list) else [] if value is None else [value]
            index.append([len(opened) + i for i in range(len(items))])
            opened += [modality.open(item)[0] for item in items]
        if not opened:
            raise BadInput("all_missing", f"{name}: every row is empty; leave the input out instead", input=name)
        most = max(map(len, index))
        tensors = {argument(self.inputs, name, key): value for key, value in modality.collate(opened).items()}
        return {**tensors, f"{name}_index": torch.tensor([row + [-1] * (most - len(row)) for row in index])}

    def _row(self, row: int, text: str, given: Mapping[str, list[Any]]) -> list[int]:
        """Token ids of one text: placeholders in it are expanded; an input without one stands where the layout says."""
        loose: list[int] = []
        for name in self.placeholder_counts:
            value = given.get(name, [None] * (row + 1))[row]
            items = len(value) if isinstance(value, list) else int(value is not None)
            places = text.count(placeholder(name))
            if places and items not in (0, places):
                raise ValueError(f"text {row + 1}: {places} {placeholder(name)} for {items} item(s) of {name}; write it once per item")
            if not places:
                loose += self._run(name, items)
        ids = self._expanded(text)
        body = loose + ids if self.placeholders_first else ids + loose
        return [*self.start_ids, *body, *self.close_ids]

    def _expanded(self, text: str) -> list[int]:
        """Token ids of a text with its placeholders expanded; a space ahead of one belongs to the word that follows it, as in a prompt."""
        runs = {placeholder(name): [self.placeholder_id(name)] * count for name, count in self.placeholder_counts.items()}
        pieces = re.split("( *(?:" + "|".join(map(re.escape, runs)) + "))", text) if runs else [text]
        ids, space = [], ""
        for piece in pieces:
            if (mark := piece.lstrip(" ")) in runs:
                ids += runs[mark]
                space = " " if mark != piece else space
            elif piece:
                lead = "" if piece.startswith(" ") else space
                ids += self.tokenizer(lead + piece, add_special_tokens=False)["input_ids"]
                space = ""
        return ids

    @property
    def model_input_names(self) -> list[str]:
        streams = {name: modality for name, modality in self.modalities.items() if name not in self.reads}
        tensors = [argument(self.inputs, name, key) for name, modality in streams.items() for key in modality.tensors]
        own = [] if self.reader is None else self.reader.processor.model_input_names
        return list(dict.fromkeys(["input_ids", "attention_mask", *own, *tensors, *(f"{name}_index" for name in streams)]))


def placeholder(name: str) -> str:
    """The special token that stands for an input's tokens."""
    return f"<{name}>"


def argument(inputs: Mapping[str, Mapping[str, Any]], name: str, tensor: str) -> str:
    """The model's argument for one tensor of an input: `pixel_values` for the first image, `NAME_pixel_values` for further ones."""
    same = [other for other, spec in inputs.items() if spec["modality"] == inputs[name]["modality"]]
    plain = same[0] == name and not any(is_read(inputs[other]) for other in same)  # the backbone's own pictures have that name
    return tensor if plain else f"{name}_{tensor}"
