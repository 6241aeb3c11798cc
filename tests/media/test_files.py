"""Paths and bytes: nothing leaves the root, nothing hangs, nothing is read past its limit (X5)."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from chiasm.media import files
from chiasm.types import BadInput, Drawn, Sound


@pytest.fixture
def root(tmp_path):
    inside = tmp_path / "safe"
    (inside / "a").mkdir(parents=True)
    (inside / "a" / "x.bin").write_bytes(b"12345")
    (tmp_path / "safe_evil").mkdir()
    (tmp_path / "safe_evil" / "secret").write_bytes(b"no")
    return inside


def reason(value, root, limit=100):
    with pytest.raises(BadInput) as error:
        files.read_bytes(value, root=None if root is None else str(root), limit=limit)
    assert "\n" not in str(error.value)
    return error.value.reason


def test_reads_paths_bytes_and_the_dict_of_datasets(root):
    for value in ("a/x.bin", "./a/../a/x.bin", Path("a/x.bin"), str(root / "a" / "x.bin"), {"bytes": None, "path": "a/x.bin"}):
        assert files.read_bytes(value, root=str(root), limit=5) == b"12345"
    for value in (b"12345", bytearray(b"12345"), memoryview(b"12345"), {"bytes": b"12345", "path": "gone"}):
        assert files.read_bytes(value, root=None, limit=5) == b"12345"


@pytest.mark.parametrize(
    "path", ["../safe_evil/secret", "a/../../safe_evil/secret", "/etc/passwd", "/dev/zero", "https://x.org/a.png", "a\0b"]
)
def test_x5_a_path_may_not_leave_the_root(root, path):
    assert reason(path, root) == "outside_root"


def test_x5_absolute_path_with_the_same_prefix(root):
    assert reason(f"{root}_evil/secret", root) == "outside_root"


def test_x5_link_out_of_the_root(root):
    (root / "link").symlink_to(root.parent / "safe_evil" / "secret")
    (root / "folder").symlink_to(root.parent / "safe_evil")
    (root / "good").symlink_to(root / "a" / "x.bin")
    assert reason("link", root) == reason("folder/secret", root) == "outside_root"
    assert files.read_bytes("good", root=str(root), limit=9) == b"12345"


@pytest.mark.timeout(5)
def test_x5_fifo_and_device_are_not_opened(root):
    os.mkfifo(root / "pipe")
    assert reason("pipe", root) == "outside_root"
    assert reason("zero", Path("/dev")) == "outside_root"


def test_paths_need_a_root(root):
    assert reason(str(root / "a" / "x.bin"), None) == "outside_root"


def test_what_is_missing_is_named_as_it_was_given(root):
    with pytest.raises(BadInput, match=re.escape(f"'gone.png' was not found in {root}; check its name, or set data.root")):
        files.resolve("gone.png", root=str(root))
    with pytest.raises(BadInput, match=re.escape(f"'{root}/gone.png' was not found; check its name") + "$"):
        files.resolve(root / "gone.png", root="/")


def test_missing_folder_empty_large_and_wrong_type(root):
    (root / "empty").touch()
    assert reason("b.bin", root) == reason("a", root) == reason("x" * 5000, root) == "not_found"
    (root / "loop").symlink_to(root / "loop")
    assert reason("loop", root) == "not_found"
    assert reason("empty", root) == reason(b"", root) == "empty"
    assert reason("a/x.bin", root, limit=4) == reason(b"12345", root, limit=4) == "too_large"
    assert reason(7, root) == reason({"path": None}, root) == "bad_type"


def test_identity(root):
    def key(value):
        return files.identity(value, root=str(root))

    assert key("a/x.bin") == key("./a/x.bin") != key(b"12345")
    assert key(b"12345") == key({"bytes": b"12345"}) != key(b"12346")
    assert key(Drawn("scene 1", print)) == key(Drawn("scene 1", repr)) != key(Drawn("scene 2", print))
    assert key(np.zeros((2, 3), np.uint8)) == key(np.zeros((2, 3), np.uint8)) != key(np.zeros((3, 2), np.uint8))
    assert key(Sound(np.zeros(4, np.float32), 8000)) != key(Sound(np.zeros(4, np.float32), 16000))
    assert key("gone") is key("../safe_evil/secret") is key(3) is None
    before = key("a/x.bin")
    (root / "a" / "x.bin").write_bytes(b"123456")
    assert key("a/x.bin") != before
