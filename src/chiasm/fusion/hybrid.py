"""Hybrid fusion: several strategies at once, each for its own inputs or at its own place (multi-level fusion).

fusion:
  type: hybrid
  parts:
    - {type: cross_attention, inputs: [image]}
    - {type: early, inputs: [audio]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from chiasm import components
from chiasm.fusion.base import BackboneShape, Fusion, StreamShape
from chiasm.fusion.base import Options as BaseOptions
from chiasm.types import Fused, RecipeError, Step, Streams, Tokens


class Hybrid(Fusion):
    """Runs its parts in order at every hook; the branches of all `after` hooks are kept side by side.

    Where some of them vote, each branch also learns from a loss of its own.
    """

    paper = "early, late and hybrid fusion: Atrey et al., 2010"

    class Options(BaseOptions):
        parts: tuple[dict[str, Any], ...] = ()
        """The fusions to combine, each written like `fusion:` itself."""

    parts: Any  # nn.ModuleList of Fusion

    @classmethod
    def needs_cross_attention(cls, options: Any) -> bool:
        return any(kind.needs_cross_attention(part) for kind, part in map(parse, options.parts))

    def __init__(self, options: Any, backbone: BackboneShape, streams: Mapping[str, StreamShape]):
        super().__init__(options.model_copy(update={"inputs": ()}), backbone, streams)
        if len(options.parts) < 2:
            raise RecipeError(
                "fusion.parts: hybrid needs two or more, e.g. [{type: early, inputs: [audio]}, {type: cross_attention, inputs: [image]}]"
            )
        if any("absent" in part for part in options.parts):
            raise RecipeError("fusion.parts: write `absent` beside `parts`, once for all of them")
        parts = [build({**part, "absent": options.absent}, backbone, streams) for part in options.parts]
        self.parts = nn.ModuleList(parts)
        self.inputs = tuple(dict.fromkeys(name for part in parts for name in part.inputs))
        self.interacts = any(part.interacts for part in parts)
        self.meets = [frozenset(part.layers) for part in parts]
        self.order_free = all(part.order_free for part in parts)
        self.votes = any(part.votes for part in parts)
        self.branch_losses = tuple(dict.fromkeys(name for part in parts if part.votes for name in part.inputs))

    @property
    def layers(self) -> list[int]:
        return sorted(frozenset().union(*self.meets))

    @classmethod
    def scatters(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        found = (name for kind, part in map(parse, options.parts) for name in kind.scatters(part, inputs))
        return tuple(dict.fromkeys(found))

    @classmethod
    def marks(cls, options: Any, inputs: Sequence[str]) -> tuple[str, ...]:
        found = dict.fromkeys(name for kind, part in map(parse, options.parts) for name in kind.marks(part, inputs))
        for name in (name for name in cls.scatters(options, inputs) if name in found):
            raise RecipeError(f"fusion.parts: '{name}' enters the text, so its places cannot be marked too; use see: all, or inputs: [...]")
        return tuple(found)

    def place(self, streams: Streams) -> Streams:
        """Each part places its own inputs; they are kept apart as `part/input`, since two parts may read one input."""
        return {f"{i}/{name}": tokens for i, part in enumerate(self.parts) for name, tokens in part.place(streams).items()}

    def before(self, text: Tokens, streams: Streams, step: Step) -> Tokens:
        for i, part in enumerate(self.parts):
            text = part.before(text, own(streams, i), step)
        return text

    def memory(self, streams: Streams, step: Step) -> Tokens | None:
        each = [part.memory(own(streams, i), step) for i, part in enumerate(self.parts)]
        found = [memory for memory in each if memory is not None]
        if len(found) > 1:
            raise RecipeError("fusion.parts: only one part can use the backbone's own cross-attention; give it all those inputs")
        return found[0] if found else None

    def between(self, layer: int, text: Tokens, streams: Streams, step: Step) -> tuple[Tokens, Streams]:
        for i, part in enumerate(self.parts):
            if layer in self.meets[i]:
                text, changed = part.between(layer, text, own(streams, i), step)
                streams = {**streams, **{f"{i}/{name}": tokens for name, tokens in changed.items()}}
        return text, streams

    def after(self, text: Tokens, streams: Streams, step: Step) -> Fused:
        branches: dict[str, Tokens] = {}
        mix, aux = None, {}
        for i, part in enumerate(self.parts):
            result = part.after(text, own(streams, i), step)
            text = result.branches.get("text", text)
            branches, aux = {**branches, **result.branches}, {**aux, **result.aux}
            mix = mix if result.mix is None else result.mix
        return Fused({**branches, "text": text}, mix=mix, aux=aux)

    def gates(self) -> list[Tensor]:
        return [gate for part in self.parts for gate in part.gates()]


def own(streams: Streams, part: int) -> Streams:
    """The streams that part `part` placed, by their plain names."""
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tokens for name, tokens in streams.items() if name.startswith(prefix)}


def build(spec: Mapping[str, Any], backbone: BackboneShape, streams: Mapping[str, StreamShape]) -> Fusion:
    """A fusion from its recipe keys."""
    kind, options = parse(spec)
    return kind(options, backbone, streams)


def parse(spec: Mapping[str, Any]) -> tuple[type[Fusion], Any]:
    """(class, options) of `fusion:` keys."""
    kind = components.find("fusion", spec.get("type", "early"))
    return kind, kind.Options(**{key: value for key, value in spec.items() if key != "type"})
