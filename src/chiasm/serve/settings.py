"""How a text is written: what a request asks for, over what the task's recipe says, over greedy decoding of 32 tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from chiasm.serve.work import Work
from chiasm.types import ChiasmError

AS_USUAL = {"num_beams": 1, "use_cache": True, "repetition_penalty": 1.0, "length_penalty": 1.0}  # of transformers, that change nothing
TOP_K = 50  # transformers' own, where a recipe samples and does not say


@dataclass(frozen=True, slots=True)
class Settings:
    """`temperature` 0: greedy; `top_k` 0: all words. `rest`: what a recipe hands to transformers' generate besides (beams and so on)."""

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    rest: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, task: Any, work: Work) -> Settings:
        """Raises ChiasmError for a number that cannot be."""
        own = dict(task.options.generation)
        samples = own.pop("do_sample", False)
        usual = {
            "max_new_tokens": own.pop("max_new_tokens", 32),
            "temperature": own.pop("temperature", 1.0) * samples,
            "top_p": own.pop("top_p", 1.0),
            "top_k": own.pop("top_k", TOP_K) * samples,
        }
        rest = tuple((name, value) for name, value in sorted(own.items()) if name not in AS_USUAL or AS_USUAL[name] != value)
        asked = {name: getattr(work, name) for name in usual if getattr(work, name) is not None}
        found = cls(**{**usual, **asked}, seed=work.seed, stop=tuple(s for s in work.stop if s), rest=rest)
        for name, good, range_ in (
            ("max_new_tokens", found.max_new_tokens >= 1, "1 or more"),
            ("temperature", math.isfinite(found.temperature) and found.temperature >= 0, "0 (greedy) or more"),
            ("top_p", 0 < found.top_p <= 1, "above 0, at most 1"),
            ("top_k", found.top_k >= 0, "0 (all words) or more"),
        ):
            if not good:
                raise ChiasmError(f"{name}: {getattr(found, name)} cannot be; give {range_}")
        return found

    @property
    def samples(self) -> bool:
        return self.temperature > 0

    def for_generate(self) -> dict[str, Any]:
        """As transformers' generate takes them."""
        chosen = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k} if self.samples else {}
        return {**dict(self.rest), "max_new_tokens": self.max_new_tokens, "do_sample": self.samples, **chosen}
