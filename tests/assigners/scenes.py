"""Small prior grids, GTs and predictions for the tests of assigners."""

from __future__ import annotations

import torch
from torch import Tensor

from assigners import Candidates, DensePredictions, GroundTruths, Priors


def make_priors(
    size: tuple[int, int] = (128, 128), *, strides: tuple[int, ...] = (16, 32, 64), images: int = 1
) -> Priors:
    """Square anchors of side 8 * stride around (column * stride, row * stride), all valid."""
    points, level, sizes = [], [], []
    for index, stride in enumerate(strides):
        rows, columns = (-(-extent // stride) for extent in size)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2).float() * stride)
        sizes.append(rows * columns)
        level.append(torch.full((sizes[-1],), index))
    centre, levels = torch.cat(points), torch.cat(level)
    stride_of = torch.tensor(strides, dtype=torch.float32)[levels]
    half = 4 * stride_of[:, None]
    return Priors(
        points=centre,
        strides=stride_of,
        level=levels,
        valid=torch.ones(images, len(centre), dtype=torch.bool),
        level_sizes=tuple(sizes),
        boxes=torch.cat([centre - half, centre + half], dim=1),
    )


def make_gts(
    *per_image: list[list[float]] | Tensor,
    labels: list[list[int]] | None = None,
    size: tuple[int, int] = (128, 128),
) -> GroundTruths:
    """Boxes image by image; labels default to 0."""
    boxes = [torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4) for boxes in per_image]
    classes = (
        [torch.zeros(len(b), dtype=torch.int64) for b in boxes]
        if labels is None
        else [torch.tensor(x, dtype=torch.int64) for x in labels]
    )
    return GroundTruths.from_lists(boxes, classes, [size] * len(boxes))


def random_boxes(
    count: int, generator: torch.Generator, *, low: float = 30, high: float = 110, extent: int = 128
) -> Tensor:
    """(count, 4) boxes of sides low..high whose centres lie inside the image."""
    centre = torch.rand(count, 2, generator=generator) * extent
    half = (low + (high - low) * torch.rand(count, 2, generator=generator)) / 2
    return torch.cat([centre - half, centre + half], dim=1)


def random_predictions(
    priors: Priors, num_classes: int, generator: torch.Generator
) -> DensePredictions:
    """Logits around -1 and boxes around the anchors."""
    assert priors.boxes is not None
    shape = (priors.num_images, priors.num_priors)
    noise = torch.randn(*shape, 4, generator=generator) * priors.strides[:, None]
    return DensePredictions(
        cls=torch.randn(*shape, num_classes, generator=generator) - 1,
        boxes=priors.boxes + noise,
    )


def random_point_predictions(
    priors: Priors, num_classes: int, generator: torch.Generator
) -> DensePredictions:
    """Class and objectness logits around -1, and boxes that contain their points."""
    shape = (priors.num_images, priors.num_priors)
    distances = torch.rand(*shape, 4, generator=generator) * 80
    corners = [priors.points - distances[..., :2], priors.points + distances[..., 2:]]
    return DensePredictions(
        cls=torch.randn(*shape, num_classes, generator=generator) - 1,
        boxes=torch.cat(corners, dim=-1),
        quality=torch.randn(*shape, generator=generator),
        quality_kind="objectness",
    )


def make_candidates(gt: list[int], level: list[int], image: list[int] | None = None) -> Candidates:
    """Candidates whose prior index is their row; rows must come sorted by (gt, level)."""
    return Candidates(
        image=torch.tensor(image if image is not None else [0] * len(gt), dtype=torch.int64),
        gt=torch.tensor(gt, dtype=torch.int64),
        prior=torch.arange(len(gt)),
        level=torch.tensor(level, dtype=torch.int64),
    )


def flat_priors(level_sizes: tuple[int, ...]) -> Priors:
    """Point priors of one image without geometry, for tests of ``assign`` alone."""
    total = sum(level_sizes)
    level = torch.repeat_interleave(torch.arange(len(level_sizes)), torch.tensor(level_sizes))
    return Priors(
        points=torch.zeros(total, 2),
        strides=torch.ones(total),
        level=level,
        valid=torch.ones(1, total, dtype=torch.bool),
        level_sizes=level_sizes,
    )
