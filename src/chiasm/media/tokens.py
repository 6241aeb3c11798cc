"""The tokens modality: a text that has an encoder of its own -> token ids, by the tokenizer that goes with that encoder.

A user's text never becomes a special token: only the tokenizer's own template ([CLS] text [SEP], say) puts those in.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pydantic import Field
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer

from chiasm.media import base, cleaning, files
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.media.vocabulary import Unknown, unknown_at
from chiasm.types import BadInput, RecipeError

LEARNED = ("words", "bpe")


class Tokens(base.Modality):
    """A text that an encoder reads: what `text` becomes where `encoders` has an entry for it. Decoded: a list of token ids."""

    from_files = False
    tensors = ("token_ids", "token_mask")

    class Options(cleaning.TextOptions):
        tokenizer: str | None = None
        """A pretrained tokenizer's name or folder, or words or bpe to learn one from the training rows; the encoder's own where not given,
        bpe for a fresh one."""
        vocab_size: int = Field(8192, gt=0)
        """The most entries of a tokenizer that is learned."""
        max_tokens: int = Field(512, gt=2)
        """Tokens that are read of one text; the rest is cut and counted. Where not given, no more than the encoder has positions for."""
        filled: bool = False
        """Fill every text up to max_tokens with padding that the encoder reads like words (SigLIP); false: padding is not seen."""

    def __init__(self, options: Any = None):
        super().__init__(options)
        self._state: dict[str, Any] = {}
        self._tokenizer: Tokenizer | None = None
        self._special: set[int] = set()

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, as it is needed here; rebuilt from the state in every process, since a pickled one forgets its settings."""
        if self._tokenizer is None:
            if not self._state:
                raise RecipeError("a tokens input has no tokenizer yet; call fit or load_state first")
            self._tokenizer = Tokenizer.from_str(self._state["tokenizer"])
            self._tokenizer.no_padding()
            self._tokenizer.enable_truncation(self.options.max_tokens)
            self._tokenizer.encode_special_tokens = True  # in a text, "[SEP]" is five characters
            self._special = {i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special}
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """How many ids there may be."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def pad_id(self) -> int:
        return self._state["pad_id"]

    def open(self, value: Any, *, root: str | None = None) -> tuple[list[int], tuple[str, ...]]:
        text, notes = cleaning.clean(value, self.options)
        encoded = self.tokenizer.encode(text)
        plain = (self._plain(i, bool(ours)) for i, ours in zip(encoded.ids, encoded.special_tokens_mask, strict=True))
        ids = [i for i in plain if i is not None]
        if not ids:
            raise BadInput("empty", "text in which the tokenizer finds no token")
        return ids, (*notes, "cut to length") if encoded.overflowing else notes

    def _plain(self, token: int, ours: bool) -> int | None:
        """A token of the text itself is the unknown one where a vocabulary (T5's) has a special token among its ordinary pieces."""
        return token if ours or token not in self._special else self._state["unk_id"]

    def unknown(self, text: str) -> Unknown:
        """The words of a text that the tokenizer does not know."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        marks = {self._state["unk_id"], *self._special}
        return unknown_at(text, [span for token, span in zip(encoded.ids, encoded.offsets, strict=True) if token in marks])

    def collate(self, values: Sequence[list[int]]) -> dict[str, Tensor]:
        """token_ids int64 [U, L], padded on the right; token_mask bool [U, L], True where there is a token."""
        most = self.options.max_tokens
        lengths = torch.tensor([most if self.options.filled else len(value) for value in values])
        length = int(lengths.max())
        ids = torch.tensor([[*value, *[self.pad_id] * (length - len(value))] for value in values], dtype=torch.long)
        return {"token_ids": ids, "token_mask": torch.arange(length) < lengths.unsqueeze(1)}

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        return files.identity(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value, root=None)

    def fit(self, values: Sequence[Any]) -> None:
        """Load the pretrained tokenizer, or learn one from the texts."""
        name = self.options.tokenizer or "bpe"
        if name in LEARNED:
            texts = list(self._texts(values))
            if not texts:
                raise RecipeError("a text input with an encoder has no readable values in the training data; check its `column`")
            tokenizer: Any = learn_tokenizer(texts, kind=name, vocab_size=self.options.vocab_size, placeholders=())
        else:
            tokenizer = pretrained(name)
        pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
        self.load_state({"tokenizer": tokenizer.backend_tokenizer.to_str(), "pad_id": pad, "unk_id": tokenizer.unk_token_id})

    def _texts(self, values: Sequence[Any]) -> Iterator[str]:
        for value in values:
            for item in value if isinstance(value, list) else [value]:
                try:
                    yield cleaning.clean(item, self.options)[0]
                except BadInput:
                    continue  # refused, by name, when it is read

    def state(self) -> dict[str, Any]:
        return self._state

    def load_state(self, state: dict[str, Any]) -> None:
        self._state, self._tokenizer = state, None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_tokenizer": None}


def pretrained(name: str) -> Any:
    """The pretrained tokenizer `name`; RecipeError in one line where there is none that is fast."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, json.JSONDecodeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise RecipeError(f"tokenizer {name}: {reason}") from None
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise RecipeError(f"tokenizer {name}: has no fast version (tokenizer.json), which a text stream needs; name another one")
    return tokenizer
