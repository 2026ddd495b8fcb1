"""Charts: every number at its place, every label where its line ends and none on another."""

import itertools
from xml.etree import ElementTree

import pytest

from ail_ray.reporting.svg import HEIGHT, LINE, WIDTH, Series, curves, differences, scatter


def elements(svg: str, tag: str, style: str = "") -> list[ElementTree.Element]:
    return [e for e in ElementTree.fromstring(svg).iter(tag) if style in e.get("class", "").split() or not style]


def test_lines_go_where_the_axis_says() -> None:
    svg = curves(
        "PSNR", "round", "dB", [Series(mark="A", style="c0", points=[(0, 30.0), (1, 31.0), (2, 32.0)], said="ours")]
    )
    (line,) = elements(svg, "polyline")
    points = [tuple(map(float, pair.split(","))) for pair in line.get("points", "").split()]
    assert [b[0] - a[0] for a, b in itertools.pairwise(points)] == pytest.approx(
        [points[1][0] - points[0][0]] * 2, abs=0.2
    )
    ticks = {e.text: float(e.get("y", "")) for e in elements(svg, "text", "end")}  # 4 below their line
    assert ticks["30"] - 4 == pytest.approx(points[0][1], abs=0.1)
    assert ticks["32"] - 4 == pytest.approx(points[2][1], abs=0.1)
    assert [e.text for e in elements(svg, "text", "middle")] == ["0", "1", "2", "round"]
    assert [e.findtext("title") for e in elements(svg, "circle")][1] == "ours: round 1, 31 dB"
    assert ElementTree.fromstring(svg).get("aria-label") == "PSNR"


def test_labels_that_end_alike_are_moved_apart_within_the_chart() -> None:
    series = [
        Series(mark=mark, style="c0", points=[(0, 1.0), (3, 1.0 + i / 1000)]) for i, mark in enumerate("ABCDEFGH")
    ]
    marks = elements(
        curves("x", "round", "", [*series, Series(mark="Z", style="c1", points=[(0, 9.0)])]), "text", "mark"
    )
    heights = sorted(float(e.get("y", "")) for e in marks if e.text != "Z")
    assert all(b - a >= LINE - 0.1 for a, b in itertools.pairwise(heights))
    assert heights[-1] < HEIGHT
    assert all(float(e.get("x", "")) < WIDTH - 8 for e in marks)


def test_a_logarithmic_axis_has_powers_of_ten() -> None:
    svg = curves(
        "loss", "round", "", [Series(mark="A", style="c0", points=[(0, 1e-1), (1, 1e-3), (2, 1e-4)])], log=True
    )
    assert [e.text for e in elements(svg, "text", "end")] == ["10⁻⁴", "10⁻³", "10⁻²", "10⁻¹"]
    heights = [float(e.get("cy", "")) for e in elements(svg, "circle")]
    assert (heights[1] - heights[0]) / (heights[2] - heights[1]) == pytest.approx(2, abs=0.01)


def test_a_single_value_has_an_axis_too() -> None:
    for log in (False, True):
        assert elements(curves("x", "round", "", [Series(mark="A", style="c0", points=[(0, 1.0)])], log=log), "circle")


def test_points_have_their_error_bars_and_the_front_its_steps() -> None:
    series = [Series(mark=m, style="c0", points=[p], bars=[b], said=m) for m, p, b in (
        ("A", (1000.0, 30.0), 0.5), ("B", (2000.0, 31.0), None), ("C", (2000.0, 30.5), None),
    )]  # fmt: skip
    svg = scatter("front", "parameters", series, [(1000.0, 30.0), (2000.0, 31.0)])
    (bar,) = elements(svg, "line", "bar")
    middle = (float(bar.get("y1", "")) + float(bar.get("y2", ""))) / 2
    dots = {e.findtext("title"): e for e in elements(svg, "circle")}
    assert middle == pytest.approx(float(dots["A"].get("cy", "")), abs=0.1)
    assert dots["B"].get("cx") == dots["C"].get("cx") != dots["A"].get("cx"), "equal sizes lie at one place"
    (edge,) = elements(svg, "polyline", "edge")
    assert len(edge.get("points", "").split()) == 3
    assert "1.5k" in [e.text for e in elements(svg, "text", "tick")]


def test_differences_lie_about_zero() -> None:
    svg = differences(
        "gain",
        "dB",
        [
            ("better", 0.2, 0.1, False),
            ("worse <b>", -0.2, 0.1, False),
            ("one seed", 0.1, None, False),
            ("one schedule", 0.3, 0.1, True),
        ],
    )
    (zero,) = elements(svg, "line", "zero")
    at = float(zero.get("x1", ""))
    better, worse, single = elements(svg, "circle")
    assert float(better.get("cx", "")) - at == pytest.approx(at - float(worse.get("cx", "")), abs=0.2)
    assert [len(elements(svg, "line", "bar")), single.get("class")] == [3, "dot c0 hollow"]
    (control,) = elements(svg, "rect")
    middle = float(control.get("x", "")) + float(control.get("width", "")) / 2
    assert middle - at == pytest.approx(1.5 * (float(better.get("cx", "")) - at), abs=0.3)
    assert "worse &lt;b&gt;" in svg


@pytest.mark.parametrize(("low", "high"), [(1e-4, 1.0), (2.1e-3, 2.9e-3), (0.9, 1.1), (0.03, 0.3)])
def test_a_logarithmic_axis_has_ticks(low: float, high: float) -> None:
    series = [Series(mark="A", style="c0", points=[(0, low), (1, high)], said="a")]
    heights = {e.text for e in elements(curves("loss", "round", "", series, log=True), "text", "end")}
    assert len(heights) >= 2
