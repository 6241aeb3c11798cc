"""The built-in data set `quiz` as a source: small enough to learn in a minute or two, rich enough for a task of every kind."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from chiasm.components import did_you_mean
from chiasm.data.quiz.rows import row
from chiasm.data.scenes.chance import Chance
from chiasm.data.scenes.draw import CROP, draw
from chiasm.data.scenes.layout import SplitPlan, make_crop
from chiasm.data.scenes.speech import say, speakers
from chiasm.data.sources.base import Source
from chiasm.types import Drawn, RecipeError, Sample

SPLITS = {"train": SplitPlan(10_000), "validation": SplitPlan(300, "validation"), "test": SplitPlan(2_000, "test")}
COLUMNS = (
    *("image", "audio", "thing", "colour", "heard", "same", "caption", "question", "answer", "kind", "sound_question", "sound_answer"),
    *("opinion", "feeling", "advert", "price", "shop", "dear", "history"),
)


class Quiz(Source):
    """Rows of one picture and one spoken word; handwriting and voices of `test` are never met in training:

    {"image": Drawn, "audio": Drawn, "thing": "cat", "colour": "red", "heard": "moon", "same": "no", "caption": "a red cat",
     "question": "is it green ?", "answer": "no", "kind": "is", "sound_question": "is it a digit ?", "sound_answer": "no",
     "opinion": "what a lovely day", "feeling": "positive",
     "advert": "a used cat", "price": 41, "shop": "market", "dear": "yes",
     "history": "for the colour a red cup and for the thing a blue cat"}
    """

    splits = tuple(SPLITS)

    def __init__(self, split: str, *, seed: int = 0):
        if split not in SPLITS:
            raise RecipeError(f"the built-in data 'quiz' has no split '{split}'{did_you_mean(split, SPLITS)}")
        self.split, self.seed, self.plan = split, seed, SPLITS[split]

    def __len__(self) -> int:
        return self.plan.size

    def read(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"quiz {self.split} has {len(self)} rows, not {index}")
        chance = Chance(self.seed, f"quiz/{self.split}", index)
        crop = make_crop(chance, self.plan)
        heard, parts = row(chance, crop.things[0])
        voice, take = chance.pick(speakers(self.plan.people))
        image = Drawn(f"quiz/{self.split}/{self.seed}-{index:06d}", partial(draw, CROP, crop.background, tuple(crop.things.values())))
        audio = Drawn(f"{voice}-{take}/{heard}", partial(say, heard, voice, take))
        sample_id, file, line = self.origin(index)
        return Sample(sample_id, {"image": image, "audio": audio, **parts}, file, line)

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.split}:{index}", f"quiz/{self.split}", index

    @property
    def columns(self) -> Iterable[str]:
        return COLUMNS
