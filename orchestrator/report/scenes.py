"""Single images with their objects, as a network gets them: what assignments are drawn on."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.batch import Batch, pack_samples
from orchestrator.config import DataConfig
from orchestrator.data.coco import CocoSet, load_coco, resolve_image_root, write_json
from orchestrator.datasets import Split, build_dataset, build_pipeline
from orchestrator.errors import ConfigError, DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One image at the size of the network's input, and its objects."""

    name: str
    """File name."""
    image_id: int
    batch: Batch
    """Of this one image; boxes in pixels of the input."""
    classes: tuple[str, ...]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) RGB."""
        planes: NDArray[np.uint8] = self.batch.pixels.reshape(self.batch.shapes[0])
        return planes.transpose(1, 2, 0)[..., ::-1]  # mmdet loads BGR

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y): pixels of the input per pixel of the file."""
        factor = self.batch.metas[0].get("scale_factor", (1.0, 1.0))
        return float(factor[0]), float(factor[1])


def open_target(
    target: Path, annotations: Path | None = None
) -> tuple[CocoSet, list[dict[str, Any]]]:
    """The annotations that an image, a COCO file or a data folder stands for.

    Args:
        target: an image file, a COCO annotation file, or a folder with ``train.json``.
        annotations: COCO file of an image; None looks in its folder and the two above.

    Returns:
        The whole set, and the images meant: the one, or all.

    Raises:
        ConfigError, DataError: nothing is found, with what to give.
    """
    if not target.exists():
        raise ConfigError(f"{target}: no such image, COCO file or folder")
    if target.is_file() and target.suffix.lower() in IMAGE_SUFFIXES:
        file = annotations or _annotations_near(target)
        coco_set = _load(file, target.parent if annotations is not None else None)
        meant = [i for i in coco_set.images if Path(i["file_name"]).name == target.name]
        if not meant:
            raise ConfigError(f"--annotations {file}: lists no image named {target.name}")
        return coco_set, meant[:1]
    if annotations is not None:
        raise ConfigError(f"--annotations {annotations}: only for an image, {target} is none")
    file = target / "train.json" if target.is_dir() else target
    if not file.is_file():
        files = sorted([*target.glob("*.json"), *target.glob("annotations/*.json")])
        found = ", ".join(str(path.relative_to(target)) for path in files[:8]) or "none is there"
        raise ConfigError(f"{target}: has no train.json; give a COCO file of it ({found})")
    coco_set = _load(file, None)
    with_boxes = {record["image_id"] for record in coco_set.annotations}
    return coco_set, [image for image in coco_set.images if image["id"] in with_boxes]


def _load(file: Path, folder: Path | None) -> CocoSet:
    root = folder if folder is not None else resolve_image_root(file.parent, file, None)
    return load_coco(file, root)


def _annotations_near(image: Path) -> Path:
    """The first COCO file beside or above an image that lists it."""
    folders = list(image.resolve().parents)[:3]
    for folder in folders:
        for file in sorted([*folder.glob("*.json"), *folder.glob("annotations/*.json")]):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                names = {Path(str(record["file_name"])).name for record in content["images"]}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue  # some other JSON file
            if image.name in names:
                return file
    raise ConfigError(
        f"{image}: no COCO file in {folders[0]} or the two folders above lists it; "
        "give it with --annotations"
    )


def make_scenes(
    coco_set: CocoSet, data: DataConfig, classes: Sequence[str], ids: Sequence[int]
) -> list[Scene]:
    """Load images of a COCO set, in the order of ``ids``, through the pipeline for testing.

    Args:
        data: says the input size (``scale``) or the ``test_pipeline``.
        classes: by label.

    Raises:
        ConfigError, DataError: the pipeline or an image fails.
    """
    wanted = set(ids)
    images = [record for record in coco_set.images if record["id"] in wanted]
    content = {
        "images": images,
        "annotations": [a for a in coco_set.annotations if a["image_id"] in wanted],
        "categories": coco_set.categories,
    }
    root = str(coco_set.image_root)
    with tempfile.TemporaryDirectory() as folder:
        file = write_json(content, Path(folder) / "scenes.json")
        split = Split(annotations=str(file), images=root, num_images=len(images), num_boxes=0)
        return _load_scenes(data, split, classes, ids)


def split_scenes(
    data: DataConfig, split: Split, classes: Sequence[str], ids: Collection[int]
) -> list[Scene]:
    """The same for images of a checked split of a run."""
    coco_set = load_coco(split.annotations, split.images, classes=classes)
    return make_scenes(coco_set, data, classes, list(ids))


def _load_scenes(
    data: DataConfig, split: Split, classes: Sequence[str], ids: Sequence[int]
) -> list[Scene]:
    data = dataclasses.replace(data, test_pipeline=annotated_pipeline(data))
    dataset = build_dataset(data, split, classes, train=False)
    scenes: dict[int, Scene] = {}
    for index in range(len(dataset)):
        try:
            batch = pack_samples([dataset[index]], batch_id="scene")
        except Exception as error:  # whatever a transform raises
            raise DataError(f"{split.images}: {type(error).__name__}: {error}") from error
        image_id = int(batch.metas[0]["img_id"])
        scenes[image_id] = Scene(
            name=Path(str(batch.metas[0].get("img_path", image_id))).name,
            image_id=image_id,
            batch=batch,
            classes=tuple(classes),
        )
    return [scenes[image_id] for image_id in ids]


def annotated_pipeline(data: DataConfig) -> list[dict[str, Any]]:
    """The transforms of testing with the boxes loaded first, so that they are resized, too."""
    steps = [s for s in build_pipeline(data, train=False) if s.get("type") != "LoadAnnotations"]
    first = next((n for n, s in enumerate(steps) if "Load" in str(s.get("type"))), -1)
    steps.insert(first + 1, dict(type="LoadAnnotations", with_bbox=True))
    return steps
