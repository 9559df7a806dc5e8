"""A learner, a teacher and GTs for the tests of soft labels.

``python soft_cases.py RANK STORE OUT`` is one of two ranks of a learner: it saves the losses of
that rank's image.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor

from assigners import DensePredictions, GroundTruths, Priors

PRIORS, CLASSES = 12, 3
SIZES = [(60, 80), (50, 80), (60, 80)]  # height, width; the second image ends at row 50
BOXES: list[list[list[float]]] = [
    [[8, 8, 40, 40], [30, 10, 90, 55]],  # the second one reaches over the border
    [],
    [[20, 5, 60, 45]],
]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """SoLAD's, as in ``orchestrator.config.SoftLabelConfig``."""

    loss: str = "kl"
    gamma: float = 0.5
    cls_weight: float = 2.0
    iou_weight: float = 10.0
    box_weight: float = 1.3
    iou_threshold: float = 0.5
    selection: str = "teacher_box"


def make_gts(images: Sequence[int], dtype: torch.dtype = torch.float32) -> GroundTruths:
    gts = GroundTruths.from_lists(
        [torch.tensor(BOXES[i]).reshape(-1, 4) for i in images],
        [torch.arange(len(BOXES[i])) for i in images],
        [SIZES[i] for i in images],
    )
    return replace(gts, boxes=gts.boxes.to(dtype), image_shapes=gts.image_shapes.to(dtype))


def make_priors(images: Sequence[int]) -> Priors:
    """Square anchors; the last two lie in the padding of image 1."""
    centre = torch.tensor([[10.0 + 20 * (i % 4), 10.0 + 20 * (i // 4)] for i in range(PRIORS)])
    valid = torch.ones(len(images), PRIORS, dtype=torch.bool)
    for row, image in enumerate(images):
        valid[row, -2:] = image != 1
    return Priors(
        points=centre,
        strides=torch.full((PRIORS,), 8.0),
        level=torch.zeros(PRIORS, dtype=torch.int64),
        valid=valid,
        level_sizes=(PRIORS,),
        boxes=torch.cat([centre - 16, centre + 16], dim=1),
    )


def make_predictions(
    images: Sequence[int], seed: int, *, dtype: torch.dtype = torch.float32, **fields: Any
) -> DensePredictions:
    """Boxes scattered around a GT (or anywhere, in an image without); leaves, with gradient.

    The same image gets the same predictions in every batch.
    """
    parts: list[tuple[Tensor, ...]] = []
    for image in images:
        random = torch.Generator().manual_seed(100 * seed + image)
        around = torch.tensor(BOXES[image] or [[20.0, 10.0, 70.0, 45.0]])
        boxes = around[torch.arange(PRIORS) % len(around)]
        boxes = boxes + 4 * torch.randn(PRIORS, 4, generator=random)
        cls = torch.randn(PRIORS, CLASSES, generator=random) - 1
        parts.append((cls, boxes, torch.randn(PRIORS, generator=random)))
    cls, boxes, quality = (torch.stack(x).to(dtype).requires_grad_() for x in zip(*parts))
    made = DensePredictions(cls=cls, boxes=boxes, quality=quality, quality_kind="iou")
    return replace(made, **fields)


def compute_losses(
    images: Sequence[int], settings: Settings | None = None, **fields: Any
) -> tuple[dict[str, Tensor], DensePredictions]:
    """The losses of these images, and the learner's predictions."""
    from models.soft_labels import soft_label_losses, soft_label_sums

    settings = settings or Settings()
    student, teacher = make_predictions(images, 1, **fields), make_predictions(images, 2)
    priors, gts = make_priors(images), make_gts(images)
    sums = soft_label_sums(student, teacher, priors, gts, settings)
    return soft_label_losses([sums], student, settings), student


def run_rank(rank: int, store: str) -> dict[str, Tensor]:
    """Join two ranks that meet in the file ``store``; the losses of image ``rank``."""
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        timeout=timedelta(seconds=120),
        rank=rank,
        world_size=2,
    )
    try:
        losses, _ = compute_losses([rank])
        return {name: value.detach() for name, value in losses.items()}
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.save(run_rank(int(sys.argv[1]), sys.argv[2]), sys.argv[3])
