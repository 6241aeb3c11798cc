"""Which words of a text a model does not know: those that its tokenizer has no other token for than the unknown one."""

from __future__ import annotations

import copy
import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer, models

SHOWN, LONGEST = 5, 40  # words that are shown, and characters of each
JOINING = "_-'’"

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Unknown:
    """The unknown words of a text as they are written there, each once; `alone`: the text has no others."""

    words: tuple[str, ...]
    alone: bool = False

    def __bool__(self) -> bool:
        return bool(self.words)

    @property
    def shown(self) -> list[str]:
        """The first of them, the longest cut."""
        return [word if len(word) <= LONGEST else f"{word[: LONGEST - 3]}..." for word in self.words[:SHOWN]]

    def __str__(self) -> str:
        more = len(self.words) - SHOWN
        return ", ".join(self.shown) + (f" and {more} more" if more > 0 else "")


class Vocabulary:
    """What a tokenizer knows. It has copies of it: a tokenizer is set anew for each call, and so serves one thread at a time."""

    def __init__(self, tokenizer: Any):
        self._id: int | None = getattr(tokenizer, "unk_token_id", None)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._fast: Tokenizer | None = None
        self._slow: dict[bool, Any] = {}
        if self._id is None or (isinstance(backend, Tokenizer) and _knows_all(backend.model)):
            return
        if isinstance(backend, Tokenizer):
            self._fast = Tokenizer.from_str(backend.to_str())
            self._fast.no_truncation()
            self._fast.no_padding()
            self._fast.encode_special_tokens = True  # in a user's text "</s>" is four characters
        else:
            self._slow = {target: copy.deepcopy(tokenizer) for target in (False, True)}

    def unknown(self, text: str, *, target: bool = False) -> Unknown:
        """The unknown words of a user's text; `target`: of one that a decoder is to write, which a translator may have other rules for."""
        if self._fast is not None:
            encoded = self._fast.encode(text, add_special_tokens=False)
            return unknown_at(text, [span for token, span in zip(encoded.ids, encoded.offsets, strict=True) if token == self._id])
        if self._slow:
            return unknown_at(text, [span for span in runs(text) if self._id in self._ids(text[slice(*span)], target)])
        return Unknown(())

    def _ids(self, word: str, target: bool) -> list[int]:
        given = {"text_target" if target else "text": word}
        return self._slow[target](**given, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _knows_all(model: Any) -> bool:
    """Whether every character has tokens, so that none is ever unknown: byte pairs, over bytes."""
    return isinstance(model, models.BPE) and (model.unk_token is None or bool(model.byte_fallback))


def unknown_at(text: str, places: list[Span]) -> Unknown:
    """The words of a text in which the unknown token stands at `places`."""
    if not places:
        return Unknown(())
    found = {(a, b): any(begin < b and end > a for begin, end in places) for a, b in runs(text)}
    words = [span for span in found if any(map(str.isalnum, text[slice(*span)]))] or list(found)  # "你好 ?" has one word
    unknown = dict.fromkeys(text[slice(*span)] for span, there in found.items() if there)
    return Unknown(tuple(unknown), bool(unknown) and all(found[span] for span in words))


def runs(text: str) -> Iterator[Span]:
    """Where each word of a text begins and ends, and each run of punctuation."""
    at = 0
    for kind, run in itertools.groupby(text, _kind):
        begin, at = at, at + len(list(run))
        if kind != " ":
            yield begin, at


def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    return "w" if category in "LMN" or character in JOINING else " " if category in "ZC" else "."
