"""Splitting one annotation file: every image on one side, with its boxes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.data.coco import load_coco
from orchestrator.data.shapes import make_shapes
from orchestrator.data.split import split_coco
from orchestrator.errors import DataError


@pytest.fixture
def everything(tmp_path: Path) -> Path:
    root = make_shapes(tmp_path / "shapes", train=10, val=1, size=64)
    return (root / "train.json").rename(tmp_path / "all.json")


def test_every_image_goes_to_one_side_with_its_boxes(everything: Path) -> None:
    made = split_coco(everything, val_share=0.3)
    assert made.images == (7, 3) and "train.json': 7 images" in str(made)
    whole, train, val = (load_coco(file, None) for file in (everything, *made.files))
    assert [len(part.annotations) for part in (train, val)] == list(made.boxes)
    assert train.class_names == val.class_names == whole.class_names
    sides = [{image["id"] for image in part.images} for part in (train, val)]
    assert not sides[0] & sides[1]
    assert sides[0] | sides[1] == {image["id"] for image in whole.images}
    boxes = sorted((*train.annotations, *val.annotations), key=lambda a: a["id"])
    assert boxes == whole.annotations
    first = made.files[1].read_text()
    split_coco(everything, val_share=0.3, overwrite=True)
    assert made.files[1].read_text() == first, "a seed gives the same split"
    split_coco(everything, val_share=0.3, seed=1, overwrite=True)
    assert made.files[1].read_text() != first


@pytest.mark.parametrize(("share", "images"), [(0.001, (9, 1)), (0.999, (1, 9))])
def test_no_side_is_empty(everything: Path, share: float, images: tuple[int, int]) -> None:
    assert split_coco(everything, val_share=share).images == images


def test_what_is_wrong_is_said(everything: Path) -> None:
    with pytest.raises(DataError, match="above 0, below 1"):
        split_coco(everything, val_share=1.0)
    split_coco(everything)
    with pytest.raises(DataError, match=r"train\.json' exists"):
        split_coco(everything)
    with pytest.raises(DataError, match="overwritten by its own part"):
        split_coco(everything.with_name("train.json"), overwrite=True)
    content = json.loads(everything.read_text())
    content["images"] = content["images"][:1]
    first = content["images"][0]["id"]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == first]
    everything.write_text(json.dumps(content))
    with pytest.raises(DataError, match="a single image"):
        split_coco(everything, overwrite=True)
