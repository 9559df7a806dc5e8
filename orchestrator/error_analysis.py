"""What detections lose by which kind of error: the AP50 that mending each kind would win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.evaluation import Detections, category_ids_of, read_annotations

ERRORS = ("class", "location", "both", "duplicate", "background", "missed")
"""Wrong class · right class, poor box · both · second box of a found object · nothing there ·
object that neither a hit nor a box of wrong class or place stands for."""
SUMS = ("false_positive", "false_negative")
HIT_IOU, BACKGROUND_IOU = 0.5, 0.1
MAX_DETECTIONS = 100
"""Of a class in an image, as COCO has it."""
_RECALLS = np.linspace(0, 1, 101)
_HIT, _SURPLUS = "hit", "surplus"

Boxes = NDArray[np.float64]
Flags = NDArray[np.bool_]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ErrorResult:
    """AP at IoU 0.5, and the points that mending each kind of error alone would add; percent."""

    ap50: float
    gains: dict[str, float]
    """By ``ERRORS``, then ``SUMS``: without any false positive, without any false negative."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """D detections in COCO's order and G objects that count, of all images."""

    category: Indices
    score: NDArray[np.float64]
    kind: NDArray[np.str_]
    """(D,) "hit", "surplus" (beyond ``MAX_DETECTIONS``) or one of ``ERRORS`` but "missed"."""
    excused: Flags
    """(D,) no hit, but in a crowd of its class: it does no harm, and may stand for an object."""
    meant: Indices
    """(D,) object that an error of class or location stands for, else -1."""
    object_category: Indices
    object_found: Flags
    """(G,) by a hit."""


def analyse_errors(
    detections: Detections, annotation_file: Path, classes: Sequence[str]
) -> ErrorResult:
    """Error components of what COCO evaluation is given as well.

    Each false positive has one kind of error, looked for in this order: location (IoU from 0.1 to
    0.5 with an object of its class), class (0.5 with one of another class), duplicate (0.5 with one
    of its class), background (at most 0.1 with all), else both. Boxes of wrong place or class stand
    for the object they overlap most. Mending makes such a box a hit if, of all that stand for an
    object without one, it scores best; else it removes it. Mending the other kinds removes the
    boxes, mending misses the objects. Crowds neither count nor harm.

    Raises:
        DataError: the file is not COCO or lacks a class.

    Source:
        TIDE (Bolya et al., ECCV 2020), sec. 2, which LAD's appendix B reports. Equal to its toolbox
        but where scores or overlaps are equal (other orders), where a recall is one of COCO's 101
        to the last bit, and beyond 100 boxes: COCO's limit is of a class, the toolbox's of all.
    """
    dataset = read_annotations(annotation_file)
    judged = _judge(detections, dataset, category_ids_of(dataset, classes, annotation_file))
    counts = np.bincount(judged.object_category, minlength=len(classes))
    is_hit, counted = judged.kind == _HIT, (judged.kind != _SURPLUS) & ~judged.excused
    present = np.flatnonzero(counts)

    def mean_ap(category: Indices, hit: Flags, keep: Flags, counts: Indices) -> float:
        return _mean_ap(category, judged.score, hit, keep, counts, present)

    ap = mean_ap(judged.category, is_hit, counted, counts)
    best = _best_of_each_object(judged)
    gains = {}
    for kind in ERRORS[:-1]:
        wrong = judged.kind == kind
        mended = wrong & best
        category = judged.category.copy()
        category[mended] = judged.object_category[judged.meant[mended]]
        keep = (counted & ~wrong) | mended
        gains[kind] = mean_ap(category, is_hit | mended, keep, counts) - ap
    covered = judged.object_found.copy()
    covered[judged.meant[judged.meant >= 0]] = True
    for name, left in (("missed", covered), ("false_negative", judged.object_found)):
        fewer = np.bincount(judged.object_category[left], minlength=len(classes))
        gains[name] = mean_ap(judged.category, is_hit, counted, fewer) - ap
    gains["false_positive"] = mean_ap(judged.category, is_hit, is_hit, counts) - ap
    return ErrorResult(ap50=100 * ap, gains={name: 100 * gains[name] for name in (*ERRORS, *SUMS)})


def _best_of_each_object(judged: _Judged) -> Flags:
    """(D,) of those that stand for an object without a hit, the best-scoring of each object."""
    rows = np.flatnonzero(judged.meant >= 0)
    rows = rows[~judged.object_found[judged.meant[rows]]]
    rows = rows[np.argsort(-judged.score[rows], kind="stable")]
    _, first = np.unique(judged.meant[rows], return_index=True)
    best = np.zeros(len(judged.kind), dtype=bool)
    best[rows[first]] = True
    return best


def _mean_ap(
    category: Indices,
    score: NDArray[np.float64],
    hit: Flags,
    keep: Flags,
    counts: Indices,
    classes: Indices,
) -> float:
    """COCO's AP in [0, 1] at one IoU, over the classes with an object; 0 if there is none.

    A class that mending has left without any object counts as 0 as long as boxes are found of it,
    else it is left out: the toolbox's way.
    """
    per_class = []
    for index in classes:
        rows = np.flatnonzero(keep & (category == index))
        if counts[index] == 0:
            per_class += [0.0] * bool(len(rows))
            continue
        rows = rows[np.argsort(-score[rows], kind="stable")]
        hits = np.cumsum(hit[rows])
        precision = hits / np.arange(1, len(rows) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(hits / counts[index], _RECALLS, side="left")
        per_class.append(np.append(precision, 0.0)[np.minimum(at, len(rows))].mean())
    return float(np.mean(per_class)) if per_class else 0.0


def _judge(
    detections: Detections, dataset: Mapping[str, Any], category_ids: Sequence[int]
) -> _Judged:
    """Match image by image, as COCO does at IoU 0.5, and name the errors."""
    objects = _objects(dataset, category_ids)
    ids = np.array(sorted(objects), dtype=np.int64)
    score = detections.score.astype(np.float64)
    order = np.lexsort((-score, detections.image_id))
    starts, ends = (
        np.searchsorted(detections.image_id[order], ids, side) for side in ("left", "right")
    )
    rows: list[Indices] = [np.zeros(0, np.int64)]
    kinds: list[NDArray[np.str_]] = [np.zeros(0, "<U12")]
    excused: list[Flags] = [np.zeros(0, bool)]
    meant: list[Indices] = [np.zeros(0, np.int64)]
    categories: list[Indices] = [np.zeros(0, np.int64)]
    found: list[Flags] = [np.zeros(0, bool)]
    seen = 0  # objects of the images before
    for image, start, end in zip(ids.tolist(), starts, ends):
        boxes, category, crowd = objects[image]
        here = order[start:end]
        verdict = judge_image(
            detections.boxes[here].astype(np.float64),
            detections.category[here],
            boxes,
            category,
            crowd,
        )
        number = np.append(np.cumsum(~crowd) - 1 + seen, -1)  # the last: -1 stays -1
        seen += int((~crowd).sum())
        rows.append(here)
        kinds.append(verdict.kind)
        excused.append(verdict.excused)
        meant.append(number[verdict.meant])
        categories.append(category[~crowd])
        found.append(verdict.found[~crowd])
    row = np.concatenate(rows)
    return _Judged(
        category=detections.category[row],
        score=score[row],
        kind=np.concatenate(kinds),
        excused=np.concatenate(excused),
        meant=np.concatenate(meant),
        object_category=np.concatenate(categories),
        object_found=np.concatenate(found),
    )


def _objects(
    dataset: Mapping[str, Any], category_ids: Sequence[int]
) -> dict[int, tuple[Boxes, Indices, Flags]]:
    """By image id: (n, 4) xyxy, (n,) class index, (n,) whether it marks a crowd."""
    index_of = {category_id: index for index, category_id in enumerate(category_ids)}
    lists: dict[int, list[list[float]]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        index = index_of.get(annotation["category_id"])
        if index is not None:
            x, y, width, height = annotation["bbox"]
            row = [x, y, x + width, y + height, index, annotation["iscrowd"]]
            lists[annotation["image_id"]].append(row)
    tables = {image: np.reshape(rows, (-1, 6)).astype(float) for image, rows in lists.items()}
    return {
        image: (table[:, :4], table[:, 4].astype(np.int64), table[:, 5] > 0)
        for image, table in tables.items()
    }


@dataclass(frozen=True, kw_only=True)
class ImageVerdict:
    """d detections and n objects of one image; see ``_Judged``."""

    kind: NDArray[np.str_]
    excused: Flags
    meant: Indices
    found: Flags
    """(n,) objects, no crowds."""


def judge_image(
    boxes: Boxes, category: Indices, truths: Boxes, truth_category: Indices, crowd: Flags
) -> ImageVerdict:
    """Match one image's detections, given by falling score, and name what is wrong with them."""
    kind = np.full(len(boxes), "background", dtype="<U12")
    meant = np.full(len(boxes), -1, dtype=np.int64)
    same = category[:, None] == truth_category
    iou = _overlap(boxes, truths, crowd)
    found, excused = np.zeros(len(truths), dtype=bool), np.zeros(len(boxes), dtype=bool)
    of_class: dict[int, int] = {}
    for row in range(len(boxes)):
        rank = of_class[category[row]] = of_class.get(category[row], -1) + 1
        open_ = same[row] & (iou[row] >= HIT_IOU)
        free = np.flatnonzero(open_ & ~crowd & ~found)
        if rank >= MAX_DETECTIONS:
            kind[row] = _SURPLUS
        elif len(free):
            # of equal overlaps COCO takes the last
            found[free[len(free) - 1 - np.argmax(iou[row, free][::-1])]] = True
            kind[row] = _HIT
        else:
            excused[row] = (open_ & crowd).any()
    verdict = ImageVerdict(kind=kind, excused=excused, meant=meant, found=found)
    if not (~crowd).any():
        return verdict
    own = np.where(same & ~crowd, iou, -1.0)
    other = np.where(~same & ~crowd, iou, -1.0)
    wrong = kind == "background"
    location = wrong & (own.max(1) >= BACKGROUND_IOU) & (own.max(1) <= HIT_IOU)
    wrong_class = wrong & ~location & (other.max(1) >= HIT_IOU)
    duplicate = wrong & ~location & ~wrong_class & (own.max(1) >= HIT_IOU)
    rest = wrong & ~location & ~wrong_class & ~duplicate
    kind[location], kind[wrong_class], kind[duplicate] = "location", "class", "duplicate"
    kind[rest & (np.maximum(own, other).max(1) > BACKGROUND_IOU)] = "both"
    meant[location] = own.argmax(1)[location]
    meant[wrong_class] = other.argmax(1)[wrong_class]
    return verdict


def _overlap(boxes: Boxes, truths: Boxes, crowd: Flags) -> NDArray[np.float64]:
    """(d, n) IoU; with a crowd, the share of the box that lies inside it."""
    low = np.maximum(boxes[:, None, :2], truths[:, :2])
    high = np.minimum(boxes[:, None, 2:], truths[:, 2:])
    common = (high - low).clip(min=0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    union = own + (truths[:, 2:] - truths[:, :2]).prod(-1) - common
    whole = np.where(crowd, own, union)
    return np.divide(common, whole, out=np.zeros_like(common), where=whole > 0)
