"""An index: a folder with the vectors of a data set's rows, made by one model and searched with the same.

INDEX/index.json     who made it: the model's sha256, run, task, sides, and the account of rows read, indexed and refused
INDEX/refused.jsonl  rows that could not be used: {id, file, line, input, reason, message}
INDEX/MANIFEST.json  size and sha256 of every file; without it the index is torn
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.components import did_you_mean
from chiasm.model_files import MANIFEST, identity, verify
from chiasm.retrieval.embedding import Space
from chiasm.retrieval.exact import Exact
from chiasm.retrieval.store import Store
from chiasm.run import Run, model_folder
from chiasm.types import ChiasmError

FORMAT = 1


@dataclass(frozen=True)
class Hit:
    """What was found: `score` is the cosine similarity, `media` the file of a picture, sound or video that is one."""

    id: str
    score: float
    side: str
    modality: str
    columns: dict[str, Any]
    media: str | None
    file: str
    line: int | None


class Index:
    """`facts` is what index.json says."""

    def __init__(self, folder: Path, facts: dict[str, Any], store: Store):
        self.folder, self.facts, self.store = folder, facts, store
        self.sides: dict[str, str] = facts["sides"]

    @classmethod
    def open(cls, folder: str | Path) -> Index:
        """Open a finished index; every file must be as it was written."""
        folder = Path(folder)
        if not (folder / "index.json").is_file():
            raise ChiasmError(f"{folder}: not an index (it has no index.json); make one with chiasm index RUN DATA --output {folder}")
        if not (folder / MANIFEST).is_file():
            raise ChiasmError(f"{folder}: torn (it has no {MANIFEST}); delete it and make it again with chiasm index")
        verify(folder)
        facts = json.loads((folder / "index.json").read_text("utf-8"))
        if facts["format"] != FORMAT:
            raise ChiasmError(f"{folder}: of format {facts['format']}, this version reads {FORMAT}; make it again with chiasm index")
        return cls(folder, facts, _store(folder, facts))

    def __len__(self) -> int:
        return sum(self.store.count(side) for side in self.sides)

    @property
    def run(self) -> Path:
        """The run that made it, where it was then."""
        return Path(self.facts["run"])

    def check_model(self, run: Path) -> None:
        """ChiasmError where another model than the one in a run's folder made the index."""
        if (model := identity(model_folder(run))) != self.facts["model"]:
            raise ChiasmError(
                f"{self.folder}: made by another model ({self.facts['model'][:12]}, {self.run}) than {run} ({model[:12]}); "
                "search with that run, or index again with this one"
            )

    def space(self, run: Run) -> Space:
        """What embeds queries; ChiasmError where another model made the index."""
        self.check_model(run.folder)
        return Space(run, self.facts["task"])

    def search(
        self, vector: np.ndarray, k: int = 10, *, find: str | None = None, asked: str | None = None, where: str | None = None
    ) -> list[Hit]:
        """The k nearest to a vector [d], the nearest first.

        `find`: a modality or a side, all where not given; `asked`: the query's own modality, which is left out where others are there.
        `where`: an SQL condition on columns (LanceDB).
        """
        query = np.asarray(vector, dtype=np.float32)
        if query.shape != (self.facts["width"],):
            raise ChiasmError(f"{self.folder}: holds vectors of {self.facts['width']} numbers, the query is {list(query.shape)}")
        if k < 1:
            raise ChiasmError(f"k: {k}: must be at least 1")
        near = self.store.search(query, k, self._searched(find, asked), where)
        return [
            Hit(r["id"], score, side, self.sides[side], r["columns"], r["media"].get(side), r["file"], r["line"]) for score, side, r in near
        ]

    def _searched(self, find: str | None, asked: str | None) -> list[str]:
        if find is not None:
            found = [side for side, modality in self.sides.items() if find in (side, modality)]
            if not found:
                raise ChiasmError(f"{self.folder}: holds no {find}{did_you_mean(find, list(dict.fromkeys(self.sides.values())))}")
            return found
        return [side for side, modality in self.sides.items() if modality != asked] or list(self.sides)


def _store(folder: Path, facts: dict[str, Any]) -> Store:
    if facts["backend"] == "lancedb":
        from chiasm.retrieval.lance import Lance

        return Lance(facts["store"] or str(folder / "lance"))
    return Exact(folder, list(facts["sides"]))
