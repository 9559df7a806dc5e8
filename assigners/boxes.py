"""Overlaps of boxes, in mmdet's order of floating-point operations.

Candidate matching looks for *exact* ties of IoU (several anchors that contain one small box overlap
it equally), so the order of operations is part of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

EPS = 1e-6
"""Lower bound of unions and enclosing areas, as in mmdet's ``bbox_overlaps``."""


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
