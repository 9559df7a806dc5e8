"""VOC's mean average precision: literal cases, and mmdet's ``eval_map`` on random detections."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.evaluation import Detections
from orchestrator.voc_metric import evaluate_voc

CLASSES = ("cat", "dog")
FAR = 10_000  # pixels between images that are laid side by side


def write(path: Path, boxes: list[tuple[int, int, list[float], int]]) -> Path:
    """A COCO file of (image, category id, xyxy, iscrowd) for images 0 to 4."""
    annotations = [
        dict(
            id=index + 1,
            image_id=image,
            category_id=category,
            bbox=[x1, y1, x2 - x1, y2 - y1],
            area=(x2 - x1) * (y2 - y1),
            iscrowd=crowd,
        )
        for index, (image, category, (x1, y1, x2, y2), crowd) in enumerate(boxes)
    ]
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=200, height=200) for i in range(5)],
        categories=[dict(id=7, name="dog"), dict(id=3, name="cat")],
        annotations=annotations,
    )
    path.write_text(json.dumps(content))
    return path


def detections(rows: list[tuple[int, int, float, list[float]]]) -> Detections:
    """Of (image, class index, score, xyxy)."""
    return Detections(
        image_id=np.array([r[0] for r in rows], np.int64),
        category=np.array([r[1] for r in rows], np.int64),
        score=np.array([r[2] for r in rows], np.float32),
        boxes=np.array([r[3] for r in rows], np.float32).reshape(-1, 4),
    )


def test_literal_precision_recall(tmp_path: Path) -> None:
    """Two cats: hit, miss, hit, so precision 1 up to recall 1/2 and 2/3 beyond."""
    box = [10.0, 10.0, 50.0, 50.0]
    file = write(tmp_path / "a.json", [(0, 3, box, 0), (1, 3, box, 0)])
    found = detections(
        [(0, 0, 0.9, box), (2, 0, 0.8, box), (1, 0, 0.7, box), (1, 0, 0.6, box)]  # a duplicate last
    )
    area = evaluate_voc(found, file, CLASSES)
    assert area.per_class["cat"] == pytest.approx(100 * (0.5 + 0.5 * 2 / 3))
    eleven = evaluate_voc(found, file, CLASSES, mode="11points")
    assert eleven.per_class["cat"] == pytest.approx(100 * (6 + 5 * 2 / 3) / 11)


def test_classes_without_boxes_do_not_count(tmp_path: Path) -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    file = write(tmp_path / "a.json", [(0, 3, box, 0)])
    result = evaluate_voc(detections([(0, 0, 0.9, box), (0, 1, 0.9, box)]), file, CLASSES)
    assert math.isnan(result.per_class["dog"])
    assert result.mean == pytest.approx(100)


def test_difficult_boxes_count_neither_way(tmp_path: Path) -> None:
    easy, difficult = [10.0, 10.0, 50.0, 50.0], [100.0, 100.0, 150.0, 150.0]
    file = write(tmp_path / "a.json", [(0, 3, easy, 0), (0, 3, difficult, 1)])
    found = detections([(0, 0, 0.9, difficult), (0, 0, 0.5, easy)])
    assert evaluate_voc(found, file, CLASSES).mean == pytest.approx(100)


def test_no_detections_and_no_annotations(tmp_path: Path) -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    some = write(tmp_path / "some.json", [(0, 3, box, 0)])
    none = write(tmp_path / "none.json", [])
    assert evaluate_voc(Detections.empty(), some, CLASSES).mean == 0
    assert math.isnan(evaluate_voc(Detections.empty(), none, CLASSES).mean)


def test_unknown_mode(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="VOC mode 'best': expected one of area, 11points"):
        evaluate_voc(Detections.empty(), tmp_path / "absent.json", CLASSES, mode="best")


@pytest.mark.parametrize("mode", ["area", "11points"])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_mmdet(seed: int, mode: str, tmp_path: Path) -> None:
    """``eval_map`` of one image needs no processes, so it gets all images side by side."""
    from mmdet.evaluation import eval_map

    rng = np.random.default_rng(seed)
    truths: list[tuple[int, int, list[float], int]] = []
    found: list[tuple[int, int, float, list[float]]] = []
    for image in range(5):
        for _ in range(int(rng.integers(0, 6))):
            x, y, w, h = rng.uniform(0, 100, 2).tolist() + rng.uniform(20, 60, 2).tolist()
            index = int(rng.integers(0, 2))
            truths.append((image, (3, 7)[index], [x, y, x + w, y + h], int(rng.random() < 0.2)))
            for _ in range(int(rng.integers(0, 3))):
                box = np.array([x, y, x + w, y + h]) + rng.normal(0, 6, 4)
                found.append((image, index, float(rng.random()), box.tolist()))
        found.append((image, int(rng.integers(0, 2)), float(rng.random()), [5, 5, 30, 40]))
    result = evaluate_voc(detections(found), write(tmp_path / "a.json", truths), CLASSES, mode=mode)
    found32 = [(i, c, np.float32(s), np.float32(b)) for i, c, s, b in found]
    dets = [
        np.array([[*shift(b, i), s] for i, c, s, b in found32 if c == index]).reshape(-1, 5)
        for index in range(2)
    ]
    annotation = side_by_side(truths)
    mean, per_class = eval_map([dets], [annotation], iou_thr=0.5, logger="silent", eval_mode=mode)
    assert result.mean == pytest.approx(100 * mean, abs=1e-4)
    for name, expected in zip(CLASSES, per_class):
        assert result.per_class[name] == pytest.approx(100 * expected["ap"], abs=1e-4)


def shift(box: Any, image: int) -> list[float]:
    return (np.asarray(box, np.float64) + image * FAR).tolist()


def side_by_side(truths: list[tuple[int, int, list[float], int]]) -> dict[str, Any]:
    """mmdet's annotation of one image that holds the boxes of all."""
    out: dict[str, Any] = {}
    for crowd, suffix in ((0, ""), (1, "_ignore")):
        rows = [(c, shift(box, image)) for image, c, box, k in truths if k == crowd]
        out[f"bboxes{suffix}"] = np.array([box for _, box in rows]).reshape(-1, 4)
        out[f"labels{suffix}"] = np.array([(3, 7).index(c) for c, _ in rows], np.int64)
    return out
