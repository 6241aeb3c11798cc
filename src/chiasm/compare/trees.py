"""Gradient-boosted trees on what the encoders say before any fusion: the baseline that tabular work always includes.

Pooled outputs of frozen encoders and ready-made features, a table's own columns, and a text's words (TF-IDF). An absent input is NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from chiasm.compare.blind import Answers
from chiasm.compare.items import CHUNK
from chiasm.compare.measure import Exchange, Places
from chiasm.data.collate import Collator, Gathered
from chiasm.data.randomness import some_of
from chiasm.recipe import Recipe
from chiasm.training.materials import rows_of
from chiasm.types import BadSample, ChiasmError, Opened, Prediction, Sample, Tokens

ROWS = 10_000  # training rows, at most
MANY = 2_000  # training rows, from which on some can be spared
WORDS = 256  # of the texts' words, the commonest
READY = ("text", "tokens", "features", "table")  # modalities that need no encoder of ours here


def unusable(recipe: Recipe) -> list[str]:
    """Inputs that only an encoder that trains can read, so that there are no embeddings to put trees on."""
    named = [(name, spec.modality, recipe.encoder_for(name)) for name, spec in recipe.inputs.items()]
    return [name for name, modality, encoder in named if modality not in READY and (encoder is None or encoder.train != "none")]


class Trees:
    """HistGradientBoosting of scikit-learn as an Answerer; `model` brings the frozen encoders."""

    def __init__(self, model: Any, processor: Any, task: Any, recipe: Recipe, answers: Answers, *, seed: int):
        self.model, self.task, self.answers, self.seed = model.eval(), task, answers, seed
        self.collator = Collator([task], processor, unlabelled=True, empty=True)
        self.inputs = [name for name in task.declared if name in task.reads]
        self.kinds = {name: self.kind(name, recipe) for name in self.inputs}
        self.words: dict[str, Any] = {}  # text input -> its vectorizer
        self.trees: Any = None

    def kind(self, name: str, recipe: Recipe) -> str:
        """How an input becomes numbers: its words, its columns, or its pooled tokens."""
        spec = recipe.encoder_for(name)
        text = self.task.declared[name] == "text" or (self.task.declared[name] == "tokens" and (spec is None or spec.train != "none"))
        return "words" if text else "columns" if self.task.declared[name] == "table" else "tokens"

    def fit(self, split: Any) -> None:
        """Learn from (at most 10,000 rows of) a training split."""
        from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

        places = some_of(len(split), ROWS)
        self.learn_words([sample.parts for sample in rows_of(split, ROWS)])
        tables, targets = [], []
        for start in range(0, len(places), CHUNK):
            opened = self.wanted(split, places[start : start + CHUNK])
            described = self.describe(opened) if opened else {}
            if described:
                tables.append(np.concatenate([described[name] for name in self.inputs], 1))
                targets += [self.target(row.sample) for row in opened]
        if not tables:
            raise ChiasmError(f"task {self.task.name}: no training row can be used")
        kind = HistGradientBoostingRegressor if self.answers == "number" else HistGradientBoostingClassifier
        held_out = len(targets) >= MANY  # a tenth of them says when further trees no longer help
        self.trees = kind(random_state=self.seed, early_stopping=held_out).fit(np.concatenate(tables), np.array(targets))

    def target(self, sample: Sample) -> Any:
        """The number or the label of a row; None where it has none."""
        if not self.task.wants(sample):
            return None
        return self.task.number(sample) if self.answers == "number" else self.task.labels_of(sample)[0]

    def wanted(self, split: Any, places: Places) -> list[Opened]:
        """The rows that can be read and have a target."""
        opened = [row for row in split.open_rows(places) if not isinstance(row, BadSample) and self.task.wants(row.sample)]
        usable = set(self.collator.gathered(opened).ids)
        return [row for row in opened if row.sample.id in usable]

    def learn_words(self, rows: Sequence[Mapping[str, Any]]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        for name, kind in self.kinds.items():
            texts = [text_of(parts, name) or "" for parts in rows] if kind == "words" else []
            if any(texts):
                self.words[name] = TfidfVectorizer(max_features=WORDS, token_pattern=r"\S+", dtype=np.float32).fit(texts)

    @torch.no_grad()
    def describe(self, opened: Sequence[Opened]) -> dict[str, np.ndarray]:
        """Input -> [rows, numbers], NaN where a row lacks it."""
        gathered = self.collator.gathered(opened)
        return {
            name: self.words_of(opened, name) if kind == "words" else self.units_of(gathered, name) for name, kind in self.kinds.items()
        }

    def words_of(self, opened: Sequence[Opened], name: str) -> np.ndarray:
        texts = [text_of(row.sample.parts, name) for row in opened]
        if name not in self.words:
            return np.full((len(opened), 1), np.nan)
        found = self.words[name].transform([text or "" for text in texts]).toarray()
        found[[text is None for text in texts]] = np.nan
        return found

    def units_of(self, gathered: Gathered, name: str) -> np.ndarray:
        """[rows, numbers] the mean over a row's pictures, clips or records."""
        tensors = {key: value.to(self.model.device) for key, value in gathered.pool.get(name, {}).items()}
        if not tensors:
            return np.full((len(gathered.rows), self.width(name)), np.nan)
        if self.kinds[name] == "columns":
            units = torch.cat([tensors["table_numbers"].masked_fill(tensors["table_missing"], torch.nan), tensors["table_categories"]], 1)
        else:
            tokens = self.model.encode_features(name, tensors)
            units = Tokens(tokens.values, tokens.mask).pooled()
        values = np.concatenate([units.float().cpu().numpy(), np.full((1, units.shape[1]), np.nan, np.float32)])
        return np.stack([values[list(row.units[name]) or [-1]].mean(0) for row in gathered.rows])

    def width(self, name: str) -> int:
        modality = self.collator.processor.modalities[name]
        if self.kinds[name] == "columns":
            return len(modality.number_columns) + len(modality.category_columns)
        return self.model.model.encoders[name].width

    def block(self, opened: Sequence[Opened]) -> TreesBlock:
        return TreesBlock(self, opened)


class TreesBlock:
    """Rows as numbers, input by input, so that inputs can be exchanged."""

    def __init__(self, trees: Trees, opened: Sequence[Opened]):
        self.trees, self.opened = trees, opened
        self.numbers = {  # the last row of each stands for "absent"
            name: np.concatenate([found, np.full((1, found.shape[1]), np.nan)]) for name, found in trees.describe(opened).items()
        }

    def __len__(self) -> int:
        return len(self.opened)

    def answer(self, asked: Places, sources: Exchange) -> list[Prediction]:
        if not len(asked):
            return []
        taken = {name: [-1 if source is None else source for source in sources.get(name, asked)] for name in self.trees.inputs}
        table = np.concatenate([self.numbers[name][taken[name]] for name in self.trees.inputs], 1)
        samples, task = [self.opened[place].sample for place in asked], self.trees.task
        targets = [self.trees.target(sample) for sample in samples]
        if self.trees.answers == "number":
            values = self.trees.trees.predict(table).tolist()
            return [Prediction(s.id, task.name, v, t) for s, v, t in zip(samples, values, targets, strict=True)]
        known, chances = self.trees.trees.classes_.tolist(), self.trees.trees.predict_proba(table).tolist()
        found = []
        for sample, target, row in zip(samples, targets, chances, strict=True):
            belief = {**dict.fromkeys(task.labels, 0.0), **dict(zip(known, row, strict=True))}
            said = max(belief, key=lambda label: belief[label])
            found.append(Prediction(sample.id, task.name, said, target, score=belief[said], probabilities=belief))
        return found


def text_of(parts: Mapping[str, Any], name: str) -> str | None:
    """A row's text, None where it has none."""
    part = parts.get(name)
    return part if isinstance(part, str) and part.strip() else None
