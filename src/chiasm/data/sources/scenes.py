"""The built-in data set `scenes` as a source: pictures and clips are made when they are opened, the same ones every time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.dialogue import dialogue
from chiasm.data.scenes.draw import CROP, SCENE, draw
from chiasm.data.scenes.language import WRITTEN, caption, spoken_question, told, written_questions
from chiasm.data.scenes.layout import SPLITS, Scene, make_crop, make_scene
from chiasm.data.scenes.shots import MOST, make_shots
from chiasm.data.scenes.speech import say, speakers
from chiasm.data.scenes.things import THINGS
from chiasm.data.sources.base import Source
from chiasm.types import Drawn, RecipeError, Sample

ROWS = WRITTEN + 2  # of every scene: its caption, the written questions, a spoken one
_COLUMNS = {
    "scene": ("image", "caption", "audio", "question", "answer", "kind"),
    "thing": ("image", "thing", "colour"),
    "word": ("audio", "thing"),
    "view": ("image", "audio", "caption", "thing", "kind"),
    "dialogue": ("image", "history", "question", "answer", "kind"),
    "shots": ("image", "shots", "answer", "kind"),
}


class Scenes(Source):
    """Rows of `train`, `validation`, `test` and `test_new_pairs`, eight in a row about the same picture:

        {"image": Drawn, "caption": "a red cat and a blue seven above an orange star"}
        {"image": Drawn, "question": "what colour is the cat ?", "answer": "red", "kind": "colour"}
        {"image": Drawn, "audio": Drawn, "question": "where is this thing ?", "answer": "top left", "kind": "spoken"}

    `things` (for training): {"image": Drawn, "thing": "cat", "colour": "red"}, one thing on 32x32 pixels. `words` (for training) and
    `words_test` (voices that training never hears): {"audio": Drawn, "thing": "cat"}. `views` (for training): one thing as {"caption": "a
    red cat" or "a red thing", "image": Drawn} or as the caption and {"audio": Drawn}, by turns, with `thing` and the inputs' names as
    `kind`; `views_test` has those two and all other combinations of the three.

    `dialogue` (for training) and `dialogue_test`: the last of two to four questions about one thing, with the turns before it:

        {"image": Drawn, "history": [{"question": "what is in the top left ?", "answer": "cat"}], "question": "what colour is it ?",
         "answer": "red", "kind": "turn 2"}

    `shots` (for training), `shots_test` and `shots_new` (colours that are never bound in training): 0 to 4 examples, then a picture:

        {"shots": [{"image": Drawn, "answer": "dax"}, {"image": Drawn, "answer": "wug"}], "image": Drawn, "answer": "dax",
         "kind": "2 shots"}
    """

    splits = tuple(SPLITS)

    def __init__(self, split: str, *, seed: int = 0, scenes: int | None = None):
        if split not in SPLITS:
            raise RecipeError(f"the built-in data 'scenes' has no split '{split}'{did_you_mean(split, SPLITS)}")
        if scenes is not None and scenes < 1:
            raise RecipeError(f"scenes: {scenes} is not a number of scenes; type 1 or more")
        self.split, self.seed, self.plan = split, seed, SPLITS[split]
        most = len(speakers(self.plan.people)) * len(THINGS) if self.plan.unit == "word" else None
        self.scenes = min(scenes or self.plan.size, most or scenes or self.plan.size)

    def __len__(self) -> int:
        return self.scenes * ROWS if self.plan.unit == "scene" else self.scenes

    def read(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"scenes {self.split} has {len(self)} rows, not {index}")
        sample_id, file, line = self.origin(index)
        if self.plan.unit == "scene":
            parts = _scene_rows(self.split, self.seed, index // ROWS)[index % ROWS]
        else:
            parts = self._single(index)
        return Sample(sample_id, parts, file, line)

    def _single(self, index: int) -> dict[str, Any]:
        """The parts of a row about one thing."""
        if self.plan.unit == "word":
            return _word_row(self.plan.people, index)
        return _MADE[self.plan.unit](self.split, self.seed, index)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.split}:{index}", f"scenes/{self.split}", index

    def outline(self) -> tuple[Sequence[int], Sequence[int]]:
        rows = range(len(self))
        return [0] * len(rows), [row // ROWS for row in rows] if self.plan.unit == "scene" else rows

    @property
    def columns(self) -> Iterable[str]:
        return _COLUMNS[self.plan.unit]


@lru_cache(maxsize=512)
def _scene_rows(split: str, seed: int, number: int) -> tuple[dict[str, Any], ...]:
    """The parts of all ROWS rows about scene `number`."""
    chance, plan = Chance(seed, split, number), SPLITS[split]
    scene = make_scene(chance, plan)
    image = _picture(split, seed, number, SCENE, scene)
    rows: list[dict[str, Any]] = [{"image": image, "caption": caption(scene)}]
    for question in (*written_questions(chance, scene), spoken_question(chance, scene)):
        row: dict[str, Any] = {"image": image, "question": question.text, "answer": question.answer, "kind": question.kind}
        if question.heard:
            row["audio"] = _clip(question.heard, *chance.pick(speakers(plan.people)))
        rows.append(row)
    return tuple(rows)


def _thing_row(split: str, seed: int, number: int) -> dict[str, Any]:
    crop = make_crop(Chance(seed, split, number), SPLITS[split])
    return {"image": _picture(split, seed, number, CROP, crop), "thing": crop.things[0].thing, "colour": crop.things[0].colour}


def _view_row(split: str, seed: int, number: int) -> dict[str, Any]:
    chance, plan = Chance(seed, split, number), SPLITS[split]
    crop = make_crop(chance, plan)
    thing, colour = crop.things[0].thing, crop.things[0].colour
    views = {
        "caption": told(chance, thing, colour),
        "image": _picture(split, seed, number, CROP, crop),
        "audio": _clip(thing, *chance.pick(speakers(plan.people))),
    }
    kind = plan.views[number % len(plan.views)]
    return {name: view for name, view in views.items() if name in kind.split("+")} | {"thing": thing, "kind": kind}


def _dialogue_row(split: str, seed: int, number: int) -> dict[str, Any]:
    chance = Chance(seed, split, number)
    scene = make_scene(chance, SPLITS[split])
    *before, (question, answer) = dialogue(chance, scene)
    history = [{"question": asked, "answer": said} for asked, said in before]
    image = _picture(split, seed, number, SCENE, scene)
    return {"image": image, "history": history, "question": question, "answer": answer, "kind": f"turn {len(before) + 1}"}


def _shots_row(split: str, seed: int, number: int) -> dict[str, Any]:
    count = number % (MOST + 1)
    pictures, words = make_shots(Chance(seed, split, number), SPLITS[split], count)
    drawn = [_picture(split, seed, number, CROP, scene, f"-{i}") for i, scene in enumerate(pictures)]
    shots = [{"image": image, "answer": word} for image, word in zip(drawn[:-1], words[:-1], strict=True)]
    return {"shots": shots, "image": drawn[-1], "answer": words[-1], "kind": f"{count} shots"}


_MADE = {"thing": _thing_row, "view": _view_row, "dialogue": _dialogue_row, "shots": _shots_row}


def _word_row(people: str, number: int) -> dict[str, Any]:
    word = THINGS[number % len(THINGS)]
    return {"audio": _clip(word, *speakers(people)[number // len(THINGS)]), "thing": word}


def _picture(split: str, seed: int, number: int, side: int, scene: Scene, which: str = "") -> Drawn:
    return Drawn(f"{split}/{seed}-{number:06d}{which}", partial(draw, side, scene.background, tuple(scene.things.values())))


def _clip(word: str, voice: str, take: int) -> Drawn:
    return Drawn(f"{voice}-{take}/{word}", partial(say, word, voice, take))
