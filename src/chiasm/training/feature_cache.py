"""Features of frozen encoders, computed once per picture or clip and kept on disk for later epochs, stages and runs.

A store is a folder named by what its content follows from: the encoder's weights and options, the preprocessing, the number format, and the
identities of all pictures or clips. `values.bin` and `mask.bin` are memory-mapped; `index.json` says which rows are whose, and the grid
that the patches of every picture form. It is written aside and renamed, so it is whole or not there. What cannot be opened is remembered
too, so that it is quarantined as ever.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from chiasm.data.split import Split, items_of
from chiasm.media.base import Modality
from chiasm.training.precision import Precision
from chiasm.types import BadInput

UNITS = 64  # pictures or clips encoded at once
FORMAT = 2  # of a store; one of another format is not read
SPACE_SHARE = 0.5  # of the free disk that a store may take
Unit = tuple[Any, str | None]  # raw value, folder its path starts from
Scan = tuple[dict[str, Unit], list[Unit]]  # of one input: distinct units by identity, and those without one


class NotCached(Exception):
    """Why an input's features are not kept; training goes on without."""


class FeatureStore:
    """Reads one store; maps its files on first use, in each process anew."""

    def __init__(self, folder: Path):
        self.folder = folder
        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self.width, self.places, self.bad, self.notes = index["width"], index["places"], index["bad"], index["notes"]
        self.grid: list[int] | None = index["grid"]
        self._maps: tuple[np.ndarray, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_maps": None}

    def read(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """(values float16 [L, W], mask bool [L]) of a picture or clip."""
        if self._maps is None:
            values = np.memmap(self.folder / "values.bin", np.float16, "r").reshape(-1, self.width)
            self._maps = values, np.memmap(self.folder / "mask.bin", np.bool_, "r")
        start, length = self.places[key]
        return self._maps[0][start : start + length], self._maps[1][start : start + length]


class CachedModality(Modality):
    """Stands in for an input's modality: opens features from a store instead of media."""

    tensors = ("features", "features_mask", "features_grid")

    def __init__(self, inner: Modality, store: FeatureStore):
        super().__init__(inner.options)
        self.inner, self.store = inner, store

    def raw(self, parts: Mapping[str, Any], name: str) -> Any:
        return self.inner.raw(parts, name)

    def identity(self, value: Any, *, root: str | None = None) -> str | None:
        return self.inner.identity(value, root=root)

    def open(self, value: Any, *, root: str | None = None) -> tuple[Any, tuple[str, ...]]:
        key = self.inner.identity(value, root=root)
        if key in self.store.bad:
            raise BadInput(*self.store.bad[key])
        if key is None or key not in self.store.places:
            self.inner.open(value, root=root)  # says what is wrong with it
            raise BadInput("changed", "the file changed after its features were computed; start again")
        return self.store.read(key), tuple(self.store.notes.get(key, ()))

    def collate(self, values: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Tensor]:
        """features float32 [U, L, W] and features_mask [U, L], padded with 0; features_grid [U, 2] where they are patches of a grid."""
        length = max(len(mask) for _, mask in values)
        features = np.zeros((len(values), length, self.store.width), np.float32)
        masks = np.zeros((len(values), length), bool)
        for unit, (value, mask) in enumerate(values):
            features[unit, : len(mask)], masks[unit, : len(mask)] = value, mask
        grid = {} if self.store.grid is None else {"features_grid": torch.tensor([self.store.grid] * len(values))}
        return {"features": torch.from_numpy(features), "features_mask": torch.from_numpy(masks), **grid}


def cacheable_inputs(model: Any, processor: Any, names: Sequence[str]) -> list[str]:
    """Those of `names` whose encoder is frozen and has weights, and whose media are not augmented."""
    parts = model.parts()
    encoders = {name: parts[f"encoders.{name}"] for name in names if f"encoders.{name}" in parts}
    return [name for name, encoder in encoders.items() if _is_frozen(encoder) and not _augments(processor.modalities[name])]


def with_features(
    model: Any,
    processor: Any,
    split: Split,
    name: str,
    *,
    precision: Precision,
    workers: int = 0,
    folder: Path | None = None,
    scanned: Mapping[str, Scan] | None = None,
) -> tuple[Any, Split, FeatureStore]:
    """(processor, split) that read features of input `name` from a store, which is filled first where it does not exist.

    `scanned`: what `scan` found in this split, where several inputs are wanted. NotCached says why it cannot be.
    """
    modality = processor.modalities[name]
    units, without_identity = (scanned or scan(split, {name: modality}))[name]
    for raw, root in without_identity:
        if _opens(modality, raw, root):
            raise NotCached("its values have no identity that a store could go by")
    folder = (folder or cache_folder()) / f"{name}-{_fingerprint(model, name, modality, precision, units)}"
    if not (folder / "index.json").is_file():
        _fill(folder, model, modality, name, units, precision, max(workers, 1))
    store = FeatureStore(folder)
    cached = CachedModality(modality, store)
    processor, split = copy.copy(processor), copy.copy(split)
    processor.modalities = {**processor.modalities, name: cached}
    split.modalities = {**split.modalities, name: cached}
    return processor, split, store


def cache_folder() -> Path:
    """Where stores are kept: $CHIASM_CACHE, else the user's cache folder."""
    given = os.environ.get("CHIASM_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chiasm" / "features"


def _is_frozen(encoder: nn.Module) -> bool:
    """Whether it has weights, and neither they nor running statistics nor dropout can change its output."""
    own = list(encoder.parameters())
    return bool(own) and not any(p.requires_grad for p in own) and not any(m.training for m in encoder.modules())


def _augments(modality: Modality) -> bool:
    if type(modality).augment is Modality.augment:
        return False
    augment = getattr(modality.options, "augment", None)
    return augment is None or augment != type(augment)()


def scan(split: Split, modalities: Mapping[str, Modality]) -> dict[str, Scan]:
    """Per input: identity -> raw value of every distinct picture or clip, in order of the split; and those without an identity."""
    found: dict[str, Scan] = {name: ({}, []) for name in modalities}
    for index in range(len(split)):
        try:
            sample = split.read(index)
        except BadInput:
            continue
        for name, modality in modalities.items():
            units, rest = found[name]
            for item in _items(modality, sample.parts, name):
                key = modality.identity(item, root=sample.root)
                if key is None:
                    rest.append((item, sample.root))
                else:
                    units.setdefault(key, (item, sample.root))
    return found


def _items(modality: Modality, parts: Mapping[str, Any], name: str) -> Sequence[Any]:
    try:
        raw = modality.raw(parts, name)
        items = [] if raw is None else items_of(raw)
    except BadInput:
        return []
    return [raw] if items is None else items


def _opens(modality: Modality, raw: Any, root: str | None) -> bool:
    try:
        modality.open(raw, root=root)
    except BadInput:
        return False
    return True


def _fingerprint(model: Any, name: str, modality: Modality, precision: Precision, units: Mapping[str, Unit]) -> str:
    encoder = model.parts()[f"encoders.{name}"]
    options = modality.options.model_dump(mode="json", exclude={"augment", "column"})
    config = getattr(getattr(encoder, "network", None), "config", None)
    own = getattr(encoder, "options", None)
    facts = {
        "format": FORMAT,
        "encoder": [type(encoder).__name__, repr(own), config.to_dict() if config is not None else None],
        "preprocessing": [type(modality).__name__, options, modality.state()],
        "precision": precision.name,
        "units": list(units),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    for key, tensor in encoder.state_dict().items():
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:24]


def _fill(folder: Path, model: Any, modality: Modality, name: str, units: Mapping[str, Unit], precision: Precision, workers: int) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    places: dict[str, tuple[int, int]] = {}
    bad: dict[str, tuple[str, str]] = {}
    notes: dict[str, tuple[str, ...]] = {}
    grids: set[tuple[int, int] | None] = set()
    start = width = 0
    try:
        with (aside / "values.bin").open("wb") as values_file, (aside / "mask.bin").open("wb") as mask_file:
            for opened in _opened(modality, units, workers):
                bad |= {key: (error.reason, str(error)) for key, error in opened if isinstance(error, BadInput)}
                good = [(key, *found) for key, found in opened if not isinstance(found, BadInput)]
                notes |= {key: noted for key, _, noted in good if noted}
                for key, values, mask, grid in _encoded(model, modality, name, good, precision):
                    grids.add(grid)
                    width, places[key] = values.shape[1], (start, len(values))
                    start += len(values)
                    values_file.write(values.tobytes())
                    mask_file.write(mask.tobytes())
                _check_space(folder.parent, start * width * 2, len(places), len(units))
            for file in (values_file, mask_file):
                file.flush()
                os.fsync(file.fileno())
        if not places:
            raise NotCached("none of its values can be read")
        if len(grids) > 1:
            raise NotCached("its pictures have different grids of patches")
        index = {"width": width, "grid": grids.pop(), "places": places, "bad": bad, "notes": notes}
        (aside / "index.json").write_text(json.dumps(index), encoding="utf-8")
        if not folder.exists():
            aside.rename(folder)
    except OSError as error:
        raise NotCached(f"{folder.parent}: {error.strerror}") from None
    except BadInput as error:
        raise NotCached(str(error)) from None  # e.g. pictures of different sizes
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _opened(modality: Modality, units: Mapping[str, Unit], workers: int) -> Iterator[list[tuple[str, Any]]]:
    """(key, (value, notes) or BadInput), some at a time."""

    def opened(item: tuple[str, Unit]) -> tuple[str, Any]:
        key, (raw, root) = item
        try:
            return key, modality.open(raw, root=root)
        except BadInput as error:
            return key, error

    items = list(units.items())
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(items), UNITS):
            yield list(pool.map(opened, items[start : start + UNITS]))


@torch.no_grad()
def _encoded(
    model: Any, modality: Modality, name: str, good: Sequence[tuple[str, Any, Any]], precision: Precision
) -> Iterator[tuple[str, np.ndarray, np.ndarray, tuple[int, int] | None]]:
    """(key, values float16 [L, W], mask [L], grid) per unit, without the padding of its batch."""
    if not good:
        return
    tensors = {k: v.to(model.device) for k, v in modality.collate([value for _, value, _ in good]).items()}
    with precision.autocast():
        tokens = model.encode_features(name, tensors)
    values, masks = tokens.values.float().cpu(), tokens.mask.cpu().numpy()
    if float(values.abs().max()) > torch.finfo(torch.float16).max or not values.isfinite().all():
        raise NotCached("its features are too large for 16 bits, or not finite")
    for (key, *_), value, mask in zip(good, values.half().numpy(), masks, strict=True):
        length = len(mask) if tokens.grid else int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else 1
        yield key, value[:length], mask[:length], tokens.grid


def _check_space(folder: Path, written: int, done: int, total: int) -> None:
    expected, free = written / max(done, 1) * total, shutil.disk_usage(folder).free + written
    if expected > SPACE_SHARE * free:
        raise NotCached(
            f"it would take {expected / 1e9:.1f} GB of the {free / 1e9:.1f} GB free at {folder} (CHIASM_CACHE names another place)"
        )
