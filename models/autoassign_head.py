"""AutoAssign's head: a learned centre prior, an objectness, and the loss over bags of points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from mmdet.registry import MODELS
from torch import Tensor

from assigners.autoassign import AutoAssignAssignment
from assigners.center import (
    CENTER_MEAN,
    CENTER_SIGMA,
    center_loss,
    gt_logsumexp,
    log_center_weight,
)
from assigners.focal import LOG_FLOOR, focal_terms
from assigners.points import gt_count, gt_sum, joint_probability, neg_log_complement, scatter_pairs
from assigners.types import Assignment, Candidates, DensePredictions, GroundTruths, Priors
from models.center_prior import CenterPrior
from models.co_head import mean_over_ranks
from models.point_head import CoPointHead

CENTER_PRIORS = ("category", "shared", "fixed", "none")
OBJECTNESS = "objectness"
"""Key of the extras: (B, A) logits of an objectness with a target of its own."""


@MODELS.register_module()
class CoAutoAssignHead(CoPointHead):
    """FCOS with AutoAssign. Taught, e^(P / tau) and w- are another network's.

    Args:
        center_prior: ``"category"``, ``"shared"``, ``"fixed"`` (mean 0, sigma 1) or ``"none"``;
            table 3.
        objectness: ``"implicit"`` is learned through the class scores that it multiplies,
            ``"explicit"`` from a target of its own (1 inside any GT) and through nothing else,
            ``"none"``; table 4.
        loss_bbox: mmdet's ``GIoULoss``; its weight is the lambda of the head's own assigner.
        kwargs: of ``CoPointHead``.

    Raises:
        ValueError: as ``CoPointHead``, for an unknown ``center_prior`` and another ``loss_bbox``.

    Source:
        AutoAssign, sec. 3; parameters have mmdet's names.
    """

    method: ClassVar[str] = "AutoAssign"
    objectness_kinds: ClassVar[tuple[str, ...]] = ("implicit", "explicit", "none")
    kinds_with_branch: ClassVar[tuple[str, ...]] = ("implicit", "explicit")

    def __init__(
        self,
        *args: Any,
        center_prior: str = "category",
        loss_bbox: Mapping[str, Any] | None = None,
        assigner: Mapping[str, Any] | None = None,
        point_offset: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if center_prior not in CENTER_PRIORS:
            raise ValueError(
                f"bbox_head.center_prior {center_prior!r}: expected one of {CENTER_PRIORS}"
            )
        implied = {} if loss_bbox is None else {"lambda_": _lambda_of(loss_bbox)}
        self.center_prior_kind = center_prior
        super().__init__(
            *args, assigner={**implied, **(assigner or {})}, point_offset=point_offset, **kwargs
        )

    def _init_layers(self) -> None:
        super()._init_layers()
        if self.center_prior_kind != "none":
            self.center_prior = CenterPrior(self.center_prior_kind, self.num_classes)

    def dense_predictions(self, outs: Sequence[Any], priors: Priors) -> DensePredictions:
        """As ``CoPointHead``, with the centre prior among the extras.

        An explicit objectness is a constant of the scores; its logits are an extra of their own.
        """
        predictions = super().dense_predictions(outs, priors)
        extras: dict[str, Tensor] = {}
        if self.center_prior_kind != "none":
            extras.update(self.center_prior.extras(priors.num_images))
        if self.objectness != "explicit":
            return replace(predictions, extras=extras)
        assert predictions.quality is not None
        extras[OBJECTNESS] = predictions.quality
        return replace(predictions, quality=predictions.quality.detach(), extras=extras)

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
        """Positive, negative and centre losses; ``outs`` and ``taught`` change nothing.

        Raises:
            TypeError: the assignment is not AutoAssign's.

        Source:
            AutoAssign, Eq. 12; released code for the centre loss and the normalisers, which are
            averaged over ranks.
        """
        return autoassign_losses(predictions, assignment, gts)

    def plain_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """mmdet's ``AutoAssignHead``, which lists some detections below the threshold as well."""
        standard = dict(
            center_prior=(self.center_prior_kind, "category"),
            objectness=(self.objectness, "implicit"),
            num_anchors=(self.num_anchors, 1),
            point_offset=(self.prior_generator.offset, 0),
        )
        for name, (value, expected) in standard.items():
            if value != expected:
                raise ValueError(f"mmdet's AutoAssign has {name} = {expected!r}, not {value!r}")
        ours = (*standard, "assigner", "prior_prob", "init_distance", "conv_bias")
        kept = {key: value for key, value in config.items() if key not in ours}
        return {**kept, "type": "AutoAssignHead", "strides": list(self.strides)}


def _lambda_of(loss_bbox: Mapping[str, Any]) -> float:
    if loss_bbox.get("type") != "GIoULoss":
        raise ValueError(
            f"bbox_head.loss_bbox.type {loss_bbox.get('type')!r}: AutoAssign's box confidence is "
            "exp(-lambda (1 - GIoU)), so only a GIoULoss fits (its loss_weight is lambda)"
        )
    return float(loss_bbox.get("loss_weight", 1.0))


def autoassign_losses(
    predictions: DensePredictions, assignment: Assignment, gts: GroundTruths
) -> dict[str, Tensor]:
    """AutoAssign's losses of any predictions on the prior grid.

    Gradient: reaches class and quality logits, boxes, the centre prior and, in self-assignment, the
    confidences behind ``pos_weight``.

    Raises:
        TypeError: the assignment is not AutoAssign's.
    """
    if not isinstance(assignment, AutoAssignAssignment):
        raise TypeError(f"AutoAssign learns from an AutoAssignAssignment, got {type(assignment)}")
    method, pairs = assignment.assigner, assignment.candidates
    log_prior = log_center_weight(predictions, pairs, gts) if method.center_weighting else None
    if log_prior is None:
        log_prior = torch.zeros_like(assignment.neg_weight)
    prior = log_prior.exp()
    inside = _inside_any(pairs, predictions)
    num_gts, num_images, weight, num_inside = mean_over_ranks(
        gts.num_gts, gts.num_images, prior.sum(), inside.sum(), like=predictions.boxes
    )
    centre = idle = _idle(predictions)
    if prior.requires_grad and not method.detach_weights:
        centre = method.center_loss_weight * center_loss(prior, pairs, gts) / num_images + idle
    losses = {
        "loss_pos": _positive_loss(predictions, assignment, log_prior, gts) / num_gts.clamp(min=1),
        "loss_neg": _negative_loss(predictions, assignment, gts) / weight.clamp(min=1),
        "loss_center": centre,
    }
    if OBJECTNESS in predictions.extras:
        positive, negative = focal_terms(predictions.extras[OBJECTNESS], is_prob=False)
        loss = torch.where(inside, positive, negative).sum()
        losses["loss_objectness"] = loss / num_inside.clamp(min=1)
    return losses


def _positive_loss(
    predictions: DensePredictions,
    assignment: AutoAssignAssignment,
    log_prior: Tensor,
    gts: GroundTruths,
) -> Tensor:
    """Sum over GTs of -ln of the weighted mean of P; a GT without pairs adds nothing."""
    method, gt = assignment.assigner, assignment.candidates.gt
    log_p = method.log_confidence(predictions, assignment.candidates, gts)
    log_weight = method.log_positive_weight(assignment.pos_weight, log_prior, gt, gts.num_gts)
    if method.weights_on == "loss":
        return method.pos_loss_weight * gt_sum(-log_weight.exp() * log_p, gt, gts.num_gts).sum()
    log_bag = gt_logsumexp(log_weight + log_p, gt, gts.num_gts).clamp(min=LOG_FLOOR)
    found = gt_count(gt, gts.num_gts) > 0
    return method.pos_loss_weight * torch.where(found, -log_bag, 0.0).sum()


def _negative_loss(
    predictions: DensePredictions, assignment: AutoAssignAssignment, gts: GroundTruths
) -> Tensor:
    """Sum over all points and classes."""
    method = assignment.assigner
    score = joint_probability(predictions)  # (B, A, C)
    weight = scatter_pairs(assignment.neg_weight, assignment.candidates, gts, score, fill=1.0)
    if method.weights_on == "loss":
        return method.neg_loss_weight * (weight * score**2 * neg_log_complement(score)).sum()
    score = weight * score
    return method.neg_loss_weight * (score**2 * neg_log_complement(score)).sum()


def _inside_any(pairs: Candidates, predictions: DensePredictions) -> Tensor:
    """(B, A) bool: points inside any GT of their image."""
    inside = torch.zeros_like(predictions.boxes[..., 0], dtype=torch.bool)
    inside[pairs.image, pairs.prior] = True
    return inside


def _idle(predictions: DensePredictions) -> Tensor:
    """Zero, with a gradient of zero for the centre prior wherever nothing else reaches it."""
    parts = [
        predictions.extras[key].sum()
        for key in (CENTER_MEAN, CENTER_SIGMA)
        if key in predictions.extras
    ]
    return sum(parts, predictions.boxes.new_zeros(())) * 0
