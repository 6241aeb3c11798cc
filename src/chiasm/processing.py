"""ChiasmProcessor: text and media -> the model's inputs; saved as processor_config.json beside the tokenizer.

One path for everything: training, evaluation, prediction and `processor(text=..., images=...)` all open media through the same modalities
and build token ids with the same methods. A user's text never becomes a special token; placeholders are special in templates only.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, TensorType

from chiasm import components
from chiasm.components import did_you_mean
from chiasm.config import in_order, is_read
from chiasm.conventions import GROUPS, SETTINGS, ProcessorConventions, opened
from chiasm.reading import Reader
from chiasm.types import BadInput, Sample


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


class ChiasmProcessor(ProcessorConventions):
    """Tokenizer plus one modality per non-text input.

    inputs: name -> {modality, options, state}; placeholder_counts: how many sequence places one item of an input takes, for those inputs
    whose tokens enter the sequence; layout: {first: whether placeholders stand in front, start: ids, close: ids,
    side: of the padding, absent: how many placeholders an absent input has, as_written: whether a prompt is tokenised as one text,
    target: {before: id, start: ids, close: ids} where what is written is a text of its own}; reading: what the own processor of a
    vision-language backbone is rebuilt from.
    """

    longest: int | None = None  # tokens that the model beside it has positions for; set where both are made or loaded

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

    @property
    def mask_id(self) -> int:
        return self.tokenizer.mask_token_id

    @cached_property
    def ordinary_ids(self) -> list[int]:
        """Every token that is no special one."""
        special = {*self.tokenizer.all_special_ids, *(self.placeholder_id(name) for name in self.placeholder_counts)}
        return [i for i in range(len(self.tokenizer)) if i not in special]

    def words(self, text: str) -> list[int | None]:
        """Which word of a user's text each of its tokens belongs to."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).word_ids()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """Ids -> what each of them says by itself."""
        return [text.strip() for text in self.tokenizer.batch_decode([[i] for i in ids])]

    def placeholder_id(self, name: str) -> int:
        return self.tokenizer.convert_tokens_to_ids(placeholder(name))

    def placeholders(self, name: str, sample: Sample, item: int | None = None) -> list[int]:
        """The run of placeholder ids of a row's input `name`, or of one item of it; empty where it does not enter the sequence.

        An absent input has none either, or one where the fusion shows a learned token in its place.
        """
        if not self.placeholder_counts.get(name):
            return []
        value = sample.parts.get(name)  # raw, under the input's name whatever its column; None where it is hidden
        several = isinstance(value, list) and self.inputs[name]["modality"] in ("image", "audio", "video", "tokens")
        items = len(value) if several else int(value is not None)
        if item is None:
            return self._run(name, items)
        return self._run(name, 1) if item < items else self._run(name, 0) if not item else []

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

    def encode_whole(self, pieces: Sequence[tuple[str, str]], sample: Sample) -> list[int] | None:
        """A prompt's pieces (text, "literal" | "user") or ("", input's name) -> ids of all of it as one text, placeholders expanded.

        None where that must not be: where a user's text has a special token's name in it, or the layout is not `as_written`.
        """
        users = [text for text, kind in pieces if kind == "user"]
        if not self.layout.get("as_written") or any(token in text for text in users for token in self.tokenizer.get_added_vocab()):
            return None
        runs = {self.placeholder_id(kind): self.placeholders(kind, sample) for text, kind in pieces if kind in self.placeholder_counts}
        text = "".join(placeholder(kind) if kind in self.placeholder_counts else text for text, kind in pieces)
        return self._run_out(text, runs)[0]

    def _run_out(self, text: str, runs: Mapping[int, list[int]], at: int = 0) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, each placeholder's id replaced by its run, and the place of each, counted from `at`."""
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
        places = found.get("offset_mapping") or [(0, len(text))] * len(found["input_ids"])
        pairs = zip(found["input_ids"], places, strict=True)
        tokens = [(i, (at + begin, at + end)) for token, (begin, end) in pairs for i in runs.get(token, [token])]
        return [i for i, _ in tokens], [span for _, span in tokens]

    def decode_texts(self, ids: Tensor) -> list[str]:
        """Generated ids [R, T] -> texts up to the end token."""
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    # ---- what the ecosystem asks of it

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **named: Any) -> BatchFeature:
        """Texts and media -> BatchFeature with input_ids, attention_mask and, per input, its tensors and `NAME_index` [R, items].

        `images`, `audio` and `videos` go to the first input of that modality, any other input by its name. Rows are matched in order;
        a flat list for texts with several placeholders is dealt out by them. Without texts there are only media.
        """
        given = {name: named.pop(name) for name in list(named) if name in self.modalities}
        for value, modality in ((images, "image"), (audio, "audio"), (videos, "video")):
            if value is not None:
                given[self._first(modality)] = value
        settings = self._settings(named)
        given = {name: list(value) if isinstance(value, list | tuple) else [value] for name, value in given.items()}
        texts = [text] if isinstance(text, str) else list(text or [""] * max((len(v) for v in given.values()), default=1))
        data: dict[str, Any] = {}
        for name, values in given.items():
            mark = self.reader.image_token if self.reader is not None and name in self.reads else placeholder(name)
            given[name] = values = dealt(values, [t.count(mark) for t in texts])
            if len(values) != len(texts):
                raise ValueError(
                    f"{name}: {len(values)} item(s) for {len(texts)} text(s); give one per text, or a list of lists for several"
                )
            if name not in self.reads:
                data |= self._media(name, values, settings.get("sampling_rate"))
        if self.reader is not None:
            return BatchFeature(data | self._read(texts, given, settings, named.get("images_kwargs") or {}))
        rows = [self._row(row, t, given, settings.get("add_special_tokens", True)) for row, t in enumerate(texts)]
        return BatchFeature(data | self._padded(rows, settings) | self._asked(texts, given, settings))

    def _settings(self, named: dict[str, Any]) -> dict[str, Any]:
        """A call's settings, given one by one or in groups (`text_kwargs`, ...); TypeError for anything else, naming the nearest."""
        for name in named:
            if name not in SETTINGS and name not in GROUPS:
                known = [*self.modalities, "text", "images", "audio", "videos", *SETTINGS]
                raise TypeError(f"processor got an unknown input '{name}'{did_you_mean(name, known)}")
        found: dict[str, Any] = {}
        for group in ("common_kwargs", "text_kwargs"):
            found |= named.get(group) or {}
        found |= {name: value for name, value in named.items() if name in SETTINGS}
        if found.get("return_tensors") not in (None, "pt", TensorType.PYTORCH):
            raise ValueError(f"return_tensors: {found['return_tensors']}; this processor makes torch tensors: leave it out, or 'pt'")
        return found

    def _read(
        self, texts: list[str], given: Mapping[str, list[Any]], settings: Mapping[str, Any], images: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Texts, and the pictures that the backbone reads itself, by its own processor; opened here, as in training."""
        name = next((name for name in self.reads if name in given), None)
        rows = None if name is None else [v if isinstance(v, list) else [] if v is None else [v] for v in given[name]]
        if name is not None and rows is not None:
            rows = [[opened(self.modalities[name], item, None) for item in items] for items in rows]
        own = {key: value for key, value in settings.items() if key != "sampling_rate"}
        own |= {"padding": own.get("padding") or True} | ({"images_kwargs": images} if images else {})
        return self.reader.processed(texts, rows, **own)

    def _first(self, modality: str) -> str:
        if (name := self.named(modality)) is None:
            raise TypeError(f"this model reads no {modality}; its inputs are: {', '.join(self.inputs)}")
        return name

    def _media(self, name: str, values: list[Any], sampling_rate: int | None) -> dict[str, Tensor]:
        """One input's rows (None: absent; a list: several items) -> its tensors and index, under the model's argument names."""
        modality, units, index = self.modalities[name], [], []
        for value in values:
            items = value if isinstance(value, list) else [] if value is None else [value]
            index.append([len(units) + i for i in range(len(items))])
            units += [opened(modality, item, sampling_rate) for item in items]
        if not units:
            raise BadInput("all_missing", f"{name}: every row is empty; leave the input out instead", input=name)
        most = max(map(len, index))
        tensors = {argument(self.inputs, name, key): value for key, value in modality.collate(units).items()}
        return {**tensors, f"{name}_index": torch.tensor([row + [-1] * (most - len(row)) for row in index])}

    def _row(self, row: int, text: str, given: Mapping[str, list[Any]], framed: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of one text and where in it each begins and ends: placeholders in it are expanded; an input without one stands where
        the layout says. `framed`: with the tokens around a text, unless it begins with them already."""
        loose: list[int] = []
        for name in self.placeholder_counts:
            value = given.get(name, [None] * (row + 1))[row]
            items = len(value) if isinstance(value, list) else int(value is not None)
            places = text.count(placeholder(name))
            if places and items not in (0, places):
                raise ValueError(f"text {row + 1}: {places} {placeholder(name)} for {items} item(s) of {name}; write it once per item")
            if not places:
                run = self._run(name, items)
                loose = run + loose if self.placeholders_first else loose + run  # a prompt's order: each goes in front of the others
        start = "".join(self.tokenizer.convert_ids_to_tokens(self.start_ids))
        begun = bool(start) and text.startswith(start)
        at = len(start) if begun else 0
        ids, spans = self._expanded(text[at:], at)
        extra = [(at, at)] * len(loose)
        ids, spans = (loose + ids, extra + spans) if self.placeholders_first else (ids + loose, spans + extra)
        before = self.start_ids if framed or begun else []
        after = self.close_ids if framed else []
        return [*before, *ids, *after], [*[(0, at)] * len(before), *spans, *[(len(text), len(text))] * len(after)]

    def _expanded(self, text: str, at: int) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text with its placeholders expanded, and the place of each, counted from `at`; a space ahead of a placeholder
        belongs to the word that follows it, as in a prompt."""
        runs = {placeholder(name): [self.placeholder_id(name)] * count for name, count in self.placeholder_counts.items()}
        if self.layout.get("as_written"):
            return self._run_out(text, {run[0]: run for run in runs.values() if run}, at)
        pieces = re.split("( *(?:" + "|".join(map(re.escape, runs)) + "))", text) if runs else [text]
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        space = ""
        for piece in pieces:
            if (mark := piece.lstrip(" ")) in runs:
                ids += runs[mark]
                spans += [(at, at + len(piece))] * len(runs[mark])
                space = " " if mark != piece else space
            elif piece:
                lead = "" if piece.startswith(" ") else space
                found = self.tokenizer(lead + piece, add_special_tokens=False, return_offsets_mapping=self.tokenizer.is_fast)
                ids += found["input_ids"]
                places = found.get("offset_mapping") or [(0, len(lead) + len(piece))] * len(found["input_ids"])
                spans += [(at + max(0, begin - len(lead)), at + end - len(lead)) for begin, end in places]
                space = ""
            at += len(piece)
        return ids, spans

    def _padded(self, rows: list[tuple[list[int], list[tuple[int, int]]]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Rows -> input_ids and attention_mask [R, T], cut and padded as asked; `offset_mapping`: the places of each row's tokens."""
        most, multiple = settings.get("max_length"), settings.get("pad_to_multiple_of") or 1
        if settings.get("truncation") and most is not None:
            marks = {self.placeholder_id(name) for name in self.placeholder_counts}
            if any(marks & set(ids[most:]) for ids, _ in rows):
                raise ValueError(f"max_length: {most} tokens would cut off a picture or clip; allow more")
            rows = [(ids[:most], spans[:most]) for ids, spans in rows]
        longest = max(len(ids) for ids, _ in rows)
        if settings.get("padding") == "max_length" and most is not None:
            longest = max(longest, most)
        longest = -(-longest // multiple) * multiple
        left = settings.get("padding_side", self.tokenizer.padding_side) == "left"

        def filled(values: list[Any], fill: Any) -> list[Any]:
            pad = [fill] * (longest - len(values))
            return pad + values if left else values + pad

        found: dict[str, Any] = {"input_ids": torch.tensor([filled(ids, self.pad_id) for ids, _ in rows], dtype=torch.long)}
        if settings.get("return_attention_mask", True):
            found["attention_mask"] = torch.tensor([filled([1] * len(ids), 0) for ids, _ in rows], dtype=torch.long)
        if settings.get("return_offsets_mapping"):
            found["offset_mapping"] = [filled(spans, (0, 0)) for _, spans in rows]
        if settings.get("return_mm_token_type_ids"):
            kinds = self.create_mm_token_type_ids(found["input_ids"].tolist())
            found["mm_token_type_ids"] = torch.tensor(kinds)
        return found

    def _asked(self, texts: list[str], given: Mapping[str, list[Any]], settings: Mapping[str, Any]) -> dict[str, Any]:
        """`text_replacement_offsets`: what each placeholder becomes, where a caller expands them itself (vLLM)."""
        if not settings.get("return_text_replacement_offsets"):
            return {}

        def expansions(modality: str) -> list[str]:
            rows = given.get(self.named(modality) or "", [])
            items = sum(len(value) if isinstance(value, list) else value is not None for value in rows)
            return [self._run_of(modality)] * items if self.mark(modality) else []

        found = self.get_text_with_replacements(
            list(texts), images_replacements=expansions("image"), audio_replacements=expansions("audio")
        )
        return {"text_replacement_offsets": found[1]}

    @property
    def model_input_names(self) -> list[str]:
        streams = {name: modality for name, modality in self.modalities.items() if name not in self.reads}
        tensors = [argument(self.inputs, name, key) for name, modality in streams.items() for key in modality.tensors]
        own = [] if self.reader is None else self.reader.processor.model_input_names
        return list(dict.fromkeys(["input_ids", "attention_mask", *own, *tensors, *(f"{name}_index" for name in streams)]))


def dealt(values: list[Any], places: list[int]) -> list[Any]:
    """A flat list of items as one list per text, by the placeholders in each; as it is, where they do not ask for that."""
    if any(isinstance(value, list) for value in values) or all(count == 1 for count in places) or sum(places) != len(values):
        return values
    items = iter(values)
    return [list(itertools.islice(items, count)) for count in places]


def placeholder(name: str) -> str:
    """The special token that stands for an input's tokens."""
    return f"<{name}>"


def argument(inputs: Mapping[str, Mapping[str, Any]], name: str, tensor: str) -> str:
    """The model's argument for one tensor of an input: `pixel_values` for the first image, `NAME_pixel_values` for further ones."""
    same = [other for other, spec in inputs.items() if spec["modality"] == inputs[name]["modality"]]
    plain = same[0] == name and not any(is_read(inputs[other]) for other in same)  # the backbone's own pictures have that name
    return tensor if plain else f"{name}_{tensor}"
