"""Numbers of a dataset: what there is to learn, and what may be wrong with it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.data.coco import CocoSet

SMALL_AREA, LARGE_AREA = 32**2, 96**2
"""COCO's size classes in pixels squared of the original image: S < 32^2 <= M < 96^2 <= L.

(pycocotools counts an area of exactly 32^2 or 96^2 in both its classes; here every box has one.)
"""

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


@dataclass(frozen=True, kw_only=True)
class ClassStats:
    """One class of a split."""

    name: str
    boxes: int
    """Without crowd boxes."""
    images: int
    """Images with at least one of these boxes."""
    crowd: int


@dataclass(frozen=True, kw_only=True)
class DatasetStats:
    """Exact counts of one split, after the cleaning of ``load_coco``; boxes without crowds."""

    annotation_file: str
    images: int
    images_without_boxes: int
    boxes: int
    crowd: int
    classes: tuple[ClassStats, ...]
    """In label order."""
    boxes_per_image: dict[int, int]
    """Number of boxes -> number of images, ascending."""
    size_classes: dict[str, int]
    """Boxes that COCO counts as S, M and L, by the ``area`` of the annotation."""
    quantiles: dict[str, tuple[float, ...]]
    """At ``QUANTILES`` over the boxes: ``width``, ``height``, ``scale`` (square root of width x
    height) in pixels, and ``aspect`` (width / height); over the images: ``boxes_per_image``."""
    image_sizes: dict[tuple[int, int], int]
    """(width, height) -> number of images, the most frequent first."""
    problems: dict[str, int]
    """Boxes dropped, clipped or thin, by kind; annotations of other classes."""


def dataset_stats(coco_set: CocoSet) -> DatasetStats:
    """Count a split. Reads no image file."""
    plain = [a for a in coco_set.annotations if not a["iscrowd"]]
    crowd = [a for a in coco_set.annotations if a["iscrowd"]]
    per_image = Counter(a["image_id"] for a in plain)
    numbers = [per_image[record["id"]] for record in coco_set.images]
    boxes = np.array([a["bbox"] for a in plain], dtype=np.float64).reshape(-1, 4)
    areas = np.array([a["area"] for a in plain], dtype=np.float64)
    width, height = boxes[:, 2], boxes[:, 3]
    sizes = Counter((record["width"], record["height"]) for record in coco_set.images)
    with_any = {a["image_id"] for a in coco_set.annotations}
    problems = {kind: number for kind, number in coco_set.problems.counts.items() if number}
    if coco_set.num_other_classes:
        problems["of classes not chosen"] = coco_set.num_other_classes
    return DatasetStats(
        annotation_file=str(coco_set.annotation_file),
        images=len(coco_set.images),
        images_without_boxes=len(coco_set.images) - len(with_any),
        boxes=len(plain),
        crowd=len(crowd),
        classes=_class_stats(coco_set),
        boxes_per_image=dict(sorted(Counter(numbers).items())),
        size_classes={
            "S": int((areas < SMALL_AREA).sum()),
            "M": int(((areas >= SMALL_AREA) & (areas < LARGE_AREA)).sum()),
            "L": int((areas >= LARGE_AREA).sum()),
        },
        quantiles={
            "width": _quantiles(width),
            "height": _quantiles(height),
            "scale": _quantiles(np.sqrt(width * height)),
            "aspect": _quantiles(width / height),
            "boxes_per_image": _quantiles(np.array(numbers, dtype=np.float64)),
        },
        image_sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        problems=problems,
    )


def _class_stats(coco_set: CocoSet) -> tuple[ClassStats, ...]:
    boxes: Counter[int] = Counter()
    crowd: Counter[int] = Counter()
    images: dict[int, set[int]] = {}
    for annotation in coco_set.annotations:
        category = annotation["category_id"]
        if annotation["iscrowd"]:
            crowd[category] += 1
        else:
            boxes[category] += 1
            images.setdefault(category, set()).add(annotation["image_id"])
    return tuple(
        ClassStats(
            name=category["name"],
            boxes=boxes[category["id"]],
            images=len(images.get(category["id"], ())),
            crowd=crowd[category["id"]],
        )
        for category in coco_set.categories
    )


def _quantiles(values: npt.NDArray[np.float64]) -> tuple[float, ...]:
    """Linear interpolation between order statistics; empty without values."""
    return tuple(float(q) for q in np.quantile(values, QUANTILES)) if len(values) else ()


def render_stats(stats: DatasetStats, *, max_rows: int = 100) -> Group:
    """The numbers as tables for a rich console; class names are plain text, never markup.

    Args:
        stats: of one split.
        max_rows: longest list of classes; the rest is summed up.
    """
    per_image = {str(number): images for number, images in stats.boxes_per_image.items()}
    sizes = {f"{w} x {h}": number for (w, h), number in stats.image_sizes.items()}
    return Group(
        _overview(stats),
        _class_table(stats, max_rows),
        _quantile_table(stats),
        _count_table("boxes per image", per_image, 32),
        _count_table("image size", sizes, 10),
    )


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    return table


def _plain(text: str) -> Text:
    """A text of a file: no markup, no control characters."""
    return Text(text if text.isprintable() else repr(text)[1:-1])


def _overview(stats: DatasetStats) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    mean = stats.boxes / stats.images
    table.add_row("images", f"{stats.images:,}", "")
    table.add_row("", f"{stats.images_without_boxes:,}", "without a box")
    table.add_row("boxes", f"{stats.boxes:,}", f"{mean:.2f} per image")
    table.add_row("crowd boxes", f"{stats.crowd:,}", "neither object nor background")
    names = {"S": "small, below 32 x 32", "M": "medium", "L": "large, from 96 x 96"}
    for key, number in stats.size_classes.items():
        share = number / max(stats.boxes, 1)
        table.add_row(f"size {key}", f"{number:,}", f"{share:.1%} ({names[key]})")
    for kind, number in stats.problems.items():
        table.add_row("problem", f"{number:,}", f"{'box' if number == 1 else 'boxes'} {kind}")
    table.title, table.title_justify = _plain(stats.annotation_file), "left"
    return table


def _class_table(stats: DatasetStats, max_rows: int) -> Table:
    table = _table("classes, in label order", "class", "boxes", "share", "images", "crowd")
    for item in stats.classes[:max_rows]:
        share = item.boxes / max(stats.boxes, 1)
        table.add_row(
            _plain(item.name),
            f"{item.boxes:,}",
            f"{share:.1%}",
            f"{item.images:,}",
            str(item.crowd),
        )
    if len(stats.classes) > max_rows:
        table.add_row(f"and {len(stats.classes) - max_rows} more", "", "", "", "")
    return table


def _quantile_table(stats: DatasetStats) -> Table:
    heads = ["min", *(f"{q:.0%}" for q in QUANTILES[1:-1]), "max"]
    table = _table("quantiles (lengths in pixels)", "", *heads)
    for name, values in stats.quantiles.items():
        cells = [f"{value:.{2 if name == 'aspect' else 1}f}" for value in values]
        table.add_row(name.replace("_", " "), *cells)
    return table


def _count_table(head: str, counts: dict[str, int], max_rows: int) -> Table:
    table = _table(None, head, "images")
    for key in list(counts)[:max_rows]:
        table.add_row(key, f"{counts[key]:,}")
    rest = list(counts.values())[max_rows:]
    if rest:
        table.add_row(f"{len(rest)} other values", f"{sum(rest):,}")
    return table
