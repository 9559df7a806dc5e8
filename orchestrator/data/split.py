"""One COCO annotation file into two: images to train on, and images to measure on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.coco import CocoSet, load_coco, write_json
from orchestrator.data.records import Record
from orchestrator.data.text import counted, shown
from orchestrator.errors import DataError


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """The two files written."""

    files: tuple[Path, Path]
    """Of training and of validation."""
    images: tuple[int, int]
    boxes: tuple[int, int]

    def __str__(self) -> str:
        lines = [
            f"{shown(str(file))}: {counted(images, 'image')}, {counted(boxes, 'box', 'boxes')}"
            for file, images, boxes in zip(self.files, self.images, self.boxes)
        ]
        return "\n".join(lines)


def split_coco(
    file: Path, *, val_share: float = 0.2, seed: int = 0, overwrite: bool = False
) -> SplitReport:
    """Write ``train.json`` and ``val.json`` beside a COCO file, each image into one of them.

    Args:
        file: all images; categories and image ids stay as they are, boxes are cleaned.
        val_share: share of the images to measure on, above 0 and below 1; at least one goes
            to either side.
        seed: which images those are.
        overwrite: replace the two files where they exist.

    Raises:
        DataError: the file cannot be used or has a single image, or one to write exists.
    """
    if not 0 < val_share < 1:
        raise DataError(f"share of validation images = {val_share}: expected above 0, below 1")
    train, val = file.with_name("train.json"), file.with_name("val.json")
    for path in (train, val):
        if path.resolve() == file.resolve():
            raise DataError(f"{shown(str(file))}: would be overwritten by its own part; rename it")
        if path.exists() and not overwrite:
            raise DataError(f"{shown(str(path))} exists: move it away, or ask to overwrite it")
    coco_set = load_coco(file, None)
    if len(coco_set.images) < 2:
        raise DataError(f"{shown(str(file))}: a single image cannot be split")
    ids = [image["id"] for image in coco_set.images]
    random.Random(seed).shuffle(ids)
    count = min(max(round(val_share * len(ids)), 1), len(ids) - 1)
    chosen = (set(ids[count:]), set(ids[:count]))
    parts = [_part(coco_set, part) for part in chosen]
    for part, path in zip(parts, (train, val)):
        write_json(part, path)
    return SplitReport(
        files=(train, val),
        images=(len(parts[0]["images"]), len(parts[1]["images"])),
        boxes=(len(parts[0]["annotations"]), len(parts[1]["annotations"])),
    )


def _part(coco_set: CocoSet, ids: set[int]) -> Record:
    """The same file, cleaned, with these images alone."""
    return {
        "images": [image for image in coco_set.images if image["id"] in ids],
        "annotations": [a for a in coco_set.annotations if a["image_id"] in ids],
        "categories": coco_set.categories,
    }
