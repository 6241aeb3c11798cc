"""One text while it is written: which tokens it has, when it ends, and what of it can be shown already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from chiasm.serve.settings import Settings
from chiasm.serve.work import Reason, Ticket

BROKEN = "\N{REPLACEMENT CHARACTER}"  # the first bytes of a character whose others are not there yet


class Text:
    """`limit`: tokens that may be written; `ends`: the ids that end it. It is decoded only where someone listens, or for a stop string."""

    def __init__(self, processor: Any, settings: Settings, ticket: Ticket, ends: frozenset[int], limit: int):
        self.processor, self.settings, self.ticket, self.ends, self.limit = processor, settings, ticket, ends, limit
        self.ids: list[int] = []
        self.text: str | None = None  # what is left of it where a stop string ended it
        self.shown = ""
        self.draws: torch.Generator | None = None

    def choose(self, logits: Tensor) -> int:
        """A token by its logits [V]: temperature, the top_k best, the fewest that make up top_p; transformers' own order."""
        settings = self.settings
        if self.draws is None:
            self.draws = torch.Generator(logits.device)
            self.draws.seed() if settings.seed is None else self.draws.manual_seed(settings.seed)
        count = min(settings.top_k or len(logits), len(logits))
        if settings.top_p < 1 or count < len(logits):
            logits, order = logits.topk(count)
        else:
            order = None
        chances = (logits.float() / settings.temperature).softmax(-1)
        if settings.top_p < 1:
            chances = chances.masked_fill(chances.cumsum(-1) - chances >= settings.top_p, 0.0)  # the best one always stays
        place = torch.multinomial(chances, 1, generator=self.draws)
        return int(place if order is None else order[place])

    def add(self, token: int) -> Reason | None:
        """One more token; why the text ends with it, or None."""
        self.ids.append(token)
        ended = token in self.ends
        if self.settings.stop or self.ticket.listened:
            text = self.processor.tokenizer.decode(self.ids, skip_special_tokens=True).lstrip()
            cut = stopped_at(text, self.settings.stop)
            if cut is not None:
                self.text = text[:cut].rstrip()
                ended = True
            elif not ended and self.ticket.listened:
                self.show(text[: len(text) - held(text, self.settings.stop)].rstrip())
        return "stop" if ended else "length" if len(self.ids) >= self.limit else None

    def finish(self) -> str:
        """The whole text; what was not shown of it is."""
        text = self.text if self.text is not None else self.processor.decode_texts(torch.tensor([self.ids]))[0]
        if self.ticket.listened:
            self.show(text)
        return text

    def show(self, text: str) -> None:
        if len(text) > len(self.shown) and text.startswith(self.shown):
            self.ticket.write(text[len(self.shown) :])
            self.shown = text


def stopped_at(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the first stop string begins in a text, if there is one."""
    return min((place for place in (text.find(string) for string in stop) if place >= 0), default=None)


def held(text: str, stop: tuple[str, ...]) -> int:
    """How many characters at a text's end may not be shown yet: a broken character, or what may become a stop string."""
    if text.endswith(BROKEN):
        return len(text) - len(text.rstrip(BROKEN))
    return max((n for s in stop for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n])), default=0)
