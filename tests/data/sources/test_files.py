"""Sources that are files: every record by its line, every broken one refused by its line, and nothing else lost."""

import io
import json
import pickle
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chiasm.data.opening import open_file
from chiasm.types import BadInput, ChiasmError


def outcomes(source):
    """What every record gives: its parts, or (reason code, line)."""
    found = []
    for index in range(len(source)):
        line = source.origin(index)[2]
        try:
            found.append(dict(source.read(index).parts))
        except BadInput as error:
            found.append((error.reason, line if f":{line}:" in str(error) else str(error)))
    return found


def test_jsonl_goes_on_after_broken_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = b"[" * 100_000
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a":\n[1]\n{"a": "\xff"}\n{"a": "\\ud800"}\n' + deep + b'\n{"a": 2, "b": "\\u00e9"}')
    found = outcomes(source := open_file(path))
    bad = [("bad_json", 3), ("not_an_object", 4), ("bad_encoding", 5), ("lone_surrogate", 6), ("bad_json", 7)]
    assert found == [{"a": 1}, *bad, {"a": 2, "b": "é"}]
    assert list(source.columns) == ["a", "b"]
    assert source.read(0).id == "a.jsonl:1" and source.read(0).root == str(tmp_path)


def test_jsonl_too_long_line_is_refused_unread(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": "' + "x" * 10_000_001 + '"}\n')
    assert outcomes(open_file(path)) == [{"a": 1}, ("too_long", 2)]


def test_csv_bom_crlf_quotes_and_several_lines(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes('\ufeffimage,text,label,code\r\ncat.jpg,"a ""quoted"", comma",1,007\r\n\r\ncat.jpg,"multi\r\nline",,8\r\n'.encode())
    source = open_file(path)
    assert outcomes(source) == [
        {"image": "cat.jpg", "text": 'a "quoted", comma', "label": "1", "code": "007"},
        {"image": "cat.jpg", "text": "multi\r\nline", "label": None, "code": "8"},
    ]
    assert source.origin(1)[2] == 4


def test_csv_broken_records_have_their_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b'a,b\n1,2\n1,2,3\n1\n"open,2\n3,4\n5,\xff\n7,8.5\n')
    found = outcomes(open_file(path))
    bad = [("wrong_columns", 3), ("wrong_columns", 4), ("bad_csv", 5), {"a": "3", "b": "4"}, ("bad_encoding", 7), {"a": "7", "b": "8.5"}]
    assert found == [{"a": "1", "b": "2"}, *bad]


@pytest.mark.parametrize(("text", "says"), [("", "no header"), ("a,a\n", "named twice"), ("a,,b\n", "no name")])
def test_csv_header_must_name_columns(tmp_path, text, says):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(ChiasmError, match=says):
        open_file(path)


def test_tsv(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("n\tm\n1\ta, b\n-2\t\n")
    assert outcomes(open_file(path)) == [{"n": "1", "m": "a, b"}, {"n": "-2", "m": None}]


def test_parquet_bytes_nested_and_row_groups(tmp_path):
    path = tmp_path / "a.parquet"
    image = [{"bytes": b"abc", "path": None}, {"bytes": None, "path": "x.png"}, None, None]
    table = pa.table({"image": image, "v": [[1.0, 2.0]] * 4, "b": [b"1", b"2", b"3", None], "__index_level_0__": [1, 2, 3, 4]})
    pq.write_table(table, path, row_group_size=2)
    source = open_file(path)
    assert source.read(0).parts == {"image": b"abc", "v": [1.0, 2.0], "b": b"1"}
    assert source.read(3).parts == {"image": None, "v": [1.0, 2.0], "b": None}
    assert source.column("image") == [b"abc", "x.png", None, None]
    assert pickle.loads(pickle.dumps(source)).read(1).parts["image"] == "x.png"


def test_parquet_that_is_none(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(ChiasmError, match=r"a\.parquet: not a readable parquet"):
        open_file(tmp_path / "a.parquet")


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            if data is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def test_tar_members_of_one_stem_are_one_sample(tmp_path):
    path = tmp_path / "a.tar"
    record = json.dumps({"kind": "x"}).encode()
    first = [("d/1.jpg", b"\xff\xd8"), ("d/1.json", record), ("d/1.left.png", b"P")]
    write_tar(path, [*first, ("d/2.txt", b"hi\n"), ("d/2.cls", b"3"), ("LICENSE", b"")])
    source = open_file(path)
    assert outcomes(source) == [{"image": b"\xff\xd8", "kind": "x", "left": b"P"}, {"text": "hi", "label": 3}]
    assert source.origin(0)[0] == "a.tar:d/1"
    assert sorted(source.columns) == ["image", "kind", "label", "left", "text"]


def test_tar_links_and_cut_members_are_refused(tmp_path):
    path = tmp_path / "a.tar"
    write_tar(path, [("1.txt", b"ok"), ("2.txt", None), ("3.txt", b"\xff"), ("4.cls", b"x"), ("5.txt", b"y" * 4000)])
    path.write_bytes(path.read_bytes()[:4096])
    source, reasons = open_file(path), []
    for index in range(1, len(source)):
        with pytest.raises(BadInput) as error:
            source.read(index)
        reasons.append(error.value.reason)
    assert reasons == ["not_a_file", "bad_encoding", "bad_cls", "truncated"]
    assert source.read(0).parts == {"text": "ok"}


def test_compressed_tar_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(ChiasmError, match="not a plain tar"):
        open_file(tmp_path / "a.tar")


def test_media_folder_labels_by_sub_folder(tmp_path):
    for name in ("cats/1.jpg", "dogs/2.PNG", "3.wav", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert outcomes(open_file(tmp_path)) == [
        {"audio": "3.wav"},
        {"image": "cats/1.jpg", "label": "cats"},
        {"image": "dogs/2.PNG", "label": "dogs"},
    ]


def test_hub_name_offline_says_both(monkeypatch):
    import datasets

    from chiasm.data.sources.hub import Hub

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(ChiasmError, match="'a/b' is no file here, and the Hub data set cannot be loaded: Couldn't reach"):
        Hub("a/b")


def test_hub_media_stay_encoded(monkeypatch):
    import datasets

    from chiasm.data.sources.hub import Hub

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"xyz", "path": None}], "label": [1]}, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: rows)
    source = Hub("a/b:test")
    assert dict(source.read(0).parts) == {"image": b"xyz", "label": "dog"}
    assert source.column("label") == ["dog"]
