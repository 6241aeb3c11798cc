"""What converting a system takes: a recipe that builds the same model fresh, the move of every weight, and inputs to compare both on.

Letters: R rows, T text tokens, L tokens or regions of a picture, W width.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig

from chiasm.loading import WEIGHTS, from_checkpoint, refuse_incomplete
from chiasm.preprocessing import RESAMPLING, picture_options
from chiasm.recipe_check import arch_keys
from chiasm.types import ChiasmError, Sample

# of a config, what a recipe need not say: names, what is returned, and what the composite decides itself
UNSAID = {"architectures", "dtype", "id2label", "label2id", "num_labels", "output_hidden_states", "output_attentions", "problem_type"}
UNSAID |= {"return_dict", "transformers_version", "is_encoder_decoder", "add_cross_attention", "use_cache", "chunk_size_feed_forward"}
# of a generation config, what a task's `generation` says; which tokens begin and end a text is not a task's to say
DECODING = ("max_new_tokens", "min_new_tokens", "num_beams", "do_sample", "temperature", "top_k", "top_p", "length_penalty")
DECODING += ("early_stopping", "no_repeat_ngram_size", "repetition_penalty")


class System:
    """One transformers architecture as a Chiasm model. A subclass is one file, called like the `model_type` that it converts."""

    classes: ClassVar[tuple[str, ...]] = ()  # transformers' classes whose checkpoints can be converted; the first where a config names none

    def __init__(self, where: str, config: PreTrainedConfig, tokenizer: str | None = None):
        self.where, self.config, self.tokenizer_name = where, config, tokenizer or where
        if Path(self.tokenizer_name).is_dir():
            self.tokenizer_name = str(Path(self.tokenizer_name).absolute())  # the recipe may be read from anywhere
        named = (config.architectures or [self.classes[0]])[0]
        if named not in self.classes:
            self.refuse("architectures", f"{named} cannot be converted; of {config.model_type} these can: {', '.join(self.classes)}")
        self.check()
        self.model: Any = load(getattr(transformers, named), where)

    def refuse(self, key: str, reason: str) -> None:
        """ChiasmError that names the key of the checkpoint's config."""
        raise ChiasmError(f"{self.where}: {key}: {reason}")

    def check(self) -> None:
        """`refuse` what the config asks for and Chiasm has not; called before the weights are read."""

    def recipe(self) -> dict[str, Any]:
        """The recipe whose fresh model has the checkpoint's architecture."""
        raise NotImplementedError

    def rows(self) -> list[Sample]:
        """Rows of the kind that the recipe's inputs and tasks learn from before a model is built, such as labels."""
        return []

    def move(self, weights: Weights, model: Any) -> None:
        """Name, for every weight of the checkpoint, where it goes in `model`, or why it goes nowhere."""
        raise NotImplementedError

    def compare(self, model: Any, processor: Any) -> dict[str, tuple[Tensor, Tensor]]:
        """What transformers' model and ours make of the same random input: name -> (theirs, ours)."""
        raise NotImplementedError

    # ---- what systems share

    @property
    def tokenizer(self) -> Any:
        return from_checkpoint(AutoTokenizer, self.tokenizer_name, "tokenizer")

    def picture(self) -> dict[str, Any]:
        """The image input, with the checkpoint's own preprocessing."""
        settings = from_checkpoint(AutoImageProcessor, self.where, "image processor", use_fast=False).to_dict()
        for key, wanted in (("do_resize", True), ("do_rescale", True), ("do_pad", False), ("resample", tuple(RESAMPLING))):
            value = settings.get(key, wanted[0] if isinstance(wanted, tuple) else wanted)
            if value not in (None, *(wanted if isinstance(wanted, tuple) else (wanted,))):
                self.refuse(f"preprocessor_config.json: {key}", f"{value} is not supported; prepare pictures as {wanted}")
        if abs(settings.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-6:
            self.refuse("preprocessor_config.json: rescale_factor", f"{settings['rescale_factor']} is not supported; only 1/255 is")
        found = picture_options(settings)
        if "size" not in found or ("short_side" in found and found["short_side"] < max(found["size"])):
            self.refuse("preprocessor_config.json: size", f"{settings.get('size')} does not lead to pictures of one size")
        return {"modality": "image", **found, "exact": True}

    def generation(self) -> dict[str, Any]:
        """How the checkpoint writes unless told otherwise, as a task's `generation`."""
        theirs = self.model.generation_config
        usual = transformers.GenerationConfig()
        found = {key: getattr(theirs, key, None) for key in DECODING}
        found = {key: value for key, value in found.items() if value not in (None, False, getattr(usual, key, None))}
        if theirs.max_length not in (None, usual.max_length) and "max_new_tokens" not in found:
            found["max_new_tokens"] = max(1, theirs.max_length - 1)  # the token that decoding starts with counts there
        return found


class Weights:
    """A checkpoint's tensors, each of which is taken once or dropped with a reason."""

    def __init__(self, source: Mapping[str, Tensor]):
        self.source = dict(source)
        self.target: dict[str, Tensor] = {}
        self.dropped: dict[str, str] = {}  # name -> why
        self.fresh: dict[str, str] = {}  # a weight of ours that the checkpoint has nothing for -> why
        self._used: set[str] = set()

    def take(self, name: str) -> Tensor:
        """One tensor, which is then used."""
        self._used.add(name)
        return self.source[name]

    def part(self, prefix: str, target: str, rename: Callable[[str], str] = lambda name: name) -> None:
        """Everything below `prefix` that is not used yet goes below `target` under the same (or a `rename`d) name."""
        for name in [n for n in self.source if n.startswith(prefix) and n not in self._used]:
            self.target[target + rename(name.removeprefix(prefix))] = self.take(name)

    def drop(self, prefix: str, why: str) -> None:
        """What is below `prefix` is not needed."""
        for name in [n for n in self.source if n.startswith(prefix) and n not in self._used]:
            self._used.add(name)
            self.dropped[name] = why

    @property
    def left(self) -> list[str]:
        return [name for name in self.source if name not in self._used]


def load(kind: Any, where: str) -> Any:
    """transformers' own model of a checkpoint, in its dtype, with every weight accounted for."""
    model, info = from_checkpoint(kind, where, "checkpoint", **WEIGHTS)
    refuse_incomplete("checkpoint", where, info)
    return model.eval()


def arch_section(config: PreTrainedConfig) -> dict[str, Any]:
    """A transformers config as the section of a recipe that builds it fresh: `arch` and every key that is not its default."""
    plain = json.loads(config.to_json_string(use_diff=False))
    usual = json.loads(type(config)().to_json_string(use_diff=False))
    names = {theirs: ours for ours, theirs in config.attribute_map.items()}
    keys = [key for key in arch_keys(config.model_type) if key in plain and key not in UNSAID and key not in config.attribute_map]
    found = {key: plain[key] for key in keys if plain[key] != usual.get(key)}
    again = json.loads(AutoConfig.for_model(config.model_type, **found).to_json_string(use_diff=False))
    for key in keys:
        if again.get(key) != plain[key]:
            raise ChiasmError(f"config.json: {names.get(key, key)}: {plain[key]!r} cannot be said in a recipe for arch {config.model_type}")
    return {"arch": config.model_type, **found}


def random_pictures(config: PreTrainedConfig, count: int, generator: torch.Generator) -> Tensor:
    """[count, channels, side, side] pixel values of a vision config's size."""
    size = config.image_size
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return torch.randn(count, getattr(config, "num_channels", 3), height, width, generator=generator)


def random_ids(words: int, lengths: list[int], generator: torch.Generator, avoid: set[int]) -> tuple[Tensor, Tensor]:
    """([R, T] token ids of rows of unequal length, padded with the last allowed one on the right; [R, T] which are real)."""
    allowed = torch.tensor([i for i in range(words) if i not in avoid] or [0])
    ids = allowed[torch.randint(len(allowed), (len(lengths), max(lengths)), generator=generator)]
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return ids, mask
