"""Masked words: which are hidden, what is shown there, and that it is the same again where it must be."""

import pytest

from chiasm.components import find
from chiasm.tasks.mask import Mask
from chiasm.types import Occasion, Sample

MASKED, START, CLOSE, PICTURE = 3, 1, 2, 9
FIRST = 100  # ids of words


class Ids:
    """Words of two tokens each: `w7` is 107 and 207."""

    start_ids, close_ids, pad_id, mask_id, placeholders_first = [START], [CLOSE], 0, MASKED, False
    ordinary_ids = list(range(FIRST, FIRST + 200))

    class tokenizer:
        mask_token = "<mask>"

    def encode(self, texts, *, user):
        return [[i for word in text.split() for i in (self.number(word), 100 + self.number(word))] for text in texts]

    def number(self, word):
        return 99 if word == "<mask>" else FIRST + int(word.removeprefix("w"))  # in a text of a user it is a word like any

    def words(self, text):
        return [i for i, _ in enumerate(text.split()) for _ in range(2)]

    def placeholders(self, name, sample, item=None):
        return [PICTURE] * 2


def made(**options):
    return Mask("mask", Mask.Options(**{"text": "{caption}", **options}), {"image": "image"})


def collated(task, texts, key=None, scored=True):
    samples = [Sample(f"row{i}", {"image": i, "caption": text}) for i, text in enumerate(texts)]
    inputs, targets = task.collate(samples, Ids(), Occasion({}, key, scored))
    return inputs["input_ids"], targets


TEXT = " ".join(f"w{i}" for i in range(20))  # 40 tokens


def test_hidden_tokens_are_a_share_of_the_users_text():
    ids, targets = collated(made(text="w50 {caption} {image} w60"), [TEXT, "w1"])
    assert targets["hidden"].sum(1).tolist() == [6, 1], "15 % of 40, and at least one"
    assert (targets["labels"] >= 0).equal(targets["hidden"]) and targets["weight"] == 7
    assert (ids[targets["hidden"]] == MASKED).all(), "in evaluation all of them show the mask token"
    whole = [START, 150, 250, *Ids().encode([TEXT], user=True)[0], PICTURE, PICTURE, 160, 260, CLOSE]
    assert ids[0].masked_scatter(targets["hidden"][0], targets["labels"][0][targets["hidden"][0]]).tolist() == whole
    assert not targets["hidden"][0, [0, 1, 2, 43, 44, 45, 46, 47]].any(), "only the user's text is hidden"


def test_what_is_shown_in_training():
    """8 of 10 the mask token, 1 another word, 1 itself; drawn anew in every epoch."""
    task, shown = made(share=0.5), {"mask": 0, "other": 0, "itself": 0}
    for epoch in range(50):
        ids, targets = collated(task, [TEXT], key=(0, epoch))
        for seen, true in zip(ids[targets["hidden"]].tolist(), targets["labels"][targets["hidden"]].tolist(), strict=True):
            shown["mask" if seen == MASKED else "itself" if seen == true else "other"] += 1
    total = sum(shown.values())
    assert total == 50 * 20
    assert 0.76 < shown["mask"] / total < 0.84 and 0.07 < shown["other"] / total < 0.13 and 0.07 < shown["itself"] / total < 0.13
    first, again, next_one = (collated(task, [TEXT], key=(0, epoch))[0] for epoch in (3, 3, 4))
    assert first.equal(again) and not first.equal(next_one)
    assert collated(task, [TEXT])[0].equal(collated(task, [TEXT])[0])


def test_whole_words():
    _, targets = collated(made(whole_words=True), [TEXT])
    hidden = targets["hidden"][0, 1:41].unflatten(0, (20, 2))
    assert hidden.all(1).equal(hidden.any(1)) and hidden.sum() == 6


def test_at_use_the_users_mask_tokens_are_filled_in():
    ids, targets = collated(made(), ["w1 <mask> w2 <mask>", "w3 w4"], scored=False)
    assert ids[0].tolist() == [START, 101, 201, MASKED, 102, 202, MASKED, PICTURE, PICTURE, CLOSE]
    assert targets["hidden"][0].nonzero().flatten().tolist() == [3, 6] and (targets["labels"][0] == -100).all()
    assert targets["hidden"][1].sum() == 1, "a text without any is asked about as in evaluation"


def test_rows_without_the_text_are_not_for_it():
    task = made()
    assert task.wants(Sample("a", {"caption": "w1"})) and not task.wants(Sample("b", {"image": 1, "caption": ""}))
    assert task.reads == ("image",) and task.targets == ("caption",)


def test_only_a_bidirectional_backbone_fills_in():
    task = made()
    assert task.suits("bidirectional", find("backbone", "bidirectional")) is None
    for name in ("causal", "encoder_decoder"):
        assert "take type: generate" in (task.suits(name, find("backbone", name)) or "")


def test_token_accuracy_counts_places():
    from chiasm.metrics.token_accuracy import TokenAccuracy
    from chiasm.types import Prediction

    rows = [Prediction("a", "mask", ["x", "y", "z"], ["x", "y", "q"]), Prediction("b", "mask", None, ["x"])]
    assert TokenAccuracy().compute(rows) == {"": pytest.approx(0.5)}
    assert TokenAccuracy().compute([Prediction("a", "mask", [], [])]) == {}
