"""A tokenizer learned from the training text, for a backbone or for an encoder that is built fresh."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerFast

SPECIAL = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
MASK = {"mask_token": "<mask>"}


def learn_tokenizer(
    texts: Iterable[str], *, kind: str, vocab_size: int, placeholders: Sequence[str], mask: bool = False
) -> PreTrainedTokenizerFast:
    """A tokenizer of the training text: `words` (lower-cased, punctuation apart) or `bpe` (byte pairs); `mask`: with a mask token."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    roles = SPECIAL | (MASK if mask else {})
    special = [*roles.values(), *placeholders]
    if kind == "words":
        inner = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
        inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        word = Regex(r"▁?[\p{L}\p{N}_]+|▁?[^\p{L}\p{N}_▁]")  # a word or one other character, with the space ahead of it
        inner.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(split=False), pre_tokenizers.Split(word, "isolated")])
        inner.decoder = decoders.Metaspace()
        trainer: Any = trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=special, show_progress=False)
    else:
        inner = Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, additional_special_tokens=list(placeholders), clean_up_tokenization_spaces=False, **roles
    )
