"""DW's head: dual weights of classification and boxes, with optional box refinement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from mmdet.registry import MODELS
from torch import Tensor, nn

from assigners.dw import DWAssignment
from assigners.points import (
    joint_probability,
    log_pair_probability,
    neg_log_complement,
    pair_giou_loss,
    scatter_pairs,
)
from assigners.types import Assignment, DensePredictions, GroundTruths, Priors
from models.co_head import mean_over_ranks
from models.point_head import CoPointHead


@MODELS.register_module()
class CoDWHead(CoPointHead):
    """FCOS with dual weighting. Trained alone it is DW; taught, the weights are another network's.

    Args:
        box_refine: move each side of a coarse box by a 3x3 convolution on the regression tower
            (``conv_offset``) and read its position off the neighbouring boxes there.
        kwargs: of ``CoPointHead``. There is no ``loss_cls`` and ``loss_bbox`` to configure: the
            assigner's constants make up the loss.

    Raises:
        ValueError: as ``CoPointHead``, and for ``loss_cls`` or ``loss_bbox``.

    Source:
        DW, sec. 3.4 and 3.5.
    """

    method: ClassVar[str] = "DW"

    def __init__(self, *args: Any, box_refine: bool = False, **kwargs: Any) -> None:
        for name in ("loss_cls", "loss_bbox"):
            if name in kwargs:
                raise ValueError(
                    f"bbox_head.{name}: DW's loss follows from the assigner (beta, reg_loss_weight)"
                )
        self.box_refine = box_refine
        super().__init__(*args, **kwargs)

    def _init_predictor(self) -> None:
        super()._init_predictor()
        if self.box_refine:
            self.conv_offset = nn.Conv2d(self.feat_channels, 8, 3, padding=1)

    def refine(self, distances: Tensor, reg_feat: Tensor, stride: int) -> Tensor:
        """Refined distances where ``box_refine`` is on; see ``refine_distances``."""
        if not self.box_refine:
            return distances
        offsets = self.conv_offset(reg_feat).float()
        return refine_distances(
            distances, offsets, stride, point_offset=self.prior_generator.offset
        )

    def loss_from_assignment(
        self,
        predictions: DensePredictions,
        outs: Sequence[Any],
        assignment: Assignment,
        priors: Priors,
        gts: GroundTruths,
        *,
        taught: bool,
    ) -> dict[str, Tensor]:
        """Positive, localisation and negative losses; ``outs`` and ``taught`` change nothing.

        Raises:
            TypeError: the assignment is not DW's.

        Source:
            DW, eq. 11 and 12; the normalisers (GTs, and what the negative weights leave out) are
            the released code's, averaged over ranks.
        """
        return dw_losses(predictions, assignment, gts)


def dw_losses(
    predictions: DensePredictions, assignment: Assignment, gts: GroundTruths
) -> dict[str, Tensor]:
    """DW's losses of any predictions on the prior grid.

    Gradient: reaches class and quality logits and boxes; the weights of ``assignment`` are
    constants. In the released reading the factor s^gamma_2 of negatives learns, too.

    Raises:
        TypeError: the assignment is not DW's.
    """
    if not isinstance(assignment, DWAssignment):
        raise TypeError(f"DW learns from a DWAssignment, got {type(assignment)}")
    pairs = assignment.candidates
    log_score = log_pair_probability(predictions, pairs, gts)  # (N,)
    gap = pair_giou_loss(predictions, pairs, gts)  # (N,)
    positive = assignment.pos_factor * (assignment.pos_weight * -log_score).sum()
    localisation = assignment.box_factor * (assignment.box_weight * gap).sum()
    negative, left_out = _negative_loss(predictions, assignment, gts)
    num_gts, left_out = mean_over_ranks(gts.num_gts, left_out, like=predictions.boxes)
    return {
        "loss_cls_pos": positive / num_gts.clamp(min=1),
        "loss_loc": localisation / num_gts.clamp(min=1),
        "loss_cls_neg": negative / left_out.clamp(min=1),
    }


def _negative_loss(
    predictions: DensePredictions, assignment: DWAssignment, gts: GroundTruths
) -> tuple[Tensor, Tensor]:
    """Sum over all points and classes, and the sum of 1 - P_neg; scalars."""
    pairs = assignment.candidates
    # Where the factor s^gamma_2 has gamma_2 < 1, its slope at 0 is infinite.
    score = joint_probability(predictions).clamp(min=1e-12)  # (B, A, C)
    p_neg = scatter_pairs(assignment.p_neg, pairs, gts, score, fill=1.0)
    weight = p_neg
    if assignment.neg_weight is not assignment.p_neg:
        weight = scatter_pairs(assignment.neg_weight, pairs, gts, score, fill=1.0)
    importance = assignment.background_factor * score.pow(assignment.background_gamma)
    if not assignment.importance_everywhere:
        ones = torch.ones_like(assignment.neg_weight)
        in_bag = scatter_pairs(ones, pairs, gts, score, fill=0.0) > 0
        importance = torch.where(in_bag, _importance(score, assignment), importance)
    return (weight * importance * neg_log_complement(score)).sum(), (1 - p_neg).sum()


def _importance(score: Tensor, assignment: DWAssignment) -> Tensor:
    """(B, A, C) factor of the negative term inside a bag."""
    if not assignment.use_importance:
        return torch.ones_like(score)
    score = score.detach() if assignment.detach_importance else score
    return score.pow(assignment.gamma_2)


def refine_distances(
    distances: Tensor, offsets: Tensor, stride: int, *, point_offset: float = 0.5
) -> Tensor:
    """Each side of a box taken from the coarse box found at a learned point near that side.

    The left side of the refined box at cell (i, j) is the left side of the coarse box at
    (i + dy, j + dx - left / stride), and so on, interpolated linearly between cells. Outside the
    map coordinates are 0.

    Args:
        distances: (B, 4, H, W) left, top, right, bottom in pixels.
        offsets: (B, 8, H, W) pairs (dy, dx) for left, top, right, bottom, in cells.
        stride: of the level, in pixels.
        point_offset: of the points from the upper left corner of their cell, in strides.

    Returns:
        (B, 4, H, W) distances in pixels, >= 0.

    Gradient: flows through offsets, through the coarse distances that choose the point, and through
        the coarse boxes read there.

    Source:
        DW, eq. 9 and 10; reference code differs: left and top sides lie at minus the offset, and
        only refined boxes are supervised.
    """
    batch, _, height, width = distances.shape
    rows = torch.arange(height, device=distances.device, dtype=distances.dtype)[:, None]  # (H, 1)
    columns = torch.arange(width, device=distances.device, dtype=distances.dtype)  # (W,)
    x, y = (columns + point_offset) * stride, (rows + point_offset) * stride
    point = torch.stack([x.expand(height, width), y.expand(height, width)] * 2)  # (4, H, W)
    side = torch.arange(4, device=distances.device, dtype=distances.dtype).view(4, 1, 1)
    sign = side // 2 * 2 - 1  # -1, -1, 1, 1: made on the device, which waits for no copy
    coarse = point + sign * distances  # (B, 4, H, W) x1, y1, x2, y2
    dy, dx = offsets.unflatten(1, (4, 2)).unbind(2)  # (B, 4, H, W) each
    shift = sign * distances / stride
    horizontal = 1 - side % 2  # 1, 0, 1, 0
    sample_x = columns + dx + horizontal * shift
    sample_y = rows + dy + (1 - horizontal) * shift
    # grid_sample without align_corners: cell centre j is at (2 j + 1) / W - 1.
    grid = torch.stack([(2 * sample_x + 1) / width - 1, (2 * sample_y + 1) / height - 1], dim=-1)
    sides = F.grid_sample(
        coarse.reshape(batch * 4, 1, height, width),
        grid.flatten(0, 1),  # (B * 4, H, W, 2)
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    ).view(batch, 4, height, width)
    return torch.relu(sign * (sides - point))
