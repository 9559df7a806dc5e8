"""COCO evaluation of detections: pycocotools' numbers, without its printing.

pycocotools prints from every method. Its methods are run here as copies whose global ``print`` does
nothing, so neither the process's standard output nor other users of pycocotools are touched.
"""

from __future__ import annotations

import importlib.util
import json
import math
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.box import Box
from rich.markup import escape
from rich.table import Table

from orchestrator.config import EVALUATION_BACKENDS
from orchestrator.data.text import inert
from orchestrator.errors import ConfigError, DataError, ModelError

METRIC_NAMES = (
    "AP",
    "AP50",
    "AP75",
    "AP_S",
    "AP_M",
    "AP_L",
    "AR_1",
    "AR_10",
    "AR_100",
    "AR_S",
    "AR_M",
    "AR_L",
)
# One blank between columns and a rule below the head: 12 numbers and a name in 80 columns.
_RULE_BELOW_HEAD = Box("    \n    \n────\n    \n    \n────\n    \n    \n")


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What one network found, in pixels of the original images; D detections of any images."""

    image_id: NDArray[np.int64]
    """(D,) ids of the annotation file."""
    category: NDArray[np.int64]
    """(D,) class index."""
    score: NDArray[np.float32]
    """(D,)."""
    boxes: NDArray[np.float32]
    """(D, 4) xyxy."""

    def __post_init__(self) -> None:
        shapes = [np.shape(x) for x in (self.image_id, self.category, self.score, self.boxes)]
        num = len(self.image_id)
        if shapes != [(num,), (num,), (num,), (num, 4)]:
            raise ValueError(f"Detections: expected shapes (D,), (D,), (D,), (D, 4), got {shapes}")

    def __len__(self) -> int:
        return len(self.image_id)

    @classmethod
    def empty(cls) -> Detections:
        """No detections."""
        return cls(
            image_id=np.zeros(0, np.int64),
            category=np.zeros(0, np.int64),
            score=np.zeros(0, np.float32),
            boxes=np.zeros((0, 4), np.float32),
        )

    @classmethod
    def concatenate(cls, several: Sequence[Detections]) -> Detections:
        """All of them in order; of none, the empty one."""
        several = [cls.empty(), *several]
        return cls(
            image_id=np.concatenate([d.image_id for d in several]),
            category=np.concatenate([d.category for d in several]),
            score=np.concatenate([d.score for d in several]),
            boxes=np.concatenate([d.boxes for d in several]),
        )


@dataclass(frozen=True, kw_only=True)
class EvalResult:
    """COCO's numbers in percent; NaN where the annotations have no box to measure on."""

    metrics: dict[str, float]
    """One value per ``METRIC_NAMES``."""
    per_class: dict[str, tuple[float, float]]
    """Class name to (AP, AP50)."""
    num_images: int
    num_detections: int
    seconds: float


def evaluate_detections(
    detections: Detections,
    annotation_file: Path,
    classes: Sequence[str],
    *,
    backend: str = "pycocotools",
) -> EvalResult:
    """Compare detections with every image of a COCO annotation file.

    Args:
        classes: names by class index; categories are found in the file by these names, whatever
            their ids, and categories not named here take no part.
        backend: ``"faster"`` gives the same numbers by faster-coco-eval (extra ``fast-eval``).

    Raises:
        ConfigError: unknown backend, or one that is not installed.
        DataError: the file is not COCO, lacks a class, or has no image that a detection names.
        ModelError: a score or box is NaN or infinite (COCO would count such a box as a hit).
    """
    check_backend(backend)
    start = time.perf_counter()
    dataset = read_annotations(annotation_file)
    category_ids = category_ids_of(dataset, classes, annotation_file)
    _check_detections(detections, dataset, len(classes), annotation_file)
    results = {
        "images": dataset["images"],
        "categories": dataset["categories"],
        "annotations": _as_annotations(detections, category_ids),
    }
    evaluate = _evaluate_faster if backend == "faster" else _evaluate_pycocotools
    stats, precision = evaluate(dataset, results, category_ids)
    return EvalResult(
        metrics={name: _percent(value) for name, value in zip(METRIC_NAMES, stats)},
        per_class=_per_class(precision, category_ids, classes),
        num_images=len(dataset["images"]),
        num_detections=len(detections),
        seconds=time.perf_counter() - start,
    )


def check_backend(backend: str) -> None:
    """Whether ``evaluate_detections`` can be called with this backend, before time is spent.

    Raises:
        ConfigError: it is unknown, or not installed here.
    """
    if backend not in EVALUATION_BACKENDS:
        raise ConfigError(
            f"evaluation.backend = {backend!r}: expected one of {', '.join(EVALUATION_BACKENDS)}"
        )
    if backend == "faster" and importlib.util.find_spec("faster_coco_eval") is None:
        raise ConfigError(
            "evaluation.backend = 'faster' needs faster-coco-eval, which is not installed here: "
            "pip install 'colad[fast-eval]', or set evaluation.backend=pycocotools"
        )


def read_annotations(path: Path) -> dict[str, Any]:
    """The file's images, categories and annotations, with what COCO lets people leave out."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        annotations = [
            {
                # Numbered anew: pycocotools takes a match with id 0 for no match.
                "id": number,
                "image_id": a["image_id"],
                "category_id": a["category_id"],
                "bbox": a["bbox"],
                "area": a.get("area", a["bbox"][2] * a["bbox"][3]),
                "iscrowd": int(a.get("iscrowd", 0)),
            }
            for number, a in enumerate(raw["annotations"], start=1)
        ]
        images = [{"id": image["id"]} for image in raw["images"]]
        categories = [{"id": c["id"], "name": c["name"]} for c in raw["categories"]]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"{type(error).__name__} {error}"
        raise DataError(f"{path}: not a COCO annotation file ({reason})") from error
    return {"images": images, "annotations": annotations, "categories": categories}


def category_ids_of(dataset: Mapping[str, Any], classes: Sequence[str], path: Path) -> list[int]:
    """The file's category id of each class index."""
    names = [category["name"] for category in dataset["categories"]]
    wrong = [name for name in classes if names.count(name) != 1]
    if wrong:
        raise DataError(
            f"{path}: classes {wrong} must each name one category; the file has {sorted(names)}"
        )
    by_name = {category["name"]: category["id"] for category in dataset["categories"]}
    return [by_name[name] for name in classes]


def _check_detections(
    detections: Detections, dataset: Mapping[str, Any], num_classes: int, path: Path
) -> None:
    bad = ~(np.isfinite(detections.score) & np.isfinite(detections.boxes).all(axis=1))
    if bad.any():
        ids = np.unique(detections.image_id[bad])
        raise ModelError(
            f"{bad.sum()} of {len(detections)} detections have a NaN or infinite score or box, "
            f"on {len(ids)} images (ids {ids[:5].tolist()} ...): the network has diverged"
        )
    known = np.array([image["id"] for image in dataset["images"]], dtype=np.int64)
    alien = np.setdiff1d(detections.image_id, known)
    if len(alien):
        raise DataError(f"{path}: has no images {alien[:5].tolist()} that detections are for")
    if len(detections) and not 0 <= detections.category.min() <= detections.category.max() < (
        num_classes
    ):
        raise DataError(f"detections have class indices outside 0..{num_classes - 1}")


def _as_annotations(detections: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    """COCO result records; widths and areas in float64, as from a JSON file."""
    corners = detections.boxes.astype(np.float64)
    sizes = corners[:, 2:] - corners[:, :2]
    boxes = np.concatenate([corners[:, :2], sizes], axis=1).tolist()
    areas = sizes.prod(axis=1).tolist()
    rows = zip(
        detections.image_id.tolist(),
        detections.category.tolist(),
        detections.score.tolist(),
        boxes,
        areas,
    )
    return [
        {
            "id": number,
            "image_id": image,
            "category_id": category_ids[category],
            "score": score,
            "bbox": bbox,
            "area": area,
            "iscrowd": 0,
        }
        for number, (image, category, score, bbox, area) in enumerate(rows, start=1)
    ]


def _quiet(method: Callable[..., Any]) -> Callable[..., Any]:
    """The same function with a ``print`` of its own that does nothing."""
    namespace = {**method.__globals__, "print": lambda *args, **kwargs: None}
    return types.FunctionType(
        method.__code__, namespace, method.__name__, method.__defaults__, method.__closure__
    )


class _QuietCOCO(COCO):
    createIndex = _quiet(COCO.createIndex)  # noqa: N815

    def __init__(self, dataset: Mapping[str, Any]) -> None:
        super().__init__()
        self.dataset = dict(dataset)
        self.createIndex()


class _QuietEval(COCOeval):
    evaluate = _quiet(COCOeval.evaluate)
    accumulate = _quiet(COCOeval.accumulate)
    summarize = _quiet(COCOeval.summarize)


def _evaluate_pycocotools(
    dataset: Mapping[str, Any], results: Mapping[str, Any], category_ids: list[int]
) -> tuple[Sequence[float], NDArray[np.float64]]:
    """COCO's 12 numbers (0..1, -1 for none) and the precisions (T, R, K, A, M)."""
    evaluation = _QuietEval(_QuietCOCO(dataset), _QuietCOCO(results), "bbox")
    return _run(evaluation, category_ids)


def _evaluate_faster(
    dataset: Mapping[str, Any], results: Mapping[str, Any], category_ids: list[int]
) -> tuple[Sequence[float], NDArray[np.float64]]:
    import faster_coco_eval

    truths, found = faster_coco_eval.COCO(), faster_coco_eval.COCO()
    for coco, content in ((truths, dataset), (found, results)):
        coco.dataset = dict(content)
        coco.createIndex()
    evaluation = faster_coco_eval.COCOeval_faster(
        truths, found, "bbox", print_function=lambda *args, **kwargs: None
    )
    return _run(evaluation, category_ids)


def _run(evaluation: Any, category_ids: list[int]) -> tuple[Sequence[float], NDArray[np.float64]]:
    evaluation.params.catIds = sorted(category_ids)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats[: len(METRIC_NAMES)]), evaluation.eval["precision"]


def _per_class(
    precision: NDArray[np.float64], category_ids: list[int], classes: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """AP and AP50 of each class over all areas and 100 detections; T=0 is IoU 0.5."""
    order = sorted(category_ids)
    per_class = {}
    for name, category_id in zip(classes, category_ids):
        of_class = precision[:, :, order.index(category_id), 0, -1]  # (T, R)
        per_class[name] = (_percent(_mean(of_class)), _percent(_mean(of_class[0])))
    return per_class


def _mean(values: NDArray[np.float64]) -> float:
    measured = values[values > -1]
    return float(measured.mean()) if measured.size else -1.0


def _percent(value: float) -> float:
    return math.nan if value < 0 else 100 * float(value)


def metrics_table(
    results: Mapping[str, EvalResult | Mapping[str, float]], title: str | None = None
) -> Table:
    """The 12 numbers in percent, networks as rows; 80 columns wide for names up to 16 letters.

    Args:
        results: by network, a result or just its metrics.
    """
    table = _table(title)
    table.add_column("network")
    for name in METRIC_NAMES:
        table.add_column(name, justify="right", no_wrap=True)
    for network, result in results.items():
        metrics = result.metrics if isinstance(result, EvalResult) else result
        table.add_row(network, *(_shown(metrics[name]) for name in METRIC_NAMES))
    return table


def per_class_table(results: Mapping[str, EvalResult], title: str | None = None) -> Table:
    """AP and AP50 in percent, classes as rows."""
    table = _table(title)
    table.add_column("class")
    for network in results:
        table.add_column(f"{network} AP", justify="right")
        table.add_column("AP50", justify="right")
    names = list(dict.fromkeys(name for result in results.values() for name in result.per_class))
    for name in names:
        values: list[str] = []
        for result in results.values():
            values += map(_shown, result.per_class.get(name, (math.nan, math.nan)))
        table.add_row(escape(inert(name)), *values)
    return table


def _table(title: str | None) -> Table:
    return Table(title=title, box=_RULE_BELOW_HEAD, show_edge=False, padding=0)


def _shown(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"
