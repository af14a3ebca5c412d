"""Curves as SVG that a page holds: lines by epoch, whose numbers come up where one points."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from automix_jax.report.html.markup import ABSENT, Markup, Number, element, joined

_WIDTH, _HEIGHT = 420, 230  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 408, 10, 200  # of the panel
_DOTTED = 40  # points, up to which each has a dot
COLORS = 8  # see page.css; beyond, lines are dashed


class Series(NamedTuple):
    """A line.

    Attributes:
        name: in the legend.
        values: by epoch; what is not finite interrupts the line.
        bold: whether it is the one that counts.
        color: number of its colour; by default its place in the chart.
    """

    name: str
    values: dict[int, Number]
    bold: bool = False
    color: int | None = None


class Mark(NamedTuple):
    """Something that has happened: its kind ("rollback", "skipped", "changed"), when, and what."""

    kind: str
    epoch: Number
    text: str


class Chart(NamedTuple):
    """Lines over one axis of epochs.

    Attributes:
        id: on the page.
        title: what is drawn, with its unit.
        series: at least one, and none without values.
        marks: on the axis; later ones than its end are not shown.
        note: a sentence below; may be empty.
    """

    id: str
    title: str
    series: Sequence[Series]
    marks: Sequence[Mark] = ()
    note: str = ""


def draw(chart: Chart) -> Markup:
    """The chart with its title and legend."""
    x, y = _scales(chart)
    drawn = sorted(enumerate(chart.series), key=lambda item: item[1].bold)  # it comes on top
    parts = [
        *_grid(x, y),
        *itertools.chain.from_iterable(
            _mark(mark, x) for mark in chart.marks if mark.epoch <= x.high
        ),
        *(_line(series, i, x, y) for i, series in drawn),
        element("line", class_="cross", y1=_TOP, y2=_BOTTOM, hidden=True),
        *_bands(chart, x),
    ]
    names = ", ".join(series.name for series in chart.series)
    svg = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=f"{chart.title} by epoch: {names}",
    )
    alone = len(chart.series) == 1  # its name is in the title
    legend = [
        element(
            "li",
            element("i", class_=_color(series, i)),
            "last " if alone else f"{series.name} ",
            element("b", shown(series.values[max(series.values)])),
        )
        for i, series in enumerate(chart.series)
    ]
    return element(
        "figure",
        element("figcaption", chart.title),
        svg,
        element("ul", *legend, class_="legend"),
        *([element("p", chart.note, class_="note")] if chart.note else []),
        class_="chart",
        id=chart.id,
    )


def shown(value: Number | None) -> str:
    """A number for people, of four or five digits."""
    if value is None:
        return ABSENT
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}" if size < 1e9 else f"{value:.3g}"
    if size >= 1:
        return f"{value:.2f}" if size >= 10 else f"{value:.3f}"
    return f"{value:.4f}" if size >= 0.001 else f"{value:.3g}"


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` or a little below to `high` or a little above.

    Args:
        low, high: finite, and low below high.
        most: steps, about.
    """
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


class _Scale(NamedTuple):
    """From numbers to places: `at` the first and last of `marks`, which are labelled."""

    marks: list[float]
    low: float
    high: float
    at: tuple[float, float]

    def __call__(self, value: Number) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.at[0] + share * (self.at[1] - self.at[0]), 2)


def _scales(chart: Chart) -> tuple[_Scale, _Scale]:
    """Of the epochs, and of the values."""
    epochs = [epoch for series in chart.series for epoch in series.values]
    low, high = float(min(epochs)), float(max(epochs))
    low, high = (low - 0.5, high + 0.5) if low == high else (low, high)
    whole = [tick for tick in ticks(low, high) if low <= tick <= high and tick == int(tick)]
    x = _Scale(whole, low, high, (_LEFT + 6, _RIGHT - 6))
    values = [float(value) for series in chart.series for value in series.values.values()]
    found = list(filter(math.isfinite, values))
    bottom, top = (min(found), max(found)) if found else (0.0, 1.0)
    if top - bottom <= max(1e-9 * abs(top), 1e-300):  # a line that is flat
        around = abs(top) / 2 or 1.0
        bottom, top = bottom - around, top + around
    marks = ticks(bottom, top, 5)
    return x, _Scale(marks, marks[0], marks[-1], (_BOTTOM, _TOP))


def _grid(x: _Scale, y: _Scale) -> Iterator[Markup]:
    """Lines and labels of both axes."""
    step = y.marks[1] - y.marks[0]
    digits = max(-math.floor(math.log10(step) + 1e-9), 0)
    for mark in y.marks:
        text = f"{mark:,.{digits}f}" if digits < 5 and abs(mark) < 1e7 else f"{mark:.3g}"
        yield element("line", class_="grid", x1=_LEFT, x2=_RIGHT, y1=y(mark), y2=y(mark))
        yield element("text", text, x=_LEFT - 6, y=y(mark) + 4, text_anchor="end")
    for mark in x.marks:
        yield element("text", f"{mark:.0f}", x=x(mark), y=_BOTTOM + 16, text_anchor="middle")
    yield element("text", "epoch", x=_RIGHT, y=_HEIGHT - 2, text_anchor="end", class_="axis")


def _mark(mark: Mark, x: _Scale) -> Iterator[Markup]:
    """A line across the panel with a triangle at its foot."""
    place = x(max(mark.epoch, x.low))
    yield element("line", class_=f"mark {mark.kind}", x1=place, x2=place, y1=_TOP, y2=_BOTTOM)
    foot = f"M{place} {_BOTTOM - 7}l4 7h-8z"
    yield element("path", element("title", mark.text), class_=f"foot {mark.kind}", d=foot)


def _line(series: Series, place: int, x: _Scale, y: _Scale) -> Markup:
    """The line, with dots where there are few or one stands alone."""
    points = [(epoch, value) for epoch, value in sorted(series.values.items())]
    pieces: list[list[tuple[float, float]]] = [[]]
    for epoch, value in points:
        if math.isfinite(value):
            pieces[-1].append((x(epoch), y(value)))
        elif pieces[-1]:
            pieces.append([])
    path = "".join(
        "M" + "L".join(f"{across} {up}" for across, up in piece)
        for piece in pieces
        if len(piece) > 1
    )
    radius = 3 if series.bold else 2.2
    dots = [
        element("circle", cx=across, cy=up, r=radius)
        for piece in pieces
        for across, up in piece
        if len(points) <= _DOTTED or len(piece) == 1
    ]
    drawn = [element("path", d=path)] if path else []
    kind = "line bold" if series.bold else "line"
    return element("g", *drawn, *dots, class_=f"{kind} {_color(series, place)}")


def _bands(chart: Chart, x: _Scale) -> Iterator[Markup]:
    """A part of the panel for each epoch, which says all its numbers."""
    epochs = sorted({epoch for series in chart.series for epoch in series.values})
    edges = [
        _LEFT,
        *(round((x(a) + x(b)) / 2, 2) for a, b in itertools.pairwise(epochs)),
        _RIGHT,
    ]
    for epoch, (left, right) in zip(epochs, itertools.pairwise(edges), strict=True):
        here = [(i, s) for i, s in enumerate(chart.series) if epoch in s.values]
        lines = [f"epoch {epoch}", *(f"{s.name}  {shown(s.values[epoch])}" for _, s in here)]
        yield element(
            "rect",
            element("title", "\n".join(lines)),
            class_="band",
            x=left,
            y=_TOP,
            width=round(right - left, 2),
            height=_BOTTOM - _TOP,
            data_x=x(epoch),
            data_s="|".join(_color(series, i) for i, series in here),
        )


def _color(series: Series, place: int) -> str:
    """Classes of a line: its colour, and whether it is dashed."""
    number = place if series.color is None else series.color
    return f"s{number % COLORS}" + (" dashed" if number // COLORS % 2 else "")


def marks_legend(marks: Sequence[Mark]) -> Markup:
    """What the lines across the charts stand for; nothing where there are none."""
    words = {
        "rollback": "the run went back",
        "skipped": "steps skipped",
        "changed": "configuration changed",
    }
    kinds = [kind for kind in words if any(mark.kind == kind for mark in marks)]
    if not kinds:
        return Markup("")
    return element(
        "p",
        joined(
            element("span", element("i", class_=f"key {kind}"), words[kind], class_="keyed")
            for kind in kinds
        ),
        class_="note",
    )
