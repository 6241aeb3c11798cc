"""What a fusion is: where input streams meet the backbone, before, between or after its layers.

A strategy defines only the hooks in which it acts; each has a do-nothing default. Two things are shared by all of them and live here:
`Attention` (any tokens read any others, absent ones give exactly 0) and placing (per-modality normalisation, position and modality
embeddings). Every weight of a fusion lives under `fusion.`; the backbone's module tree and checkpoint keys stay untouched.

Letters: R rows, U units shared by rows, T text tokens, L stream tokens, W width, H heads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torch.nn import functional

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


class Fusion(nn.Module):
    """Base of all strategies. `streams` holds one Tokens per input that the backbone does not read itself."""

    Options = Options
    interacts: ClassVar[bool] = True  # can represent an interaction of inputs, not only a sum of their votes
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

    @classmethod
    def scatters(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        """Which of `inputs` enter the backbone's sequence, so that the prompt needs placeholders for them."""
        return ()

    def place(self, streams: Streams) -> Streams:
        """Normalise and add positions; masked values become exactly 0, so that garbage there cannot reach anything."""
        placed = {}
        for name in self.inputs:
            if name in streams:
                hidden = ~streams[name].mask.unsqueeze(-1)
                values = self.placing[name](streams[name].values.masked_fill(hidden, 0.0))  # else NaN there would reach gradients
                placed[name] = replace(streams[name], values=values.masked_fill(hidden, 0.0))
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


class Placing(nn.Module):
    """[U, K * L, W] -> [U, K * L, W]: optional normalisation, learned position and modality embedding, one input's own."""

    def __init__(self, options: Options, backbone: BackboneShape, stream: StreamShape):
        super().__init__()
        self.norm = nn.LayerNorm(backbone.width) if options.normalize else nn.Identity()
        learned = options.positions == "learned" or (options.positions == "auto" and not stream.has_positions)
        if learned and stream.num_tokens is None:
            raise RecipeError(
                "fusion.positions: learned needs a fixed number of tokens; set the encoder's grid (image) or tokens (audio), or none"
            )
        length = stream.num_tokens if learned and stream.num_tokens is not None else 1
        spread = 0.7 if options.normalize else backbone.embedding_std  # comparable with what it is added to, so that places differ
        self.position = nn.Parameter(torch.randn(length, backbone.width) * spread) if options.positions != "none" else None

    def forward(self, values: Tensor) -> Tensor:
        values = self.norm(values)
        if self.position is None:
            return values
        items = values.shape[1] // len(self.position) if len(self.position) > 1 else 1  # several pictures: each has the same places
        return values + self.position.repeat(items, 1)


class Attention(nn.Module):
    """Multi-head attention of `x` [R, T, W] over a stream's tokens, whose keys and values are computed once per unit.

    `start="matching"` sets W_Q = W_K to one orthogonal matrix, so that attention begins by matching similar vectors.
    A row whose stream is absent gets exactly 0. Formula: softmax(Q K^T / sqrt(W / H)) V (Vaswani et al., 2017).
    """

    def __init__(self, width: int, heads: int, *, start: str = "random", dropout: float = 0.0):
        super().__init__()
        if width % heads:
            raise RecipeError(f"fusion.heads: width {width} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width, bias=False)  # a bias of keys cancels in the softmax
        self.value, self.output = nn.Linear(width, width), nn.Linear(width, width)
        if start == "matching":
            with torch.no_grad():
                self.key.weight.copy_(nn.init.orthogonal_(torch.empty(width, width)))
                self.query.weight.copy_(self.key.weight)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, length, W / H]

    def keys_values(self, source: Tokens, normed: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """[U, H, L, W / H] twice; while generating they are kept in the tokens' memo."""
        if step.generating and (self, "kv") in source.memo:
            return source.memo[self, "kv"]
        pair = self.split(self.key(normed)), self.split(self.value(normed))
        if step.generating:
            source.memo[self, "kv"] = pair
        return pair

    def forward(self, x: Tensor, source: Tokens, normed: Tensor, step: Step) -> Tensor:
        keys, values = self.keys_values(source, normed, step)
        mask, present = source.mask, source.mask.any(1)  # [U, L], [U]
        mask = mask | ~present.unsqueeze(1)  # a row with nothing visible would be NaN; it is set to 0 below
        if source.share is not None:
            keys, values, mask, present = keys[source.share], values[source.share], mask[source.share], present[source.share]
        query = self.split(self.query(x))
        dropout = self.dropout if self.training else 0.0
        if step.trace is not None:
            weights = (query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
            step.trace[f"attention{len(step.trace)}"] = weights  # [R, H, T, L]
            read = weights @ values
        else:
            read = functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask[:, None, None], dropout_p=dropout)
        return self.output(read.transpose(1, 2).flatten(2)) * present[:, None, None]


def at_placeholders(stream: Tokens, place: Tensor) -> tuple[Tensor, Tensor]:
    """What stands at each placeholder of `place` [R, T]: (values [R, T, W], whether it is visible [R, T]).

    The n-th placeholder of a row takes the n-th token of the row's stream; elsewhere the result is arbitrary.
    """
    rows = stream.by_row()
    wanted = place.long().cumsum(1) - 1  # [R, T]
    ordinal = wanted.clamp(0, rows.mask.shape[1] - 1)
    values = rows.values.gather(1, ordinal.unsqueeze(-1).expand(-1, -1, rows.values.shape[-1]))
    return values, rows.mask.gather(1, ordinal) & (wanted < rows.mask.shape[1])
