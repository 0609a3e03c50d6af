"""Charts: sound SVG, round ticks, gaps, nothing drawn outside, hostile names harmless."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree as xml

import pytest

from ssod.report import charts
from ssod.report.axes import BOTTOM, DIGIT, RIGHT, TOP, WIDTH, Frame, short, ticks
from ssod.report.charts import Series


def svg_of(figure: str) -> xml.Element:
    return xml.fromstring(re.search(r"<svg.*?</svg>", figure, re.S)[0])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (3, 97, [0, 20, 40, 60, 80, 100]), (-1.2, 0.4, [-1.5, -1, -0.5, 0, 0.5])],
)
def test_ticks_are_round_and_reach_around(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("low", "high"),
    [(0, 1e-12), (-3e-13, 2e-13), (0, 3e-40), (1, 1 + 1e-12), (0.12345, 0.12346), (20_000, 20_010), (0, 7e250)],
)
def test_ticks_have_labels_of_their_own(low: float, high: float) -> None:
    found = ticks(low, high)
    assert len({short(tick) for tick in found}) == len(found) >= 2
    assert found[0] <= low
    assert found[-1] >= high


def test_ticks_of_one_value() -> None:
    assert ticks(5, 5)[0] < 5 < ticks(5, 5)[-1]
    assert ticks(0, 0) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(12.3, 12.3) == [0, 5, 10, 15]
    assert ticks(0.01, 0.01)[0] == 0
    assert (ticks(-2, -2)[0] < -2, ticks(-2, -2)[-1]) == (True, 0)


def test_a_curve_of_one_point_has_axes_from_nothing() -> None:
    """A step of 1234 is the end of a run, not the middle of an axis from 1233.5 to 1234.5; AP has no negative part."""
    chart = str(charts.lines([Series("AP", [1234], [12.3])], "AP on val", "step", "AP"))
    ticked = re.findall(r'<text class="tick[^>]*>([^<]*)</text>', chart)
    assert ticked == ["0", "5", "10", "15", "0", "250", "500", "750", "1000"]
    (x, y) = re.search(r'cx="([\d.]+)" cy="([\d.]+)"', chart).groups()  # type: ignore
    assert float(x) == WIDTH - RIGHT
    assert TOP < float(y) < 220 - BOTTOM
    assert "0.5" not in ticked
    at_start = str(charts.lines([Series("AP", [0], [0.0])], "AP on val", "step", "AP"))
    assert 'cx="46.0"' in at_start


def test_a_frame_maps_its_corners() -> None:
    frame = Frame([0, 10], [0, 5], 220, (0, 10))
    assert (frame.x(0), frame.x(10)) == (46, WIDTH - 10)
    assert (frame.y(0), frame.y(5)) == (186, 10)
    assert frame.y(99) == 10, "outside the axis it is put at its end"


def test_a_line_breaks_where_a_value_is_missing() -> None:
    figure = charts.lines([Series("a", [0, 1, 2, 3], [1.0, None, 2.0, float("nan")])], "t", "step", "y")
    (path,) = [e for e in svg_of(figure).iter() if e.get("class") == "line"]
    assert path.get("d").count("M") == 2


def test_every_point_lies_in_the_drawing() -> None:
    figure = charts.lines([Series("a", [10, 500, 2600], [-3.0, 0.5, 1e4])], "t", "step", "y", marks=[(1200, "here")])
    root = svg_of(figure)
    height = float(root.get("viewBox").split()[3])
    for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", next(e.get("d") for e in root.iter() if e.get("d"))):
        assert 0 <= float(x) <= WIDTH
        assert 0 <= float(y) <= height


def test_the_last_tick_is_not_cut() -> None:
    figure = charts.lines([Series("a", [400, 4000], [1.0, 2.0])], "t", "step", "y")
    (last,) = [e for e in svg_of(figure).iter() if e.text == "4000"]
    assert "end" in last.get("class").split()
    assert float(last.get("x")) <= WIDTH


@pytest.mark.parametrize("highest", [2e-4, 0.00125, 0.01275, 1.0, 4000, 1_234_000])
def test_the_labels_of_an_axis_are_not_cut_on_the_left(highest: float) -> None:
    """Such as learning rates."""
    for figure in (
        charts.lines([Series("a", [0, 9], [0.99 * highest, highest])], "t", "step", "y"),
        charts.bars(["a", "b"], [("one", [highest, highest / 2], 0)], "t", "x", "y"),
    ):
        root = svg_of(figure)
        labels = [e for e in root.iter() if e.get("class") == "tick end" and e.get("x") != f"{WIDTH - 1}"]
        assert len(labels) >= 2
        assert all(float(e.get("x")) - len(e.text) * DIGIT >= 0 for e in labels)
        (axis,) = [e for e in root.iter() if e.get("class") == "axis"]
        assert all(float(e.get("x")) >= float(axis.get("x1")) for e in root.iter() if e.tag == "rect")


def test_lines_of_one_group_share_a_key() -> None:
    series = [Series(f"m, fold {i}", [0, 1], [1, 2], color=0, group="m") for i in range(5)]
    figure = charts.lines([*series, Series("s", [0, 1], [0, 1], color=1)], "t", "step", "y")
    assert re.findall(r"</i>(.*?)</li>", figure) == ["m", "s"]
    assert "m, fold 3" in figure  # in the readout and the table


def test_marks_do_not_write_over_each_other() -> None:
    figure = charts.lines([Series("a", [0, 9], [1, 2])], "t", "step", "y", marks=[(4, "here"), (5, "there")])
    heights = [float(e.get("y")) for e in svg_of(figure).iter() if e.text in ("here", "there")]
    assert heights[1] - heights[0] >= 11


@pytest.mark.parametrize("at", [0, 3, 5, 7, 10])
def test_what_a_mark_says_is_not_cut(at: float) -> None:
    message = "learns from pseudo-labels"
    figure = charts.lines([Series("a", [0, 10], [1, 2])], "t", "step", "y", marks=[(at, message)])
    (text,) = [e for e in svg_of(figure).iter() if e.text == message]
    x, wide = float(text.get("x")), 6.5 * len(message)
    left = x - wide if "end" in text.get("class").split() else x
    assert 0 <= left <= left + wide <= WIDTH


def test_names_cannot_break_out() -> None:
    evil = "<script>alert(1)</script>'\"&"
    for figure in (
        charts.lines([Series(evil, [0, 1], [1, 2]), Series("b", [0], [1])], evil, evil, evil),
        charts.bars([evil, "b"], [(evil, [1, 2], 0)], evil, evil, evil),
        charts.heat([[1, 0], [0, 2]], evil, evil, evil),
        charts.intervals([(evil, 1.0, (0.5, 1.5), None)], evil, evil),
    ):
        assert "<script" not in figure
        xml.fromstring(str(figure).replace("<output", "<span").replace("</output", "</span"))


def test_the_cursor_gets_the_data_that_are_drawn() -> None:
    figure = charts.lines([Series("a", [0, 10], [1.0, 2.5]), Series("b", [10], [3.0])], "t", "step", "y")
    data = json.loads(svg_of(figure).get("data-chart"))
    assert data["series"][0]["value"] == ["1", "2.5"]
    assert data["series"][1]["px"] == [data["series"][0]["px"][1]]
    assert svg_of(figure).get("tabindex") == "0"


def test_the_table_has_the_numbers_and_is_thinned_out() -> None:
    few = charts.lines([Series("a", [1, 2], [0.5, None])], "t", "step", "y")
    assert "<td>0.5</td>" in few
    assert "<td>-</td>" in few
    many = charts.lines([Series("a", list(range(1000)), [1.0] * 1000)], "t", "step", "y")
    assert many.count("<tr>") < 70


def test_bars_stack_and_intervals_have_an_origin() -> None:
    figure = charts.bars(["0", "1"], [("right", [2, 0], 2), ("wrong", [1, 1], 4)], "t", "x", "y")
    rects = [e for e in svg_of(figure).iter() if e.tag == "rect"]
    tops, heights = ([float(r.get(key)) for r in rects] for key in ("y", "height"))
    assert tops[1] + heights[1] == pytest.approx(tops[0], abs=0.11)
    figure = charts.intervals([("m", 2.0, (1.0, 3.0), (-9.0, 13.0))], "t", "AP")
    assert "[-9.0, 13.0]" in figure
    assert any(e.get("class") == "zero" for e in svg_of(figure).iter())


def test_nothing_to_draw_is_no_figure() -> None:
    assert not charts.lines([Series("a", [], [])], "t", "x", "y")
    assert not charts.lines([Series("a", [1, 2], [None, float("nan")])], "t", "x", "y")
    assert not charts.heat([[0, 0]], "t", "x", "y")
    assert not charts.bars([], [], "t", "x", "y")
    assert not charts.intervals([], "t", "x")


def test_numbers_are_short() -> None:
    assert [short(v) for v in (0.123456, 9000, 20_000, 1_234_567)] == ["0.1235", "9000", "20k", "1.235M"]
    assert [short(v) for v in (0, 1e-3, 2.5e-4, -5e-5, 1.23456e-9)] == ["0", "0.001", "2.5e-4", "-5e-5", "1.235e-9"]
