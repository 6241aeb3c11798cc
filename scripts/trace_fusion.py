"""What a fusion strategy does, learned by running it on tiny tensors: who reads whom ahead of which layer, and what it costs.

Nothing here knows a strategy by its name. Gradients say what depends on what at each hook: an output whose gradient with respect to an
input is not 0 reads it. Between layers every `Attention` that runs says more, which node reads which one in which order; if that does not
lead just where the gradients do, the trace fails.

A node is "text", an input's name, or "latents" (the vectors of a strategy's own, which it keeps among the streams under "*...").
A row is a node's state within one stage: 0 as it enters, then one more than the newest state that was read for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel, GPT2Config

from chiasm.fusion.attention import Attention
from chiasm.fusion.base import BackboneShape, Fusion, StreamShape
from chiasm.fusion.cost import cost as cost_of
from chiasm.fusion.hybrid import build
from chiasm.types import Step, Streams, Tokens

INPUTS = ("image", "audio")
LAYERS, WIDTH, HEADS, TEXT, LENGTH = 3, 8, 2, 3, 2  # of the traced composite: LENGTH tokens per input, TEXT words
REAL = {"width": 768, "num_layers": 12, "num_heads": 12}  # GPT-2's smallest, for costs
TOKENS = {"image": 196, "audio": 50}
WORDS = 32


@dataclass(frozen=True, slots=True)
class Reading:
    """`target`, from state `row - 1` or older to state `row`, reads `source` in its state `source_row`."""

    source: str
    source_row: int
    target: str
    row: int
    prompt_only: bool = False  # the source is the text without the tokens that are written later
    chosen: bool = False  # not every token of the source is read, but those that the strategy chooses


@dataclass(slots=True)
class Stage:
    """What happens at one hook."""

    readings: list[Reading] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return max((reading.row for reading in self.readings), default=0)

    def check(self, reached: Sequence[Reading], given: set[str]) -> None:
        """That the readings lead, in any number of steps, from the nodes `given` just where the gradients, `reached`, lead."""
        led: dict[tuple[str, int], set[str]] = {}  # (node, row) -> whom this state depends on

        def at(name: str, row: int) -> set[str]:
            return next((led[name, older] for older in range(row, 0, -1) if (name, older) in led), {name})

        for reading in sorted(self.readings, key=lambda reading: reading.row):
            state = led.setdefault((reading.target, reading.row), set(at(reading.target, reading.row - 1)))
            state |= at(reading.source, reading.source_row)
        found = {(source, name) for name, _ in led for source in (at(name, self.rows) & given) - {name}}
        wanted = {(reading.source, reading.target) for reading in reached}
        assert found == wanted, f"the readings lead to {sorted(found)}, the gradients to {sorted(wanted)}"


@dataclass(slots=True)
class Trace:
    """What a strategy does."""

    before: list[set[str]]  # for each token of the sequence that enters layer 1: whose values it holds
    between: dict[int, Stage]  # ahead of which layer
    branches: dict[str, set[str]]  # what the tasks get: branch -> whom it reads
    router: dict[str, bool]  # whom the branches' weights read -> whether prompt tokens only; empty: fixed weights
    gated: bool  # what is read passes gates that start closed
    interacts: bool  # as the strategy says of itself

    @property
    def streams_read_text(self) -> bool:
        return any(r.source == "text" and r.target != "text" for stage in self.between.values() for r in stage.readings)

    @property
    def nodes(self) -> list[str]:
        """Streams, latents where there are any, text."""
        named = {name for stage in self.between.values() for r in stage.readings for name in (r.source, r.target)}
        return [*INPUTS, *(["latents"] if "latents" in named else []), "text"]


class Recorder:
    """Follows each node's tensors through a fusion's modules, and notes every attention between them."""

    def __init__(self, fusion: Fusion):
        self.known: dict[int, tuple[Tensor, str, int]] = {}  # id -> (the tensor, kept alive; node; row)
        self.readings: list[Reading] = []
        self.latest = 0  # the newest state of the latents
        self.entered: list[int] = []
        for module in fusion.modules():
            if isinstance(module, Attention):
                module.register_forward_pre_hook(self.attend, with_kwargs=True)
            else:
                module.register_forward_pre_hook(self.enter)
                module.register_forward_hook(self.leave)

    def stage(self, text: Tokens, streams: Streams) -> None:
        """Start anew with these values as everybody's state 0."""
        self.known, self.readings, self.latest = {}, [], 0
        for name, tokens in {**streams, "text": text}.items():
            self.know(tokens.values, node(name), 0)

    def know(self, values: Tensor, name: str, row: int) -> None:
        self.known[id(values)] = (values, name, row)

    def enter(self, module: Any, args: Any) -> None:
        self.entered.append(len(self.readings))

    def leave(self, module: Any, args: Any, output: Any) -> None:
        """A module that turns one tensor into another one keeps whose it is (a norm, a whole Reader); its attentions move it on."""
        since = self.readings[self.entered.pop() :]
        if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and id(args[0]) in self.known:
            _, name, row = self.known[id(args[0])]
            self.know(output, name, max([row, *(reading.row for reading in since if reading.target == name)]))

    def attend(self, module: Any, args: Any, kwargs: Any) -> Any:
        query, sources, step = args[0], list(args[1]), args[2]
        for tokens, _ in sources:
            if id(tokens.values) not in self.known:
                self.know(tokens.values, "latents", self.latest)
        found = [(*self.known[id(tokens.values)][1:], tokens) for tokens, _ in sources]
        own = [row for name, row, _ in found if name == "latents"]
        _, target, before = self.known.get(id(query), (query, "latents", max(own, default=self.latest)))
        row = 1 + max(before, *(row for _, row, _ in found))
        for name, at, tokens in found:
            prompt_only = name == "text" and not bool(tokens.mask.all())
            self.readings.append(Reading(name, at, target, row, prompt_only, chosen=kwargs.get("allowed") is not None))
        if target == "latents":
            self.latest = row
        return (query, sources, step, *args[3:]), kwargs


def node(name: str) -> str:
    """The node of a stream's name: hybrid's part is left out, and what a strategy keeps for itself is called latents."""
    name = name.rpartition("/")[2]
    return "latents" if name.startswith("*") else name


def traced(options: Mapping[str, Any]) -> Trace:
    """What the fusion of these recipe keys does on a causal backbone of three layers that also gets a picture and a sound."""
    torch.manual_seed(0)
    fusion = made(options, BackboneShape(WIDTH, LAYERS, HEADS, causal=True), dict.fromkeys(INPUTS, LENGTH))
    text, streams, step = tensors(fusion, options, WIDTH, TEXT, dict.fromkeys(INPUTS, LENGTH))
    recorder = Recorder(fusion)
    between = {}
    with fusion.gates_open():
        placed, text = leaves(fusion.place(streams)), leaf(text)
        entered = fusion.before(text, placed, step)
        before = [readers(entered.values[:, i], {**placed, "text": text}) for i in range(entered.values.shape[1])]
        text = leaf(entered)
        for layer in fusion.layers:
            placed, text = leaves(placed), leaf(text)
            recorder.stage(text, placed)
            after, changed = fusion.between(layer, text, placed, step)
            reached = by_gradient(text, placed, after, changed)
            between[layer] = Stage(recorder.readings or reached)
            between[layer].check(reached, {node(name) for name in (*placed, "text")})
            text, placed = after, changed
        placed, text = leaves(placed), leaf(text)
        fused = fusion.after(text, placed, step)
    given = {**{name: tokens for name, tokens in placed.items() if node(name) != "latents"}, "text": text}
    branches = {name: readers(tokens.values, given) for name, tokens in fused.branches.items()}
    weighing = set() if fused.mix is None else readers(fused.mix, given)
    router = {name: name == "text" and not later(fused.mix, text, step) for name in sorted(weighing)}
    return Trace(before, between, branches, router, bool(fusion.gates()), fusion.interacts)


def made(options: Mapping[str, Any], shape: BackboneShape, lengths: Mapping[str, int]) -> Fusion:
    return build(options, shape, {name: StreamShape(length, has_positions=False) for name, length in lengths.items()}).eval()


def tensors(fusion: Fusion, options: Mapping[str, Any], width: int, words: int, lengths: Mapping[str, int]) -> tuple[Tokens, Streams, Step]:
    """One row: (text, streams, step). Placeholders stand in front where the strategy scatters; the last word is not the prompt's."""
    joining = scattered(fusion, options, lengths)
    total = words + sum(lengths[name] for name in joining)
    place, start = {}, 0
    for name in joining:
        place[name] = torch.zeros(1, total, dtype=torch.bool)
        place[name][:, start : start + lengths[name]] = True
        start += lengths[name]
    seen = torch.ones(1, total, dtype=torch.bool)
    readable = seen.clone()
    readable[:, -1] = False
    streams = {n: Tokens(torch.randn(1, length, width), torch.ones(1, length, dtype=torch.bool)) for n, length in lengths.items()}
    return Tokens(torch.randn(1, total, width), seen), streams, Step(mask=seen, placeholders=place, readable=readable)


def scattered(fusion: Fusion, options: Mapping[str, Any], lengths: Mapping[str, int]) -> tuple[str, ...]:
    """The inputs whose tokens join the backbone's sequence."""
    return type(fusion).scatters(type(fusion).Options(**{k: v for k, v in options.items() if k != "type"}), list(lengths))


def leaf(tokens: Tokens) -> Tokens:
    return replace(tokens, values=tokens.values.detach().clone().requires_grad_(True))


def leaves(streams: Streams) -> Streams:
    return {name: leaf(tokens) for name, tokens in streams.items()}


def readers(output: Tensor, given: Mapping[str, Tokens]) -> set[str]:
    """The nodes of `given` that `output` depends on."""
    if not output.requires_grad:
        return set()
    total = (output * torch.randn_like(output)).sum()
    gradients = torch.autograd.grad(total, [tokens.values for tokens in given.values()], retain_graph=True, allow_unused=True)
    return {node(name) for name, gradient in zip(given, gradients, strict=True) if gradient is not None and bool(gradient.any())}


def later(output: Tensor | None, text: Tokens, step: Step) -> bool:
    """Whether `output` depends on text tokens that are not the prompt's."""
    assert output is not None and step.readable is not None
    (gradient,) = torch.autograd.grad((output * torch.randn_like(output)).sum(), [text.values], retain_graph=True)
    return bool(gradient[~step.readable].any())


def by_gradient(text: Tokens, streams: Streams, text_after: Tokens, streams_after: Streams) -> list[Reading]:
    """The readings of one layer that no attention makes."""
    given, changed = {**streams, "text": text}, {**streams_after, "text": text_after}
    return [
        Reading(source, 0, node(name), 1)
        for name, tokens in changed.items()
        for source in sorted(readers(tokens.values, given) - {node(name)})
    ]


def cost(options: Mapping[str, Any]) -> tuple[int, int]:
    """(weights, multiply-adds per sample) that a fusion adds to GPT-2's smallest: a picture of 196 tokens, a sound of 50, a text of 32.

    Multiply-adds are of matrix products, forwards; those of the backbone over tokens that join its sequence are included.
    """
    with torch.device("meta"):
        fusion = made(options, BackboneShape(**REAL, causal=True), TOKENS)
    total = WORDS + sum(TOKENS[name] for name in scattered(fusion, options, TOKENS))
    own = cost_of(fusion, total, TOKENS)
    return own.parameters, own.macs + backbone_cost(total)[1] - backbone_cost(WORDS)[1]


@lru_cache
def backbone_cost(length: int) -> tuple[int, int]:
    """(weights without embeddings, multiply-adds) of GPT-2's smallest over this many tokens."""
    with torch.device("meta"):
        backbone = AutoModel.from_config(GPT2Config(), attn_implementation="eager").eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            backbone(inputs_embeds=torch.empty(1, length, REAL["width"]))
    return sum(p.numel() for p in backbone.h.parameters()), counter.get_total_flops() // 2
