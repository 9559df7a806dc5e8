"""DW on the task-aligned head of TOOD."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmdet.models.dense_heads import TOODHead
from mmdet.registry import MODELS
from torch import Tensor

from assigners.types import Assignment, DensePredictions, GroundTruths, Priors, Step
from models.co_head import CoHead, FeatureSizes, flatten_levels
from models.dw_head import dw_losses
from models.point_head import own_assigner, self_assignment_losses


@MODELS.register_module()
class CoDWTOODHead(CoHead, TOODHead):
    """mmdet's TOOD head, which learns DW's weights in place of task-aligned targets.

    Its points, parameters and inference are mmdet's; they equal those of ``CoDWHead``, so both
    heads can teach each other.

    Args:
        num_classes: C.
        in_channels: channels of the feature maps.
        strides: of each level, in pixels.
        assigner: configuration of the self-assignment; only hyper-parameters are needed.
        point_offset: of the points from the upper left corner of their cell, in strides.
        kwargs: of mmdet's ``TOODHead``; the losses are DW's, so there is none to configure, and
            no ``train_cfg`` is read.

    Raises:
        ValueError: an assigner of another method, an unknown hyper-parameter, or a loss.

    Source:
        DW, table 7, rows with TOOD's head. The paper does not say how the head's score enters; here
        it is s throughout, and there is no further objectness.
    """

    assignment_kind: ClassVar[str] = "soft"

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        *,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        assigner: Mapping[str, Any] | None = None,
        point_offset: float = 0.5,
        train_cfg: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("loss_cls", "loss_bbox", "initial_loss_cls"):
            if name in kwargs:
                raise ValueError(
                    f"bbox_head.{name}: DW's loss follows from the assigner (beta, reg_loss_weight)"
                )
        super().__init__(
            num_classes,
            in_channels,
            anchor_type="anchor_free",
            anchor_generator=dict(
                type="AnchorGenerator",
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                center_offset=point_offset,
                strides=list(strides),
            ),
            loss_cls=dict(type="FocalLoss", use_sigmoid=True),
            train_cfg=None,
            **kwargs,
        )
        self.own_assigner = own_assigner("DW", assigner)

    def prior_levels(self, featmap_sizes: FeatureSizes, device: Any) -> list[Tensor]:
        """(A_l, 2) centres of the anchors."""
        anchors = super().prior_levels(featmap_sizes, device)
        return [self.anchor_center(level) for level in anchors]

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """Aligned probabilities and boxes, which the head decodes in strides."""
        return DensePredictions(
            cls=flatten_levels(outs[0], self.cls_out_channels),
            boxes=flatten_levels(outs[1], 4) * priors.strides[:, None],
            cls_is_prob=True,
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
        """As ``CoDWHead``.

        Raises:
            TypeError: the assignment is not DW's.
        """
        return dw_losses(predictions, assignment, gts)

    def loss_by_feat(self, *inputs: Any) -> dict[str, Tensor]:
        """Self-assignment, called as mmdet calls its heads; ignored boxes have no effect."""
        *outs, batch_gt_instances, batch_img_metas, _ = inputs
        step = Step(iteration=0, max_iterations=1)  # DW has no schedule
        return self_assignment_losses(self, outs, batch_gt_instances, batch_img_metas, step)
