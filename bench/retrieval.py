"""Goal S7: exact search of 100,000 and 1,000,000 vectors of 384 numbers, against numpy, faiss IndexFlatIP and hnswlib.

The vectors are normally distributed and brought to length 1: nothing is near anything, which is the hardest case for ruling any out.
Prints, per number of queries that are asked at once, the median over interleaved rounds of the ratio of process CPU time on one thread
(theirs / ours), the share of the true 10 nearest that was found, how many vectors the scan left to be scored in fp32, and what the index
keeps resident.

    python bench/retrieval.py [--vectors 100000 1000000] [--rounds 7] [--approximate]

faiss-cpu and hnswlib are needed by this comparison only (pip install faiss-cpu hnswlib); what is missing is left out, and says so.
"""

from __future__ import annotations

import argparse
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from chiasm.retrieval.exact import open_scan, write_codes

WIDTH, K = 384, 10
QUERIES = {1: 20, 8: 5, 64: 2}  # at once -> searches one after the other in a round
GOALS = {"faiss": 8.0, "numpy": 4.0}
BLOCK = 100_000
RESIDENT = """
import re, sys
from pathlib import Path
import numpy as np, torch
from chiasm.retrieval.exact import open_scan
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1e6
torch.set_num_threads(1)
queries = np.load(sys.argv[2], allow_pickle=False)
before = resident()
scan = open_scan(Path(sys.argv[1]), "image")
for query in queries:
    scan.search(query[None], 10)
print(before, resident())
"""
Search = Callable[[np.ndarray], np.ndarray]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--vectors", type=int, nargs="+", default=[100_000, 1_000_000])
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--approximate", action="store_true", help="Also hnswlib, whose index takes minutes to build.")
    options = arguments.parse_args()
    torch.set_num_threads(1)
    for count in options.vectors:
        with tempfile.TemporaryDirectory() as folder:
            measure(Path(folder), count, options.rounds, approximate=options.approximate)


def measure(folder: Path, count: int, rounds: int, *, approximate: bool) -> None:
    vectors = write(folder, count)
    scan = open_scan(folder, "image")
    peers: dict[str, Search] = {"numpy": lambda queries: of_numpy(vectors, queries), **others(vectors, approximate=approximate)}
    for number, times in QUERIES.items():
        rounds_of = [[unit(number, times * turn + seed) for seed in range(times)] for turn in range(1, rounds + 2)]
        queries = [asked for asked, *_ in rounds_of]
        right = [peers["numpy"](asked) for asked in queries]
        found = [scan.search(asked, K) for asked in queries]
        recall = statistics.mean(overlap(one.rows, other) for one, other in zip(found, right, strict=True))
        left = statistics.mean(float(one.rescored.mean()) for one in found)
        print(f"S7 {count:,} x {WIDTH}, {number} at once: recall {recall:.3f}, {left:.0f} of {count:,} scored in fp32")
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
        for turn in rounds_of:  # the first round is the warm-up
            seconds["ours"].append(cpu(lambda turn=turn: [scan.search(asked, K) for asked in turn]))
            for name, search in peers.items():
                seconds[name].append(cpu(lambda turn=turn, search=search: [search(asked) for asked in turn]))
        own = seconds.pop("ours")[1:]
        for name, theirs in seconds.items():
            ratio = statistics.median(a / b for a, b in zip(theirs[1:], own, strict=True))
            goal = "" if name not in GOALS else f" (goal {GOALS[name]:g}: {'reached' if ratio >= GOALS[name] else 'MISSED'})"
            share = f", recall {statistics.mean(overlap(peers[name](a), r) for a, r in zip(queries[:2], right, strict=False)):.3f}"
            spent = [1000 * statistics.median(each) / number / times for each in (theirs[1:], own)]
            print(f"   {ratio:6.2f}x of {name}{goal}; {spent[0]:.2f} and {spent[1]:.2f} ms a query{share if name == 'hnswlib' else ''}")
    np.save(folder / "queries.npy", unit(20, 99))
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, str(folder), str(folder / "queries.npy")], capture_output=True, text=True, check=True
    )
    before, after = map(float, done.stdout.split())
    print(f"   resident: the index {after - before:.2f} GB, the process {after:.2f} GB, of it {before:.2f} Python and torch (goal 0.5)")


def write(folder: Path, count: int) -> np.ndarray:
    """Unit vectors as an index has them; memory-mapped."""
    vectors = np.lib.format.open_memmap(folder / "image.vectors.npy", "w+", np.float32, (count, WIDTH))
    for start in range(0, count, BLOCK):
        vectors[start : start + BLOCK] = unit(min(BLOCK, count - start), 1_000_000 + start)
    write_codes(folder, "image", vectors)
    return np.array(vectors)


def unit(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def of_numpy(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    scores = queries @ vectors.T
    best = np.argpartition(scores, -K, axis=1)[:, -K:]
    return np.take_along_axis(best, np.argsort(-np.take_along_axis(scores, best, 1), axis=1), 1)


def others(vectors: np.ndarray, *, approximate: bool) -> dict[str, Search]:
    found: dict[str, Search] = {}
    faiss: Any = optional("faiss", "faiss-cpu")
    if faiss is not None:
        faiss.omp_set_num_threads(1)
        flat = faiss.IndexFlatIP(WIDTH)
        flat.add(vectors)
        found["faiss"] = lambda queries: flat.search(queries, K)[1]
    hnswlib: Any = optional("hnswlib", "hnswlib") if approximate else None
    if hnswlib is not None:
        graph = hnswlib.Index(space="ip", dim=WIDTH)
        graph.init_index(max_elements=len(vectors), ef_construction=100, M=16)
        graph.add_items(vectors, num_threads=os.cpu_count())
        graph.set_ef(100)
        found["hnswlib"] = lambda queries: graph.knn_query(queries, k=K, num_threads=1)[0]
    return found


def optional(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        print(f"{module} is not installed and left out (pip install {package})")
        return None


def overlap(found: np.ndarray, right: np.ndarray) -> float:
    return float(np.mean([len(set(one) & set(other)) / K for one, other in zip(found.tolist(), right.tolist(), strict=True)]))


def cpu(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


if __name__ == "__main__":
    main()
