"""Which words of a text a tokenizer does not know, of every kind of tokenizer that there is."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chiasm.media.tokenizer import learn_tokenizer
from chiasm.media.tokens import Tokens
from chiasm.media.vocabulary import Unknown, Vocabulary

TEXTS = ["what is this ?", "a red cat", "don't , it's"]


class BySpaces:
    """A tokenizer without a fast form."""

    unk_token_id = 0

    def __call__(self, text: str = "", text_target: str = "", **_: object) -> dict[str, list[int]]:
        known = {"what": 1, "?": 2} if text else {"quoi": 1}
        return {"input_ids": [known.get(word, 0) for word in (text or text_target).split()]}


@pytest.fixture(scope="module")
def words() -> Vocabulary:
    return Vocabulary(learn_tokenizer(TEXTS, kind="words", vocab_size=99, placeholders=("<image>",)))


@pytest.mark.parametrize(
    ("text", "unknown", "alone"),
    [
        ("What IS this ?", (), False),
        ("", (), False),
        ("what is a Zorblatt ?", ("Zorblatt",), False),
        ("你好", ("你好",), True),
        ("你好 ?", ("你好",), True),
        ("a 你好世界, zorblatt zorblatt", ("你好世界", ",", "zorblatt"), False),
        ("हिन्दी is red", ("हिन्दी",), False),
        ("</s> <image>", ("</", ">", "<", "image"), False),
        ("!!", ("!!",), True),
        ("what  it's can't", ("can't",), False),
    ],
)
def test_words(words: Vocabulary, text: str, unknown: tuple[str, ...], alone: bool):
    assert words.unknown(text) == Unknown(unknown, alone)


def test_at_most_five_are_shown_and_long_ones_are_cut(words: Vocabulary):
    assert str(words.unknown("b c d e f")) == "b, c, d, e, f"
    assert str(words.unknown(" ".join("bcdefgh") + " what")) == "b, c, d, e, f and 2 more"
    assert str(words.unknown("x" * 99)) == "x" * 37 + "..."


def test_pieces():
    pieces = [("<unk>", 0.0), *((piece, -3.0) for piece in "▁acdegort")]
    inner = Tokenizer(models.Unigram(pieces, unk_id=0))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"))
    assert unigram.unknown("a good cat") == Unknown(()) and unigram.unknown("a bad cat") == Unknown(("bad",))
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "cat": 2, "##s": 3}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces = Vocabulary(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"))
    assert pieces.unknown("A cats dogs 你好") == Unknown(("dogs", "你好"))


def test_a_tokenizer_of_bytes_knows_everything():
    for_bytes = learn_tokenizer(TEXTS, kind="bpe", vocab_size=300, placeholders=())
    for vocabulary in (Vocabulary(for_bytes), Vocabulary(None)):
        assert not vocabulary.unknown("你好 zorblatt </s>")


def test_one_without_a_fast_form_is_asked_word_by_word():
    slow = Vocabulary(BySpaces())
    assert slow.unknown("what 你好 ?") == Unknown(("你好",)) and slow.unknown("quoi") == Unknown(("quoi",), True)
    assert slow.unknown("quoi", target=True) == Unknown(())


def test_a_text_with_an_encoder_of_its_own():
    tokens = Tokens(Tokens.Options(tokenizer="words"))
    tokens.fit(TEXTS)
    assert tokens.unknown("a red 你好") == Unknown(("你好",)) and not tokens.unknown("what is this ?")
