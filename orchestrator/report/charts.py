"""Small charts as inline SVG that takes the colours of the page, light or dark.

Each is as wide as a phone, so that its letters keep their size there.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from orchestrator.report.page import Html

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#7638c4", "#5c3a00", "#2a2a33")
"""Apart for every kind of colour blindness, as a test measures; first Okabe and Ito's."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P")
WIDTH_IN, HEIGHT_IN = 4.1, 2.55
MAX_POINTS = 240
"""Points of a line; longer series are averaged in bins."""
TEXT, _GRID = "#1a1a1b", "#dfe3e9"
"""``TEXT`` in a figure becomes the page's own colour of text."""
PHOTO_DPI, _JPEG_QUALITY = 170, 80
_RC: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 8,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": _GRID,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "axes.formatter.use_mathtext": False,
}
_VARIABLES = {colour: f"var(--c{i},{colour})" for i, colour in enumerate(COLOURS)} | {
    TEXT: "currentColor",
    _GRID: "var(--grid)",
}


_PNG = re.compile(r'"data:image/png;base64,([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart."""

    name: str
    x: Sequence[float] | NDArray[Any]
    y: Sequence[float] | NDArray[Any]
    low: Sequence[float] | NDArray[Any] | None = None
    """With ``high``: a band around the line."""
    high: Sequence[float] | NDArray[Any] | None = None
    marked: bool = False
    """Whether every point has a marker: few, measured ones."""
    raw: tuple[NDArray[Any], NDArray[Any]] | None = field(default=None)
    """Unsmoothed x and y, drawn faintly behind."""


@contextmanager
def chart(xlabel: str, ylabel: str, height: float = HEIGHT_IN) -> Iterator[tuple[Axes, list[Html]]]:
    """Axes to draw on; afterwards the list holds the drawing."""
    drawn: list[Html] = []
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
        axes = figure.add_subplot()
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        yield axes, drawn
        drawn.append(to_svg(figure, f"{ylabel} over {xlabel}"))


def to_svg(figure: Figure, description: str) -> Html:
    """The figure as an ``svg`` element that follows the page's colours, photos in it as JPEG."""
    buffer = io.StringIO()
    with matplotlib.rc_context({**_RC, "svg.hashsalt": None}):
        figure.savefig(
            buffer, format="svg", dpi=PHOTO_DPI, transparent=True, metadata={"Date": None}
        )
    text = _PNG.sub(_to_jpeg, buffer.getvalue())
    text = text[text.index("<svg") :].rstrip()
    # The style of one drawing would hold for the whole page, whose own says the same; names of
    # groups would repeat in every drawing.
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' id="image[^"]*"', "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(f": {colour}", f": {variable}")
        text = text.replace(f'fill="{colour}"', f'style="fill: {variable}"')  # beneath a hatch
    label = f'<svg role="img" aria-label="{escape(description)}"'
    return Html(text.replace("<svg", label, 1))


def _to_jpeg(found: re.Match[str]) -> str:
    """A PNG of matplotlib's, opaque or nearly, as a JPEG of a fifth of its size."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as photo:
        photo.convert("RGB").save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return f'"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode("ascii")}"'


def line_chart(
    xlabel: str,
    ylabel: str,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    limits: tuple[float, float] | None = None,
) -> Html:
    """Lines told apart by colour and dashes (or markers), named above the axes."""
    with chart(xlabel, ylabel) as (axes, drawn):
        for number, one in enumerate(series):
            colour = COLOURS[number % len(COLOURS)]
            if one.raw is not None:
                axes.plot(*one.raw, color=colour, alpha=0.25, linewidth=0.7)
            if one.low is not None and one.high is not None:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.18, linewidth=0)
            axes.plot(
                one.x,
                one.y,
                color=colour,
                linestyle=DASHES[number % len(DASHES)],
                marker=MARKERS[number % len(MARKERS)] if one.marked or len(one.x) < 3 else None,
                label=one.name,
            )
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        if from_zero:
            axes.set_ylim(0, 1.06 * max(axes.dataLim.y1, 1e-12))  # no marker cut in half
        if series and axes.dataLim.x0 == axes.dataLim.x1:
            axes.set_xlim(0, 1.15 * max(axes.dataLim.x1, 1))
        if limits is not None:
            axes.set_ylim(*limits)
        name_lines(axes, len(series))
    return drawn[0]


def name_lines(axes: Axes, count: int) -> None:
    """The legend in rows above the axes, where it covers nothing."""
    if not count:
        return
    handles, labels = axes.get_legend_handles_labels()
    short = [label if len(label) <= 24 else label[:23] + "\u2026" for label in labels]
    figure = axes.get_figure()
    assert figure is not None
    widest = max(map(len, short), default=1)
    figure.legend(
        handles, short, loc="outside upper left", ncols=max(1, min(count, 52 // (widest + 6)))
    )


def bar_chart(
    xlabel: str,
    ylabel: str,
    groups: Sequence[str],
    values: Mapping[str, Sequence[float]],
    *,
    stacked: bool = False,
    horizontal: bool = False,
    notes: Sequence[str] = (),
) -> Html:
    """Bars of several series in named groups, beside each other or stacked.

    Args:
        xlabel: of the groups' axis (``horizontal``: still the groups').
        ylabel: of the values' axis.
        groups: their names.
        values: a value per group, by series.
        notes: a word at the end of each group's bar, such as a count.
    """
    height = 0.75 + 0.3 * len(groups) * (1 if stacked else max(len(values) * 0.55, 1))
    labels = (ylabel, xlabel) if horizontal else (xlabel, ylabel)
    with chart(*labels, height=max(height, 1.5) if horizontal else HEIGHT_IN) as (axes, drawn):
        _bars(axes, len(groups), values, stacked=stacked, horizontal=horizontal)
        names = [g if len(g) <= 20 else g[:19] + "\u2026" for g in groups]
        positions = np.arange(len(groups))
        if horizontal:
            axes.set_yticks(positions, names)
            axes.invert_yaxis()
            axes.grid(axis="y", visible=False)
        else:
            axes.set_xticks(positions, [f"{n}\n{x}" for n, x in zip(names, notes)] or names)
            axes.grid(axis="x", visible=False)
        if len(values) > 1:
            name_lines(axes, len(values))
    return drawn[0]


def _bars(
    axes: Axes,
    count: int,
    values: Mapping[str, Sequence[float]],
    *,
    stacked: bool,
    horizontal: bool,
) -> None:
    base = np.zeros(count)
    thick = 0.7 if stacked else 0.8 / max(len(values), 1)
    for number, (name, heights) in enumerate(values.items()):
        style: dict[str, Any] = dict(color=COLOURS[number % len(COLOURS)], label=name)
        style |= dict(hatch=("", "//", "..", "xx")[number % 4], edgecolor="white", linewidth=0)
        numbers = np.nan_to_num(np.asarray(heights, dtype=float))
        shift = 0.0 if stacked else (number - (len(values) - 1) / 2) * thick
        place = np.arange(count) + shift
        if horizontal:
            axes.barh(place, numbers, height=thick * 0.95, left=base, **style)
        else:
            axes.bar(place, numbers, width=thick * 0.95, bottom=base, **style)
        if stacked:
            base = base + numbers


def binned(x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """At most ``MAX_POINTS`` means over equal stretches of x."""
    keep = np.isfinite(y)
    x, y = np.asarray(x)[keep], np.asarray(y)[keep]
    if len(x) <= MAX_POINTS:
        return x, y
    parts = np.array_split(np.arange(len(x)), MAX_POINTS)
    return np.array([x[p].mean() for p in parts]), np.array([y[p].mean() for p in parts])


def smooth(y: NDArray[Any], width: int) -> NDArray[np.float64]:
    """Moving mean over ``width`` points, shorter at the ends."""
    if len(y) == 0 or width <= 1:
        return np.asarray(y, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(y, dtype=np.float64)])
    index = np.arange(len(y))
    low = np.maximum(index - width // 2, 0)
    high = np.minimum(index + width // 2 + 1, len(y))
    result: NDArray[np.float64] = (total[high] - total[low]) / (high - low)
    return result
