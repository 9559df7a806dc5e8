"""Heat maps of assignments over their image, drawn with matplotlib.

Sizes are laid out in inches by hand, so that nothing overlaps whatever the number of panels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from orchestrator.report.charts import TEXT
from orchestrator.report.maps import COUNTS_FROM, AssignmentView, LevelMap
from orchestrator.report.scenes import Scene

# Orange and blue stay apart for every kind of colour blindness; both grow lighter with the weight.
POSITIVE = LinearSegmentedColormap.from_list("positive", ["#b3430000", "#e67300b0", "#ffd92fe8"])
NEGATIVE = LinearSegmentedColormap.from_list("negative", ["#0072b200", "#2f8fd0a8"])
BOX = "#ffffff"
LIGHT = {"background": "#ffffff", "text": "#1a1a1a"}
PAGE = {"background": "none", "text": TEXT}
"""For ``to_svg``: the page's own colours."""
POSITIVE_SCALE = "positive weight (share of the object's largest)"
NEGATIVE_SCALE = "negative weight (1: plain background)"
_PANEL_IN, _GAP_IN, _BLOCK_GAP_IN = 1.5, 0.07, 0.22
_LEFT_IN, _RIGHT_IN, _HEAD_IN, _FOOT_IN, _LEGEND_IN = 0.66, 0.12, 0.62, 0.42, 0.62
_SUBHEAD_IN, _SCALE_IN = 0.24, 0.46
_NARROW_IN = _LEFT_IN + 2 * _PANEL_IN + _GAP_IN + _RIGHT_IN
_SMALL, _NORMAL = 8.0, 9.0


@dataclass(frozen=True, kw_only=True)
class _Canvas:
    """A figure whose axes are placed in inches from its top left corner."""

    figure: Figure
    width: float
    height: float
    text: str

    @classmethod
    def make(cls, width: float, height: float, theme: Mapping[str, str]) -> _Canvas:
        figure = Figure(figsize=(width, height), facecolor=theme["background"])
        return cls(figure=figure, width=width, height=height, text=theme["text"])

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        box = (
            left / self.width,
            1 - (top + height) / self.height,
            width / self.width,
            height / self.height,
        )
        return self.figure.add_axes(box)

    def write(self, left: float, top: float, text: str, **style: Any) -> None:
        style = {"color": self.text, "size": _SMALL, "va": "top", "parse_math": False, **style}
        self.figure.text(left / self.width, 1 - top / self.height, text, **style)


def used_levels(views: Sequence[AssignmentView]) -> list[int]:
    """Levels on which any view has a positive (``COUNTS_FROM``); the first one where none has."""
    used = [
        level
        for level in range(len(views[0].levels))
        if any(view.levels[level].positive.max(initial=0) >= COUNTS_FROM for view in views)
    ]
    return used or [0]


def reading(view: AssignmentView) -> str:
    """One line on a view: how many positives for how many objects."""
    objects, none = len(view.counts), int((view.counts == 0).sum())
    if not objects:
        return "no objects"
    text = f"{view.counts.mean():.1f} positives per object"
    return text + (f", {none} of {objects} without" if none else f", {objects} objects")


def draw_assignments(
    scene: Scene,
    views: Sequence[AssignmentView],
    *,
    theme: Mapping[str, str] = LIGHT,
    panel_in: float = _PANEL_IN,
    blocks_per_row: int = 5,
) -> Figure:
    """Blocks side by side, one per view: levels as rows, positive and negative weights as columns.

    Args:
        scene: the image.
        views: of ``assign_scene``, of one or several methods with the same number of levels.
        panel_in: width of one heat map in inches.
        blocks_per_row: more views than these go below.
    """
    height, width = scene.pixels.shape[:2]
    panel = panel_in, panel_in * height / width
    levels = used_levels(views)
    block_rows = -(-len(views) // blocks_per_row)
    columns = -(-len(views) // block_rows)  # rows of equal length
    block = 2 * panel[0] + _GAP_IN
    block_height = _HEAD_IN + len(levels) * (panel[1] + _GAP_IN) + _FOOT_IN
    canvas = _Canvas.make(
        _LEFT_IN + columns * block + (columns - 1) * _BLOCK_GAP_IN + _RIGHT_IN,
        block_rows * block_height + _LEGEND_IN,
        theme,
    )
    for number, view in enumerate(views):
        row, column = divmod(number, columns)
        left = _LEFT_IN + column * (block + _BLOCK_GAP_IN)
        top = row * block_height
        _draw_block(canvas, scene, view, levels, (left, top), panel, first=column == 0)
    _legend(canvas, block_rows * block_height, len(levels) < len(views[0].levels))
    return canvas.figure


def draw_view(scene: Scene, view: AssignmentView, levels: Sequence[int]) -> Figure:
    """One view alone, as wide as a phone: levels as rows, positive and negative as columns."""
    height, width = scene.pixels.shape[:2]
    panel = _PANEL_IN, _PANEL_IN * height / width
    below = _SUBHEAD_IN + len(levels) * (panel[1] + _GAP_IN) + _FOOT_IN
    canvas = _Canvas.make(_NARROW_IN, below + _SCALE_IN, PAGE)
    _draw_columns(canvas, scene, view, levels, (_LEFT_IN, 0.0), panel, first=True)
    _column_scales(canvas, below)
    return canvas.figure


def draw_history(scene: Scene, moments: Sequence[tuple[str, AssignmentView]]) -> Figure:
    """All levels together, moments as rows, positive and negative weights as columns.

    A location is as positive as on its most positive level, and as negative as on its least
    negative one.
    """
    height, width = scene.pixels.shape[:2]
    panel = _PANEL_IN, _PANEL_IN * height / width
    step = _SUBHEAD_IN + panel[1]
    below = _SUBHEAD_IN + len(moments) * step + _FOOT_IN
    canvas = _Canvas.make(_NARROW_IN, below + _SCALE_IN, PAGE)
    _name_columns(canvas, (_LEFT_IN, 0.0), panel[0])
    for row, (when, view) in enumerate(moments):
        top = _SUBHEAD_IN + row * step
        canvas.write(_LEFT_IN, top + 0.05, when, weight="bold")
        together = LevelMap(
            stride=0,
            positive=np.max([level.positive for level in view.levels], axis=0),
            negative=np.min([level.negative for level in view.levels], axis=0),
        )
        for side in (0, 1):
            left = _LEFT_IN + side * (panel[0] + _GAP_IN)
            axes = canvas.axes(left, top + _SUBHEAD_IN, *panel)
            _draw_level(axes, scene, together, side)
            last = row == len(moments) - 1
            _pixel_axes(axes, scene, canvas.text, "y (px)" if side == 0 else None, bottom=last)
    _column_scales(canvas, below)
    return canvas.figure


def draw_photo(scene: Scene, draw: Callable[[Axes], None]) -> Figure:
    """One image with axes in pixels, as wide as a phone; ``draw`` fills it."""
    height, width = scene.pixels.shape[:2]
    size = 2 * _PANEL_IN, 2 * _PANEL_IN * height / width
    left = _LEFT_IN - 0.2
    canvas = _Canvas.make(left + size[0] + _RIGHT_IN, 0.1 + size[1] + _FOOT_IN, PAGE)
    axes = canvas.axes(left, 0.1, *size)
    draw(axes)
    _pixel_axes(axes, scene, canvas.text, "y (px)", bottom=True)
    return canvas.figure


def _draw_block(
    canvas: _Canvas,
    scene: Scene,
    view: AssignmentView,
    levels: Sequence[int],
    corner: tuple[float, float],
    panel: tuple[float, float],
    *,
    first: bool,
) -> None:
    left, top = corner
    room = int((2 * panel[0] + _GAP_IN) / 0.072)  # letters of the title's size that fit
    canvas.write(left, top + 0.05, _cut(view.title, room), size=_NORMAL, weight="bold")
    canvas.write(left, top + 0.22, _cut(reading(view), int(room * 1.15)))
    below = top + _HEAD_IN - _SUBHEAD_IN
    _draw_columns(canvas, scene, view, levels, (left, below), panel, first=first)


def _draw_columns(
    canvas: _Canvas,
    scene: Scene,
    view: AssignmentView,
    levels: Sequence[int],
    corner: tuple[float, float],
    panel: tuple[float, float],
    *,
    first: bool,
) -> None:
    """Both columns of heat maps with their names above."""
    left, top = corner
    _name_columns(canvas, corner, panel[0])
    for side in (0, 1):
        x = left + side * (panel[0] + _GAP_IN)
        for row, index in enumerate(levels):
            y = top + _SUBHEAD_IN + row * (panel[1] + _GAP_IN)
            axes = canvas.axes(x, y, *panel)
            _draw_level(axes, scene, view.levels[index], side)
            label = f"stride {view.levels[index].stride}\ny (px)" if first and side == 0 else None
            bottom = row == len(levels) - 1
            _pixel_axes(axes, scene, canvas.text, label, bottom=bottom)


def _name_columns(canvas: _Canvas, corner: tuple[float, float], width: float) -> None:
    left, top = corner
    for side, name in enumerate(("positive", "negative")):
        canvas.write(left + side * (width + _GAP_IN) + width / 2, top + 0.04, name, ha="center")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: max(length - 1, 1)] + "\u2026"


def _draw_level(axes: Axes, scene: Scene, level: LevelMap, side: int) -> None:
    background(axes, scene)
    weights, colours = ((level.positive, POSITIVE), (level.negative, NEGATIVE))[side]
    overlay(axes, colours(weights))
    draw_boxes(axes, scene.batch.boxes)


def background(axes: Axes, scene: Scene) -> None:
    """The image in dark grey."""
    height, width = scene.pixels.shape[:2]
    grey = scene.pixels.astype(np.float32).mean(-1)
    low, high = np.percentile(grey, (1, 99))
    grey = ((grey - low) / max(high - low, 1)).clip(0, 1)
    extent = (0, width, height, 0)
    axes.imshow(0.06 + 0.6 * grey, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")


def overlay(axes: Axes, rgba: NDArray[Any]) -> None:
    """(H, W, 4) colours over the image."""
    height, width = rgba.shape[:2]
    axes.imshow(rgba, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")


def draw_boxes(
    axes: Axes, boxes: NDArray[Any], colour: str = BOX, style: str = "-", width: float = 0.7
) -> None:
    """Outlines of (n, 4) xyxy boxes."""
    for x1, y1, x2, y2 in boxes.tolist():
        outline: Any = dict(fill=False, edgecolor=colour, linestyle=style, linewidth=width)
        axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, **outline))


def _pixel_axes(axes: Axes, scene: Scene, colour: str, ylabel: str | None, *, bottom: bool) -> None:
    """Ticks and names in pixels: at the left where there is a label, at the bottom where asked."""
    height, width = scene.pixels.shape[:2]
    step = next(s for s in (25, 50, 100, 200, 400, 1000, 10**6) if width / s <= 4.5)
    for ticks, size in ((axes.set_xticks, width), (axes.set_yticks, height)):
        # a number at the end would meet the next panel's
        ticks(range(0, int(0.93 * size) + 1, step))
    left = ylabel is not None
    shown: Any = dict(left=left, labelleft=left, bottom=bottom, labelbottom=bottom)
    axes.tick_params(labelsize=_SMALL - 1, colors=colour, length=2, pad=1.5, **shown)
    if ylabel is not None:
        axes.set_ylabel(ylabel, color=colour, size=_SMALL)
    if bottom:
        axes.set_xlabel("x (px)", color=colour, size=_SMALL, labelpad=1)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _scale(canvas: _Canvas, left: float, top: float, width: float, side: int, label: str) -> None:
    """The colours from 0 to 1 as they look on a grey image."""
    axes = canvas.axes(left, top, width, 0.09)
    extent = (0, 1, 0, 1)
    axes.imshow([[0.36]], cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
    colours = (POSITIVE, NEGATIVE)[side](np.linspace(0, 1, 256))[None]
    axes.imshow(colours, extent=extent, aspect="auto")
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(labelsize=_SMALL - 1, colors=canvas.text, length=2, pad=1.5)
    axes.set_xlabel(label, color=canvas.text, size=_SMALL - 1, labelpad=1)
    axes.set_xticks([0, 0.5, 1])


def _column_scales(canvas: _Canvas, top: float) -> None:
    """Both colour scales below the columns of a narrow figure."""
    for side, label in enumerate(("share of largest weight", "weight (1: background)")):
        left = _LEFT_IN + side * (_PANEL_IN + _GAP_IN) + 0.08
        _scale(canvas, left, top + 0.02, _PANEL_IN - 0.16, side, label)


def _legend(canvas: _Canvas, top: float, left_out: bool) -> None:
    """Both colour scales, the boxes, and what is not shown."""
    width = min((canvas.width - _LEFT_IN - _RIGHT_IN - 0.3) / 2, 2.6)
    for side, label in enumerate((POSITIVE_SCALE, NEGATIVE_SCALE)):
        _scale(canvas, _LEFT_IN + side * (width + 0.3), top + 0.03, width, side, label)
    note = "White outlines: ground truth."
    if left_out:
        note += " Strides without positives are left out."
    note += f" Counted as positive from {COUNTS_FROM:.0%} of the object's largest weight."
    right = _LEFT_IN + 2 * (width + 0.3)
    if canvas.width - right > 3.0:
        canvas.write(right, top + 0.0, note.replace(". ", ".\n"), size=_SMALL - 0.5)
