"""Overlaps of boxes, in mmdet's order of floating-point operations.

Candidate matching looks for *exact* ties of IoU (several anchors that contain one small box overlap
it equally), so the order of operations is part of the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from assigners.types import GroundTruths

EPS = 1e-6
"""Lower bound of unions and enclosing areas, as in mmdet's ``bbox_overlaps``."""

_BLOCK_ON_HOST = 1 << 18  # elements of one overlap block: its temporaries stay in a core's cache
_FEWEST_SLOTS = 4  # of an overlap block: what is done per prior and block must not outweigh it
_BLOCK_ON_DEVICE = 1 << 24  # 64 MiB per float32 temporary, few launches


def rows_per_block(width: int, device: torch.device) -> int:
    """How many rows of ``width`` elements make one block of work: at least one."""
    budget = _BLOCK_ON_HOST if device.type == "cpu" else _BLOCK_ON_DEVICE
    return max(1, budget // max(1, width))


@dataclass(frozen=True)
class GTBlock:
    """Some GTs of some images, zero-padded to one number per image."""

    images: slice
    """Which b images."""
    boxes: Tensor
    """(b, m, 4) float32 xyxy; zeros where padded."""
    index: Tensor
    """(b, m) int64 GT index over the batch; -1 where padded."""


def padded_boxes(gts: GroundTruths) -> tuple[Tensor, Tensor]:
    """The GTs of each image side by side: M is the largest number of them. No synchronisation.

    Returns:
        (B, M, 4) float32 xyxy, zeros where padded, and (B, M) int64 GT index over the batch, -1
        where padded.
    """
    device, most = gts.boxes.device, max(gts.counts, default=0)
    counts = torch.tensor(gts.counts, dtype=torch.int64)
    first = counts.cumsum(0) - counts
    slot = torch.arange(most)
    index = torch.where(slot < counts[:, None], first[:, None] + slot, -1)
    index = index.to(device, non_blocking=True)  # a blocking copy would wait for a GPU's queue
    exists = (index >= 0)[..., None]
    return torch.where(exists, gts.boxes.float()[index.clamp(min=0)], 0.0), index


def gt_blocks(gts: GroundTruths, num_priors: int) -> Iterator[GTBlock]:
    """All GTs in blocks whose overlaps with ``num_priors`` boxes per image fit in little memory.

    Images are in order, and so are the GTs of one image; images without any are in a block, too,
    if another image has one. No synchronisation.
    """
    boxes, index = padded_boxes(gts)
    device, most = boxes.device, index.shape[1]
    if most == 0 or num_priors == 0:
        return
    per_block = rows_per_block(num_priors, device)  # pairs of an image and a slot
    slots = min(most, max(per_block, _FEWEST_SLOTS))
    images = max(1, per_block // slots)
    for start in range(0, gts.num_images, images):
        rows = slice(start, start + images)
        for first_slot in range(0, most, slots):
            columns = slice(first_slot, first_slot + slots)
            yield GTBlock(rows, boxes[rows, columns], index[rows, columns])


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _iou_and_union(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and clamped union of boxes whose leading dimensions broadcast."""
    width = torch.minimum(boxes1[..., 2], boxes2[..., 2]) - torch.maximum(
        boxes1[..., 0], boxes2[..., 0]
    )
    height = torch.minimum(boxes1[..., 3], boxes2[..., 3]) - torch.maximum(
        boxes1[..., 1], boxes2[..., 1]
    )
    overlap = width.clamp(min=0) * height.clamp(min=0)
    union = (_areas(boxes1) + _areas(boxes2) - overlap).clamp(min=EPS)
    return overlap / union, union


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of every box of the first set with every box of the second.

    Args:
        boxes1: (..., m, 4) xyxy.
        boxes2: (..., n, 4) xyxy; leading dimensions broadcast.

    Returns:
        (..., m, n). Degenerate boxes have IoU 0.
    """
    return _iou_and_union(boxes1[..., :, None, :], boxes2[..., None, :, :])[0]


def aligned_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """IoU of corresponding boxes: (n, 4) xyxy twice -> (n,)."""
    return _iou_and_union(boxes1, boxes2)[0]


def aligned_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU of corresponding boxes, in [-1, 1].

    Args:
        boxes1: (n, 4) xyxy.
        boxes2: (n, 4) xyxy.

    Returns:
        (n,) IoU minus the share of the enclosing box that the union leaves empty.
    """
    iou, union = _iou_and_union(boxes1, boxes2)
    return _subtract_gap(iou, union, boxes1, boxes2)


def pairwise_giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalised IoU of every box of the first set with every box of the second.

    Args:
        boxes1: (..., m, 4) xyxy.
        boxes2: (..., n, 4) xyxy.

    Returns:
        (..., m, n) in [-1, 1].
    """
    boxes1, boxes2 = boxes1[..., :, None, :], boxes2[..., None, :, :]
    iou, union = _iou_and_union(boxes1, boxes2)
    return _subtract_gap(iou, union, boxes1, boxes2)


def _subtract_gap(iou: Tensor, union: Tensor, boxes1: Tensor, boxes2: Tensor) -> Tensor:
    width = torch.maximum(boxes1[..., 2], boxes2[..., 2]) - torch.minimum(
        boxes1[..., 0], boxes2[..., 0]
    )
    height = torch.maximum(boxes1[..., 3], boxes2[..., 3]) - torch.minimum(
        boxes1[..., 1], boxes2[..., 1]
    )
    enclosing = (width.clamp(min=0) * height.clamp(min=0)).clamp(min=EPS)
    return iou - (enclosing - union) / enclosing
