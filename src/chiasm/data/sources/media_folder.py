"""A folder of media, one sub-folder per class: `cats/1.jpg`, `dogs/2.jpg` give an image (or audio, or video) and a label."""

from __future__ import annotations

from pathlib import Path

from chiasm.data.sources.base import Source
from chiasm.types import ChiasmError, Sample

ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"), "image"),
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".opus"), "audio"),
    **dict.fromkeys((".mp4", ".webm", ".mkv", ".avi", ".mov"), "video"),
}


class MediaFolder(Source):
    """A folder; files right in it have no label. Other files, hidden ones and links that leave the folder are not looked at.

    {"image": "cats/1.jpg", "label": "cats"}
    """

    def __init__(self, path: str | Path, *, label: str | None = None, root: str | Path | None = None):
        self.path = Path(path)
        self.label = label or self.path.name
        self._root = Path(root) if root is not None else self.path
        names = (p.relative_to(self.path) for p in self.path.rglob("*") if p.suffix.lower() in ENDINGS and not p.name.startswith("."))
        self._names = sorted(n.as_posix() for n in names)
        if not self._names:
            raise ChiasmError(f"{self.path}: no pictures, sounds or videos ({', '.join(ENDINGS)}) in this folder")

    def __len__(self) -> int:
        return len(self._names)

    @property
    def columns(self) -> list[str]:
        kinds = sorted({ENDINGS[Path(n).suffix.lower()] for n in self._names})
        return [*kinds, "label"]

    def origin(self, index: int) -> tuple[str, str, int | None]:
        return f"{self.label}/{self._names[index]}", str(self.path / self._names[index]), None

    def read(self, index: int) -> Sample:
        name = self._names[index]
        ident, file, line = self.origin(index)
        parts = {ENDINGS[Path(name).suffix.lower()]: str((self.path / name).relative_to(self._root))}
        if "/" in name:
            parts["label"] = name.split("/")[0]
        return Sample(id=ident, parts=parts, file=file, line=line, root=str(self._root))
