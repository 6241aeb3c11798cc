"""Make an index: read a source, embed each row's pictures, sounds and texts, and write them; all at once or not at all."""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from chiasm.components import did_you_mean
from chiasm.data.opening import open_file
from chiasm.data.sources.base import Source
from chiasm.evaluation.result import plain
from chiasm.model_files import MANIFEST, identity, input_identity, write_manifest
from chiasm.retrieval.embedding import Space
from chiasm.retrieval.exact import ExactWriter
from chiasm.retrieval.growing import LOCK, Growing
from chiasm.retrieval.index import FORMAT, Index
from chiasm.retrieval.store import Record, Writer
from chiasm.run import Run, model_folder
from chiasm.tasks.template import as_text
from chiasm.training.lock import run_lock
from chiasm.types import BadSample, ChiasmError

REFUSED, SEEN = "refused.jsonl", "seen.raw"
LONGEST_TEXT = 1000  # characters of a column that are kept to be shown


def index(
    run: Run,
    data: str | Path | Source,
    output: str | Path,
    *,
    task: str | None = None,
    sides: Sequence[str] = (),
    backend: str = "exact",
    store: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Index:
    """Index what a run's contrast task compares in `data`: a file, a folder of media, or any Source.

    `sides`: only these of the task's sides; `backend`: exact or lancedb, the latter at `store` (a folder or object store; INDEX/lance
    where not given). What several rows share, a picture or the same text, is indexed once. The folder appears when it is whole. What was
    stopped, of plain files, goes on where it was when the same is asked again.
    """
    output, space = Path(output), Space(run, task)
    chosen = {side: space.sides[_known(side, space)] for side in sides} or space.sides
    if output.exists():
        raise ChiasmError(f"{output}: exists already; delete it, or give another --output")
    _check_backend(backend, store)
    source = data if isinstance(data, Source) else open_file(data)
    model, where = identity(model_folder(run.folder)), str(run.folder.absolute())
    plan = {"format": FORMAT, "model": model, "task": space.task, "sides": chosen, "backend": backend, "at once": run.rows_at_once}
    goes_on = backend == "exact" and not isinstance(data, Source)
    plan["data"] = input_identity(Path(data)) if goes_on else secrets.token_hex(8)
    partial = output.with_name(f".{output.name}.partial")
    with run_lock(partial, lambda text: print(text, file=sys.stderr)), Growing(partial, plan) as growing:
        writer = ExactWriter(growing) if backend == "exact" else _lance(store or str(partial / "lance"))
        account = _fill(writer, space, chosen, source, growing, progress)
        found = {side: modality for side, modality in chosen.items() if account["indexed"].get(side)}
        if not found:
            shutil.rmtree(partial)
            reasons = ", ".join(f"{reason} {count}" for reason, count in account["refused"].items())
            raise ChiasmError(f"{data}: no row has {' or '.join(chosen)} that can be used ({reasons or 'it is empty'})")
        writer.finish(list(found))
        growing.done(SEEN)
        facts = {"format": FORMAT, "model": model, "run": where, "task": space.task, "width": account.pop("width"), "sides": found}
        (partial / LOCK).unlink()
        _seal(partial, {**facts, "backend": backend, "store": store, "account": account, "updates": []})
        partial.rename(output)
    return Index.open(output)


def update(run: Run, data: str | Path | Source, folder: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Index:
    """Put more rows into a LanceDB index: those whose id is there are replaced, others added. Where it stops, run it again."""
    found = Index.open(folder)
    if found.facts["backend"] != "lancedb":
        raise ChiasmError(f"{folder}: plain files are written once; index all rows again, or make the index with --backend lancedb")
    space = found.space(run)
    writer = _lance(found.facts["store"] or str(found.folder / "lance"), update=True)
    source = data if isinstance(data, Source) else open_file(data)
    partial = found.folder.with_name(f".{found.folder.name}.update")
    with Growing(partial, {"update": secrets.token_hex(8)}) as growing:
        account = _fill(writer, space, space.sides, source, growing, progress)
    sides = {side: modality for side, modality in space.sides.items() if side in found.sides or account["indexed"].get(side)}
    writer.finish(list(sides))
    (partial / REFUSED).replace(found.folder / REFUSED)
    shutil.rmtree(partial)
    account.pop("width")
    _seal(found.folder, {**found.facts, "sides": sides, "updates": [*found.facts["updates"], account]})
    return Index.open(folder)


def _seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Without MANIFEST.json, which is written last, an index is torn."""
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / "index.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_manifest(folder)


def _fill(
    writer: Writer,
    space: Space,
    sides: Mapping[str, str],
    source: Source,
    growing: Growing,
    progress: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Embed all rows that `growing` does not hold yet; returns the account of all: rows read, things indexed per side, how many were
    shared, and rows refused by reason."""
    split, state = space.run.reading(source, only=sides), growing.state
    seen = marks(growing.folder / SEEN)
    indexed, shared, refused = (Counter[str](state.get(name, {})) for name in ("indexed", "shared", "refused"))
    width = state.get("width", 0)
    growing.append(REFUSED, b"")
    for start in range(state.get("done", 0), len(split), space.run.rows_at_once):
        if progress is not None:
            progress(start, len(split))
        end = min(len(split), start + space.run.rows_at_once)
        opened = split.open_rows(range(start, end))
        found, bad = space.vectors(opened)
        for row in bad:
            refused[row.reason] += 1
            growing.append(REFUSED, json.dumps(plain(_refusal(row)), ensure_ascii=False).encode() + b"\n")
        fresh: dict[str, tuple[list[int], np.ndarray]] = {}
        for side in (side for side in found if side in sides):
            places, vectors = found[side]
            new = [number for number, place in enumerate(places) if _is_new(mark(side, opened[place]), seen, growing)]
            indexed[side] += len(new)
            shared[side] += len(places) - len(new)
            width = vectors.shape[1]
            if new:
                fresh[side] = [places[number] for number in new], vectors[new]
        kept = sorted({place for places, _ in fresh.values() for place in places})
        number = {place: n for n, place in enumerate(kept)}
        records = [_record(opened[place], sides) for place in kept]
        writer.add(records, {side: ([number[p] for p in places], vectors) for side, (places, vectors) in fresh.items()})
        growing.note(done=end, indexed=indexed, shared=shared, refused=refused, **{"width": width, **writer.noted()})
    if progress is not None:
        progress(len(split), len(split))
    return {"read": len(split), "indexed": dict(indexed), "shared": dict(shared), "refused": dict(refused), "width": width}


def mark(side: str, row: Any) -> bytes:
    """16 bytes by which a row's picture, clip or text is known again."""
    key = row.keys[side] if side in row.keys else as_text(row.sample.parts.get(side))
    return blake2b(f"{side}\0{key if isinstance(key, str) else key[0]}".encode("utf-8", "surrogatepass"), digest_size=16).digest()


def marks(file: Path) -> set[bytes]:
    data = file.read_bytes() if file.exists() else b""
    return {data[start : start + 16] for start in range(0, len(data), 16)}


def _is_new(own: bytes, seen: set[bytes], growing: Growing) -> bool:
    """Whether it is met for the first time."""
    if own in seen:
        return False
    seen.add(own)
    growing.append(SEEN, own)
    return True


def _record(row: Any, sides: Mapping[str, str]) -> Record:
    """What is shown of a row: its short columns, and the files that it names."""
    sample = row.sample
    shown = {k: v[:LONGEST_TEXT] if isinstance(v, str) else v for k, v in sample.parts.items() if isinstance(v, str | int | float | bool)}
    media = {
        s: sample.parts[s] for s, kind in sides.items() if kind in ("image", "audio", "video") and isinstance(sample.parts.get(s), str)
    }
    paths = {side: str((Path(sample.root or ".") / path).absolute()) for side, path in media.items()}
    return {"id": sample.id, "file": sample.file, "line": sample.line, "columns": plain(shown), "media": paths}


def _refusal(bad: BadSample) -> dict[str, Any]:
    return {"id": bad.id, "file": bad.file, "line": bad.line, "input": bad.input, "reason": bad.reason, "message": bad.message}


def _known(side: str, space: Space) -> str:
    if side not in space.sides:
        raise ChiasmError(f"task {space.task} compares no '{side}'{did_you_mean(side, space.sides)}")
    return side


def _check_backend(backend: str, store: str | None) -> None:
    if backend not in ("exact", "lancedb"):
        raise ChiasmError(f"backend: '{backend}'{did_you_mean(backend, ['exact', 'lancedb'])}")
    if backend == "exact" and store is not None:
        raise ChiasmError("store: only the lancedb backend keeps vectors elsewhere; add --backend lancedb")


def _lance(uri: str, *, update: bool = False) -> Writer:
    from chiasm.retrieval.lance import LanceWriter

    return LanceWriter(uri, update=update)
