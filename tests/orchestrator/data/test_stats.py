"""Statistics: exact numbers of a dataset small enough to count by hand."""

from __future__ import annotations

import json
from io import StringIO

import pytest
from rich.console import Console

from orchestrator.data.coco import load_coco
from orchestrator.data.stats import DatasetStats, dataset_stats, render_stats


@pytest.fixture
def stats(tmp_path) -> DatasetStats:
    boxes = [  # image, category, box, area, crowd
        (1, 1, [0, 0, 31, 33], 31 * 33, 0),
        (1, 1, [0, 0, 32, 32], 32 * 32, 0),
        (1, 2, [0, 0, 96, 96], 5000, 0),
        (2, 2, [0, 0, 96, 96], 96 * 96, 0),
        (2, 2, [0, 0, 9, 4], 36, 1),
        (3, 2, [5, 5, 8, 4], 32, 1),
        (3, 1, [5, 5, 0, 4], 0, 0),
        (3, 1, [90, 5, 20, 4], 80, 0),
    ]
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 100 + 10 * (i == 4), "height": 100}
            for i in (1, 2, 3, 4)
        ],
        "annotations": [
            dict(id=i + 1, image_id=b[0], category_id=b[1], bbox=b[2], area=b[3], iscrowd=b[4])
            for i, b in enumerate(boxes)
        ],
        "categories": [
            {"id": 1, "name": "[red]a\x1b[2J"},
            {"id": 2, "name": "b"},
            {"id": 3, "name": "never"},
        ],
    }
    (tmp_path / "train.json").write_text(json.dumps(content))
    return dataset_stats(load_coco(tmp_path / "train.json", None))


def test_counts_are_exact(stats):
    assert (stats.images, stats.images_without_boxes) == (4, 1)
    assert (stats.boxes, stats.crowd) == (5, 2)
    assert [(c.boxes, c.images, c.crowd) for c in stats.classes] == [
        (3, 2, 0),
        (2, 2, 2),
        (0, 0, 0),
    ]
    assert stats.boxes_per_image == {0: 1, 1: 2, 3: 1}
    assert stats.size_classes == {"S": 2, "M": 2, "L": 1}
    assert stats.image_sizes == {(100, 100): 3, (110, 100): 1}
    assert stats.problems == {"without area": 1, "clipped": 1}


def test_quantiles_are_exact(stats):
    assert stats.quantiles["width"][0] == 10 and stats.quantiles["width"][3] == 32
    assert stats.quantiles["height"] == pytest.approx((4, 9.6, 32, 33, 96, 96, 96))
    assert stats.quantiles["scale"][-1] == 96
    assert stats.quantiles["aspect"][-1] == 2.5
    assert stats.quantiles["boxes_per_image"][3] == 1


def test_tables_show_names_as_text_and_every_number(stats):
    out = StringIO()
    Console(file=out, width=100).print(render_stats(stats))
    text = out.getvalue()
    assert "[red]a\\x1b[2J" in text and "\x1b" not in text
    for expected in (
        "train.json",
        "1.25 per image",
        "40.0%",
        "60.0%",
        "110 x 100",
        "box without area",
    ):
        assert expected in text


def test_long_lists_are_cut(stats):
    out = StringIO()
    Console(file=out, width=100).print(render_stats(stats, max_rows=1))
    assert "and 2 more" in out.getvalue()


def test_classes_left_out_are_counted(tmp_path, stats):
    coco_set = load_coco(stats.annotation_file, None, classes=["b"])
    assert dataset_stats(coco_set).problems == {"of classes not chosen": 4}


def test_split_of_crowds_only_has_no_quantiles(tmp_path, stats):
    content = json.loads((tmp_path / "train.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if a["iscrowd"]]
    (tmp_path / "train.json").write_text(json.dumps(content))
    crowds = dataset_stats(load_coco(tmp_path / "train.json", None))
    assert crowds.boxes == 0 and crowds.quantiles["width"] == ()
    Console(file=StringIO()).print(render_stats(crowds))
