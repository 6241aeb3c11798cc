"""The log of a resumed run goes on exactly where its checkpoint was."""

import math

from chiasm.training.display import Display
from chiasm.training.log import RunLog, read_log
from chiasm.training.stages import PartRow


def test_a_resumed_log_is_cut_back(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(step=1, loss=0.1)
    size = log.sync()
    log.write(step=2, loss=0.2)
    log.close()
    again = RunLog(tmp_path / "log.jsonl", keep_bytes=size)
    again.write(step=2, loss=math.nan)
    again.close()
    found = read_log(tmp_path / "log.jsonl")
    assert [line["step"] for line in found] == [1, 2] and math.isnan(found[1]["loss"]) and found[0]["loss"] == 0.1


def test_half_a_line_is_left_out(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste')
    assert read_log(tmp_path / "log.jsonl") == [{"step": 1}]


def test_plain_lines_where_there_is_no_terminal(capsys):
    display = Display()
    display.table("stage main", [PartRow("fusion", 1200, 1200), PartRow("encoders.image", 34567, 0), PartRow("backbone", 9, 3)])
    display.begin("stage main", 0.0)
    for step in range(100):
        display.step(step=step, loss=0.5, rows=8, done=(step + 1) / 100)
    display.end()
    lines = capsys.readouterr().err.splitlines()
    assert (
        lines[1].split() == ["fusion", "1,200", "trains"] and lines[2].split()[-1] == "frozen" and lines[3].split()[-2:] == ["trains", "3"]
    )
    assert len([line for line in lines if "rows/s" in line]) == 1  # not one a step


def test_quiet_keeps_warnings(capsys):
    display = Display(False)
    display.line("nothing")
    display.step(step=1, loss=0.0, rows=1, done=0.5)
    display.warn("WARNING: heed")
    assert capsys.readouterr().err == "WARNING: heed\n"
