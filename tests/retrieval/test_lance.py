"""The same index in LanceDB: equal results, filters, updates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from chiasm.retrieval import lance
from chiasm.retrieval.exact import Exact, ExactWriter
from chiasm.retrieval.growing import Growing
from chiasm.retrieval.lance import Lance, LanceWriter
from chiasm.types import ChiasmError

pytest.importorskip("lancedb", reason="the extra `retrieval` is not installed")


def filled(writer, count: int = 200, width: int = 16, seed: int = 0) -> np.ndarray:
    draws = np.random.default_rng(seed)
    vectors = draws.standard_normal((count, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    records = [
        {"id": f"r:{n}", "file": "r", "line": n, "columns": {"price": n, "name": f"thing {n % 3}", "_key.x": True}, "media": {}}
        for n in range(count)
    ]
    for start in range(0, count, 64):
        part = records[start : start + 64]
        writer.add(part, {"it's": (list(range(len(part))), vectors[start : start + 64])})
    writer.finish(["it's"])
    return vectors


def test_both_stores_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lance, "ADDED", 64)
    vectors = filled(LanceWriter(str(tmp_path / "lance")))
    with Growing(tmp_path / "exact", {}) as growing:
        filled(ExactWriter(growing))
    one, two = Lance(str(tmp_path / "lance")), Exact(tmp_path / "exact", ["it's"])
    assert one.count("it's") == two.count("it's") == 200
    for query in vectors[:5]:
        found, same = one.search(query, 7, ["it's"]), two.search(query, 7, ["it's"])
        assert [near.record for near in found] == [near.record for near in same]
        np.testing.assert_allclose([near.score for near in found], [near.score for near in same], atol=1e-5)


def test_filters_come_before_the_nearest(tmp_path: Path):
    vectors = filled(LanceWriter(str(tmp_path)))
    found = Lance(str(tmp_path)).search(vectors[0], 5, ["it's"], "price >= 100 AND name = 'thing 1'")
    right = [n for n in np.argsort(-vectors @ vectors[0]).tolist() if n >= 100 and n % 3 == 1][:5]
    assert [near.record["line"] for near in found] == right
    with pytest.raises(ChiasmError, match="No field named prize"):
        Lance(str(tmp_path)).search(vectors[0], 5, ["it's"], "prize > 1")


def test_a_row_of_the_same_id_is_replaced(tmp_path: Path):
    filled(LanceWriter(str(tmp_path)))
    with pytest.raises(ChiasmError, match="--update"):
        LanceWriter(str(tmp_path))
    changed = filled(LanceWriter(str(tmp_path), update=True), count=210, seed=1)
    store = Lance(str(tmp_path))
    assert store.count("it's") == 210
    assert all(store.search(changed[n], 1, ["it's"])[0].record["line"] == n for n in (0, 100, 209))
    with pytest.raises(ChiasmError, match="no LanceDB index"):
        Lance(str(tmp_path / "nowhere"))
