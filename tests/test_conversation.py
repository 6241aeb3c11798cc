"""A conversation as a row: which words, pictures and earlier turns a run is given, and what is said of the rest."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chiasm.conversation import Part, Turn, asked, question_input, reads, reads_history
from chiasm.media.base import Modality
from chiasm.media.tokenizer import learn_tokenizer
from chiasm.media.vocabulary import Vocabulary
from chiasm.tasks.generate import Generate
from chiasm.types import BadInput

DIALOGUE = {"history": "question : {question} answer : {answer} ."}


def run_of(
    inputs: dict[str, str],
    prompt: str,
    repeat: dict[str, str] | None = None,
    reader: Any = None,
    reads_itself: Any = (),
    tokenizer: Any = None,
) -> Any:
    """What a conversation needs to know of a run."""
    task = Generate("answer", Generate.Options(prompt=prompt, repeat=repeat or {}, target="{answer}"), inputs)
    specs = {name: SimpleNamespace(modality=kind, options={}) for name, kind in inputs.items()}
    return SimpleNamespace(
        recipe=SimpleNamespace(inputs=specs),
        processor=SimpleNamespace(
            reader=reader, reads=reads_itself, modalities={name: Modality() for name, kind in inputs.items() if kind != "text"}
        ),
        vocabulary=Vocabulary(tokenizer),
        tasks={"answer": task},
        task_for=lambda parts, name=None: task,
        columns_of=dict,
    )


def user(*parts: Any) -> Turn:
    """Words, or (modality, value) or (modality, value, input)."""
    return Turn("user", tuple(Part("text", part) if isinstance(part, str) else Part(*part) for part in parts))


def said(text: str) -> Turn:
    return Turn("assistant", (Part("text", text),))


SYSTEM = Turn("system", (Part("text", "be brief"),))
PLAIN = run_of({"image": "image", "question": "text"}, "{question}")
TALKS = run_of({"image": "image", "question": "text"}, "{history} {image} {question}", DIALOGUE)


def test_one_turn():
    found = asked(PLAIN, [user("what is", ("image", b"a"), "it ?")])
    assert found.row == {"question": "what is it ?", "image": b"a"} and found.notes == ()
    assert asked(PLAIN, [user(("image", b"a"))]).row == {"image": b"a"}
    assert asked(PLAIN, [user("one"), user("two")]).row == {"question": "one two"}


def test_one_may_go_on_asking_about_a_picture():
    turns = [user("what ?", ("image", b"old")), said("a cat"), user("and now ?", ("image", b"new")), said("a dog"), user("its colour ?")]
    found = asked(PLAIN, turns)
    assert found.row == {"question": "its colour ?", "image": b"new"}
    assert found.notes == ("this model reads one turn only: it was not given 4 earlier message(s)",)
    alone = asked(PLAIN, [SYSTEM, user("a", ("image", b"a"))])
    assert alone.notes == ("this model reads one turn only: it was not given the system message",)


def test_an_input_that_was_never_given_is_said():
    (note,) = asked(PLAIN, [user("what ?")]).notes
    assert note == "no image was given; this model reads one" and (note.code, note.figures) == ("not_given", {"input": "image"})
    assert "not_given" not in {note.code for note in asked(PLAIN, [user("what ?", ("image", b"a")), said("b"), user("and ?")]).notes}
    views = run_of({"front": "image", "question": "text"}, "{question}")
    assert asked(views, [user(("image", b"a"))]).notes == ("no question was given; this model reads one",)
    assert asked(views, [user("?")]).notes == ("no 'front' (image) was given; this model reads one",)
    assert asked(views, [user("?")], inputs={"front": b"a"}).notes == ()


def test_words_outside_the_vocabulary_are_said():
    words = learn_tokenizer(["what is this ?"], kind="words", vocab_size=99, placeholders=())
    knows = run_of({"question": "text"}, "{question}", tokenizer=words)
    assert asked(knows, [user("What is this ?")]).notes == ()
    (note,) = asked(knows, [user("what is 你好 or Zorblatt?")]).notes
    assert note == "not in this model's vocabulary: 你好, or, Zorblatt, ?"
    assert (note.code, note.figures) == ("unknown_words", {"input": "question", "words": ["你好", "or", "Zorblatt", "?"]})
    assert asked(knows, [user("你好 ?")]).notes == ("not in this model's vocabulary: 你好; 'question' has no other words",)
    assert asked(knows, [user("what\x00 is")]).notes == ()  # as it is read
    assert asked(knows, [user("what \ud800")]).notes == ()  # refused when it is read
    assert asked(knows, [user("zorblatt"), said("a"), user("what ?")]).notes[0].code == "one_turn"


def test_more_pictures_than_are_read_is_said():
    found = asked(PLAIN, [user("what ?", ("image", b"a"), ("image", b"b"))])
    assert found.row["image"] == b"b" and found.notes == ("2 of 'image' were given; the model reads the last",)
    twice = run_of({"image": "image", "question": "text"}, "{image} or {image} {question}")
    found = asked(twice, [user("which ?", ("image", b"a"), ("image", b"b"), ("image", b"c"))])
    assert found.row["image"] == [b"b", b"c"] and found.notes == ("3 of 'image' were given; the model reads the last 2",)
    itself = run_of({"image": "image", "question": "text"}, "{question}", reads_itself=("image",))
    assert asked(itself, [user("which ?", ("image", b"a"), ("image", b"b"))]).row["image"] == [b"a", b"b"]


def test_several_inputs_of_one_kind():
    views = run_of({"front": "image", "side": "image", "question": "text"}, "{question}")
    assert asked(views, [user("?", ("image", b"a"), ("image", b"b"))]).row == {"question": "?", "front": b"a", "side": b"b"}
    assert asked(views, [user("?", ("image", b"a", "side"))]).row == {"question": "?", "side": b"a"}
    with pytest.raises(BadInput, match="no image input 'back'; it has: front, side"):
        asked(views, [user("?", ("image", b"a", "back"))])


def test_a_history_is_records():
    found = asked(TALKS, [SYSTEM, user("what ?", ("image", b"a")), said("a cat"), said("on a mat"), user("its colour ?")])
    history = [{"question": "be brief what ?", "answer": "a cat on a mat"}]
    assert found.row == {"question": "its colour ?", "image": b"a", "history": history} and found.notes == ()
    assert reads_history(TALKS, TALKS.tasks["answer"]) and not reads_history(PLAIN, PLAIN.tasks["answer"])
    assert asked(TALKS, [user("what ?")]).row == {"question": "what ?"}


def test_examples_have_pictures_of_their_own():
    shots = run_of({"image": "image"}, "{shots} {image} this is a", {"shots": "{image} this is a {answer} ."})
    found = asked(shots, [user(("image", b"a")), said("dax"), user(("image", b"b")), said("wug"), user(("image", b"c"))])
    assert found.row == {"image": b"c", "shots": [{"answer": "dax", "image": b"a"}, {"answer": "wug", "image": b"b"}]}


def test_a_chat_as_one_text_and_by_a_template():
    turns = [user("hello"), said("hi"), user("what ?")]
    one = run_of({"prompt": "text"}, "{prompt}")
    assert asked(one, turns).row == {"prompt": "user: hello\nassistant: hi\nuser: what ?"}
    assert asked(one, turns[-1:]).row == {"prompt": "what ?"}
    chats = run_of({"question": "text"}, "{question}", reader=SimpleNamespace(spec={"chat": True}))
    found = asked(chats, [SYSTEM, *turns])
    assert found.row == {"question": "what ?", "earlier turns": [("system", "be brief"), ("user", "hello"), ("assistant", "hi")]}
    assert found.notes == ()


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([], "the last message must be the user's"),
        ([user("a"), said("b")], "the last message must be the user's"),
        ([user(("audio", b"a"))], "this run reads no audio; it reads: image, question .text."),
        ([user("a", ("audio", b"a")), said("b"), user("c")], "this run reads no audio"),
        ([user("")], "holds nothing that this run reads"),
        ([Turn("assistant", (Part("image", b"a"),)), user("a")], "only a user's can"),
        ([Turn("tool", ()), user("a")], "the role 'tool'"),
    ],
)
def test_what_cannot_be_asked(turns, message):
    with pytest.raises(BadInput, match=message):
        asked(PLAIN, turns)


def test_which_text_is_the_question():
    two = run_of({"context": "text", "query": "text"}, "{context} {query}")
    with pytest.raises(BadInput, match="several texts .context, query.; give them by name"):
        asked(two, [user("a")])
    assert asked(two, [user("a")], inputs={"context": "b"}).row == {"context": "b", "query": "a"}
    assert question_input(run_of({"context": "text", "question": "text"}, "{question}")) == "question"
    sees = run_of({"image": "image"}, "a picture of")
    with pytest.raises(BadInput, match="this run reads no text; it reads: image"):
        asked(sees, [user("a", ("image", b"a"))])
    assert reads(two) == "context (text), query (text)"
