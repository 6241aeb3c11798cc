"""`data` of a recipe -> sources: a file by its ending, a pattern of files, a folder, a Hub data set or a built-in set.

A name is, in this order: a built-in set's split; a file or folder that exists; a pattern with `*`; `owner/name[:split]` on the Hub.
Where `validation` is not given, a tenth of `train` is held out: by a hash of the `group_by` column (or of the record's id), so it is the
same every time and no group stands on both sides.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

from chiasm.components import closest, did_you_mean, find, names
from chiasm.data.chat import is_chat
from chiasm.data.sources.base import FileSource, Source
from chiasm.data.sources.hub import Hub
from chiasm.data.sources.media_folder import MediaFolder
from chiasm.data.views import Chat, Joined, Rows, Together, mixed
from chiasm.recipe import DataSpec, JoinSpec, SplitSpec
from chiasm.types import RecipeError

HELD_OUT = 0.1
HUB_NAME = re.compile(r"[\w-]+/[\w.-]+(/[\w.-]+)?(:[\w.+-]+)?")


def open_source(data: DataSpec, split: str, folder: str | Path = ".") -> Source:
    """The records of one split. `folder` is what paths in the recipe start from. Raises RecipeError naming the nearest file or split."""
    given = data.named().get(split)
    divided = data.train is not None and data.validation is None and not data.builtin
    if split == "validation" and divided:
        return _train_part(data, split, Path(folder), held_out=True)
    if divided and given is not None and data.train is not None and (given.file, given.mix) == (data.train.file, data.train.mix):
        source = _train_part(data, split, Path(folder), held_out=False)
    else:
        source = _open_given(data, split, Path(folder))
    return source if given is None or given.keep == 1 else _kept(source, given.keep, data.seed)


def split_names(data: DataSpec) -> list[str]:
    """Every split that `open_source` can open, training first."""
    if data.builtin:
        return list(dict.fromkeys([*_builtin(data.builtin).splits, *data.named()]))
    return list(dict.fromkeys(["train", "validation", *data.named()]))


def shared_groups(sources: Mapping[str, Source], column: str) -> dict[tuple[str, str], list[str]]:
    """(split, other split) -> the values of `column` that stand in both, where there are any."""
    values = {name: {str(v) for v in source.column(column) if v is not None} for name, source in sources.items()}
    ordered = list(values)
    pairs = ((a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :])
    return {(a, b): sorted(values[a] & values[b]) for a, b in pairs if values[a] & values[b]}


def check_groups(sources: Mapping[str, Source], column: str) -> None:
    """RecipeError with counts where a group stands in two splits."""
    for name, source in sources.items():
        if column not in source.columns:
            raise RecipeError(f"data.group_by: {name} has no column '{column}'{did_you_mean(column, source.columns)}")
    for (a, b), shared in shared_groups(sources, column).items():
        shown = ", ".join(shared[:3])
        raise RecipeError(
            f"data.group_by: {len(shared)} values of '{column}' stand in both {a} and {b} (e.g. {shown}); move each to one of them"
        )


def open_file(path: str | Path, *, label: str | None = None, root: str | Path | None = None) -> Source:
    """A source for one file or folder, by its ending."""
    path = Path(path)
    if path.is_dir():
        return MediaFolder(path, label=label, root=root)
    if not path.exists():
        raise RecipeError(f"{path}: no such file or folder{_nearest_file(path)}")
    by_ending = file_sources()
    if path.suffix.lower() not in by_ending:
        raise RecipeError(f"{path}: no source reads '{path.suffix or path.name}' files; known: {', '.join(sorted(by_ending))}")
    try:
        source = by_ending[path.suffix.lower()](path, label=label, root=root)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror or error}") from None
    return Chat(source) if is_chat(list(source.columns)) else source


def file_sources() -> dict[str, type[FileSource]]:
    """File ending -> the source that reads it."""
    return {ending: cls for cls in (find("source", n) for n in names("source")) for ending in cls.extensions}


def _train_part(data: DataSpec, split: str, folder: Path, *, held_out: bool) -> Source:
    """What the training file leaves to a split, or what is held out of it for validation."""
    whole = _open_given(data, "train" if held_out else split, folder)
    column = data.group_by
    if column is not None and column not in whole.columns:
        raise RecipeError(f"data.group_by: no column '{column}'{did_you_mean(column, whole.columns)}")
    groups = whole.column(column) if column else [None] * len(whole)
    keys = [whole.origin(i)[0] if group is None else str(group) for i, group in enumerate(groups)]
    held = [_place(f"held out:{data.seed}:{key}") < HELD_OUT for key in keys]
    rows = [i for i, out in enumerate(held) if out == held_out]
    by = f"by '{column}'" if column else "by record"
    return Rows(whole, rows, notes=(f"no validation split given: {sum(held)} of {len(held)} training records are held out for it ({by})",))


def _kept(source: Source, share: float, seed: int) -> Source:
    rows = [i for i in range(len(source)) if _place(f"keep:{seed}:{source.origin(i)[0]}") < share]
    return Rows(source, rows, notes=(f"keep: {share:g}: {len(rows)} of {len(source)} records are read",))


def _place(key: str) -> float:
    """Where a key falls in [0, 1), the same every time."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64


def _open_given(data: DataSpec, split: str, folder: Path) -> Source:
    given = data.named()
    if data.builtin:
        return _open_builtin(data, given.get(split), split)
    if split not in given:
        raise RecipeError(f"data: no split '{split}'{did_you_mean(split, given)}")
    base = folder / data.root if data.root else folder
    spec, key = given[split], f"data.{split}"
    root = base if data.root else None
    labels = _labels([base / name for name in spec.mix or ()])
    source = _mix(spec, split, lambda name: _open_named(name, base, key, root=root, label=labels.get(base / name)))
    join = spec.join or data.join
    return _join(source, join, base, f"{key}.join", root) if join else source


def _mix(spec: SplitSpec, split: str, opened: Callable[[str], Source]) -> Source:
    """A split's one source, or several as one."""
    if spec.mix is None:
        return opened(spec.file or split)
    sources = [opened(name) for name in spec.mix]
    for name, source in zip(spec.mix, sources, strict=True):
        if not len(source):
            raise RecipeError(f"data.{split}.mix: {name} has no records; take it out")
    if isinstance(spec.mix, list):
        return Together(sources)
    if split in ("validation", "test") or split.startswith("test"):
        raise RecipeError(f"data.{split}.mix: shares repeat records, which only training may; write a list")
    return mixed(sources, list(spec.mix.values()))


def _join(source: Source, join: JoinSpec, base: Path, key: str, root: Path | None) -> Source:
    return Joined(source, _open_named(join.file, base, f"{key}.file", root=root), join.key)


def _labels(paths: list[Path]) -> dict[Path, str]:
    """What files of the same name are called in ids: by as much of their paths as tells them apart."""
    if len({path.name for path in paths}) == len(paths):
        return {}
    shared = _shared_folder(paths)
    return {path: path.relative_to(shared).as_posix() for path in paths}


def _open_named(name: str, base: Path, key: str, *, root: Path | None, label: str | None = None) -> Source:
    path = base / name
    if path.exists():
        return open_file(path, label=label, root=root)
    if glob.has_magic(name):
        found = sorted(Path(p) for p in glob.glob(str(path), recursive=True))
        if not found:
            raise RecipeError(f"{key}: no file matches {path}")
        shared = _shared_folder(found)
        return Together([open_file(p, label=p.relative_to(shared).as_posix(), root=root) for p in found])
    if Path(name).suffix.lower() not in file_sources() and HUB_NAME.fullmatch(name):
        return Hub(name)
    raise RecipeError(f"{key}: no file {path}{_nearest_file(path)}")


def _shared_folder(paths: list[Path]) -> Path:
    """The deepest folder that holds all of them, so that labels are short and unique."""
    folder = paths[0].parent
    while not all(p.is_relative_to(folder) for p in paths):
        folder = folder.parent
    return folder


def _nearest_file(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    if folder != path.parent:
        missing = path.relative_to(folder).parts[0]
        near = closest(missing, [p.name for p in folder.iterdir() if p.is_dir()])
        return f" ({folder} has no folder '{missing}')" + (f"; did you mean '{near}'?" if near else "")
    return did_you_mean(path.name, [p.name for p in folder.iterdir() if p.is_file() or p.suffix == ""])


def _builtin(name: str) -> type[Source]:
    sets = {n: find("source", n) for n in names("source") if find("source", n).splits}
    if name not in sets:
        raise RecipeError(f"data.builtin: no built-in set '{name}'{did_you_mean(name, sets)}")
    return sets[name]


def _open_builtin(data: DataSpec, given: SplitSpec | None, split: str) -> Source:
    maker: Any = _builtin(data.builtin or "")
    variant = _variant(data.builtin or "", maker.variants, data.variant)

    def made(name: str) -> Source:
        if name not in maker.splits:
            raise RecipeError(f"data: the built-in set {data.builtin} has no split '{name}'{did_you_mean(name, maker.splits)}")
        return maker(split=name, seed=data.seed, **variant)

    return _mix(given or SplitSpec(file=split), split, made)


def _variant(name: str, known: Sequence[str], variant: str | None) -> dict[str, str]:
    """What a built-in set with several forms is told; RecipeError names the nearest form, or all of them where none is given."""
    if variant is None and known:
        raise RecipeError(f"data.variant: the built-in set {name} needs one of {', '.join(known)}")
    if variant is not None and not known:
        raise RecipeError(f"data.variant: the built-in set {name} has no variants; take it out")
    if variant is not None and variant not in known:
        raise RecipeError(f"data.variant: the built-in set {name} has no variant '{variant}'{did_you_mean(variant, known)}")
    return {} if variant is None else {"variant": variant}
