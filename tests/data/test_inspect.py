"""The report on the data: kinds, classes, duplicates, leaks, broken records."""

import json

from chiasm.data.inspect import inspect_data
from chiasm.data.opening import open_file


def test_report(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "same.png").write_bytes(b"a")
    train = [{"image": f"{n}.png", "q": f"what is it {i}", "label": "x"} for i, n in enumerate(["a", "b", "same", "none"])]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*train, train[1]]) + "{\n")
    (tmp_path / "test.jsonl").write_text(
        "".join(json.dumps(r) + "\n" for r in [{**train[0], "image": "same.png"}, {"image": "c.png", "q": "new"}])
    )
    sources = {name: open_file(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    report = inspect_data(sources, target="label", group_by="q")
    assert json.loads(json.dumps(report)) == report
    found = report["splits"]["train"]
    assert found["rows"] == 6 and found["columns"]["image"]["kind"] == "image"
    assert found["bad"][0]["line"] == 6 and found["duplicates"] == {"image": 2, "records": 1}
    assert [(leak["what"], leak["count"]) for leak in report["leaks"]] == [("image", 1), ("records", 1), ("q", 1)]
    assert any("1 records lack the target" in problem for problem in report["problems"])
    assert any("1 image stand in both train and test" in problem for problem in report["problems"])
