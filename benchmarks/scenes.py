"""Prior grids, GTs and predictions at the size of COCO training, made from a seed."""

from __future__ import annotations

import torch

from assigners import DensePredictions, GroundTruths, Priors

COCO_SIZE = (800, 1344)
CLASSES = 80
STRIDES = (8, 16, 32, 64, 128)


def make_priors(
    size: tuple[int, int] = COCO_SIZE, images: int = 1, anchors: bool = False
) -> Priors:
    """The 22,400 priors of an 800 x 1333 image: centres of cells, or anchors of 8 strides."""
    points, level, sizes = [], [], []
    for index, stride in enumerate(STRIDES):
        rows, columns = (-(-extent // stride) for extent in size)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        cells = torch.stack([x, y], -1).reshape(-1, 2).float()
        points.append((cells if anchors else cells + 0.5) * stride)
        sizes.append(rows * columns)
        level.append(torch.full((sizes[-1],), index))
    centre, levels = torch.cat(points), torch.cat(level)
    stride_of = torch.tensor(STRIDES, dtype=torch.float32)[levels]
    half = 4 * stride_of[:, None]
    return Priors(
        points=centre,
        strides=stride_of,
        level=levels,
        valid=torch.ones(images, len(centre), dtype=torch.bool),
        level_sizes=tuple(sizes),
        boxes=torch.cat([centre - half, centre + half], 1) if anchors else None,
    )


def make_gts(
    per_image: int, images: int = 1, *, seed: int = 0, size: tuple[int, int] = COCO_SIZE
) -> GroundTruths:
    """Boxes of COCO's sizes: sides log-uniform from 12 to 500 pixels."""
    generator = torch.Generator().manual_seed(seed)
    extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
    boxes, labels = [], []
    for _ in range(images):
        centre = torch.rand(per_image, 2, generator=generator) * extent
        side = 12 * (500 / 12) ** torch.rand(per_image, 2, generator=generator)
        corners = torch.cat([centre - side / 2, centre + side / 2], 1)
        boxes.append(corners.clamp(min=0).minimum(extent.repeat(2)))
        labels.append(torch.randint(CLASSES, (per_image,), generator=generator))
    return GroundTruths.from_lists(boxes, labels, [size] * images)


def make_predictions(priors: Priors, *, anchors: bool = False, seed: int = 0) -> DensePredictions:
    """A half-trained network's output: logits around -3, boxes around their priors."""
    generator = torch.Generator().manual_seed(seed)
    shape = (priors.num_images, priors.num_priors)
    logits = torch.randn(*shape, CLASSES, generator=generator) - 3
    if anchors:
        assert priors.boxes is not None
        noise = torch.randn(*shape, 4, generator=generator) * priors.strides[:, None]
        return DensePredictions(cls=logits, boxes=priors.boxes + noise)
    reach = torch.rand(*shape, 4, generator=generator) * 8 * priors.strides[:, None]
    corners = [priors.points - reach[..., :2], priors.points + reach[..., 2:]]
    means = torch.randn(priors.num_images, CLASSES, 2, generator=generator) * 0.3
    return DensePredictions(
        cls=logits,
        boxes=torch.cat(corners, -1),
        quality=torch.randn(shape, generator=generator),
        quality_kind="objectness",
        extras={
            "center_mean": means,
            "center_sigma": torch.ones_like(means),
            "foreground": torch.rand(shape, generator=generator),
            "background": torch.rand(shape, generator=generator),
        },
    )
