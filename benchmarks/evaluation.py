"""Evaluation: ours against pycocotools alone, on a result set of COCO's size, with equal numbers.

5,000 images of 80 classes with 7 GTs and 100 detections each, some of them near a GT.
The peer is what pycocotools' users write: both files read, ``loadRes``, ``COCOeval``. Ours starts
from the same annotation file and the detections as networks return them.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Pair, Result

CLASSES, PER_IMAGE, FOUND = 80, 7, 100


def make_results(folder: Path, images: int) -> tuple[Path, Path, Any, list[str]]:
    """Annotation file, result file, the same detections as ours, and class names."""
    from orchestrator.evaluation import Detections

    generator = np.random.default_rng(0)
    count = images * PER_IMAGE
    sides = 12 * (500 / 12) ** generator.random((count, 2))
    corner = generator.random((count, 2)) * 300
    truth = np.concatenate([corner, sides], 1)
    category = generator.integers(1, CLASSES + 1, count)
    owner = np.repeat(np.arange(1, images + 1), PER_IMAGE)
    names = [f"class {index}" for index in range(1, CLASSES + 1)]
    annotations = folder / "truth.json"
    annotations.write_text(
        json.dumps(
            dict(
                images=[
                    dict(id=i, file_name=f"{i}.jpg", width=1000, height=1000)
                    for i in range(1, images + 1)
                ],
                categories=[dict(id=i, name=name) for i, name in enumerate(names, start=1)],
                annotations=[
                    dict(
                        id=i,
                        image_id=int(image),
                        category_id=int(kind),
                        bbox=box.tolist(),
                        area=float(box[2] * box[3]),
                        iscrowd=0,
                    )
                    for i, (image, kind, box) in enumerate(zip(owner, category, truth), start=1)
                ],
            )
        )
    )
    # Detections: some near a GT of their image, with its class more often than not.
    image_id = np.repeat(np.arange(1, images + 1), FOUND)
    chosen = (image_id - 1) * PER_IMAGE + generator.integers(0, PER_IMAGE, len(image_id))
    noise = generator.normal(0, 0.15, (len(image_id), 4)) * np.tile(sides[chosen], 2)
    boxes = np.clip(truth[chosen] + noise, 0.5, None)
    labels = np.where(
        generator.random(len(image_id)) < 0.6,
        category[chosen],
        generator.integers(1, CLASSES + 1, len(image_id)),
    )
    scores = generator.random(len(image_id)).astype(np.float32)
    corners = boxes.copy()
    corners[:, 2:] += corners[:, :2]
    detections = Detections(
        image_id=image_id,
        category=labels - 1,
        score=scores,
        boxes=corners.astype(np.float32),
    )
    exact = detections.boxes.astype(np.float64)
    exact[:, 2:] -= exact[:, :2]
    results = folder / "results.json"
    rows = zip(image_id.tolist(), labels.tolist(), exact.tolist(), scores.tolist())
    results.write_text(
        json.dumps([dict(image_id=i, category_id=c, bbox=b, score=s) for i, c, b, s in rows])
    )
    return annotations, results, detections, names


def pycocotools_alone(annotations: Path, results: Path) -> list[float]:
    """The twelve numbers as pycocotools' users get them."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * float(value) for value in evaluation.stats]


def run(quick: bool) -> list[Result]:
    """Both backends; ``quick``: 500 images instead of 5,000."""
    images, rounds = (500 if quick else 5000), 3
    backends = ["pycocotools"]
    if importlib.util.find_spec("faster_coco_eval") is not None:
        backends.append("faster")
    with tempfile.TemporaryDirectory() as folder:
        files = make_results(Path(folder), images)
        return [_against(backend, images, rounds, *files) for backend in backends]


def _against(
    backend: str, images: int, rounds: int, annotations: Path, results: Path, found: Any, names: Any
) -> Result:
    """One backend in turns with pycocotools.

    Raises:
        AssertionError: the numbers differ.
    """
    from orchestrator.evaluation import evaluate_detections

    pair = Pair()
    for _ in range(rounds):
        start = time.perf_counter()
        ours = evaluate_detections(found, annotations, names, backend=backend)
        between = time.perf_counter()
        peer = pycocotools_alone(annotations, results)
        pair.ours.append(between - start)
        pair.peer.append(time.perf_counter() - between)
        if not np.allclose(list(ours.metrics.values()), peer, rtol=0, atol=1e-9, equal_nan=True):
            raise AssertionError(f"{backend}: {ours.metrics} but pycocotools says {peer}")
    return pair.result(
        f"evaluation/{backend}",
        goal=None,
        note=f"{images} images, {len(found)} detections; AP {ours.metrics['AP']:.4f} in both",
    )
