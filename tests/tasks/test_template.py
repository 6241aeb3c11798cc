"""Prompts with repeated records: dialogues, examples, interleaved documents, and which picture stands where."""

from typing import ClassVar

import pytest

from chiasm.tasks.template import Template
from chiasm.types import BadInput, RecipeError, Sample

INPUTS = {"image": "image", "question": "text"}


class Words:
    """A processor whose ids are words; `<image 2>` is the run of the row's second picture."""

    placeholders_first = True
    layout: ClassVar[dict] = {}

    def encode(self, texts, *, user):
        return [[f"'{word}'" if user else word for word in text.split()] for text in texts]

    def placeholders(self, name, sample, item=None):
        value = sample.parts.get(name)
        items = len(value) if isinstance(value, list) else int(value is not None)
        if item is None:
            return [f"<{name}>"] * items
        return [f"<{name} {item + 1}>"] if item < items else []


def written(template, **parts):
    return " ".join(template.ids([Sample("row", parts)], Words())[0])


def test_turns_of_a_dialogue_are_written_one_after_the_other():
    turn = "q : {question} a : {answer} ."
    template = Template("{history} q : {question} a :", "prompt", INPUTS, repeat={"history": turn})
    said = [{"question": "what is it ?", "answer": "cat"}, {"question": "its colour ?", "answer": 3.0}]
    assert written(template, history=said, question="why ?") == (
        "q : 'what' 'is' 'it' '?' a : 'cat' . q : 'its' 'colour' '?' a : '3' . q : 'why' '?' a :"
    )
    assert written(template, history=[], question="why ?") == written(template, question="why ?") == "q : 'why' '?' a :"
    assert written(template, image="x", history=said[:1], question="why ?").startswith("<image> q : 'what'")
    assert template.fields == ("question",) and turn.split("{")[0] in template.literals


def test_the_first_word_has_no_space_in_front_and_records_have_one():
    template = Template("{turns} end", "prompt", {}, repeat={"turns": "say {word}"})
    texts = [w.text for w in template.rows([Sample("row", {"turns": [{"word": "a"}, {"word": "b"}]})], Words())[0]]
    assert texts == ["say", " a", " say", " b", " end"]
    assert [w.text for w in template.rows([Sample("row", {})], Words())[0]] == ["end"]


def test_the_kth_place_is_the_kth_pictures():
    template = Template("{shots} {image} is a", "prompt", INPUTS, repeat={"shots": "{image} is a {answer} ."})
    shots = [{"answer": "dax"}, {"answer": "wug"}]
    row = {"shots": shots, "image": ["a", "b", "c"]}
    template.check(Sample("row", row))
    assert written(template, **row) == "<image 1> is a 'dax' . <image 2> is a 'wug' . <image 3> is a"
    assert written(template, image="c") == "<image 1> is a"
    assert written(template, shots=shots) == "is a 'dax' . is a 'wug' . is a", "an absent input is written nowhere"
    once = Template("see {image} now", "prompt", INPUTS)
    assert written(once, image=["a", "b"]) == "see <image> <image> now", "all items stand where an input is named once"
    twice = Template("{image} or {image} ?", "prompt", INPUTS)
    assert written(twice, image=["a", "b"]) == "<image 1> or <image 2> ?"


def test_a_mismatch_names_both_numbers():
    template = Template("{shots} {image}", "prompt", INPUTS, repeat={"shots": "{image} {answer}"})
    with pytest.raises(BadInput, match=r"row: \{image\} is written 3 time\(s\) for 2 item\(s\) of image") as error:
        template.check(Sample("row", {"shots": [{}, {}], "image": ["a", "b"]}))
    assert error.value.reason == "placeholder_mismatch" and error.value.input == "image"
    with pytest.raises(BadInput, match="column 'shots' must be a list of records"):
        template.check(Sample("row", {"shots": "dax", "image": "a"}))


def test_segments_of_a_document_hold_pictures_of_their_own():
    inputs = {"image": "image", "audio": "audio"}
    template = Template("{segments}", "prompt", inputs, repeat={"segments": "{image}{audio}{text}"})
    parts = {"segments": [{"image": "a.png", "text": "a cat"}, {"audio": "b.wav"}, {"text": "and"}, {"image": "c.png", "audio": "d.wav"}]}
    row = template.gathered(Sample("row", parts), {"image": "picture", "audio": "audio"})
    assert row.parts["picture"] == ["a.png", "c.png"] and row.parts["audio"] == ["b.wav", "d.wav"]
    opened = Sample("row", {**row.parts, "image": row.parts["picture"]})  # as a split puts them under the inputs' names
    template.check(opened)
    assert " ".join(template.ids([opened], Words())[0]) == "<image 1> 'a' 'cat' <audio 1> 'and' <image 2> <audio 2>"


def test_a_rows_own_picture_keeps_its_place_among_those_of_its_records():
    template = Template("{shots} {image} is", "prompt", INPUTS, repeat={"shots": "{image} {answer}"})
    parts = {"shots": [{"image": "a", "answer": "x"}, {"image": "b", "answer": "y"}], "image": "query"}
    assert template.gathered(Sample("row", parts), {"image": "image"}).parts["image"] == ["a", "b", "query"]
    plain = Sample("row", {"shots": [{"answer": "x"}], "image": ["a", "query"]})
    assert template.gathered(plain, {"image": "image"}) is plain, "records without pictures leave the row's list as it is"


def test_what_is_repeated_needs_a_place():
    with pytest.raises(RecipeError, match=r"prompt: .* write \{history\} in it"):
        Template("{question}", "prompt", INPUTS, repeat={"history": "{answer}"})
    with pytest.raises(RecipeError, match="{histroy} is not a declared input; did you mean 'history'"):
        Template("{histroy} {history}", "prompt", INPUTS, repeat={"history": "{answer}"})
