"""What crosses a folder: the few small dataclasses that data passes through, and the errors a user can meet.

    files -> Sample -> Batch -> Tokens (one per input) -> [fusion x backbone] -> Fused -> task -> loss | Prediction

Dimensions: R rows of a batch, U units (distinct pictures or clips), K items per row, L tokens per unit, T text tokens, W width.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


class ChiasmError(ValueError):
    """A user's mistake: one line that names the file, line or key and says what to type instead."""

    exit_code = 2


class RecipeError(ChiasmError):
    """A recipe that cannot be run as it stands."""


class BadInput(ChiasmError):
    """One part of one sample that cannot be used. Quarantined and counted in training; an error at use."""

    def __init__(self, reason: str, message: str, *, input: str = "", item: int | None = None):
        super().__init__(message)
        self.reason, self.input, self.item = reason, input, item

    def __reduce__(self):
        return _rebuild_bad_input, (self.reason, str(self), self.input, self.item)


def _rebuild_bad_input(reason: str, message: str, input: str, item: int | None) -> BadInput:
    return BadInput(reason, message, input=input, item=item)


class NonFiniteError(ChiasmError):
    """Training met NaN or Inf too often in a row; the last finite state was saved."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One record of a source, parts still raw: text is str, a number is a number, a picture or a sound is a path, bytes, or
    an array that a built-in set drew. A part that is absent is simply not in `parts` (or is None)."""

    id: str  # unique and stable within its split, e.g. "train.jsonl:12"
    parts: Mapping[str, Any]  # column -> raw value
    file: str = ""  # where it came from, for messages
    line: int | None = None
    root: str | None = None  # folder that relative media paths start from and may not leave; None: paths are not allowed


@dataclass(frozen=True, slots=True)
class BadSample:
    """A sample that was quarantined: one line of RUN/quarantine.jsonl."""

    id: str
    file: str
    line: int | None
    input: str  # the column
    reason: str  # a reason code, e.g. "truncated"
    message: str
    item: int | None = None  # which of the input's pictures or clips, from 0, where it has several


class Shown(tuple[str, ...]):
    """What stands in a prompt for each of a row's pictures, where the backbone reads them itself."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A part that a built-in set draws (or speaks) when it is opened: `draw()` gives uint8 [height, width, 3], a Sound or a Film."""

    key: str  # equal keys are the same picture or clip
    draw: Callable[[], Any]  # picklable


@dataclass(frozen=True, slots=True)
class Opened:
    """A sample whose media were decoded (and augmented): input -> decoded value; an absent input is not in `values`."""

    sample: Sample
    values: Mapping[str, Any]
    keys: Mapping[str, str | tuple[str, ...]]  # input -> identity of its picture or clip, or of each; equal ones share a unit
    notes: tuple[str, ...] = ()  # codes of what was fixed or cut, e.g. "image: composited on white"


@dataclass(frozen=True, slots=True)
class Sound:
    """A decoded clip: `samples` float32 [frames] mono in -1..1, `rate` in Hz."""

    samples: Any
    rate: int


@dataclass(frozen=True, slots=True)
class Film:
    """Frames of a moving picture: `frames` uint8 [T, height, width, 3], `times` float [T] when each is first seen, in seconds."""

    frames: Any
    times: Any


@dataclass(slots=True)
class Tokens:
    """What an encoder makes and a fusion takes.

    values [U, L, W]; mask [U, L] True where a token is visible. A batch row r reads unit share[r], so several texts about one
    picture share its tokens; share None means row r reads unit r. A row that lacks the input reads a unit whose mask is all
    False, and attention over it gives exactly 0, never NaN. item [U, L] says which picture or clip (0-based) a token is of.
    """

    values: Tensor
    mask: Tensor
    share: Tensor | None = None  # [R]
    item: Tensor | None = None
    grid: tuple[int, int] | None = None  # rows x columns, where the tokens are a picture's patches
    memo: dict[Any, Any] = field(default_factory=dict)  # what is computed once per generation

    @property
    def rows(self) -> int:
        return len(self.values) if self.share is None else len(self.share)

    @property
    def present(self) -> Tensor:
        """[R] True where the row has at least one visible token."""
        visible = self.mask.any(1)
        return visible if self.share is None else visible[self.share]

    def by_row(self) -> Tokens:
        """The same tokens laid out one unit per row: values [R, L, W]."""
        if self.share is None:
            return self
        item = None if self.item is None else self.item[self.share]
        return Tokens(self.values[self.share], self.mask[self.share], item=item, grid=self.grid)

    def select(self, rows: Tensor) -> Tokens:
        """The tokens that batch rows `rows` read (an index with repeats allowed); units stay shared."""
        share = rows if self.share is None else self.share[rows]
        return dataclasses.replace(self, share=share)

    def frozen(self, key: Any, step: Step, change: Callable[[], Any]) -> Any:
        """What `change` makes of these tokens and the prompt: computed while the prompt is read, frozen for each token written after it."""
        if step.generating and step.offset:
            if key not in self.memo:
                raise TypeError("past_key_values without the streams that the prompt was read with; pass the same `streams` at every step")
            return self.memo[key]
        changed = change()
        if step.generating:
            self.memo[key] = changed
        return changed

    def pooled(self) -> Tensor:
        """Masked mean per row [R, W]; exactly 0 where nothing is visible."""
        visible = self.mask.unsqueeze(-1)
        mean = self.values.masked_fill(~visible, 0.0).sum(1) / visible.sum(1).clamp_min(1)  # [U, W]
        return mean if self.share is None else mean[self.share]


Streams = dict[str, Tokens]  # one per input that the backbone does not read itself


@dataclass(slots=True)
class Step:
    """What a fusion hook cannot see from its arguments."""

    mask: Tensor  # [R, T] which text tokens are real (with a cache: past ones included)
    placeholders: Mapping[str, Tensor] = field(default_factory=dict)  # input -> [R, T] where its tokens go
    readable: Tensor | None = None  # [R, T] prompt tokens that streams may read without leaking the future
    prompt: Tokens | None = None  # an encoder-decoder's prompt as encoded: all the text that streams may read while a decoder writes
    positions: Tensor | None = None  # [R, T] set by `before` where the backbone is not to count its tokens one by one
    offset: int = 0  # tokens already in the generation cache
    generating: bool = False  # with a cache: keys and values of streams may be memoised
    trace: dict[str, Tensor] | None = None  # filled with attention where an explanation asks for it
    reach: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)  # input -> ([R, T] first, [R, T] last) item before each token

    def before(self, name: str, tokens: Tokens) -> Tensor | None:
        """[R, T, L] the tokens of input `name` whose items stand last before each text token; None where its places are not marked."""
        if name not in self.reach:
            return None
        first, last = self.reach[name]
        item = torch.zeros_like(tokens.mask, dtype=torch.long) if tokens.item is None else tokens.item
        item = (item if tokens.share is None else item[tokens.share]).unsqueeze(1)
        return (item >= first.unsqueeze(2)) & (item <= last.unsqueeze(2))


@dataclass(slots=True)
class Fused:
    """Named branches: one for early and intermediate fusion, one per input for late, both for hybrid."""

    branches: dict[str, Tokens]
    mix: Tensor | None = None  # [R, branches] weight per sample; None: equal
    words: Tensor | None = None  # [R, T] which tokens of the text branch are text, not a stream's
    aux: dict[str, Tensor] = field(default_factory=dict)  # gates, statistics
    trace: dict[str, Tensor] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """Rows of one task, padded, with masks.

    `inputs` are the model's arguments for these rows: input_ids, attention_mask and, per non-text input, `NAME_index` [R, K] into the
    pool's units (-1: absent). The pool (decoded media as tensors, shared by all batches of a step) is kept apart so that a picture is
    encoded once for all texts about it.
    """

    task: str
    ids: list[str]
    inputs: dict[str, Tensor]
    targets: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> Batch:
        return dataclasses.replace(self, inputs=to_device(self.inputs, device), targets=to_device(self.targets, device))


@dataclass(frozen=True, slots=True)
class Occasion:
    """What a task that draws (partners, masks) is told of the batch that it makes."""

    units: Mapping[str, list[tuple[int, ...]]] = field(default_factory=dict)  # input -> every row's pictures or clips, as the pool has them
    key: tuple[int, int] | None = None  # (seed, epoch) while training, where draws change from epoch to epoch; else they stay the same
    scored: bool = True  # False at use: a row gets the one answer that it asked for


@dataclass(slots=True)
class StepBatches:
    """What one optimizer micro-step gets: the pool of media, one batch per task, and what was refused on the way."""

    pool: dict[str, dict[str, Tensor]]  # input -> tensor name -> [U, ...]
    batches: list[Batch]
    bad: list[BadSample] = field(default_factory=list)
    read: int = 0
    filtered: int = 0  # samples that no task of this stage can use
    notes: dict[str, int] = field(default_factory=dict)  # what was fixed or cut on the way -> how often
    rows: list[int] = field(default_factory=list)  # the rows' numbers in their split (filled by the loader)
    outcomes: list[str] = field(default_factory=list)  # what became of each row: used, quarantined or filtered

    def to(self, device: torch.device | str) -> StepBatches:
        pool = {name: to_device(tensors, device) for name, tensors in self.pool.items()}
        return dataclasses.replace(self, pool=pool, batches=[b.to(device) for b in self.batches])


@dataclass(slots=True)
class Prediction:
    """What a task hands to metrics, to the command line and to the server."""

    id: str
    task: str
    output: Any  # text, label, number, or an embedding (list of floats)
    target: Any = None  # None where the sample has none
    score: float | None = None  # how sure: probability of the output where the task has one
    probabilities: dict[str, float] | None = None  # label -> probability, for classify
    surprise: tuple[float, int] | None = None  # -log likelihood (nats) of a text's tokens and how many these are, where a metric asks
    groups: dict[str, str] = field(default_factory=dict)  # e.g. {"kind": "colour"}
    sample: str = ""  # the row's id, where a task has several predictions of one row and `id` tells them apart

    @property
    def row(self) -> str:
        """The id of the row that this is about."""
        return self.sample or self.id


def to_device(tensors: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """Move the tensors of a dict; leave anything else as it is."""
    return {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in tensors.items()}
