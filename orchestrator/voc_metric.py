"""Pascal VOC's mean average precision of detections, from a COCO annotation file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.evaluation import Detections, category_ids_of, read_annotations

VOC_MODES = ("area", "11points")

Boxes = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class VocResult:
    """VOC's numbers in percent; NaN where a class has no box to measure on."""

    mode: str
    iou: float
    mean: float
    """Over the classes with at least one box."""
    per_class: dict[str, float]


def evaluate_voc(
    detections: Detections,
    annotation_file: Path,
    classes: Sequence[str],
    *,
    mode: str = "area",
    iou: float = 0.5,
) -> VocResult:
    """VOC's mAP of what COCO evaluation is given as well.

    Boxes are continuous coordinates, without VOC's "+1 pixel". Boxes marked ``iscrowd``, as
    ``colad data voc2coco`` marks difficult ones, count neither for nor against a detection.

    Args:
        mode: ``"area"`` under the precision-recall curve (VOC 2010 and later) or ``"11points"`` of
            recall (VOC 2007).
        iou: overlap of a hit.

    Raises:
        ConfigError: unknown mode.
        DataError: the file is not COCO or lacks a class.

    Source:
        mmdet's ``eval_map``: its matching and its average precision, without its processes.
    """
    check_voc_mode(mode)
    dataset = read_annotations(annotation_file)
    category_ids = category_ids_of(dataset, classes, annotation_file)
    per_class = {
        name: _average_precision(
            _by_image(detections, index), _truths(dataset, category_id), mode=mode, iou=iou
        )
        for index, (name, category_id) in enumerate(zip(classes, category_ids))
    }
    measured = [ap for ap in per_class.values() if not math.isnan(ap)]
    return VocResult(
        mode=mode,
        iou=iou,
        mean=float(np.mean(measured)) if measured else math.nan,
        per_class=per_class,
    )


def check_voc_mode(mode: str) -> None:
    """Raise ``ConfigError`` unless VOC has this way of averaging."""
    if mode not in VOC_MODES:
        raise ConfigError(f"VOC mode {mode!r}: expected one of {', '.join(VOC_MODES)}")


def _by_image(detections: Detections, category: int) -> dict[int, Boxes]:
    """(D, 5) xyxy and score of one class, by image id."""
    rows = detections.category == category
    boxes = np.concatenate([detections.boxes, detections.score[:, None]], axis=1)[rows]
    ids = detections.image_id[rows]
    order = np.argsort(ids, kind="stable")
    found, starts = np.unique(ids[order], return_index=True)
    parts = np.split(boxes[order].astype(np.float64), starts[1:])
    return dict(zip(found.tolist(), parts))


def _truths(dataset: Mapping[str, Any], category_id: int) -> dict[int, tuple[Boxes, Boxes]]:
    """Boxes (G, 4) xyxy of one class by image id: those that count, and those to ignore."""
    lists: dict[int, tuple[list[list[float]], list[list[float]]]] = {}
    for annotation in dataset["annotations"]:
        if annotation["category_id"] == category_id:
            x, y, width, height = annotation["bbox"]
            kinds = lists.setdefault(annotation["image_id"], ([], []))
            kinds[annotation["iscrowd"]].append([x, y, x + width, y + height])
    return {
        image: (np.reshape(count, (-1, 4)).astype(float), np.reshape(skip, (-1, 4)).astype(float))
        for image, (count, skip) in lists.items()
    }


def _average_precision(
    found: Mapping[int, Boxes],
    truths: Mapping[int, tuple[Boxes, Boxes]],
    *,
    mode: str,
    iou: float,
) -> float:
    """AP of one class in percent; NaN where no box counts."""
    from mmdet.evaluation.functional.mean_ap import average_precision, tpfp_default

    num_truths = sum(len(counting) for counting, _ in truths.values())
    if num_truths == 0:
        return math.nan
    none = np.zeros((0, 4))
    hits: list[NDArray[np.float64]] = [np.zeros(0)]
    misses: list[NDArray[np.float64]] = [np.zeros(0)]
    scores: list[NDArray[np.float64]] = [np.zeros(0)]
    for image, boxes in found.items():
        counting, ignored = truths.get(image, (none, none))
        hit, miss = tpfp_default(boxes, counting, ignored, iou)
        hits.append(hit[0])
        misses.append(miss[0])
        scores.append(boxes[:, 4])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hit = np.cumsum(np.concatenate(hits)[order])
    miss = np.cumsum(np.concatenate(misses)[order])
    precision = hit / np.maximum(hit + miss, np.finfo(np.float32).eps)
    return 100 * float(average_precision(hit / num_truths, precision, mode))
