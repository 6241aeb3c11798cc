"""Goal S9: CPU time of `chiasm --help`, and against `transformers --help`, each as a process of its own, interleaved.

python bench/startup.py [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

MOST_SECONDS, LEAST_RATIO = 0.100, 30.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rounds", type=int, default=7)
    options = arguments.parse_args()
    programs = {name: Path(sys.executable).parent / name for name in ("chiasm", "transformers")}
    rounds = [{name: cpu_seconds(path) for name, path in programs.items()} for _ in range(options.rounds + 1)][1:]  # the first warms up
    ours = statistics.median(one["chiasm"] for one in rounds)
    ratio = statistics.median(one["transformers"] / one["chiasm"] for one in rounds)
    good = ours <= MOST_SECONDS and ratio >= LEAST_RATIO
    print(
        f"S9 chiasm --help: {1000 * ours:.0f} ms of CPU (goal {1000 * MOST_SECONDS:.0f}), transformers --help takes {ratio:.1f}x "
        f"(goal {LEAST_RATIO:g}): {'reached' if good else 'MISSED'}"
    )


def cpu_seconds(program: Path) -> float:
    """User and system time of `program --help` and its children."""
    with subprocess.Popen([program, "--help"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{program} --help failed"
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
