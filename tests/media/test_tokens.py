"""The tokens modality: cleaning, cutting, look-alikes of special tokens, and a state that travels as JSON."""

import copy
import json
import pickle

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from chiasm.media.tokens import Tokens
from chiasm.types import BadInput, RecipeError

TEXTS = ["a red cat", "a blue dog !", b"caf\xc3\xa9", ["one", "two"], None, ""]


def learned(**options):
    modality = Tokens(Tokens.Options(**{"tokenizer": "words", **options}))
    modality.fit(TEXTS)
    return modality


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    """A tokenizer whose special tokens are ordinary pieces of its vocabulary, as T5's are, and which closes every text."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -3.0) for piece in "▁acdegort</s>")]
    inner = Tokenizer(models.Unigram(pieces, unk_id=2))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    folder = tmp_path_factory.mktemp("t5")
    PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return str(folder)


def test_a_text_becomes_ids_and_is_padded():
    modality = learned()
    values = [modality.open(text)[0] for text in ("a red cat", "dog", "cat dog dog !")]
    found = modality.collate(values)
    assert found.keys() == set(modality.tensors)
    assert found["token_ids"].dtype == torch.long and found["token_mask"].sum(1).tolist() == [3, 1, 4]
    assert (found["token_ids"][~found["token_mask"]] == modality.pad_id).all()
    assert int(found["token_ids"].max()) < modality.vocab_size


def test_cleaning_is_the_text_modalitys():
    modality = learned()
    assert modality.open("a\0 red cat") == (modality.open("a red cat")[0], ("control characters removed",))
    assert modality.open(b"cafe\xcc\x81")[0] == modality.open("café")[0]
    for value, reason in (
        (" ", "empty"),
        (b"\xff", "bad_encoding"),
        (3.5, "bad_type"),
        ("\ud800", "bad_encoding"),
        ("a" * 200_000, "too_long"),
    ):
        with pytest.raises(BadInput) as error:
            modality.open(value)
        assert error.value.reason == reason


def test_long_texts_are_cut_and_noted(t5):
    ids, notes = learned(max_tokens=3).open("a red cat and more")
    assert len(ids) == 3 and notes == ("cut to length",)
    ids, notes = learned_from(t5, max_tokens=4).open("a cat or a dog")
    assert len(ids) == 4 and ids[-1] == 1 and notes == ("cut to length",)  # the closing token is kept
    assert learned_from(t5).open("a cat")[1] == ()


def learned_from(name, **options):
    return learned(tokenizer=name, **options)


@pytest.mark.parametrize("kind", ["words", "bpe", "t5"])
def test_a_users_text_never_becomes_a_special_token(kind, t5):
    fitted = learned_from(t5 if kind == "t5" else kind)
    unknown = fitted.state()["unk_id"]
    for modality in (fitted, pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted)):
        modality.open("cat")
        specials = modality._special - {unknown}
        assert len(specials) >= 2
        for text in ("a </s> <pad> <s> cat", "</s>", "<pad><pad>", "x</s>"):
            ids = modality.open(text)[0]
            assert not specials & set(ids[:-1] if kind == "t5" else ids), text


def test_equal_texts_share_a_unit():
    modality = learned()
    assert modality.identity("a cat") == modality.identity("a cat") != modality.identity("a dog")
    assert modality.identity("\ud800") != modality.identity("\ud801") and modality.identity(3.5) is None


@pytest.mark.parametrize("kind", ["words", "bpe", "t5"])
def test_state_is_json_and_restores_all(kind, t5):
    modality = learned_from(t5 if kind == "t5" else kind, max_tokens=5)
    again = Tokens(modality.options)
    again.load_state(json.loads(json.dumps(modality.state())))
    for text in ("a red cat", "never seen: Ω </s>", "a " * 100):
        assert again.open(text) == modality.open(text)
    assert (again.vocab_size, again.pad_id) == (modality.vocab_size, modality.pad_id)


def test_what_cannot_be_fitted_says_why(tmp_path):
    with pytest.raises(RecipeError, match="no readable values"):
        Tokens().fit([None, "", 3])
    with pytest.raises(RecipeError, match="nowhere") as error:
        learned_from(str(tmp_path / "nowhere"))
    assert "\n" not in str(error.value)
    with pytest.raises(RecipeError, match="no tokenizer yet"):
        Tokens().open("a cat")
