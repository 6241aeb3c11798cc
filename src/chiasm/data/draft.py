"""`chiasm init`: a table or folder of the user's own -> a recipe that runs as it stands, each choice explained in a comment.

The templates of the recipe's text are at the end of this file and nowhere else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chiasm.components import did_you_mean
from chiasm.data.columns import Column, describe, dominance, values_of
from chiasm.data.opening import file_sources, open_file
from chiasm.data.sources.base import Source
from chiasm.types import RecipeError

TARGETS = ("label", "target", "class", "answer", "y", "output", "caption")  # looked for in this order where no target is named
BESIDE = {"validation": ("validation", "valid", "val", "dev"), "test": ("test",)}  # how files beside `train` are called
FEW = 20  # whole numbers of at most this many values are classes
TELLING = 0.6  # a column that takes away this part of the errors is pointed out


@dataclass(slots=True)
class _Draft:
    rows: int
    target: Column
    inputs: dict[str, str] = field(default_factory=dict)  # name -> its line
    kinds: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)


def infer_recipe(path: str | Path, target: str | None = None) -> str:
    """The text of a recipe for a table or a folder. RecipeError where the target cannot be told."""
    splits = find_splits(Path(path))
    source = open_file(splits["train"])
    values, broken = values_of(source)
    columns = {name: describe(name, column) for name, column in values.items()}
    draft = _Draft(rows=len(source), target=_target(columns, target, splits["train"]))
    if broken:
        draft.remarks.append(f"{broken} of {len(source)} records cannot be read; `chiasm check` lists them")
    _choose_inputs(draft, columns, values)
    if not draft.inputs:
        raise RecipeError(f"{splits['train']}: no column besides '{draft.target.name}' can be an input")
    return _write(draft, splits, source)


def find_splits(path: Path) -> dict[str, Path]:
    """The training file, and validation and test files called alike beside it."""
    train = _training_file(path)
    found = {"train": train.resolve()}
    if "train" in train.stem.lower():
        for split, names in BESIDE.items():
            candidates = (train.with_name(re.sub("train", name, train.stem, flags=re.IGNORECASE) + train.suffix) for name in names)
            other = next((c for c in candidates if c.exists()), None)
            if other is not None:
                found[split] = other.resolve()
    return found


def _training_file(path: Path) -> Path:
    if not path.exists():
        near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise RecipeError(f"no file or folder {path}{did_you_mean(path.name, near)}")
    if not path.is_dir():
        return path
    tables = sorted(p for p in path.iterdir() if p.suffix.lower() in file_sources())
    training = [p for p in tables if "train" in p.stem.lower()] or tables
    if len(training) > 1:
        raise RecipeError(f"{path} holds several tables; name one: {', '.join(p.name for p in training[:10])}")
    if training:
        return training[0]
    return path / "train" if (path / "train").is_dir() else path


def _target(columns: Mapping[str, Column], name: str | None, path: Path) -> Column:
    if name is None:
        folded = {c.lower(): c for c in reversed(list(columns))}
        name = next((folded[t] for t in TARGETS if t in folded), None)
        if name is None:
            raise RecipeError(f"{path}: which column is to be predicted? Add `--target COLUMN`, one of: {', '.join(columns)}")
    if name not in columns:
        raise RecipeError(f"{path}: no column '{name}'{did_you_mean(name, columns)}")
    if columns[name].kind in ("image", "audio", "video", "features", "unknown", "constant"):
        raise RecipeError(f"{path}: column '{name}' cannot be a target ({columns[name].kind}: {columns[name].why})")
    return columns[name]


def _choose_inputs(draft: _Draft, columns: Mapping[str, Column], values: Mapping[str, list[Any]]) -> None:
    table: dict[str, list[str]] = {"numbers": [], "categories": []}
    for name, column in columns.items():
        if name == draft.target.name or name == "messages":
            continue
        if column.kind in ("number", "category"):
            table["numbers" if column.kind == "number" else "categories"].append(name)
            _warn_if_telling(draft, column, values)
        elif column.kind in ("text", "image", "audio", "video", "features"):
            if column.kind == "text" and values[name] == values[draft.target.name]:
                draft.remarks.append(f"{word(name)}: left out, it is the target once more")
                continue
            _add_input(draft, name, column)
        else:
            draft.remarks.append(f"{word(name)}: left out ({column.kind}: {column.why}){_group_hint(column)}")
    if any(table.values()):
        lists = ", ".join(f"{kind}: [{', '.join(map(word, names))}]" for kind, names in table.items() if names)
        draft.inputs[_free("table", draft.inputs)] = f"{{modality: table, {lists}}}"
        draft.kinds.add("table")


def _add_input(draft: _Draft, name: str, column: Column) -> None:
    own = _free(re.sub(r"\W+", "_", name.lower(), flags=re.ASCII).strip("_") or column.kind, draft.inputs)
    given = [] if own == name else [f"column: {word(name)}"]
    if column.kind == "image":
        given.append("size: 64")
    elif column.kind == "video":
        given += ["size: 64", "frames: 8"]
    missing = f", {column.missing} missing" if column.missing else ""
    line = f"{{{', '.join([f'modality: {column.kind}', *given])}}}" if given else column.kind
    draft.inputs[own] = f"{line}  # {column.why}{missing}"
    draft.kinds.add(column.kind)


def _free(name: str, taken: Mapping[str, Any]) -> str:
    name = f"c_{name}" if name[0].isdigit() else name
    number = 2
    while (candidate := name if number == 2 and name not in taken else f"{name}_{number}") in taken:
        number += 1
    return candidate


def _warn_if_telling(draft: _Draft, column: Column, values: Mapping[str, list[Any]]) -> None:
    if not column.counts or not is_choice(draft.target):
        return
    with_it, without = dominance(values[column.name], values[draft.target.name])
    if 1 - with_it <= (1 - TELLING) * (1 - without):
        share = f"{with_it:.0%} of the rows ({without:.0%} without)"
        draft.remarks.append(f"{word(column.name)}: alone it guesses the target in {share}; is it known before the answer is?")


def _group_hint(column: Column) -> str:
    if column.kind == "id" and 0 < column.distinct <= column.rows / 3:
        return f"; rows that share one are alike? then add `group_by: {word(column.name)}` under data"
    return ""


def is_choice(target: Column) -> bool:
    """Whether a target is one of a few labels."""
    return target.kind == "category" or (
        target.kind == "number" and target.distinct <= FEW and all(re.fullmatch(r"-?\d+", v) for v in target.counts)
    )


def word(text: str) -> str:
    """A word of YAML, in quotes where it needs them."""
    plain = re.fullmatch(r"[A-Za-z_][\w-]*", text, re.ASCII) and text.lower() not in (
        "yes",
        "no",
        "on",
        "off",
        "true",
        "false",
        "null",
        "y",
        "n",
    )
    return text if plain else json.dumps(text, ensure_ascii=False)


def _write(draft: _Draft, splits: Mapping[str, Path], source: Source) -> str:
    target, texts = draft.target, "text" in draft.kinds
    if is_choice(target):
        labels = ", ".join(f"{word(value[:40])} {count}" for value, count in target.counts.most_common(8))
        task, why, metric = CLASSIFY, f"one of {target.distinct} labels: {labels}", "pr_auc" if target.distinct == 2 else "accuracy"
    elif target.kind == "number":
        task, why, metric = REGRESS, "a number", "mean_absolute_error"
    else:
        task, why, metric = GENERATE, f"free text: {target.distinct} different ones", "exact_match"
    backbone = CAUSAL if task is GENERATE else BIDIRECTIONAL if texts else LATENT
    lines = [f"# {len(source)} records of {splits['train'].name}; target: {word(target.name)} ({why})", *(f"# {r}" for r in draft.remarks)]
    lines += ["inputs:", *(f"  {name}: {line}" for name, line in draft.inputs.items())]
    encoders = [ENCODERS[kind] for kind in ("image", "audio", "video", "table", "features") if kind in draft.kinds]
    lines += ["encoders:", *encoders] if encoders else []
    lines += [backbone, FUSION, "tasks:", task.format(target=word(target.name), braced=word(f"{{{target.name}}}"), metric=metric), "data:"]
    lines += [f"  {split}: {word(path.as_posix())}" for split, path in splits.items()]
    if "validation" not in splits:
        lines.append("  # validation: a tenth of train is held out, as none is given")
    epochs = max(3, min(30, round(20_000 / max(1, draft.rows))))
    return "\n".join([*lines, TRAINING.format(epochs=epochs, metric=metric)]) + "\n"


FRESH = "arch: resnet, embedding_size: 32, hidden_sizes: [32, 64, 128], depths: [1, 1, 1], layer_type: basic"
ENCODERS = {
    "image": f"  image: {{{FRESH}, first_pooling: false, grid: 4}}",
    "audio": f"  audio: {{{FRESH}, tokens: 8}}  # on the spectrogram",
    "video": f"  video: {{{FRESH}, first_pooling: false, grid: 4, differences: true}}  # frame by frame",
    "table": "  table: {width: 64}",
    "features": "  features: {connector: mlp}",
}
LATENT = "# no text is read, so the backbone is a few fresh latents"
BIDIRECTIONAL = """backbone:  # small and fresh; `backbone: google-bert/bert-base-uncased` is a pretrained one
  arch: bert
  kind: bidirectional
  tokenizer: {type: words, vocab_size: 8000}
  hidden_size: 128
  num_hidden_layers: 2
  num_attention_heads: 4
  intermediate_size: 256"""
CAUSAL = """backbone:  # small and fresh; `backbone: openai-community/gpt2` is a pretrained one
  arch: gpt2
  kind: causal
  tokenizer: {type: words, vocab_size: 8000}
  n_embd: 128
  n_layer: 2
  n_head: 4"""
FUSION = "fusion: {type: early}"
CLASSIFY = "  predict: {{type: classify, target: {target}, metrics: [{metric}, balanced_accuracy, f1]}}"
REGRESS = "  predict: {{type: regress, target: {target}}}"
GENERATE = "  predict: {{type: generate, target: {braced}, metrics: [exact_match, bleu]}}"
TRAINING = """stages:
  - {{epochs: {epochs}, batch_size: 32, learning_rate: 3e-4}}
train: {{best: validation predict.{metric}, early_stopping: 4}}  # stops after 4 validations (one an epoch) without a better one"""
