"""A vision-language model's own processor, as a run keeps it: pictures -> the model's arguments, prompts -> token ids by its chat template.

- Pictures go through its image processor as they do in transformers; what comes out (pixel_values, image_grid_thw, ...) is its own.
- A prompt is rendered once per form by the chat template with marks where fields go; users' texts are put in afterwards. A text that would
  become a special token there (`<image>`) is split into ordinary characters instead.
- Everything is rebuilt from plain data (`spec`), so a run needs neither the original checkpoint nor torchvision (which only videos want).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import jinja2
import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import AutoImageProcessor, BaseImageProcessor, ProcessorMixin
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

from chiasm.components import did_you_mean
from chiasm.tasks.template import as_text
from chiasm.types import RecipeError, Sample, Shown

OWN_WAY = (AttributeError, IndexError, KeyError, NotImplementedError, TypeError, ValueError)  # how foreign processors say no
EARLIER = "earlier turns"  # the part of a row that holds what was said before: [(role, text)]
OPEN, CLOSE = "\ue000", "\ue001"  # private characters around a field's number
MARK = re.compile(f"{OPEN}(\\d+){CLOSE}")
TEXT, FIELD, PICTURE = "text", "field", "picture"
Form = tuple[tuple[str, str], ...]  # a prompt's pieces: (TEXT, words), (FIELD, its name), (PICTURE, its input's name)
PROBE = (np.full((40, 30, 3), 127, np.uint8), np.full((24, 56, 3), 60, np.uint8))
INSTEAD = "llava, idefics3, smolvlm, gemma3, qwen2_vl, qwen2_5_vl and qwen3_vl can"


class _Partial:
    """Mixed into a processor that is to do without one of its parts, e.g. the one for videos."""

    def check_argument_for_proper_class(self: Any, name: str, argument: Any) -> Any:
        return None if argument is None else super().check_argument_for_proper_class(name, argument)


def read_spec(where: str, model_type: str, tokenizer: Any, *, chat: bool | None, pictures: Mapping[str, Any]) -> dict[str, Any]:
    """What `Reader` is built from, as plain data, of the checkpoint `where`; raises what transformers raises.

    `pictures`: settings of its image processor that are to be others than the checkpoint's.
    """
    given, _ = ProcessorMixin.get_processor_dict(where)
    template = given.pop("chat_template", None) or tokenizer.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    if chat and not isinstance(template, str):
        raise RecipeError(f"backbone.chat: {where} has no chat template; write chat: false, and the whole prompt in the task")
    opened = AutoImageProcessor.from_pretrained(where, use_fast=False, trust_remote_code=False)
    for key in pictures:
        if key not in (known := opened.to_dict()):
            raise RecipeError(f"backbone.pictures.{key}: {type(opened).__name__} has no such setting{did_you_mean(key, known)}")
    opened = type(opened).from_dict({**opened.to_dict(), **pictures})
    spec = {
        "class": given.pop("processor_class", None) or PROCESSOR_MAPPING_NAMES.get(model_type),
        "settings": given,
        "image_class": type(opened).__name__,
        "image_processor": json.loads(opened.to_json_string()),
        "template": template if isinstance(template, str) else None,
        "chat": isinstance(template, str) if chat is None else chat,
    }
    spec["settings"] = json.loads(_processor(spec, tokenizer).to_json_string())  # with all defaults filled in
    return spec


def _processor(spec: Mapping[str, Any], tokenizer: Any) -> Any:
    """The processor of a spec, in which parts for what is not read here are None."""
    kind = class_of(spec["class"], ProcessorMixin)
    if not {"image_processor", "tokenizer"} <= set(kind.get_attributes()):
        raise TypeError(f"its processor ({spec['class']}) reads no pictures")
    pictures = class_of(spec["image_class"], BaseImageProcessor).from_dict(dict(spec["image_processor"]))
    parts = {"image_processor": pictures, "tokenizer": tokenizer}
    partial = type(kind.__name__, (_Partial, kind), {"__init__": kind.__init__})
    settings = {k: v for k, v in spec["settings"].items() if k not in kind.get_attributes()}
    return partial.from_args_and_dict([parts.get(name) for name in kind.get_attributes()], {**settings, "chat_template": spec["template"]})


def class_of(name: Any, base: type) -> Any:
    """transformers' own class of that name; a saved name can call for nothing else."""
    found = getattr(transformers, str(name), None)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(f"transformers has no {base.__name__} called '{name}'")
    return found


class Reader:
    """Pictures and prompts as `processor`, transformers' own class, would give them to the model."""

    def __init__(self, spec: Mapping[str, Any], tokenizer: Any):
        self.spec, self.tokenizer = spec, tokenizer
        self.processor: Any = _processor(spec, tokenizer)
        self.image_token: str = self.processor.image_token
        self._forms: dict[tuple[Form, tuple[str, ...]], tuple[list[str], list[str]]] = {}

    def __reduce__(self) -> Any:  # the processor's class is made here, so a copy is built anew
        return Reader, (self.spec, self.tokenizer)

    # ---- pictures

    def see(self, rows: Sequence[Sequence[np.ndarray]]) -> tuple[dict[str, Tensor], list[tuple[str, ...]]]:
        """Each row's pictures uint8 [h, w, 3] -> (the model's arguments, per row the text that stands for each picture)."""
        if not any(rows):
            return {}, [()] * len(rows)
        own = self.processor
        settings = own._merge_kwargs(
            own.valid_processor_kwargs,
            tokenizer_init_kwargs=self.tokenizer.init_kwargs,
            return_tensors="pt",
            images_kwargs={"input_data_format": "channels_last"},
        )
        data, texts = own._process_images([list(row) for row in rows], **settings["images_kwargs"])
        tensors = {key: value for key, value in data.items() if isinstance(value, Tensor) and key not in own.unused_input_names}
        found = iter(texts)
        return tensors, [tuple(next(found) for _ in row) for row in rows]

    # ---- text

    def prompts(self, template: Any, samples: Sequence[Sample]) -> list[list[int]]:
        """Token ids of each row's whole prompt; a picture's part of a sample is the texts that `see` gave for it.

        Where a row has EARLIER turns, the chat template writes them in front.
        """
        rows = []
        for sample in samples:
            shown = {name: part for name, part in sample.parts.items() if isinstance(part, Shown)}
            form = form_of(template, {name: len(texts) for name, texts in shown.items()})
            before = sample.parts.get(EARLIER) or []
            around, fields = self._render(form, tuple(role for role, _ in before))
            given = {name: iter(texts) for name, texts in shown.items()}
            pictures = [next(given[value]) for kind, value in form if kind == PICTURE]
            trusted = around[0] + "".join(picture + text for picture, text in zip(pictures, around[1:], strict=True))
            rows.append((trusted, [*(text for _, text in before), *(as_text(sample.parts.get(name)) for name in fields)]))
        return self._ids(rows)

    def _render(self, form: Form, before: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        """(what stands before, between and after the pictures of a prompt, the fields whose marks are in it, after those of the turns
        `before`, which are given by their roles)."""
        if (form, before) not in self._forms:
            self._forms[form, before] = self._rendered(form, before)
        return self._forms[form, before]

    def _rendered(self, form: Form, before: tuple[str, ...]) -> tuple[list[str], list[str]]:
        fields = [value for kind, value in form if kind == FIELD]
        text, number = "", len(before)
        content: list[dict[str, str]] = []
        for kind, value in form:
            if kind == PICTURE:
                content += [{"type": "text", "text": text}] * bool(text) + [{"type": "image"}]
                text = ""
            else:
                text += value if kind == TEXT else f"{OPEN}{number}{CLOSE}"
                number += kind == FIELD
        content += [{"type": "text", "text": text}] * bool(text)
        if self.spec["chat"]:
            turns = [{"role": role, "content": [{"type": "text", "text": f"{OPEN}{i}{CLOSE}"}]} for i, role in enumerate(before)]
            whole = self._chat([*turns, {"role": "user", "content": content}], add_generation_prompt=True)
        else:
            whole = "".join(part.get("text", self.image_token) for part in content)
        around, count = whole.split(self.image_token), sum(kind == PICTURE for kind, _ in form)
        if len(around) != count + 1:
            raise RecipeError(
                f"backbone.chat: its chat template makes {len(around) - 1} place(s) for {count} picture(s); write chat: false, "
                "and the whole prompt in the task"
            )
        return around, fields

    def _chat(self, messages: list[dict[str, Any]], **settings: Any) -> str:
        try:
            return self.tokenizer.apply_chat_template(messages, chat_template=self.spec["template"], tokenize=False, **settings)
        except jinja2.TemplateError as error:
            raise RecipeError(
                f"backbone.chat: its chat template says: {error}; write chat: false, and the whole prompt in the task"
            ) from None

    def _ids(self, rows: Sequence[tuple[str, Sequence[str]]]) -> list[list[int]]:
        """(text with marks, the fields' texts) -> ids, as its tokenizer makes them of the whole; no special token comes from a field."""
        whole = [_filled(trusted, texts) for trusted, texts in rows]
        bos = self.tokenizer.bos_token
        begun = bool(whole) and bos is not None and whole[0].startswith(bos)  # transformers' own rule for a template that writes it
        ids = self.tokenizer(whole, add_special_tokens=not begun)["input_ids"] if whole else []
        start = [] if begun else self.tokenizer("")["input_ids"]
        for number, (trusted, texts) in enumerate(rows):
            if self._special.findall(whole[number]) != self._special.findall(trusted):
                ids[number] = [*start, *self._split(trusted, texts)]
        return ids

    def _split(self, trusted: str, texts: Sequence[str]) -> list[int]:
        """Ids of a row in which only what stands outside the fields may be a special token."""
        ids: list[int] = []
        for piece in self._special.split(trusted):
            if self._special.fullmatch(piece):
                ids.append(self.tokenizer.convert_tokens_to_ids(piece))
            elif piece:
                ids += self.tokenizer(_filled(piece, texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Finds special tokens, longer ones first."""
        tokens = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return re.compile("(" + "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) + ")" if tokens else "(?!)")

    @cached_property
    def answer_edges(self) -> tuple[str, list[int]]:
        """What stands between a prompt and its answer, and the tokens that end an answer, by the chat template."""
        lead, end = (" ", "") if not self.spec["chat"] else ("", "")
        if self.spec["chat"]:
            asked = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
            answered = [*asked, {"role": "assistant", "content": [{"type": "text", "text": OPEN}]}]
            prompt, whole = self._chat(asked, add_generation_prompt=True), self._chat(answered)
            if whole.startswith(prompt) and whole.count(OPEN) == 1:
                lead, end = whole[len(prompt) :].split(OPEN)
        closing = self._special.search(end)
        before = self.tokenizer(end[: closing.start()], add_special_tokens=False)["input_ids"] if closing else []
        last = self.tokenizer.convert_tokens_to_ids(closing[0]) if closing else self.tokenizer.eos_token_id
        return lead, [*before, last]

    # ---- what the ecosystem asks of it

    def example(self, template: Any, names: Sequence[str]) -> str:
        """A prompt as `processed` takes it, with one picture of each of `names` and `...` for every text of a user's."""
        around, fields = self._render(form_of(template, dict.fromkeys(names, 1)))
        return _filled(self.image_token.join(around), ["..."] * len(fields))

    def processed(self, texts: Sequence[str], pictures: Sequence[Sequence[np.ndarray]] | None, **settings: Any) -> dict[str, Any]:
        """Texts as the chat template renders them and each one's pictures uint8 [h, w, 3] -> the model's arguments, padded."""
        bos = self.tokenizer.bos_token
        begun = bos is not None and texts[0].startswith(bos)
        own = {"padding": True, "add_special_tokens": not begun, **settings, "return_tensors": "pt"}
        if pictures is not None:
            own["images_kwargs"] = {"input_data_format": "channels_last", **own.get("images_kwargs", {})}
        return dict(self.processor(text=list(texts), images=None if pictures is None else list(pictures), **own))

    # ---- is it read as transformers reads it?

    def check(self, where: str, arguments: Collection[str]) -> None:
        """RecipeError where two probing pictures in a prompt do not give what its own processor makes of them."""
        try:
            tensors, shown = self.see([PROBE])
            around, _ = self._render(((PICTURE, "a"), (PICTURE, "b"), (TEXT, "what is it")))
            trusted = around[0] + shown[0][0] + around[1] + shown[0][1] + around[2]
            given = self.processor(
                text=[self.image_token.join(around)], images=[list(PROBE)], add_special_tokens=False, return_tensors="pt"
            )
            ids = self.tokenizer(trusted, add_special_tokens=False)["input_ids"]
            wanted = {k: v for k, v in given.items() if k in arguments and not k.endswith("token_type_ids")}
            same = ids == given["input_ids"][0].tolist() and wanted.keys() == tensors.keys() & set(arguments)
            same = same and all(torch.equal(value, tensors[key]) for key, value in wanted.items())
        except OWN_WAY as error:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise RecipeError(f"backbone.model {where}: its processor cannot be used here: {reason}; {INSTEAD}") from None
        if not same:
            raise RecipeError(f"backbone.model {where}: its processor makes prompts in a way of its own; {INSTEAD}")


def form_of(template: Any, counts: Mapping[str, int]) -> Form:
    """The pieces of a prompt for a row that has `counts` pictures of each input; those without a place of their own stand in front."""
    form: list[tuple[str, str]] = []
    for name in template.order(list(counts)):
        if name not in template.fields:
            form += [(PICTURE, name)] * counts[name]
    for piece, is_field in template.pieces:
        if piece in counts and is_field:
            form += [(PICTURE, piece)] * counts[piece]
        elif not is_field or template.inputs.get(piece, "text") == "text":
            form.append((FIELD if is_field else TEXT, piece))
    return tuple(form)


def _filled(text: str, fields: Sequence[str]) -> str:
    return MARK.sub(lambda found: fields[int(found[1])], text)
