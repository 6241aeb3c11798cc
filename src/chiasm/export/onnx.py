"""`--to onnx`: one forward pass of a run's first task as an ONNX file, compared with the run on rows that it was not traced with.

The first task is the first that fuses its inputs, where there is one. A task that writes gives the logits of every place [1, T, V]; one
that decides gives its head's values, one that compares both sides' embeddings. What is fixed is said in the result: one row, the length of
its text (pad shorter ones on the left), the shapes of its media.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from chiasm.data.collate import Collator
from chiasm.processing import argument
from chiasm.tasks.generate import prompts_alone
from chiasm.types import BadSample, Batch, ChiasmError

TOLERANCE = 1e-4  # of the values' size
ROWS = 64  # rows that are looked at for the longest text, and one after the other compared
COMPARED = 4
STEP = 16  # the length is a multiple of it, where the model has so many places
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write(run: Any, folder: Path, final: Path) -> tuple[list[str], dict[str, Any], list[str]]:
    """FOLDER/model.onnx with its weights beside it, and FOLDER/model.json: the task, and every input's shape."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ChiasmError(f"--to onnx needs {', '.join(missing)}; pip install {' '.join(missing)}")
    if run.processor.reads:
        raise ChiasmError(
            "--to onnx: a vision-language backbone lays out each row by its pictures' sizes, which one graph cannot; use --to hub"
        )
    if run.model.config.backbone.get("quantize"):
        raise ChiasmError("--to onnx: a graph has no packed weights (backbone.quantize); use --to hub")
    run.model.to("cpu")
    task = next((task for task in run.tasks.values() if task.view == "fused"), next(iter(run.tasks.values())))
    rows = examples(run, task)
    names = list(rows[0])
    program = Forward(run.model, task, names).eval()
    with torch.no_grad(), quiet():
        made = torch.onnx.export(program, tuple(rows[0].values()), dynamo=True, input_names=names, output_names=["output"], verbose=False)
        assert made is not None
        made.save(folder / "model.onnx", external_data=True)
    difference = compared(program, rows, folder / "model.onnx")
    shapes = {name: list(value.shape) for name, value in rows[0].items()}
    facts = {"task": task.name, "inputs": shapes, "max_difference": difference, "compared": len(rows)}
    (folder / "model.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    lines = [
        f"wrote model.onnx: the forward pass of the task {task.name}; differs from the run by at most {difference:.1e} on {len(rows)} rows",
        "fixed: one row at a time; " + "; ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()),
        *(["pad a shorter text on the left, with attention_mask 0 there"] if "attention_mask" in shapes else []),
    ]
    return lines, facts, [f"onnxruntime.InferenceSession('{final / 'model.onnx'}').run(None, inputs)   in Python"]


class Forward(nn.Module):
    """A run's model and one task as a function of tensors, in the order of `names`."""

    def __init__(self, model: Any, task: Any, names: Sequence[str]):
        super().__init__()
        self.model, self.task, self.names = model, task, list(names)

    def forward(self, *tensors: Tensor) -> Tensor:
        given = dict(zip(self.names, tensors, strict=True))
        if self.task.writes:
            return self.model(**given).logits
        known = self.model.model.arguments()
        streams = self.model.encode(self.model.model.pool_of({k: v for k, v in given.items() if k in known})[0])
        if self.task.view == "fused":
            return self.task.outputs(self.model, Batch(self.task.name, ["row"], given, {}), streams)
        through = self.task.options.text
        pooled = {
            side: streams[side].pooled()
            if side in streams
            else self.model.text_vector(given[f"{side}_ids"], given[f"{side}_mask"], through=through)
            for side in self.task.sides
        }
        return torch.cat([self.task.vectors(self.model, side, pooled[side]) for side in self.task.sides], -1)


def examples(run: Any, task: Any) -> list[dict[str, Tensor]]:
    """Rows of the run's own data as the model's arguments, all of one shape: complete ones of its first split that can be read."""
    split = run.split(run.test_splits()[0])
    opened = [row for row in split.open_rows(range(min(len(split), ROWS))) if not isinstance(row, BadSample)]
    streams = [name for name in task.reads if name in run.processor.modalities]
    whole = [row for row in opened if task.wants(row.sample) and all(name in row.values for name in streams)]
    if not whole:
        raise ChiasmError(f"--to onnx traces the model with a row of its data that has {', '.join(task.reads)}, and found none")
    collate = Collator([task], run.processor, unlabelled=True)
    found = []
    for row in whole:
        step = collate([row])
        if not step.batches:
            continue
        inputs = dict(step.batches[0].inputs)
        if task.writes:
            inputs = prompts_alone(step.batches[0], run.processor.pad_id)
            inputs.pop("prompt_lengths", None)  # all of a prompt may be read, which the mask says too
        inputs = {key: value.long() if key.endswith("mask") else value for key, value in inputs.items()}  # as the processor gives them
        media = {argument(run.processor.inputs, name, key): value for name, tensors in step.pool.items() for key, value in tensors.items()}
        found.append(inputs | media)
    left = task.writes and not run.model.config.is_encoder_decoder
    return even(found, run.processor.pad_id, most=run.model.model.max_length, left=left)


def even(rows: Sequence[Mapping[str, Tensor]], pad_id: int, *, most: int, left: bool) -> list[dict[str, Tensor]]:
    """Rows whose texts are padded to the longest and a little more; of those, the first few whose media have the first row's shapes."""
    texts = [
        name for name in rows[0] if name.endswith(("_ids", "_mask")) and rows[0][name].ndim == 2 and not name.startswith("input_values")
    ]
    longest = {name: min(most, -(-max(row[name].shape[1] for row in rows) // STEP) * STEP) for name in texts}
    found = []
    for row in rows:
        filled = dict(row)
        for name in texts:
            more = longest[name] - row[name].shape[1]
            filled[name] = functional.pad(row[name], (more, 0) if left else (0, more), value=pad_id if name.endswith("_ids") else 0)
        if not found or {k: v.shape for k, v in filled.items()} == {k: v.shape for k, v in found[0].items()}:
            found.append(filled)
    return found[: COMPARED + 1]


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Without the exporter's reports, which are about its own conversion."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@torch.no_grad()
def compared(program: nn.Module, rows: Sequence[Mapping[str, Tensor]], file: Path) -> float:
    """The largest difference between onnxruntime and torch on `rows`; ChiasmError where it is more than rounding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    used = {entry.name for entry in session.get_inputs()}
    worst = 0.0
    for row in rows:
        found = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in row.items() if name in used})[0])
        wanted = program(*row.values())
        seen = (
            row["attention_mask"].bool() if found.ndim == 3 and "attention_mask" in row else torch.ones(found.shape[:-1], dtype=torch.bool)
        )
        difference = float((found - wanted)[seen].abs().max())
        if not difference <= TOLERANCE * max(1.0, float(wanted.abs().max())):
            raise ChiasmError(f"the ONNX file does not compute what the run computes: values differ by {difference:.1e}")
        worst = max(worst, difference)
    return worst
