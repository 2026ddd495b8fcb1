"""Charts as SVG in a page: they fit a phone, are coloured by the page's style, and label lines at their ends."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.etree import ElementTree

from matplotlib.ticker import MaxNLocator

WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 60, 26, 12, 36  # margins of the plot; `1.25·10⁻³` finds room
LINE = 13  # height of a label
LETTER = 7  # pixels that one takes of a line


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line, or points; `mark` labels it and `style` is its class: c0 to c7, control or faint."""

    mark: str
    style: str
    points: Sequence[tuple[float, float]]
    bars: Sequence[float | None] = field(default_factory=tuple)  # half the length of each point's error bar
    said: str = ""  # what it is, for who cannot see it


def curves(title: str, x: str, unit: str, series: Sequence[Series], *, log: bool = False) -> str:
    """Lines over whole numbers, each labelled by its mark at its end; `unit` follows a point's value.

    Args:
        log: a logarithmic height, for values above zero.
    """
    plot = _Plot(title, x, [p for s in series for p in s.points], whole=True, log=log)
    ends = []
    for s in sorted(series, key=lambda s: bool(s.mark)):  # the faint ones below
        points = [(plot.x(a), plot.y(b)) for a, b in s.points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        plot.add("polyline", {"points": path, "class": f"line {s.style}"}, s.said)
        if s.mark:
            for (a, b), (at, value) in zip(points, s.points, strict=True):
                plot.dot(a, b, 2.5, s.style, f"{s.said}: {x} {at:g}, {value:.4g} {unit}")
            ends.append((points[-1], s))
    for (a, b), s in _apart(ends):
        plot.text(a + 8, b + 4, s.mark, f"mark {s.style}")
    return plot.svg()


def scatter(title: str, x: str, series: Sequence[Series], edge: Sequence[tuple[float, float]]) -> str:
    """Points with error bars, each labelled by its mark, and a stepped line through some of them."""
    extremes = [
        (a, b + sign * (bar or 0))
        for s in series
        for (a, b), bar in zip(s.points, s.bars, strict=True)
        for sign in (-1, 1)
    ]
    plot = _Plot(title, x, extremes)
    steps: list[str] = []
    for i, (a, b) in enumerate(edge):
        before = [f"{plot.x(a):.1f},{plot.y(edge[i - 1][1]):.1f}"] if i else []
        steps += [*before, f"{plot.x(a):.1f},{plot.y(b):.1f}"]
    plot.add("polyline", {"points": " ".join(steps), "class": "edge"}, "Pareto front")
    labels = []
    for s in series:
        for (a, b), bar in zip(s.points, s.bars, strict=True):
            at, height = plot.x(a), plot.y(b)
            if bar:
                ends = {"x1": at, "x2": at, "y1": plot.y(b - bar), "y2": plot.y(b + bar)}
                plot.add("line", {k: f"{v:.1f}" for k, v in ends.items()} | {"class": f"bar {s.style}"})
            plot.dot(at, height, 4, s.style, s.said)
            labels.append(((at, height), s))
    for (a, b), s in _apart(labels):
        plot.text(a + 8, b + 4, s.mark, f"mark {s.style}")
    return plot.svg()


def differences(title: str, x: str, rows: Sequence[tuple[str, float, float | None, bool]]) -> str:
    """A row for each (label, difference, half its interval, whether it is a control itself) about a line at zero.

    A control is a square and all else a dot; both are hollow where there is no interval.
    """
    height = TOP + BOTTOM + 34 * len(rows)
    reach = [(value + sign * (half or 0), 0.0) for _, value, half, _ in rows for sign in (-1, 1)]
    plot = _Plot(title, x, [*reach, (0.0, 0.0)], heights=False, left=10, height=height)
    zero = f"{plot.x(0):.1f}"
    plot.add("line", {"x1": zero, "x2": zero, "y1": str(TOP), "y2": str(height - BOTTOM), "class": "zero"})
    for i, (label, value, half, control) in enumerate(rows):
        y = TOP + 34 * i + 24
        plot.text(10, y - 11, label, "row")
        interval = "" if half is None else f" ± {half:.2f}"
        if half is not None:
            ends = {"x1": plot.x(value - half), "x2": plot.x(value + half), "y1": y, "y2": y}
            plot.add(
                "line", {k: f"{v:.1f}" for k, v in ends.items()} | {"class": f"bar {'control' if control else 'c0'}"}
            )
        style = ("control" if control else "c0") + (" hollow" if half is None else "")
        place = plot.square if control else plot.dot
        place(plot.x(value), y, 4, style, f"{label}: {value:+.2f}{interval} dB")
    return plot.svg()


class _Plot:
    """An SVG with axes that fit some points."""

    def __init__(
        self, title: str, x: str, points: Sequence[tuple[float, float]], *, whole: bool = False, log: bool = False,
        heights: bool = True, left: int = LEFT, height: int = HEIGHT,
    ) -> None:  # fmt: skip
        """
        Args:
            whole: the x axis counts; log: the y axis is logarithmic; heights: it has numbers.
        """
        self.root = ElementTree.Element(
            "svg", {"viewBox": f"0 0 {WIDTH} {height}", "role": "img", "class": "chart", "aria-label": title}
        )
        self.left, self.height = left, height
        self.scaled: Callable[[float], float] = math.log10 if log else float
        self.x_range = _span([a for a, _ in points], 0.0 if whole else 0.06)
        heights_of = [self.scaled(b) for _, b in points]
        self.y_range = (min(heights_of) - 0.1, max(heights_of) + 0.1) if log else _span(heights_of, 0.06)
        for tick in _ticks(self.x_range, whole):
            self.text(self.x(tick), height - BOTTOM + 15, _short(tick), "tick middle")
        for tick in (_log_ticks(self.y_range) if log else _ticks(self.y_range)) if heights else ():
            at = f"{self.y(tick):.1f}"
            self.add("line", {"x1": str(left), "x2": str(WIDTH - RIGHT), "y1": at, "y2": at, "class": "grid"})
            self.text(left - 6, self.y(tick) + 4, _power(tick) if log else _short(tick), "tick end")
        self.text((left + WIDTH - RIGHT) / 2, height - 4, x, "axis middle")

    def x(self, value: float) -> float:
        low, high = self.x_range
        return self.left + (value - low) / (high - low) * (WIDTH - RIGHT - self.left)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (self.scaled(value) - low) / (high - low) * (self.height - BOTTOM - TOP)

    def add(self, tag: str, attributes: dict[str, str], said: str = "") -> None:
        element = ElementTree.SubElement(self.root, tag, attributes)
        if said:
            ElementTree.SubElement(element, "title").text = said

    def dot(self, x: float, y: float, radius: float, style: str, said: str) -> None:
        self.add("circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": str(radius), "class": f"dot {style}"}, said)

    def square(self, x: float, y: float, radius: float, style: str, said: str) -> None:
        side = {"x": x - radius, "y": y - radius, "width": 2 * radius, "height": 2 * radius}
        self.add("rect", {k: f"{v:.1f}" for k, v in side.items()} | {"class": f"dot {style}"}, said)

    def text(self, x: float, y: float, text: str, style: str) -> None:
        ElementTree.SubElement(self.root, "text", {"x": f"{x:.1f}", "y": f"{y:.1f}", "class": style}).text = text

    def svg(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode", short_empty_elements=False)


Label = tuple[tuple[float, float], Series]


def _apart(labels: Sequence[Label]) -> list[Label]:
    """Move labels that would overlap down just far enough, and up again from the foot of the plot."""
    placed: list[Label] = []
    for (x, y), s in sorted(labels, key=lambda label: label[0][1]):
        near = [b for (a, b), other in placed if _meet(a, other.mark, x, s.mark)]
        placed.append(((x, max([y, *(b + LINE for b in near)])), s))
    limit, settled = float(HEIGHT - BOTTOM), list[Label]()
    for (x, y), s in reversed(placed):
        near = [b for (a, b), other in settled if _meet(a, other.mark, x, s.mark)]
        settled.append(((x, min([y, limit, *(b - LINE for b in near)])), s))
    return settled


def _meet(x: float, mark: str, other: float, others: str) -> bool:
    """Whether two labels that begin at these places would meet if they were on one line."""
    first = mark if x <= other else others
    return abs(x - other) < max(LINE, LETTER * len(first))


def _span(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The range of an axis: of these values with some room, but not below zero where no value is."""
    low, high = min(values), max(values)
    room = (high - low) * margin if high > low else abs(low) * 0.1 or 1.0
    return max(0.0, low - room) if low >= 0 else low - room, high + room


def _ticks(span: tuple[float, float], whole: bool = False) -> list[float]:
    locator = MaxNLocator(nbins=5, integer=whole, steps=[1, 2, 2.5, 5, 10])
    return [float(tick) for tick in locator.tick_values(*span) if span[0] <= tick <= span[1]]


def _log_ticks(span: tuple[float, float]) -> list[float]:
    """1 of each power of ten; 2 and 5 as well, or all digits, where those are few; round numbers in a narrow span."""
    powers = range(math.floor(span[0]), math.ceil(span[1]) + 1)
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        ticks = [d * 10.0**p for p in powers for d in digits if span[0] <= math.log10(d * 10.0**p) <= span[1]]
        if len(ticks) >= 3:
            return ticks
    return _ticks((10 ** span[0], 10 ** span[1]))


def _power(value: float) -> str:
    """A number as a power of ten: 0.002 becomes 2·10⁻³."""
    power = math.floor(math.log10(value) + 1e-9)
    digits = f"{value / 10.0**power:.3g}"
    raised = str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digits == "1" else f"{digits}·10{raised}"


def _short(value: float) -> str:
    """A number as short as a phone has room for: 1500 becomes 1.5k."""
    return (f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}").replace("-", "−")
