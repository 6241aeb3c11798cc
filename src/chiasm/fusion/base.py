"""What a fusion is: where input streams meet the backbone, before, between or after its layers.

A strategy defines only the hooks in which it acts; each has a do-nothing default. Shared by all of them: placing (per-modality
normalisation, position and modality embeddings) here, attention with edges in `attention.py`, combining vectors in `combine.py`.
Every weight of a fusion lives under `fusion.`; the backbone's module tree and checkpoint keys stay untouched.

Letters: R rows, U units shared by rows, T text tokens, L stream tokens, W width, H heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from chiasm.fusion.attention import Attention, Start
from chiasm.types import Fused, RecipeError, Step, Streams, Tokens


class Options(BaseModel):
    """Keys of `fusion:` in a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    inputs: tuple[str, ...] | None = None
    """Which inputs this fusion handles; all that the backbone does not read itself, if not given."""
    positions: Literal["auto", "learned", "none"] = "auto"
    """Learned position embeddings on stream tokens. auto: where the encoder's tokens do not carry their place (a feature map's)."""
    normalize: bool = False
    """Layer-normalise each stream first, with a learned scale (per-modality normalisation)."""
    absent: Literal["none", "learned"] = "none"
    """What is seen of an input that a row lacks: nothing, or one learned token of that input."""


@dataclass(frozen=True, slots=True)
class StreamShape:
    """What a fusion must know of an input's tokens: how many at most (None: varies) and whether they carry positions already."""

    num_tokens: int | None
    has_positions: bool


@dataclass(frozen=True, slots=True)
class BackboneShape:
    """What a fusion must know of the backbone."""

    width: int
    num_layers: int
    num_heads: int
    causal: bool
    embedding_std: float = 0.02
    has_cross_attention: bool = False
    takes_positions: bool = False  # it can be told where each token stands, instead of counting them one by one


class Fusion(nn.Module):
    """Base of all strategies. `streams` holds one Tokens per input that the backbone does not read itself."""

    Options = Options
    paper: ClassVar[str] = ""  # who described it, in one line
    interacts: bool = True  # can represent an interaction of inputs, not only a sum of their votes
    unstable: str = ""  # of one that interacts, but learned a pure interaction in fewer than 2 of 3 trainings: what it reached
    votes: bool = False  # branches decide apart, and their decisions are mixed
    branch_losses: tuple[str, ...] = ()  # inputs whose branches learn from a loss of their own too, as the text then does
    order_free: bool = True  # the order in which inputs are declared does not change what it computes
    reads_streams: ClassVar[bool] = True  # False: streams never meet the backbone (two towers)

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__()
        self.options, self.backbone = options, backbone
        self.inputs = tuple(options.inputs if options.inputs is not None else streams)
        for name in self.inputs:
            if name not in streams:
                raise RecipeError(
                    f"fusion.inputs names '{name}', which is not an input with an encoder; those are: {', '.join(streams) or 'none'}"
                )
        self.placing = nn.ModuleDict({name: Placing(options, backbone, streams[name]) for name in self.inputs})

    @classmethod
    def needs_cross_attention(cls, options: Any) -> bool:
        """Whether the backbone must be built with cross-attention of its own."""
        return False

    @property
    def layers(self) -> Sequence[int]:
        """Ahead of which backbone layers `between` is called."""
        return ()

    @property
    def shows_absent(self) -> bool:
        """Whether an input that a row lacks is seen as a learned token."""
        return self.options.absent == "learned"

    @classmethod
    def scatters(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        """Which of `inputs` enter the backbone's sequence, so that the prompt needs placeholders for them."""
        return ()

    @classmethod
    def marks(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        """Of which of `inputs` the text must tell where each item stands, by a marker token."""
        return ()

    def place(self, streams: Streams) -> Streams:
        """Normalise, add positions, show what is absent; masked values become 0, so that garbage there cannot reach anything."""
        placed = {}
        for name in self.inputs:
            if name in streams:
                placed[name] = self.placing[name](streams[name])
        return placed

    def before(self, text: Tokens, streams: Streams, step: Step) -> Tokens:
        """Early: what enters the first layer. Never changes the length: the processor made room with placeholders."""
        return text

    def memory(self, streams: Streams, step: Step) -> Tokens | None:
        """For a backbone that has cross-attention of its own: what it reads."""
        return None

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        """Intermediate: called ahead of each layer in `layers`."""
        return text, streams

    def kept(self, key: Any, streams: Streams, step: Step, change: Callable[[], Any]) -> Any:
        """What `change` makes of streams and prompt: computed while the prompt is read, frozen for every token written after it."""
        return next(iter(streams.values())).frozen((self, key), step, change) if streams else change()

    def after(self, text: Tokens, streams: Streams, step: Step) -> Fused:
        """Late: what the tasks get. The default is one branch, the backbone's output."""
        return Fused({"text": text})

    def gates(self) -> list[Tensor]:
        """Gates that start closed; `gates_open` opens them."""
        return []

    @contextlib.contextmanager
    def gates_open(self) -> Generator[None]:
        """Open every gate for the influence check and gradient contracts, then restore the bits."""
        gates = self.gates()
        kept = [g.detach().clone() for g in gates]
        with torch.no_grad():
            for gate in gates:
                gate.fill_(1.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for gate, value in zip(gates, kept, strict=True):
                    gate.copy_(value)


class LayerOptions(Options):
    """Keys of every fusion that acts between layers."""

    every: Annotated[int, Field(ge=1)] = 1
    """Ahead of every how many layers."""
    heads: Annotated[int, Field(ge=1)] | None = None
    """Attention heads; the backbone's number if not given."""
    width: Annotated[int, Field(ge=1)] | None = None
    """Inner width of the attention; the backbone's if not given."""
    dropout: float = 0.0
    """Dropout on attention weights."""


class SeeingOptions(LayerOptions):
    """Keys of the fusions whose text reads streams between layers."""

    see: Literal["all", "last"] = "all"
    """Which pictures (or clips) a text token reads where several stand among the text: all of the row's, or only those of the last place
    before it, as Flamingo does. last: each has a marker token in the text, where the prompt places it."""


class LayerFusion(Fusion):
    """Base of the strategies that act between layers: ahead of layers 0, every, 2 * every, ..."""

    Options = LayerOptions

    @classmethod
    def marks(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        if getattr(options, "see", "all") == "all":
            return ()
        return tuple(inputs if options.inputs is None else options.inputs)

    def seen(self, name: str, streams: Streams, step: Step) -> Tensor | None:
        """[R, T, L] what each text token may read of an input; None: all of it."""
        return step.before(name, streams[name]) if getattr(self.options, "see", "all") == "last" and name in streams else None

    @property
    def layers(self) -> Sequence[int]:
        return range(0, self.backbone.num_layers, self.options.every)

    def at(self, layer: int) -> int:
        """Which of this fusion's blocks stands ahead of `layer`."""
        return layer // self.options.every

    def attention(self, start: Start = "random") -> Attention:
        """A fresh attention of this fusion's size."""
        heads = self.options.heads or self.backbone.num_heads
        return Attention(self.backbone.width, heads, inner=self.options.width, start=start, dropout=self.options.dropout)

    def needs_layers(self, least: int, instead: str) -> None:
        """RecipeError where fewer than `least` layers are met, since what streams read would then reach nothing."""
        if len(self.layers) < least:
            raise RecipeError(
                f"fusion.every: {type(self).__name__} needs to meet {least} layers or more, and meets {len(self.layers)} of the "
                f"backbone's {self.backbone.num_layers}; use a deeper backbone, a smaller `every`, or type: {instead}"
            )


class Placing(nn.Module):
    """Tokens [U, K * L, W]: optional normalisation, learned position and modality embedding, one input's own.

    With `absent: learned` a unit with nothing visible shows the learned token at its first place.
    """

    def __init__(self, options: Options, backbone: BackboneShape, stream: StreamShape):
        super().__init__()
        self.norm = nn.LayerNorm(backbone.width) if options.normalize else nn.Identity()
        learned = options.positions == "learned" or (options.positions == "auto" and not stream.has_positions)
        if learned and stream.num_tokens is None:
            raise RecipeError(
                "fusion.positions: learned needs a fixed number of tokens; set the encoder's grid (image; with the input's frames: video) "
                "or tokens (audio, features), or positions: none"
            )
        length = stream.num_tokens if learned and stream.num_tokens is not None else 1
        spread = 0.7 if options.normalize else backbone.embedding_std  # comparable with what it is added to, so that places differ
        self.position = nn.Parameter(torch.randn(length, backbone.width) * spread) if options.positions != "none" else None
        self.absent = nn.Parameter(torch.randn(backbone.width) * spread) if options.absent == "learned" else None

    def forward(self, tokens: Tokens) -> Tokens:
        hidden = ~tokens.mask.unsqueeze(-1)
        values = self.norm(tokens.values.masked_fill(hidden, 0.0))  # else NaN there would reach gradients
        values = self.placed(values).masked_fill(hidden, 0.0)
        if self.absent is None:
            return replace(tokens, values=values)
        mask = shown(tokens.mask)
        return replace(tokens, values=torch.where((mask & ~tokens.mask).unsqueeze(-1), self.absent.to(values.dtype), values), mask=mask)

    def placed(self, values: Tensor) -> Tensor:
        """With what tells their places apart; several pictures or clips have the same places."""
        if self.position is None:
            return values
        if len(self.position) == 1:
            return values + self.position
        items = -(-values.shape[1] // len(self.position))
        return values + self.position.repeat(items, 1)[: values.shape[1]]


def shown(mask: Tensor) -> Tensor:
    """[U, L] the mask with the first token visible where none is: the place of a learned absent token."""
    first = torch.zeros_like(mask)
    first[:, 0] = ~mask.any(1)
    return mask | first


def at_placeholders(stream: Tokens, place: Tensor) -> Tensor:
    """What stands at each placeholder of `place` [R, T]: values [R, T, W], arbitrary elsewhere.

    The n-th placeholder of a row takes the n-th token of the row's stream.
    """
    values = stream.by_row().values
    return values.gather(1, ordinal(place, values.shape[1]).unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def visible_at(mask: Tensor, place: Tensor) -> Tensor:
    """[R, T] whether the token that a placeholder takes is there and visible, of the rows' streams' mask [R, L]."""
    return mask.gather(1, ordinal(place, mask.shape[1])) & (place.long().cumsum(1) <= mask.shape[1])


def ordinal(place: Tensor, length: int) -> Tensor:
    """[R, T] which token of `length` a placeholder takes."""
    return (place.long().cumsum(1) - 1).clamp(0, length - 1)
