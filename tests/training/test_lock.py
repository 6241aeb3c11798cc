"""TR16: one run per folder."""

import json
import os
import socket
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from toy_training import ended, forked

from chiasm.training.lock import Locked, run_lock


def hold(folder):
    """A forked process that takes the lock and keeps it."""

    def holds():
        with run_lock(folder, print):
            time.sleep(60)

    child = forked(holds)
    while not (folder / "lock").exists() or not (folder / "lock").read_text():
        time.sleep(0.01)
    return child


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    child = hold(tmp_path)
    with pytest.raises(Locked, match=f"held by process {child} on this host"), run_lock(tmp_path, print):
        pass
    ended(child, 0)


def test_it_is_released_at_the_end(tmp_path):
    with run_lock(tmp_path, pytest.fail):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_stale_lock_is_explained_and_taken_over(tmp_path):
    child = hold(tmp_path)
    ended(child, 0)
    lines = []
    with run_lock(tmp_path, lines.append):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert len(lines) == 1 and f"process {child}" in lines[0] and "taking it over" in lines[0]


def test_a_reused_pid_is_not_the_old_holder(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "started": "1"}))
    lines = []
    with run_lock(tmp_path, lines.append):
        pass
    assert len(lines) == 1


def test_another_host_is_never_taken_over(tmp_path):
    (tmp_path / "lock").write_text(json.dumps({"pid": 1, "host": "elsewhere", "started": "1"}))
    with pytest.raises(Locked, match="on host elsewhere"), run_lock(tmp_path, print):
        pass
