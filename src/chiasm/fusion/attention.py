"""The first shared piece of the family: attention with edges that say who reads whom.

`Attention` lets some tokens read one or several sources in one softmax; absent and hidden ones give exactly 0. `Reader` is a node's whole
step: norms, attention, residual, feed-forward. A strategy is little more than which Readers it has and who reads whom.

Letters: R rows, U units shared by rows, T tokens that read, L source tokens, W width, I inner width, H heads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.types import RecipeError, Step, Tokens

Start = Literal["matching", "random"]


class Attention(nn.Module):
    """Multi-head attention of `x` [R, T, W] over sources, whose keys and values are computed once per unit.

    `start="matching"` sets W_Q = W_K to one orthogonal matrix, so that attention begins by matching similar vectors. What is read starts
    small (`output` with std 0.02, as GPT-2's own projections), so that the text still knows itself one layer later.
    A row whose sources are absent gets exactly 0. Formula: softmax(Q K^T / sqrt(I / H)) V (Vaswani et al., 2017).
    """

    def __init__(self, width: int, heads: int, *, inner: int | None = None, start: Start = "random", dropout: float = 0.0):
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise RecipeError(f"fusion.heads: width {inner} is not divisible by {heads} heads")
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(width, inner), nn.Linear(width, inner, bias=False)  # a bias of keys cancels in the softmax
        self.value, self.output = nn.Linear(width, inner), nn.Linear(inner, width)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)
        if start == "matching":
            with torch.no_grad():
                self.key.weight.copy_(nn.init.orthogonal_(torch.empty(inner, width)))
                self.query.weight.copy_(self.key.weight)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, length, I / H]

    def keys_values(self, source: Tokens, normed: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        """[U, H, L, I / H] twice; while generating they are kept in the tokens' memo."""
        if step.generating and (self, "kv") in source.memo:
            return source.memo[self, "kv"]
        pair = self.split(self.key(normed)), self.split(self.value(normed))
        if step.generating:
            source.memo[self, "kv"] = pair
        return pair

    def forward(
        self, x: Tensor, sources: Iterable[tuple[Tokens, Tensor]], step: Step, *, allowed: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """`sources`: (tokens, their normalised values). allowed [R, T, L]: the edges there are. bias [H, L]: added to the scores."""
        found = []
        for source, normed in sources:
            keys, values = self.keys_values(source, normed, step)
            mask = source.mask  # [U, L]
            if source.share is not None:
                keys, values, mask = keys[source.share], values[source.share], mask[source.share]
            found.append((keys, values, mask))
        keys, values, mask = found[0]
        if len(found) > 1:
            keys, values = (torch.cat([source[part] for source in found], 2) for part in (0, 1))
            mask = torch.cat([source[2] for source in found], 1)
        edges = mask.unsqueeze(1) if allowed is None else mask.unsqueeze(1) & allowed  # [R, 1 or T, L]
        some = edges.any(-1, keepdim=True)
        edges = (edges | ~some).unsqueeze(1)  # a token with nothing visible would be NaN; it is set to 0 below
        query, dropout = self.split(self.query(x)), self.dropout if self.training else 0.0
        attend = edges if bias is None else torch.where(edges, bias.unsqueeze(1).to(query.dtype), -torch.inf)  # [R, H, 1 or T, L]
        if step.trace is not None:
            scores = query @ keys.transpose(-1, -2) / query.shape[-1] ** 0.5
            weights = (scores.masked_fill(~edges, -torch.inf) if bias is None else scores + attend).softmax(-1)
            step.trace[f"attention{len(step.trace)}"] = weights  # [R, H, T, L]
            read = weights @ values
        else:
            read = functional.scaled_dot_product_attention(query, keys, values, attn_mask=attend, dropout_p=dropout)
        return self.output(read.transpose(1, 2).flatten(2)) * some


class Gate(nn.Module):
    """[..., W] -> tanh(a) * [..., W], one scalar a that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.weight) * x


class Reader(nn.Module):
    """A node [R, T, W] reads its `sources` in one softmax, then passes a feed-forward; a row with nothing to read passes unchanged.

    norm: pre (x + A(norm x)) or post (norm(x + A x), as BERT and LXMERT do it). gated: both steps behind tanh gates that start closed.
    attention None: it is shared with other readers and given at each call.
    """

    def __init__(
        self,
        width: int,
        attention: Attention | None,
        sources: Iterable[str],
        *,
        feed_forward: int = 0,
        gated: bool = False,
        norm: Literal["pre", "post"] = "pre",
    ):
        super().__init__()
        self.sources, self.post = tuple(sources), norm == "post"
        self.norm, self.attention = nn.LayerNorm(width), attention
        self.norm_sources = nn.ModuleDict({} if self.post else {name: nn.LayerNorm(width) for name in self.sources})
        self.gate: nn.Module = Gate() if gated else nn.Identity()
        self.feed_forward: FeedForward | None = FeedForward(width, feed_forward, gated=gated, norm=norm) if feed_forward else None

    def forward(
        self,
        x: Tensor,
        given: Mapping[str, Tokens],
        step: Step,
        *,
        attention: Attention | None = None,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """`given`: source -> tokens; one that is missing there is absent for every row. allowed [R, T, L]: the edges there are."""
        attention = attention or self.attention
        assert attention is not None
        found = [(given[n], given[n].values if self.post else self.norm_sources[n](given[n].values)) for n in self.sources if n in given]
        if not found:
            return x
        read = self.gate(attention(x if self.post else self.norm(x), found, step, allowed=allowed))
        after = self.norm(x + read) if self.post else x + read
        if self.feed_forward is not None:
            after = self.feed_forward(after)
        if not self.post and self.feed_forward is None:
            return after  # nothing was read: exactly 0 was added
        return torch.where(torch.stack([tokens.present for tokens, _ in found]).any(0)[:, None, None], after, x)


class FeedForward(nn.Module):
    """[..., W] -> [..., W]: x + W2 gelu(W1 norm(x)), or norm(x + ...); `times` the width inside."""

    def __init__(self, width: int, times: int, *, gated: bool = False, norm: Literal["pre", "post"] = "pre"):
        super().__init__()
        self.post = norm == "post"
        self.norm = nn.LayerNorm(width)
        self.layers = nn.Sequential(nn.Linear(width, times * width), nn.GELU(), nn.Linear(times * width, width))
        self.gate: nn.Module = Gate() if gated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        after = x + self.gate(self.layers(x if self.post else self.norm(x)))
        return self.norm(after) if self.post else after


def readable(text: Tokens, step: Step) -> Tokens:
    """The text as streams may read it: prompt tokens only, so that no answer token reaches the ones before it."""
    if step.prompt is not None:
        return step.prompt
    return text if step.readable is None else replace(text, mask=text.mask & step.readable)


def unshared(streams: Mapping[str, Tokens]) -> dict[str, Tokens]:
    """Every stream laid out one unit per row, as it must be once it has read its row's text."""
    return {name: tokens.by_row() for name, tokens in streams.items()}
