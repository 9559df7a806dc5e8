"""Drawn shapes: exact boxes, the same for the same seed, safe when made at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.data import shapes
from orchestrator.data.coco import check_coco, load_coco, resolve_image_root
from orchestrator.data.shapes import SHAPES, draw_image, make_shapes
from orchestrator.errors import DataError

SMALL = dict(train=6, val=3, size=64)


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def test_same_seed_gives_the_same_files_and_another_seed_gives_others(tmp_path):
    first = _files(make_shapes(tmp_path / "a", **SMALL))
    assert _files(make_shapes(tmp_path / "b", **SMALL)) == first
    other = _files(make_shapes(tmp_path / "c", **SMALL, seed=1))
    assert other["train.json"] != first["train.json"]
    assert other["images/val_00000.jpg"] != first["images/val_00000.jpg"]


def test_smaller_dataset_is_a_prefix_of_a_larger_one(tmp_path):
    small = _files(make_shapes(tmp_path / "a", **SMALL))
    large = _files(make_shapes(tmp_path / "b", **SMALL | dict(train=9, val=4)))
    images = {name: data for name, data in small.items() if name.endswith(".jpg")}
    assert len(images) == 9 and images.items() <= large.items()


def test_result_is_a_coco_dataset_that_needs_no_cleaning(tmp_path):
    root = make_shapes(tmp_path / "a", **SMALL, classes=("star", "circle"))
    ids = []
    for split, number in (("train", 6), ("val", 3)):
        file = root / f"{split}.json"
        images = resolve_image_root(root, file)
        coco_set = load_coco(file, images)
        report = check_coco(coco_set)
        assert images == root / "images" and not coco_set.rewrite and not report.warnings
        assert report.images_decoded == number and coco_set.class_names == ["star", "circle"]
        ids += [record["id"] for record in coco_set.images]
    assert len(set(ids)) == 9, "image ids are unique over both splits"


def test_boxes_are_the_extent_of_the_drawn_pixels(monkeypatch):
    drawn = []
    original = shapes._place

    def spy(*args):
        placed = original(*args)
        if placed is not None:
            drawn.append(placed)
        return placed

    monkeypatch.setattr(shapes, "_place", spy)
    for seed in range(20):
        drawn.clear()
        _, labels, boxes = draw_image(
            np.random.default_rng(seed), size=64, classes=tuple(SHAPES), max_objects=8
        )
        assert len(drawn) == len(boxes) == len(labels) >= 2
        for (rows, cols), (x, y, w, h) in zip(drawn, boxes):
            mask = np.zeros((64, 64), bool)
            mask[rows, cols] = True
            inside = mask[y : y + h, x : x + w]
            assert inside.sum() == mask.sum() == len(rows)
            assert inside[0].any() and inside[-1].any(), "tight above and below"
            assert inside[:, 0].any() and inside[:, -1].any(), "tight left and right"


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_fits_the_unit_circle_and_differs_from_the_others(name):
    y, x = np.mgrid[-1.2:1.2:121j, -1.2:1.2:121j]
    mask = SHAPES[name](x, y)
    assert not mask[np.hypot(x, y) > 1.11].any() and mask[60, 60]
    for other in SHAPES:
        assert (other == name) == np.array_equal(mask, SHAPES[other](x, y))


def test_complete_dataset_is_reused_untouched(tmp_path):
    root = make_shapes(tmp_path / "a", **SMALL)
    before = {p: p.stat().st_mtime_ns for p in root.rglob("*")}
    assert make_shapes(root, **SMALL) == root
    assert {p: p.stat().st_mtime_ns for p in root.rglob("*")} == before


def test_empty_folder_is_filled_and_parents_are_made(tmp_path):
    (tmp_path / "empty").mkdir()
    assert (make_shapes(tmp_path / "empty", **SMALL) / "val.json").is_file()
    assert (make_shapes(tmp_path / "x" / "y", **SMALL) / "val.json").is_file()


def test_other_parameters_are_refused_and_named(tmp_path):
    root = make_shapes(tmp_path / "a", **SMALL)
    before = _files(root)
    with pytest.raises(DataError, match=r"other parameters \(seed: there 0, wanted 4\).*delete it"):
        make_shapes(root, **SMALL, seed=4)
    assert _files(root) == before


@pytest.mark.parametrize("meta", [None, "{", "[]", "{}", '{"colad_shapes": 3}', "\udc80"])
def test_foreign_folder_is_never_overwritten(tmp_path, meta):
    (tmp_path / "notes.txt").write_text("mine")
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta, errors="surrogateescape")
    with pytest.raises(DataError, match="not overwritten"):
        make_shapes(tmp_path, **SMALL)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(DataError, match="not overwritten"):
        make_shapes(tmp_path / "a", **SMALL)
    with pytest.raises(DataError, match="cannot (read|write)"):
        make_shapes(tmp_path / "a" / "b", **SMALL)


@pytest.mark.parametrize("gone", ["train.json", "images/train_00000.jpg"])
def test_incomplete_dataset_is_refused(tmp_path, gone):
    root = make_shapes(tmp_path / "a", **SMALL)
    (root / gone).unlink()
    with pytest.raises(DataError, match="incomplete"):
        make_shapes(root, **SMALL)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(train=0), "train must be an integer >= 1, got 0"),
        (dict(size=8), "size must be an integer >= 32"),
        (dict(val=True), "val must be an integer"),
        (dict(classes=("circle", "circle")), "distinct names"),
        (dict(classes=("hexagon",)), "distinct names out of .*'circle'"),
        (dict(classes=()), "distinct names"),
    ],
)
def test_parameters_out_of_range_are_named(tmp_path, parameters, message):
    with pytest.raises(DataError, match=message):
        make_shapes(tmp_path / "a", **SMALL | parameters)
    assert not list(tmp_path.iterdir())


def _make(root: str, barrier) -> None:
    barrier.wait()
    make_shapes(root, **SMALL)


def test_two_processes_at_once_make_one_complete_dataset(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [
        context.Process(target=_make, args=(str(tmp_path / "a"), barrier)) for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["a"], "no partial folder is left"
    assert _files(tmp_path / "a") == _files(make_shapes(tmp_path / "b", **SMALL))


def test_loser_of_the_race_takes_the_winners_dataset(tmp_path, monkeypatch):
    write = shapes._write_dataset

    def slow(folder, parameters):
        monkeypatch.setattr(shapes, "_write_dataset", write)
        make_shapes(tmp_path / "a", **SMALL)  # another process finishes meanwhile
        write(folder, parameters)

    monkeypatch.setattr(shapes, "_write_dataset", slow)
    assert make_shapes(tmp_path / "a", **SMALL) == tmp_path / "a"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_interrupted_drawing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_draw_split", fail)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "a", **SMALL)
    assert not list(tmp_path.iterdir())


def test_images_and_annotations_agree(tmp_path):
    root = make_shapes(tmp_path / "a", **SMALL, max_objects=1)
    content = json.loads((root / "train.json").read_text())
    for record in content["images"]:
        with Image.open(root / "images" / record["file_name"]) as image:
            assert image.size == (record["width"], record["height"]) == (64, 64)
    for annotation in content["annotations"]:
        x, y, w, h = annotation["bbox"]
        assert 0 <= x < x + w <= 64 and 0 <= y < y + h <= 64 and annotation["area"] == w * h
