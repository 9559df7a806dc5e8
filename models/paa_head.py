"""PAA's head, able to learn from its own or from another network's assignment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import torch
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmdet.registry import MODELS
from torch import Tensor

from assigners import PAAAssigner, build_assigner
from assigners.boxes import aligned_iou
from assigners.focal import focal_terms
from assigners.types import (
    Assignment,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    Priors,
    Step,
)
from models.co_head import CoHead, FeatureSizes, flatten_levels, ground_truths, mean_over_ranks
from models.paa_branches import BranchedPAAHead
from models.prior_grid import RECENT_FLAGS, Recent, grid_key

MIN_IOU_WEIGHT = 1e-12
"""Lower bound of a positive's weight in PAA's box loss."""
COVARIANCE_TYPES = ("diag", "full", "spherical")


@MODELS.register_module()
class CoPAAHead(CoHead, BranchedPAAHead):
    """Drop-in for mmdet's ``PAAHead``: same configuration, parameters and inference.

    Trained alone it is PAA; taught, it is LAD's student or one of CoLAD's networks. The branches of
    ``BranchedPAAHead`` (``aux_iou``, ``aux_iop``, ``aux_cop``) are further fields.

    Args:
        assigner: configuration of the self-assignment (``dict(type="PAA", ...)``). Fields left out
            follow the rest of the head: ``topk``, the focal loss, the loss weights and the IoU
            threshold of ``train_cfg.assigner``.
        topk: lowest-cost candidates of each GT and level (mmdet's argument).
        weigh_taught_boxes: weight positives by IoU in the box loss when taught, too, as the text of
            LAD has it; its released code does not.
        covariance_type: ``"diag"``, ``"full"`` or ``"spherical"``, without effect: in one dimension
            mmdet's three differ in rounding only, and the fit here is float64 and centred.

    Raises:
        ValueError: more than one anchor per location, boxes not regressed decoded, a classification
            loss without sigmoid, a pre-assignment or covariance type that PAA does not have, or
            contradictory ``topk``.

    Source:
        PAA, sec. 3; LAD, sec. 3.2. Reference code differs: mmdet and LAD divide by the positives of
        the local rank; here normalisers are averaged over ranks.
    """

    assignment_kind: ClassVar[str] = "hard"

    def __init__(
        self,
        *args: Any,
        assigner: Mapping[str, Any] | None = None,
        topk: int | None = None,
        covariance_type: str = "diag",
        weigh_taught_boxes: bool = False,
        **kwargs: Any,
    ) -> None:
        chosen = dict(assigner or {})
        if covariance_type not in COVARIANCE_TYPES:
            raise ValueError(
                f"bbox_head.covariance_type {covariance_type!r}: expected one of {COVARIANCE_TYPES}"
            )
        if topk is not None and chosen.get("topk", topk) != topk:
            raise ValueError(f"bbox_head: topk={topk} contradicts assigner.topk={chosen['topk']}")
        topk = chosen.get("topk", 9 if topk is None else topk)
        super().__init__(*args, topk=topk, covariance_type=covariance_type, **kwargs)
        self.weigh_taught_boxes = weigh_taught_boxes
        self._valid_flags: Recent[Tensor] = Recent(RECENT_FLAGS)
        self._check()
        self.own_assigner = self._build_own_assigner(chosen)

    @property
    def num_anchors(self) -> int:
        """Anchors per location; mmdet's own property warns whenever mmdet itself reads it."""
        return int(self.num_base_priors)

    def _check(self) -> None:
        per_location = set(self.prior_generator.num_base_priors)
        if per_location != {1}:
            raise ValueError(
                f"bbox_head.anchor_generator: {sorted(per_location)} anchors per location, but PAA "
                "here takes 1 (set scales_per_octave=1 and one ratio)"
            )
        if not self.reg_decoded_bbox:
            raise ValueError("bbox_head.reg_decoded_bbox must be True: PAA's box loss is a GIoU")
        if not self.use_sigmoid_cls:
            raise ValueError("bbox_head.loss_cls.use_sigmoid must be True")
        focal = hasattr(self.loss_cls, "alpha") and hasattr(self.loss_cls, "gamma")
        if self.gives_probabilities and not focal:
            raise ValueError(
                "bbox_head.loss_cls must be a FocalLoss with aux_cop or aux_iop: their class "
                f"probabilities have no logits, which {type(self.loss_cls).__name__} needs"
            )

    def _build_own_assigner(self, config: Mapping[str, Any]) -> PAAAssigner:
        """The self-assignment: explicit fields over those that the head implies."""
        implied: dict[str, Any] = {
            "type": "PAA",
            "topk": self.topk,
            "cls_weight": self.loss_cls.loss_weight,
            "reg_weight": self.loss_bbox.loss_weight,
            **_implied_iou_threshold(self.train_cfg),
        }
        for field in ("alpha", "gamma"):
            if hasattr(self.loss_cls, field):
                implied[field] = getattr(self.loss_cls, field)
        assigner = build_assigner({**implied, **config})
        if not isinstance(assigner, PAAAssigner):
            raise ValueError(f"bbox_head.assigner.type: expected 'PAA', got {config['type']!r}")
        return assigner

    # -- the co-training interface --------------------------------------------------------------

    def build_priors(
        self, featmap_sizes: FeatureSizes, batch_img_metas: Sequence[Mapping[str, Any]], device: Any
    ) -> Priors:
        """Anchors, with padding (and, where configured, the border) marked invalid per image."""
        grid = self.prior_grid(featmap_sizes, device)
        border = -1 if not self.train_cfg else self.train_cfg.get("allowed_border", -1)
        place = grid_key(featmap_sizes, device)

        def valid(pad_shape: Sequence[int], img_shape: Sequence[int]) -> Tensor:
            cells = self.prior_generator.valid_flags(featmap_sizes, pad_shape, device)
            return anchor_inside_flags(grid.boxes, torch.cat(cells), img_shape, border)  # (A,)

        rows = []
        for meta in batch_img_metas:
            shapes = tuple(meta["pad_shape"][:2]), tuple(meta["img_shape"][:2])
            key = (place, border, shapes[: 1 if border < 0 else 2])
            rows.append(self._valid_flags.get(key, partial(valid, *shapes)))
        return replace(grid, valid=torch.stack(rows))

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """Class logits or probabilities, decoded boxes and IoU logits on the prior grid."""
        cls_scores, bbox_preds, iou_preds = outs
        assert priors.boxes is not None
        deltas = flatten_levels(bbox_preds, 4)  # (B, A, 4)
        anchors = priors.boxes.expand_as(deltas).reshape(-1, 4)
        boxes = self.bbox_coder.decode(anchors, deltas.reshape(-1, 4))
        has_iou = self.aux_iou != "none"
        return DensePredictions(
            cls=flatten_levels(cls_scores, self.cls_out_channels),
            cls_is_prob=self.gives_probabilities,
            boxes=boxes.view_as(deltas),
            quality=flatten_levels(iou_preds, 1).squeeze(-1) if has_iou else None,
            quality_kind="iou" if has_iou else "none",
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
        """Focal, GIoU and, with an IoU branch, IoU-prediction losses; ``outs`` is not used.

        The box loss weights each positive with the IoU of its box in self-assignment (PAA) and
        weights all alike when taught (LAD, CoLAD; unless ``weigh_taught_boxes``) or without an IoU
        branch.

        Raises:
            TypeError: the assignment is not a hard one.
        """
        if not isinstance(assignment, HardAssignment):
            raise TypeError(f"CoPAAHead learns from a hard assignment, got {type(assignment)}")
        boxes = predictions.boxes.flatten(0, 1)  # (B * A, 4)
        pos_boxes = boxes[assignment.pos_inds]
        iou = aligned_iou(pos_boxes.detach(), assignment.box_targets)
        num_pos, num_images, sum_iou = mean_over_ranks(
            assignment.num_pos, priors.num_images, iou.sum(), like=boxes
        )
        losses = {
            "loss_cls": self._classification_loss(
                predictions, assignment, torch.maximum(num_pos, num_images)
            )
        }
        alike = (taught and not self.weigh_taught_boxes) or predictions.quality is None
        if assignment.num_pos == 0:  # this rank learns no box, but its parameters must take part
            losses["loss_bbox"] = boxes.sum() * 0
        else:
            losses["loss_bbox"] = self.loss_bbox(
                pos_boxes,
                assignment.box_targets,
                None if alike else iou.clamp(min=MIN_IOU_WEIGHT),
                avg_factor=num_pos if alike else sum_iou,
            )
        if predictions.quality is not None:
            losses["loss_iou"] = self._iou_loss(predictions.quality, assignment, iou, num_pos)
        return losses

    def _iou_loss(
        self, quality: Tensor, assignment: HardAssignment, iou: Tensor, num_pos: Tensor
    ) -> Tensor:
        """Loss of the IoU logits (B, A) at the positives, whose IoU is (P,)."""
        if assignment.num_pos == 0:
            return quality.float().sum() * 0
        logits = quality.flatten()[assignment.pos_inds]
        loss: Tensor = self.loss_centerness(logits[:, None], iou[:, None], avg_factor=num_pos)
        return loss

    def _classification_loss(
        self, predictions: DensePredictions, assignment: HardAssignment, avg_factor: Tensor
    ) -> Tensor:
        """The configured loss on logits; the focal loss where a branch gives probabilities."""
        cls = predictions.cls.flatten(0, 1)  # (B * A, C)
        labels, weights = assignment.labels.flatten(), assignment.label_weights.flatten()
        if not predictions.cls_is_prob:
            return self.loss_cls(cls, labels, weights, avg_factor=avg_factor)
        positive, negative = focal_terms(
            cls, is_prob=True, alpha=self.loss_cls.alpha, gamma=self.loss_cls.gamma
        )
        is_target = labels[:, None] == torch.arange(cls.shape[1], device=cls.device)
        loss = torch.where(is_target, positive, negative) * weights[:, None]
        return self.loss_cls.loss_weight * loss.sum() / avg_factor

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """mmdet's ``PAAHead`` for the same weights.

        Raises:
            ValueError: branches that mmdet's head does not have, or does not know how to leave out.
        """
        if not self.is_plain:
            raise ValueError(
                f"mmdet's PAAHead has the IoU branch, used in training and test, and no other; "
                f"this head has aux_iou={self.aux_iou!r}, aux_iop={self.aux_iop}, "
                f"aux_cop={self.aux_cop}"
            )
        plain = super().plain_config(config)
        ours = ("aux_iou", "aux_iop", "iop_floor", "aux_cop", "weigh_taught_boxes")
        return {k: v for k, v in plain.items() if k not in ours}

    # -- plain training -------------------------------------------------------------------------

    def loss_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        iou_preds: Sequence[Tensor | None],
        batch_gt_instances: Sequence[Any],
        batch_img_metas: Sequence[Mapping[str, Any]],
        batch_gt_instances_ignore: Any = None,
    ) -> dict[str, Tensor]:
        """Self-assignment: the plain PAA detector, with mmdet's signature.

        Ignore boxes have no effect, as in mmdet's PAA configuration (``ignore_iof_thr=-1``).
        """
        outs = (cls_scores, bbox_preds, iou_preds)
        device = cls_scores[0].device
        sizes = [level.shape[-2:] for level in cls_scores]
        priors = self.build_priors(sizes, batch_img_metas, device)
        gts = ground_truths(batch_gt_instances, batch_img_metas, device)
        predictions = self.dense_predictions(outs, priors)
        with torch.no_grad():
            candidates = self.own_assigner.candidates(priors, gts)
            table = self.own_assigner.costs(predictions, candidates, gts)
            assignment = self.own_assigner.assign(
                table,
                candidates,
                priors,
                gts,
                num_classes=self.num_classes,
                step=Step(iteration=0, max_iterations=1),  # PAA has no schedule
            )
        return self.loss_from_assignment(predictions, outs, assignment, priors, gts, taught=False)


def _implied_iou_threshold(train_cfg: Mapping[str, Any] | None) -> dict[str, float]:
    """``iou_threshold`` of mmdet's ``train_cfg.assigner``.

    Raises:
        ValueError: the pre-assignment has an ignore band, a lower bound for low-quality matches or
            a weight for positives, none of which PAA has.
    """
    if not train_cfg:
        return {}
    if train_cfg.get("pos_weight", -1) > 0:
        raise ValueError(f"train_cfg.pos_weight={train_cfg['pos_weight']}: PAA needs -1")
    matcher = train_cfg.get("assigner")
    if not matcher:
        return {}
    if matcher.get("type") != "MaxIoUAssigner":
        raise ValueError(
            f"train_cfg.assigner.type: expected 'MaxIoUAssigner', got {matcher.get('type')!r}"
        )
    expected = {
        "neg_iou_thr": matcher["pos_iou_thr"],
        "min_pos_iou": 0.0,
        "match_low_quality": True,
        "gt_max_assign_all": True,
    }
    for field, value in expected.items():
        given = matcher.get(field, value)
        if isinstance(given, (tuple, list)) or not math.isclose(given, value):
            raise ValueError(f"train_cfg.assigner.{field}: PAA needs {value}, got {given}")
    return {"iou_threshold": matcher["pos_iou_thr"]}
