"""Curves: what is drawn, where it lies, and round ticks."""

import xml.etree.ElementTree as ET

import pytest

from chiasm.report.curves import HEIGHT, POINTS, WIDTH, Chart, charts, running_mean, short, thin


def steps(losses, **more):
    return [{"step": i, "stage": "a" if i < 5 else "b", "loss": v, "losses": {"answer": v}, **more} for i, v in enumerate(losses, 1)]


def test_charts_of_a_log():
    evaluation = {
        "answer.exact_match": 0.5,
        "answer.exact_match[kind=x]": 0.1,
        "answer.exact_match[image shuffled]": 0.2,
        "answer.token_f1": 0.6,
    }
    log = [*steps([3.0, 2.0, 1.0, 0.5, 0.1, 0.05], learning_rate=1e-3), {"event": "evaluation", "step": 6, "metrics": evaluation}]
    loss, validation, rate = charts([*log, {"event": "warning", "step": 3, "text": "x"}, {"no": "step"}])
    assert loss.lines == {"answer": [(i, v) for i, v in enumerate([3.0, 2.0, 1.0, 0.5, 0.1, 0.05], 1)]}
    assert loss.log
    assert loss.marks == [(1.0, "a"), (5.0, "b")]
    assert list(validation.lines) == ["answer.exact_match", "answer.exact_match[image shuffled]"]
    assert list(rate.lines) == ["learning rate"]


def test_no_log_no_charts():
    assert charts([]) == []
    assert charts([{"event": "started", "step": 0}]) == []


@pytest.mark.parametrize("log", [True, False])
@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0, 2.0], [0.001, 900.0], [0.2, 0.9]])
def test_the_drawing_is_xml_and_stays_inside(log, values):
    chart = Chart("a < b & c", {"x": list(enumerate(values)), "y": list(enumerate(values))}, log=log, smooth=True, marks=[(0, "<s>")])
    root = ET.fromstring(chart.svg())
    lines = [e for e in root.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 2
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert [e for e in root.iter() if e.attrib.get("class") == "tick"]


def test_thinning_and_smoothing_keep_the_level():
    points = [(float(i), 5.0) for i in range(10_000)]
    assert len(thin(points)) <= POINTS
    assert {round(y, 9) for _, y in running_mean(thin(points))} == {5.0}
    assert thin([]) == []


def test_tick_labels():
    assert [short(v) for v in (0, 0.25, 12000, 3e-4, 2000)] == ["0", "0.25", "12k", "3e-4", "2000"]
