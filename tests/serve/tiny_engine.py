"""Runs of fresh tiny models for the tests of the server, and its parts without its threads."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import yaml

import chiasm
from chiasm.model_files import save_model
from chiasm.serve.batches import Row
from chiasm.serve.engine import Engine
from chiasm.serve.slots import Slots
from chiasm.serve.work import Finished, Work

sys.path.insert(0, str(Path(__file__).parent.parent / "contracts"))
from tiny_models import FUSIONS, OWN_WEIGHTS, WORDS, assembled, calm, picture, recipe_of, sound

TASKS = {
    "answer": {"type": "generate", "prompt": "{question}", "target": "{answer}", "generation": {"max_new_tokens": 6}},
    "choose": {"type": "classify", "prompt": "{question}", "target": "answer", "dropout": 0.0},
}
SEE_LAST = {"type": "gated_cross_attention", "see": "last"}


@lru_cache(maxsize=64)
def tiny_run(fusion: str = "early", backbone: str = "gpt2", *, tasks: str = "both") -> chiasm.Run:
    """An untrained run that writes and chooses; shared between tests, which leave it as it is."""
    spec = {"own weights": OWN_WEIGHTS, "see last": SEE_LAST}.get(fusion) or FUSIONS[fusion]
    changes = {"tasks": TASKS if tasks == "both" else {tasks: TASKS[tasks]}}
    torch.manual_seed(len(fusion) + len(backbone))
    model, processor = assembled(spec, backbone, **changes)
    with torch.no_grad():
        for gate in model.fusion.gates():
            gate.fill_(0.5)
    folder = Path(mkdtemp(prefix="chiasm-"))
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_of(spec, backbone, **changes)), encoding="utf-8")
    save_model(model if model.config.is_encoder_decoder else calm(model), processor, folder / "model")  # a calm T5 writes nothing
    return chiasm.load(folder)


def parts(seed: int) -> dict[str, Any]:
    """A row of inputs: questions of several lengths, with a picture, a sound, both or none."""
    question = " ".join([*WORDS[seed % 3].split(), *WORDS[(seed // 3) % 3].split()][: 2 + seed % 7])
    row: dict[str, Any] = {"question": question}
    if seed % 4 != 1:
        row["image"] = picture(seed)
    if seed % 4 in (1, 2):
        row["audio"] = sound(seed)
    return row


class Recording(Slots):
    """Slots that note the logits of every token, per ticket."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.seen: dict[Any, list[torch.Tensor]] = {}

    def _choose(self, logits: torch.Tensor, texts: Sequence[Any]) -> Any:
        for row, text in zip(logits, texts, strict=True):
            self.seen.setdefault(text.ticket, []).append(row.clone())
        return super()._choose(logits, texts)


class Desk:
    """An engine without its thread: rows are read, admitted and stepped by hand."""

    def __init__(self, run: chiasm.Run, size: int = 8, compiler: str = ""):
        self.run = run
        self.engine = Engine(run, slots=size, compiler=compiler)
        self.slots = Recording(run.model, self.engine._collate, size, compiler=compiler)

    def row(self, given: Any, task: str = "answer", **settings: Any) -> Row:
        return self.engine._read(Work(given, task, **settings))

    def finish(self, rows: Sequence[Row], *, at_once: int = 8) -> list[tuple[Finished, torch.Tensor]]:
        """(result, logits [tokens, V]) of every row; at most `at_once` are admitted together, as soon as slots are free."""
        left = list(rows)
        while left or self.slots.rows:
            now = min(at_once, self.slots.free, len(left))
            if now:
                self.slots.admit(left[:now])
                left = left[now:]
            self.slots.step()
        return [(row.ticket.wait(0), torch.stack(self.slots.seen[row.ticket])) for row in rows]
