"""From the data configuration to checked annotation files and mmdet datasets."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.building import register_mmdet
from orchestrator.config import DataConfig
from orchestrator.config_file import from_mapping
from orchestrator.errors import ConfigError, DataError
from orchestrator.json_files import damaged_as, read_object

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One checked split."""

    annotations: str
    """COCO file without degenerate boxes."""
    images: str
    """Folder its file names are relative to."""
    num_images: int
    num_boxes: int


@dataclass(frozen=True, kw_only=True)
class PreparedData:
    """What feeders and networks need to know of the data."""

    train: Split
    val: Split
    classes: tuple[str, ...]
    """In the order of the annotation file: class index i is ``classes[i]``."""


def build_pipeline(data: DataConfig, *, train: bool) -> list[dict[str, Any]]:
    """mmdet transforms of a split: the configured ones, else load, resize, (flip,) pack."""
    custom = data.train_pipeline if train else data.test_pipeline
    if custom is not None:
        return custom
    resize = dict(type="Resize", scale=tuple(data.scale), keep_ratio=True)
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    if not train:
        return [dict(type="LoadImageFromFile"), resize, dict(type="PackDetInputs", meta_keys=keys)]
    if data.train_scales is not None:
        resize = dict(type="RandomResize", scale=list(data.train_scales), keep_ratio=True)
    return [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True),
        resize,
        dict(type="RandomFlip", prob=data.flip),
        dict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction")),
    ]


def build_dataset(data: DataConfig, split: Split, classes: Sequence[str], *, train: bool) -> Any:
    """mmdet's ``CocoDataset`` over a checked split.

    Raises:
        ConfigError: the pipeline does not build, or cannot run sample by sample.
        DataError: the annotation file is gone, or filtering leaves no image.
    """
    register_mmdet()
    from mmdet.registry import DATASETS

    config = dict(
        type="CocoDataset",
        ann_file=split.annotations,
        data_prefix=dict(img=split.images),
        metainfo=dict(classes=tuple(classes)),
        pipeline=build_pipeline(data, train=train),
        test_mode=not train,
        filter_cfg=dict(filter_empty_gt=data.filter_empty_gt, min_size=data.min_size),
    )
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools talks while it reads
            dataset = DATASETS.build(config)
    except OSError as error:
        raise DataError(f"{error.filename or split.annotations}: {error.strerror}") from error
    except Exception as error:  # constructors of transforms raise anything for bad fields
        if "need at least one array" in str(error):  # mmengine, where filtering leaves nothing
            raise DataError(_nothing_left(data, split)) from error
        field = "data.train_pipeline" if train else "data.test_pipeline"
        raise ConfigError(f"{field} does not build: {type(error).__name__}: {error}") from error
    if len(dataset) == 0:
        raise DataError(_nothing_left(data, split))
    return dataset


def _nothing_left(data: DataConfig, split: Split) -> str:
    return (
        f"{split.annotations}: no image is left of {split.num_images} after filtering "
        f"(data.filter_empty_gt={data.filter_empty_gt}, data.min_size={data.min_size})"
    )


def check_test_pipeline(data: DataConfig, prepared: PreparedData) -> None:
    """Load the first validation image, so that its pipeline fails now and not at the evaluation.

    Raises:
        ConfigError: the pipeline does not build or run, or leaves out what prediction needs.
    """
    check_sample(build_dataset(data, prepared.val, prepared.classes, train=False))


def check_sample(dataset: Any, field: str = "data.test_pipeline") -> None:
    """Load the first image of an mmdet test dataset.

    Args:
        field: what decides the pipeline, for messages.

    Raises:
        ConfigError: the pipeline does not run, or leaves out what prediction needs.
    """
    try:
        sample = dataset[0]
    except Exception as error:  # whatever a transform raises
        raise ConfigError(f"{field}: {type(error).__name__}: {error}") from error
    if not isinstance(sample, dict) or not {"inputs", "data_samples"} <= sample.keys():
        raise ConfigError("data.test_pipeline must end in PackDetInputs")


def aspect_flags(dataset: Any) -> list[bool]:
    """Per image of an mmdet dataset, whether it is wider than high."""
    infos = (dataset.get_data_info(i) for i in range(len(dataset)))
    return [info["width"] > info["height"] for info in infos]


def prepare_data(data: DataConfig, cache: Path) -> PreparedData:
    """Check both splits, draw the toy dataset where asked to, write cleaned annotations if needed.

    Args:
        data: the data fields of the run.
        cache: folder for cleaned annotation files (in the run directory: all nodes must see it).

    Raises:
        DataError: anything wrong with images or annotations (see ``orchestrator.data.coco``).
    """
    from orchestrator.data import coco, shapes

    root = Path(data.root)
    if data.shapes is not None:
        try:
            shapes.make_shapes(root, **data.shapes)
        except TypeError as error:
            raise ConfigError(f"data.shapes = {data.shapes!r}: {error}") from error
    if not root.is_dir():
        raise DataError(f"data.root = {data.root!r}: no such folder")
    splits, classes = {}, {}
    for name, file, images in (
        ("train", data.train, data.train_images or data.images),
        ("val", data.val, data.val_images or data.images),
    ):
        annotation_file = root / file
        image_root = coco.resolve_image_root(root, annotation_file, images)
        coco_set = coco.load_coco(annotation_file, image_root, classes=data.classes)
        report = coco.check_coco(coco_set)
        if report.crowd_boxes == report.boxes:
            raise DataError(
                f"data.{name} = {file!r}: all {report.boxes} boxes are crowd boxes (iscrowd = 1), "
                "which are neither learned nor measured"
            )
        for warning in report.warnings:
            logger.warning("data.%s: %s", name, warning)
        cleaned = coco.write_clean(coco_set, cache / f"{name}.json")
        splits[name] = Split(
            annotations=str(Path(cleaned or annotation_file).resolve()),
            images=str(Path(image_root).resolve()),
            num_images=len(coco_set.images),
            num_boxes=len(coco_set.annotations),
        )
        classes[name] = coco_set.class_names
    try:
        coco.require_same_classes(classes["train"], classes["val"])
    except DataError as error:
        raise DataError(f"data.train = {data.train!r}, data.val = {data.val!r}: {error}") from None
    return PreparedData(train=splits["train"], val=splits["val"], classes=tuple(classes["train"]))


def save_prepared(prepared: PreparedData, path: Path) -> None:
    """Record which files a run trained on (``data.json`` of the run directory)."""
    path.write_text(json.dumps(asdict(prepared), indent=1), encoding="utf-8")


def load_prepared(path: Path) -> PreparedData:
    """What ``save_prepared`` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    with damaged_as(DataError, path, "not what a run has written; bring it back from a copy"):
        return from_mapping(PreparedData, read_object(path))
