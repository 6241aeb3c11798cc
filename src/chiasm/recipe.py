"""The recipe: one YAML file says what is read, what reads it, where it meets, what is learned and how. These are its types.

Every section is typed and closed: an unknown key is an error. The sections that name a component (inputs, encoders, connector,
backbone, fusion, tasks) collect the component's own keys in `options`; `recipe_check.py` compares them with the component's `Options`.
A bare word stands for the section's main key: `image: image` is `image: {modality: image}`, `connector: mlp` is `connector: {type: mlp}`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from chiasm.recipe_base import OpenSpec, Spec
from chiasm.recipe_errors import RecipeProblems, explain
from chiasm.recipe_override import apply_overrides, take_form
from chiasm.recipe_paths import anchor, find_recipe, split_form
from chiasm.recipe_streams import fuses_nothing, with_text_streams
from chiasm.recipe_yaml import Document, dump, parse_document, read_document
from chiasm.types import RecipeError

Name = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
PositiveInt = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Lora(Spec):
    """Low-rank adapters (peft)."""

    rank: PositiveInt = 16
    """Width of the adapters."""
    alpha: Annotated[float, Field(gt=0)] | None = None
    """Scale of the adapters; twice the rank where not given."""
    dropout: Fraction = 0.0
    """Dropout in front of the adapters."""
    targets: list[str] | None = None
    """Names of the layers to adapt; all linear layers where not given."""


class LoraTrain(Spec):
    """`train: {lora: {rank: 16}}`."""

    lora: Lora = Field(default_factory=Lora)
    """The adapters' settings."""


Trainable = Literal["all", "none"] | PositiveInt | LoraTrain  # a number: only the last n layers


class InputSpec(OpenSpec):
    """One column that is read: `image: image`, or `image: {modality: image, size: 64}`."""

    shorthand: ClassVar[str] = "modality"
    modality: str
    """How the column is opened: image, audio, text, table, features, ... Where it is not given, the input's own name."""


class ConnectorSpec(OpenSpec):
    """The width and length adapter behind an encoder."""

    shorthand: ClassVar[str] = "type"
    type: str = "linear"
    """linear, mlp, pixel_shuffle, perceiver_resampler, q_former, or another component."""


class EncoderSpec(OpenSpec):
    """What turns one modality (or one input, where the key is an input's name) into tokens."""

    shorthand: ClassVar[str] = "model"
    type: str | None = None
    """The encoder component; the modality's own where not given."""
    model: str | None = None
    """A pretrained name (Hub), or a folder that save_pretrained wrote."""
    arch: str | None = None
    """A transformers architecture to build fresh; its configuration's keys may follow."""
    connector: ConnectorSpec = Field(default_factory=ConnectorSpec)
    """What adapts the encoder's tokens to the backbone."""
    train: Trainable = "all"
    """The most that may train: all, none, the last n layers, or {lora: {rank: n}}."""
    allow_missing: list[str] | None = None
    """Weights that may be absent from the checkpoint and start at random, as patterns: [pooler.*]; without it that is an error."""


class TokenizerSpec(Spec):
    """A tokenizer learned from the training text."""

    shorthand: ClassVar[str] = "type"
    type: Literal["words", "bpe"]
    """Whole words, or byte pairs."""
    vocab_size: PositiveInt = 8192
    """The most entries it may have."""


class BackboneSpec(OpenSpec):
    """The model that reads the tokens: pretrained (`model`), fresh (`arch`), or latents where neither is given."""

    shorthand: ClassVar[str] = "model"
    kind: str | None = None
    """causal, bidirectional, encoder_decoder, latent, ...; found out from the model where not given."""
    model: str | None = None
    """A pretrained name (Hub), or a folder that save_pretrained wrote."""
    arch: str | None = None
    """A transformers architecture to build fresh; its configuration's keys may follow."""
    tokenizer: TokenizerSpec | str | None = None
    """A pretrained tokenizer's name, or {type: words|bpe, vocab_size: n}; the model's own where not given."""
    train: Trainable = "all"
    """The most that may train: all, none, the last n layers, or {lora: {rank: n}}."""
    quantize: Literal["nf4"] | None = None
    """nf4: four bits a weight in the linear layers of a pretrained backbone (QLoRA), which then trains not at all or by LoRA."""
    allow_missing: list[str] | None = None
    """Weights that may be absent from the checkpoint and start at random, as patterns: [pooler.*]; without it that is an error."""

    @model_validator(mode="before")
    @classmethod
    def _word(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and data.get("tokenizer") in ("words", "bpe"):
            return {**data, "tokenizer": {"type": data["tokenizer"]}}
        return data

    @model_validator(mode="after")
    def _packed(self) -> BackboneSpec:
        if self.quantize and not self.model:
            raise ValueError("quantize packs the weights of a pretrained backbone; write model: NAME too")
        if self.quantize and self.train != "none" and not isinstance(self.train, LoraTrain):
            raise ValueError("packed weights do not train; write train: none or train: {lora: {rank: 16}} beside quantize")
        return self


class FusionSpec(OpenSpec):
    """Where the inputs meet."""

    shorthand: ClassVar[str] = "type"
    type: str = "early"
    """early, gated_cross_attention, late, or another one: `chiasm recipes fusions` lists them all. none where the backbone reads all."""


class TaskSpec(OpenSpec):
    """What is learned: an objective with its prompt, target and head."""

    shorthand: ClassVar[str] = "type"
    type: str
    """generate, classify, regress, contrast, match, mask, or another component."""
    weight: Annotated[float, Field(ge=0)] = 1.0
    """The task's share of the total loss."""


class JoinSpec(Spec):
    """A second table whose columns are added to every record with the same key."""

    file: str
    """The table."""
    key: str
    """The column that both have."""


class SplitSpec(Spec):
    """Where the records of one split come from."""

    shorthand: ClassVar[str] = "file"
    file: str | None = None
    """A file or folder, a Hub data set, or a split's name of a built-in set."""
    mix: dict[str, Annotated[float, Field(gt=0)]] | list[str] | None = None
    """Several of these as one: a list, every record once; or {NAME: share, ...}, where the one that is largest for its share is read once
    per epoch and the others again and again, e.g. {a.jsonl: 2, b.jsonl: 1}. A bare list is short for it."""
    join: JoinSpec | None = None
    """A second table for this split."""
    keep: Annotated[float, Field(gt=0, le=1)] = 1.0
    """How much of it is read, e.g. 0.05 for a few labels: records drawn by data.seed, and a larger part holds every smaller one."""

    @model_validator(mode="before")
    @classmethod
    def _list(cls, data: Any) -> Any:
        return {"mix": data} if isinstance(data, list) else data

    @model_validator(mode="after")
    def _one(self) -> SplitSpec:
        if (self.file is None) == (not self.mix):
            raise ValueError("give either file: NAME or mix: {NAME: share, ...}")
        return self


class DataSpec(Spec):
    """Where the records come from."""

    shorthand: ClassVar[str] = "builtin"
    builtin: str | None = None
    """A built-in data set, e.g. scenes; its splits need not be named."""
    variant: str | None = None
    """Which form of a built-in set that has several, e.g. of digits."""
    root: str | None = None
    """The folder that the splits' files are in; media paths may not leave it."""
    train: SplitSpec | None = None
    """What is learned from."""
    validation: SplitSpec | None = None
    """What the best checkpoint is chosen by."""
    test: SplitSpec | None = None
    """What is reported."""
    splits: dict[Name, SplitSpec] = Field(default_factory=dict)
    """Further splits by name."""
    group_by: str | None = None
    """A column (a patient, a speaker) whose values never stand in two splits."""
    join: JoinSpec | None = None
    """A second table for all splits."""
    seed: int = 0
    """Of what a built-in set draws, and of a split made from the training data."""

    def named(self) -> dict[str, SplitSpec]:
        """Every split that is given, by name."""
        own = {name: getattr(self, name) for name in ("train", "validation", "test")}
        return {name: split for name, split in {**own, **self.splits}.items() if split is not None}


class StageSpec(Spec):
    """One part of the training. It ends at whichever of epochs, steps and max_minutes comes first."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]*$")] = "main"
    """For messages, logs and overrides (`stages.NAME.steps=10`)."""
    epochs: PositiveInt | None = None
    """Passes over the data; 1 where neither steps nor max_minutes is given."""
    steps: PositiveInt | None = None
    """Optimizer steps."""
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    """Wall time. The schedule follows it, so a stage that ends by time cannot be repeated to the bit."""
    batch_size: PositiveInt = 32
    """Rows of one micro-batch, of all processes together."""
    accumulate: PositiveInt = 1
    """Micro-batches of one optimizer step."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-4
    """The highest learning rate."""
    warmup: Fraction | None = None
    """Fraction of the steps over which the learning rate rises; train.warmup where not given."""
    train: list[str] | None = None
    """Parts that train, e.g. [encoders.image.connector, fusion]; every part that may, where not given."""
    tasks: list[str] | None = None
    """Tasks that are learned; all where not given."""
    data: str = "train"
    """The split that is learned from."""

    @model_validator(mode="before")
    @classmethod
    def _one_epoch(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and not any(data.get(key) is not None for key in ("epochs", "steps", "max_minutes")):
            return {**data, "epochs": 1}
        return data


class BalanceSpec(Spec):
    """A head for each input alone (classify, regress), so that the input which is learned first does not leave the others unlearned."""

    weight: Annotated[float, Field(gt=0)] = 0.3
    """What the loss of each such head counts, beside the task's own."""
    modulate: bool = False
    """Also shorten the steps of the encoder and connector of an input that alone predicts better than the others do (OGM)."""
    alpha: Annotated[float, Field(gt=0)] = 0.5
    """How much: the step is multiplied by 1 - tanh(alpha * ratio) where its ratio to the others is above 1."""
    noise: bool = False
    """With modulate: also add noise to the gradients of the inputs' encoders and connectors, as wide as those spread (OGM-GE)."""


class TrainSpec(Spec):
    """How it is trained, for all stages."""

    seed: int = 0
    """Of the weights, the order and the augmentation."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the machine is faster with it."""
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """How several processes train (docs/distributed.md): ddp, each has the whole model; fsdp, the backbone is split; auto: ddp."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that read and decode; the result does not depend on it."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; about every minute where not given, and always at the end of a stage."""
    keep_last: PositiveInt = 2
    """Checkpoints that are kept."""
    evaluate_every: PositiveInt | None = None
    """Steps between validations; at the end of every epoch where not given."""
    best: str | None = None
    """What picks the kept weights, e.g. "validation answer.exact_match"; the last weights where not given."""
    early_stopping: PositiveInt | None = None
    """Stop after this many validations without a better `best`."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the learning rate falls."""
    warmup: Fraction = 0.05
    """Fraction of a stage's steps over which the learning rate rises."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    """Of matrices; norms, biases and embeddings have none."""
    betas: Annotated[list[Annotated[float, Field(ge=0, lt=1)]], Field(min_length=2, max_length=2)] = [0.9, 0.95]
    """AdamW's decay of the mean gradient and of its square; 0.95 (GPT-3's) forgets the noisy start sooner than 0.999."""
    clip: Annotated[float, Field(gt=0)] | None = 1.0
    """The largest gradient norm; null: no limit."""
    modality_dropout: Fraction | dict[Name, Fraction] = 0.0
    """How often an input is hidden in training: one number for all but prompt text, or {input: p}. The last one that a row has is spared,
    unless its own p is 1."""
    loss_weights: Literal["fixed", "learned"] = "fixed"
    """learned: beside `tasks.NAME.weight`, each task's loss has a weight that is learned with the model (Kendall et al., 2018)."""
    balance: BalanceSpec | None = None
    """Helps inputs that are learned late; nothing of it is kept in the model. Off where not given, `balance: {}` for its defaults."""
    group_rows: PositiveInt = 8
    """The most rows of one picture or clip in a batch."""
    bad_samples: Literal["quarantine", "error"] = "quarantine"
    """What happens to a sample that cannot be read."""
    max_bad: Fraction | None = None
    """Stop where more than this fraction of the samples read is bad."""

    @field_validator("device")
    @classmethod
    def _device(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]+)?", device):
            raise ValueError(f"'{device}' is not allowed; allowed: auto, cpu, cuda, cuda:0, mps")
        return device


class Recipe(Spec):
    """A whole recipe, resolved: every default is filled in."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")] = "recipe"
    """Names the run's folder; the file's name where not given."""
    inputs: Annotated[dict[Name, InputSpec], Field(min_length=1)]
    """The columns that are read: name -> modality."""
    encoders: dict[Name, EncoderSpec] = Field(default_factory=dict)
    """One per modality that the backbone does not read itself; a key may also be an input's name. A text that has one is a stream."""
    backbone: BackboneSpec = Field(default_factory=BackboneSpec)
    """The model that reads the tokens."""
    fusion: FusionSpec = Field(default_factory=FusionSpec)
    """Where the inputs meet."""
    tasks: Annotated[dict[Name, TaskSpec], Field(min_length=1)]
    """What is learned."""
    data: DataSpec = Field(default_factory=DataSpec)
    """Where the records come from."""
    stages: Annotated[list[StageSpec], Field(min_length=1)] = Field(default_factory=lambda: [StageSpec()])
    """The parts of the training, in order."""
    train: TrainSpec = Field(default_factory=TrainSpec)
    """How it is trained."""

    _document: Document = PrivateAttr(default_factory=lambda: Document({}, "recipe"))

    @model_validator(mode="before")
    @classmethod
    def _shorthands(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        if isinstance(data.get("stages"), Mapping):
            data["stages"] = [data["stages"]]
        if isinstance(data.get("inputs"), Mapping):
            encoders = data.get("encoders") or {}
            if isinstance(encoders, Mapping):
                data["inputs"], data["encoders"] = with_text_streams(data["inputs"], encoders)
                if data.get("fusion") is None and fuses_nothing(data["inputs"], data["encoders"]):
                    data["fusion"] = "none"
        return data

    @property
    def document(self) -> Document:
        """The text this came from, for messages with a line."""
        return self._document

    def encoder_for(self, name: str) -> EncoderSpec | None:
        """The encoder of input `name`: its own, else its modality's, else None."""
        return self.encoders.get(name) or self.encoders.get(self.inputs[name].modality)

    def to_yaml(self) -> str:
        """The resolved recipe as text; reads back equal."""
        return dump(self.model_dump(exclude_none=True))


def load_recipe(recipe: FilePath | str | Mapping[str, Any] | Recipe, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe file, the name of a shipped recipe, or a mapping -> Recipe. `overrides` are `key=value`, e.g. `stages.0.steps=10`.
    `NAME:tiny` is the recipe with the changes of its section `tiny`: the same system, small enough to learn in minutes on a CPU.
    Raises RecipeProblems: one line about the first problem, and all of them in `.problems`.
    """
    if isinstance(recipe, Recipe):
        recipe = recipe.model_dump(exclude_none=True)
    from_file, form = not isinstance(recipe, Mapping), None
    if isinstance(recipe, Mapping):
        document = parse_document(dump(dict(recipe)))
        document.places = {}
    else:
        name, form = split_form(str(recipe))
        document = read_document(find_recipe(name))
    if not isinstance(document.data, dict):
        raise RecipeError(f"{document.file}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    stem = FilePath(document.file).stem
    document.data.setdefault("name", stem if stem.replace("-", "").replace("_", "").isalnum() else "recipe")
    take_form(document, form, Recipe)
    anchor(document.data, FilePath(document.file).parent if from_file else FilePath())
    apply_overrides(document, overrides, Recipe)
    anchor(document.data, FilePath())
    try:
        loaded = Recipe.model_validate(document.data)
    except ValidationError as error:
        raise RecipeProblems(explain(error, document, Recipe)) from None
    loaded._document = document
    return loaded
