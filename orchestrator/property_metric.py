"""How well ALA's property map separates foreground from background."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, DataError
from orchestrator.evaluation import category_ids_of, read_annotations

PROPERTY_MODES = ("larger", "half")


@dataclass(frozen=True, kw_only=True)
class PropertyResult:
    """IoU of the two classes in percent; NaN where neither map nor boxes have such a cell."""

    mode: str
    foreground: float
    background: float
    num_images: int


def check_property_mode(mode: str) -> None:
    """Raise ``ConfigError`` unless ``mode`` is one of ``PROPERTY_MODES``."""
    if mode not in PROPERTY_MODES:
        raise ConfigError(f"property map {mode!r}: expected one of {', '.join(PROPERTY_MODES)}")


def has_property_map(detector: nn.Module) -> bool:
    """Whether this is an ALA detector with the instance property branch."""
    head = getattr(detector, "bbox_head", None)
    return hasattr(head, "predict_property_map") and getattr(head, "objectness", None) == "ipb"


def measure_property_map(
    detector: nn.Module,
    dataset: Any,
    annotation_file: Path,
    classes: Sequence[str],
    *,
    batch_size: int = 8,
    mode: str = "larger",
) -> PropertyResult:
    """Intersection over union of the map with the boxes of a split, summed over its images.

    The map is the one that enters the scores: with the blur where the head has it, without the
    centre weight. A cell's label is foreground if its centre lies inside a box of one of
    ``classes``; cells in the padding, and those inside crowd boxes alone, are left out.

    Args:
        detector: in eval mode, with an instance property branch.
        dataset: mmdet test dataset of the same split.
        annotation_file: COCO file of the split.
        classes: names by class index.
        mode: ``"larger"``: a cell is of the class whose map is larger (ties: background);
            ``"half"``: each map by itself, a cell is of a class where its map exceeds 0.5.

    Raises:
        ConfigError: unknown mode.
        DataError: the file is not COCO or lacks a class, or the dataset is empty.

    Source:
        ALA, sec. IV-B1 and table II: "the labels are obtained from the annotations". Which
        annotations, resolution and threshold it does not say; these are ours.
    """
    check_property_mode(mode)
    if len(dataset) == 0:
        raise DataError("property map: the split has no image to measure on")
    boxes = _boxes_by_image(annotation_file, classes)
    total = torch.zeros(2, 2, dtype=torch.int64)  # foreground, background; intersection, union
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        maps, offset, stride = _predict(detector, samples)
        for probability, sample in zip(maps, samples):
            total += _overlaps(probability, sample["data_samples"], boxes, offset, stride, mode)
    foreground, background = (
        100 * int(common) / int(union) if union else math.nan for common, union in total
    )
    return PropertyResult(
        mode=mode, foreground=foreground, background=background, num_images=len(dataset)
    )


def _predict(detector: nn.Module, samples: Sequence[Any]) -> tuple[Tensor, float, int]:
    """(B, 2, H, W) maps on the CPU, and where cell j lies: (j + offset) * stride pixels."""
    from models.ala_head import PROPERTY_STRIDES

    model: Any = detector
    data = dict(
        inputs=[sample["inputs"] for sample in samples],
        data_samples=[sample["data_samples"] for sample in samples],
    )
    inputs = model.data_preprocessor(data, training=False)["inputs"]
    with torch.no_grad():
        maps = model.bbox_head.predict_property_map(model.extract_feat(inputs))
    return maps.cpu(), float(model.bbox_head.prior_generator.offset), PROPERTY_STRIDES[0]


def _boxes_by_image(path: Path, classes: Sequence[str]) -> Mapping[int, tuple[Tensor, Tensor]]:
    """(n, 4) xyxy of each image in original pixels, and (n,) whether it marks a crowd."""
    dataset = read_annotations(path)
    wanted = set(category_ids_of(dataset, classes, path))
    rows: dict[int, list[list[float]]] = {image["id"]: [] for image in dataset["images"]}
    for annotation in dataset["annotations"]:
        if annotation["category_id"] in wanted:
            x, y, width, height = annotation["bbox"]
            box = [x, y, x + width, y + height, annotation["iscrowd"]]
            rows.setdefault(annotation["image_id"], []).append(box)
    tables = {image: torch.tensor(found).reshape(-1, 5) for image, found in rows.items()}
    return {image: (table[:, :4], table[:, 4] > 0) for image, table in tables.items()}


def _overlaps(
    probability: Tensor,
    sample: Any,
    boxes: Mapping[int, tuple[Tensor, Tensor]],
    offset: float,
    stride: int,
    mode: str,
) -> Tensor:
    """(2, 2) cells of one image: foreground and background; intersection and union."""
    height, width = probability.shape[-2:]
    x = ((torch.arange(width) + offset) * stride)[None, :].expand(height, width)
    y = ((torch.arange(height) + offset) * stride)[:, None].expand(height, width)
    corners, crowd = boxes[sample.img_id]
    # (w, h), or one number for each of x1, y1, x2, y2
    scale = torch.as_tensor(sample.scale_factor, dtype=torch.float32).flatten()[:2].repeat(2)
    x1, y1, x2, y2 = (side[:, None, None] for side in (corners * scale).unbind(1))
    inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)  # (n, H, W)
    label = inside[~crowd].any(0)
    rows, columns = sample.img_shape[:2]
    counted = (x < columns) & (y < rows) & (label | ~inside[crowd].any(0))
    found_fg, found_bg = probability > 0.5
    if mode == "larger":
        found_fg = probability[0] > probability[1]
        found_bg = ~found_fg
    return torch.stack(
        [
            torch.stack([(found & true & counted).sum(), ((found | true) & counted).sum()])
            for found, true in ((found_fg, label), (found_bg, ~label))
        ]
    )
