"""The numbers are those of plain pycocotools, in every corner case."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rich.console import Console

from orchestrator.errors import ConfigError, DataError, ModelError
from orchestrator.evaluation import (
    METRIC_NAMES,
    Detections,
    EvalResult,
    check_backend,
    evaluate_detections,
    metrics_table,
    per_class_table,
)

CLASSES = ("cat", "dog", "bird")
CATEGORY_IDS = {"cat": 17, "dog": 3, "bird": 90, "unused": 5}


def _dataset(rng: np.random.Generator, num_images: int = 30) -> dict[str, Any]:
    """Boxes of all sizes; every fifth image is empty, every tenth box a crowd; ids not in order."""
    annotations = []
    for image in range(num_images):
        for _ in range(0 if image % 5 == 0 else rng.integers(1, 7)):
            x, y = rng.uniform(0, 300, 2).round(1)
            w, h = np.exp(rng.uniform(2, 5.5, 2)).round(1)
            annotations.append(
                {
                    "id": 1000 - len(annotations),
                    "image_id": image * 7 + 2,
                    "category_id": int(rng.choice(list(CATEGORY_IDS.values())[:3])),
                    "bbox": [x, y, w, h],
                    "area": float(w * h * 0.7),
                    "iscrowd": int(len(annotations) % 10 == 9),
                }
            )
    return {
        "images": [{"id": i * 7 + 2, "height": 600, "width": 600} for i in range(num_images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": n} for n, i in CATEGORY_IDS.items()],
    }


def _noisy_detections(rng: np.random.Generator, dataset: dict[str, Any]) -> Detections:
    """Each box found three times, shifted, sometimes with another class; and random ones."""
    index = {CATEGORY_IDS[name]: number for number, name in enumerate(CLASSES)}
    rows = []
    for a in dataset["annotations"] * 3:
        x, y, w, h = a["bbox"] + rng.normal(0, 4, 4)
        category = index[a["category_id"]] if rng.random() < 0.9 else int(rng.integers(3))
        rows.append((a["image_id"], category, round(rng.random(), 2), x, y, x + abs(w), y + abs(h)))
    for image in dataset["images"]:
        for _ in range(8):
            x, y, w, h = rng.uniform(1, 200, 4)
            rows.append((image["id"], int(rng.integers(3)), rng.random() / 2, x, y, x + w, y + h))
    table = np.array(rows)
    return Detections(
        image_id=table[:, 0].astype(np.int64),
        category=table[:, 1].astype(np.int64),
        score=table[:, 2].astype(np.float32),
        boxes=table[:, 3:].astype(np.float32),
    )


def _plain_pycocotools(
    annotation_file: Path, result_file: Path, detections: Detections, classes: tuple[str, ...]
) -> list[float]:
    """COCOeval.summarize on a result file, as anyone would do it."""
    records = []
    for image, category, score, (x1, y1, x2, y2) in zip(
        detections.image_id.tolist(),
        detections.category.tolist(),
        detections.score.tolist(),
        detections.boxes.tolist(),
    ):
        bbox = [x1, y1, x2 - x1, y2 - y1]
        category_id = CATEGORY_IDS[classes[category]]
        records.append(
            {"image_id": image, "category_id": category_id, "bbox": bbox, "score": score}
        )
    result_file.write_text(json.dumps(records))
    truths = COCO(str(annotation_file))
    evaluation = COCOeval(truths, truths.loadRes(str(result_file)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return list(evaluation.stats)


def _write(path: Path, dataset: dict[str, Any]) -> Path:
    path.write_text(json.dumps(dataset))
    return path


def _one_box(image: int, category: int, score: float, box: list[float]) -> Detections:
    return Detections(
        image_id=np.array([image]),
        category=np.array([category]),
        score=np.array([score], np.float32),
        boxes=np.array([box], np.float32),
    )


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Detections]:
    rng = np.random.default_rng(3)
    dataset = _dataset(rng)
    return _write(tmp_path / "val.json", dataset), _noisy_detections(rng, dataset)


@pytest.mark.parametrize("backend", ["pycocotools", "faster"])
@pytest.mark.parametrize("seed", range(3))
def test_numbers_are_those_of_pycocotools(tmp_path: Path, seed: int, backend: Any) -> None:
    if backend == "faster":
        pytest.importorskip("faster_coco_eval", reason="pip install faster-coco-eval runs this")
    rng = np.random.default_rng(seed)
    dataset = _dataset(rng)
    file = _write(tmp_path / "val.json", dataset)
    detections = _noisy_detections(rng, dataset)
    expected = _plain_pycocotools(file, tmp_path / "results.json", detections, CLASSES)
    result = evaluate_detections(detections, file, CLASSES, backend=backend)
    assert tuple(result.metrics) == METRIC_NAMES
    np.testing.assert_allclose(list(result.metrics.values()), np.array(expected) * 100, rtol=1e-12)
    assert 5 < result.metrics["AP"] < 95  # the comparison says something
    assert result.num_images == 30 and result.num_detections == len(detections)
    mean_of_classes = np.mean([ap for ap, _ in result.per_class.values()])
    assert mean_of_classes == pytest.approx(result.metrics["AP"])
    mean_of_classes = np.mean([ap50 for _, ap50 in result.per_class.values()])
    assert mean_of_classes == pytest.approx(result.metrics["AP50"])


def test_nothing_is_printed(
    case: tuple[Path, Detections], capfd: pytest.CaptureFixture[str]
) -> None:
    file, detections = case
    evaluate_detections(detections, file, CLASSES)
    captured = capfd.readouterr()
    assert captured.out == "" and captured.err == ""
    COCO().createIndex()
    assert "creating index" in capfd.readouterr().out, "pycocotools itself must stay as it is"


def test_class_order_and_subset_follow_names(case: tuple[Path, Detections]) -> None:
    file, detections = case
    result = evaluate_detections(detections, file, CLASSES)
    turned = tuple(reversed(CLASSES))
    other = Detections(
        image_id=detections.image_id,
        category=2 - detections.category,
        score=detections.score,
        boxes=detections.boxes,
    )
    again = evaluate_detections(other, file, turned)
    assert again.metrics == result.metrics
    assert again.per_class == {name: result.per_class[name] for name in turned}

    dogs = detections.category == 1
    only = Detections(
        image_id=detections.image_id[dogs],
        category=np.zeros(dogs.sum(), np.int64),
        score=detections.score[dogs],
        boxes=detections.boxes[dogs],
    )
    alone = evaluate_detections(only, file, ["dog"])
    assert alone.metrics["AP"] == pytest.approx(result.per_class["dog"][0])
    assert alone.per_class == {"dog": pytest.approx(result.per_class["dog"])}


def test_perfect_detections_reach_100(tmp_path: Path) -> None:
    dataset = _dataset(np.random.default_rng(1))
    dataset["annotations"] = [a for a in dataset["annotations"] if not a["iscrowd"]]
    boxes = np.array([a["bbox"] for a in dataset["annotations"]])
    boxes[:, 2:] += boxes[:, :2]
    names = {CATEGORY_IDS[name]: number for number, name in enumerate(CLASSES)}
    detections = Detections(
        image_id=np.array([a["image_id"] for a in dataset["annotations"]]),
        category=np.array([names[a["category_id"]] for a in dataset["annotations"]]),
        score=np.ones(len(boxes), np.float32),
        boxes=boxes.astype(np.float32),
    )
    result = evaluate_detections(detections, _write(tmp_path / "v.json", dataset), CLASSES)
    assert result.metrics["AP"] == pytest.approx(100)
    assert result.metrics["AR_100"] == pytest.approx(100)


def test_no_detections_at_all_score_zero(case: tuple[Path, Detections]) -> None:
    result = evaluate_detections(Detections.empty(), case[0], CLASSES)
    assert result.metrics == dict.fromkeys(METRIC_NAMES, 0.0)
    assert result.per_class == dict.fromkeys(CLASSES, (0.0, 0.0))


def test_no_boxes_of_a_kind_give_nan(tmp_path: Path) -> None:
    dataset = _dataset(np.random.default_rng(1), num_images=1)
    dataset["annotations"] = [
        {"id": 0, "image_id": 2, "category_id": 17, "bbox": [10, 10, 20, 20]}  # area 400: small
    ]
    file = _write(tmp_path / "v.json", dataset)
    result = evaluate_detections(_one_box(2, 0, 0.9, [10, 10, 30, 30]), file, CLASSES)
    # id 0, no area and no iscrowd: still one box, and found.
    assert result.metrics["AP"] == result.metrics["AP_S"] == pytest.approx(100)
    assert math.isnan(result.metrics["AP_L"]) and math.isnan(result.metrics["AR_M"])
    assert result.per_class["cat"] == pytest.approx((100, 100))
    assert all(math.isnan(value) for value in result.per_class["dog"])

    dataset["annotations"] = []
    file = _write(tmp_path / "v.json", dataset)
    empty = evaluate_detections(_one_box(2, 0, 0.9, [0, 0, 9, 9]), file, CLASSES)
    assert all(math.isnan(value) for value in empty.metrics.values())


def test_a_hit_on_a_crowd_is_ignored(tmp_path: Path) -> None:
    dataset = _dataset(np.random.default_rng(1), num_images=1)
    dataset["annotations"] = [
        {"id": 1, "image_id": 2, "category_id": 17, "bbox": [10, 10, 50, 50], "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 17, "bbox": [200, 200, 300, 300], "iscrowd": 1},
    ]
    found = Detections.concatenate(
        [_one_box(2, 0, 0.5, [10, 10, 60, 60]), _one_box(2, 0, 0.9, [250, 250, 300, 300])]
    )
    result = evaluate_detections(found, _write(tmp_path / "v.json", dataset), CLASSES)
    assert result.metrics["AP"] == pytest.approx(100)


def test_unusable_input_is_named(case: tuple[Path, Detections], tmp_path: Path) -> None:
    file, detections = case
    with pytest.raises(DataError, match=r"classes \['cow'\] must each name one category"):
        evaluate_detections(detections, file, ("cat", "dog", "cow"))
    with pytest.raises(DataError, match=r"has no images \[5\]"):
        evaluate_detections(_one_box(5, 0, 0.5, [0, 0, 1, 1]), file, CLASSES)
    with pytest.raises(DataError, match=r"class indices outside 0\.\.2"):
        evaluate_detections(_one_box(2, 3, 0.5, [0, 0, 1, 1]), file, CLASSES)
    with pytest.raises(ModelError, match=r"1 of 1 detections have a NaN.*ids \[2\]"):
        evaluate_detections(_one_box(2, 0, 0.5, [0, 0, np.nan, 1]), file, CLASSES)
    with pytest.raises(DataError, match=r"absent\.json: cannot be read"):
        evaluate_detections(detections, tmp_path / "absent.json", CLASSES)
    for text in ("[]", "{", '{"images": [], "annotations": [{}], "categories": []}'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(DataError, match=r"x\.json: not a COCO annotation file"):
            evaluate_detections(detections, tmp_path / "x.json", CLASSES)
    with pytest.raises(ConfigError, match="backend = 'slow'"):
        evaluate_detections(detections, file, CLASSES, backend="slow")


def test_a_backend_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_backend("pycocotools")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    check_backend("pycocotools")
    with pytest.raises(ConfigError, match=r"needs faster-coco-eval.*pip install 'colad\[fast-eval"):
        check_backend("faster")


def test_detections_are_checked_and_joined() -> None:
    with pytest.raises(ValueError, match="expected shapes"):
        Detections(
            image_id=np.zeros(2, np.int64),
            category=np.zeros(2, np.int64),
            score=np.zeros(3, np.float32),
            boxes=np.zeros((2, 4), np.float32),
        )
    one = _one_box(2, 1, 0.5, [0, 0, 1, 1])
    assert len(Detections.concatenate([])) == 0
    both = Detections.concatenate([one, Detections.empty(), one])
    assert both.image_id.tolist() == [2, 2] and both.boxes.dtype == np.float32


def test_tables_fit_80_columns() -> None:
    result = EvalResult(
        metrics={name: 45.678 for name in METRIC_NAMES} | {"AP_L": math.nan, "AP50": 100.0},
        per_class={"person": (45.6, 70.1), "traffic light": (math.nan, math.nan)},
        num_images=5,
        num_detections=7,
        seconds=1.0,
    )
    console = Console(width=80, file=io.StringIO())
    console.print(metrics_table({"resnet50": result, "resnet101": result.metrics}))
    console.print(per_class_table({"resnet50": result, "resnet101": result}))
    lines = console.file.getvalue().splitlines()
    rows = [line.split() for line in lines if line.strip().startswith(("resnet", "network"))]
    assert rows[0] == ["network", *METRIC_NAMES]
    shown = ["45.7", "100.0", *["45.7"] * 3, "-", *["45.7"] * 6]
    assert rows[1:] == [["resnet50", *shown], ["resnet101", *shown]]
    assert max(map(len, lines)) <= 80
    assert any(line.split() == ["person", "45.6", "70.1", "45.6", "70.1"] for line in lines)
