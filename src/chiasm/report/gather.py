"""Pictures, sounds, answers and retrieval rows of a trained run, as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from chiasm.data.collate import Collator
from chiasm.media.audio import wav_bytes
from chiasm.media.image import png_bytes
from chiasm.types import BadSample, Opened, Prediction

PICTURES = 8  # shown with their questions
ROWS = 12  # of one picture, at most
CANDIDATES = 100  # of a retrieval
RETRIEVALS = 6
TOP = 5


def gather(run: Any, split_name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(samples, retrieval) for `write_report`, from the first rows of a split."""
    split = run.split(split_name)
    picture = next((name for name, spec in run.recipe.inputs.items() if spec.modality == "image"), None)
    sound = next((name for name, spec in run.recipe.inputs.items() if spec.modality == "audio"), None)
    rows = [row for row in split.open_rows(range(min(len(split), PICTURES * ROWS))) if not isinstance(row, BadSample)]
    groups: dict[str, list[Opened]] = {}
    for row in rows:
        key = str(row.keys.get(picture or "", row.sample.id))
        if key in groups or len(groups) < PICTURES:
            groups.setdefault(key, []).append(row)
    samples = [_sample(run, group, picture, sound) for group in groups.values()]
    return [s for s in samples if s["rows"] or "predicted_caption" in s], retrieval_rows(run, split)


def _sample(run: Any, rows: Sequence[Opened], picture: str | None, sound: str | None) -> dict[str, Any]:
    """One picture with what was asked about it, heard and answered."""
    found: dict[str, Any] = {"rows": []}
    if picture is not None and picture in rows[0].values:
        found["image_png_bytes"] = png_bytes(np.asarray(_first(rows[0].values[picture])))
    heard = next((row for row in rows if sound is not None and sound in row.values), None)
    if heard is not None:
        found["sound_wav_bytes"] = wav_bytes(_first(heard.values[sound or ""]))
    for name, task in run.tasks.items():
        if task.view != "fused":
            continue
        wanted = [row for row in rows if task.wants(row.sample)][:ROWS]
        asks = any(task.declared[text] == "text" for text in task.reads)
        for row, answer in zip(wanted, predict(run, name, wanted), strict=True):
            if not asks and task.guessable and isinstance(answer.output, str) and "predicted_caption" not in found:
                found |= {"caption": answer.target, "predicted_caption": answer.output}
                continue
            asked = " ".join(str(row.sample.parts[text]) for text in run.text_inputs if row.sample.parts.get(text))
            said = f"(heard) {asked}" if row is heard else asked or name
            found["rows"].append((said, str(answer.target), str(answer.output), answer.output == answer.target))
    return found


def predict(run: Any, task: str, rows: Sequence[Opened]) -> list[Prediction]:
    """One task's predictions for opened rows."""
    if not rows:
        return []
    step = Collator([run.tasks[task]], run.processor, unlabelled=True)(rows).to(run.model.device)
    with torch.no_grad():
        streams = run.model.encode(step.pool)
        return [p for batch in step.batches for p in run.tasks[task].predict(run.model, batch, streams)]


def retrieval_rows(run: Any, split: Any) -> list[dict[str, Any]]:
    """For the first task that contrasts a picture with a text: captions with their nearest pictures, and the other way round."""
    for name, task in run.tasks.items():
        sides = getattr(task, "sides", ())
        picture = next((s for s in sides if run.recipe.inputs.get(s) and run.recipe.inputs[s].modality == "image"), None)
        text = next((s for s in sides if s not in run.processor.modalities), None)
        if picture is None or text is None:
            continue
        rows = _wanted(split, task)
        if len(rows) >= TOP:
            return _nearest(run, name, rows, picture, text)
    return []


def _wanted(split: Any, task: Any) -> list[Opened]:
    found: list[Opened] = []
    for start in range(0, min(len(split), 40 * CANDIDATES), CANDIDATES):
        opened = split.open_rows(range(start, min(len(split), start + CANDIDATES)))
        found += [row for row in opened if not isinstance(row, BadSample) and task.wants(row.sample)]
        if len(found) >= CANDIDATES:
            break
    return found[:CANDIDATES]


def _nearest(run: Any, name: str, rows: list[Opened], picture: str, text: str) -> list[dict[str, Any]]:
    answers = predict(run, name, rows)
    pictures = np.array([p.output[picture] for p in answers])  # [N, W] of unit length
    texts = np.array([p.output[text] for p in answers])
    scores = texts @ pictures.T  # [texts, pictures]
    png = [png_bytes(np.asarray(_first(row.values[picture]))) for row in rows]
    said = [str(row.sample.parts[text]) for row in rows]
    keys = [row.keys[picture] for row in rows]
    found: list[dict[str, Any]] = []
    for i in range(min(RETRIEVALS, len(rows))):
        best = np.argsort(-scores[i])[:TOP]
        found.append({"caption": said[i], "pictures": [(png[j], keys[j] == keys[i] or said[j] == said[i]) for j in best]})
    for i in range(min(RETRIEVALS, len(rows))):
        best = np.argsort(-scores[:, i])[:TOP]
        found.append({"image_png_bytes": png[i], "captions": [(said[j], keys[j] == keys[i] or said[j] == said[i]) for j in best]})
    return found


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) else value
