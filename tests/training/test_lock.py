"""TR16: one run per folder."""

import json
import os
import socket
import subprocess
import sys

import pytest

from chiasm.training.lock import Locked, run_lock

HOLD = """
import sys, pathlib
from chiasm.training.lock import run_lock
with run_lock(pathlib.Path(sys.argv[1]), print):
    print('held', flush=True)
    input()
"""


def test_a_second_process_is_refused_and_told_who_holds_it(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(Locked, match=f"held by process {holder.pid} on this host"), run_lock(tmp_path, print):
            pass
        holder.communicate(b"\n")
    with run_lock(tmp_path, pytest.fail):
        assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


def test_a_stale_lock_is_explained_and_taken_over(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.kill()
    lines = []
    with run_lock(tmp_path, lines.append):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert len(lines) == 1 and f"process {holder.pid}" in lines[0] and "taking it over" in lines[0]


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
