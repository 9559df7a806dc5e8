"""MuSu's head: classes and boxes with weights of their own, one or more boxes per location."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from mmdet.registry import MODELS
from torch import Tensor

from assigners.musu import MuSuAssignment
from assigners.points import (
    joint_probability,
    log_pair_probability,
    neg_log_complement,
    pair_giou_loss,
)
from assigners.types import Assignment, DensePredictions, GroundTruths, Priors
from models.co_head import mean_over_ranks
from models.point_head import CoPointHead

MAX_LOG_DISTANCE = 10.0
"""Upper bound of ln(distance / stride): 22026 strides, beyond every image, far from infinity."""
MIN_BASE = 1e-12
"""Lower bound of what the focal loss raises to gamma: for gamma < 1 the slope at 0 is infinite."""


@MODELS.register_module()
class CoMuSuHead(CoPointHead):
    """FCOS with mutual supervision. Trained alone it is MuSu; taught, the weights are another's.

    Distances are stride * exp(regression). The last convolution starts at 0, so every box starts as
    a square of two strides; with several priors per location their boxes start with random scales
    and aspect ratios instead.

    Args:
        num_anchors: priors per location.
        anchor_seed: what those scales and ratios are drawn from, with ``num_anchors``; without
            effect for one prior. It is part of the checkpoint. Networks that learn from each other
            need the same one, so that a slot starts as the same box in all of them; in a run it is
            the run's seed unless given.
        prior_prob: initial probability of every class, before the objectness.
        loss_cls: mmdet's sigmoid ``FocalLoss``, whose alpha, gamma and loss_weight are read.
        loss_bbox: mmdet's ``GIoULoss``, whose loss_weight is read.
        kwargs: of ``CoPointHead``.

    Raises:
        ValueError: as ``CoPointHead``, for other losses, and for ``init_cfg`` with several priors.

    Source:
        MuSu, sec. 4.1; several priors: sec. 4.2, "Tiling more anchors".
    """

    method: ClassVar[str] = "MuSu"
    seeded_fields: ClassVar[tuple[str, ...]] = ("anchor_seed",)
    _anchor_seed: Tensor | None

    def __init__(
        self,
        *args: Any,
        num_anchors: int = 1,
        anchor_seed: int = 0,
        prior_prob: float = 0.01,
        loss_cls: dict[str, Any] | None = None,
        loss_bbox: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(num_anchors, bool) or not isinstance(num_anchors, int) or num_anchors < 1:
            raise ValueError(f"bbox_head.num_anchors must be an integer >= 1, got {num_anchors!r}")
        if num_anchors > 1 and kwargs.get("init_cfg") is not None:
            raise ValueError(
                f"bbox_head.init_cfg with num_anchors={num_anchors}: the initial boxes of several "
                "priors come from anchor_seed; leave init_cfg out"
            )
        kwargs.setdefault("init_cfg", _init_cfg(prior_prob))
        super().__init__(
            *args,
            num_anchors=num_anchors,
            prior_prob=prior_prob,
            loss_cls=loss_cls or dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=loss_bbox or dict(type="GIoULoss", loss_weight=1.0),
            **kwargs,
        )
        self._check_losses()
        several = num_anchors > 1
        self.register_buffer("_anchor_seed", torch.tensor(anchor_seed) if several else None)

    def _check_losses(self) -> None:
        for name, expected in (("loss_cls", "FocalLoss"), ("loss_bbox", "GIoULoss")):
            kind = type(getattr(self, name)).__name__
            if kind != expected:
                raise ValueError(f"bbox_head.{name}.type: MuSu here has {expected}, got {kind!r}")

    @property
    def anchor_seed(self) -> int | None:
        """What the initial boxes of a location's priors were drawn from; None for one prior."""
        return None if self._anchor_seed is None else int(self._anchor_seed)

    def init_weights(self) -> None:
        """mmengine's initialisation, then the initial boxes of several priors per location."""
        super().init_weights()
        if self.anchor_seed is None:
            return
        with torch.no_grad():
            half = initial_log_sizes(self.num_anchors, self.anchor_seed)  # (k, 2)
            self.conv_reg.bias.copy_(half.repeat(1, 2).flatten())  # left, top, right, bottom

    def distances(self, raw: Tensor, stride: int) -> Tensor:
        """stride * exp(raw) pixels, capped far beyond any image."""
        return raw.clamp(max=MAX_LOG_DISTANCE).exp() * stride

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
        """Classification and box losses; ``outs`` and ``taught`` change nothing.

        Raises:
            TypeError: the assignment is not MuSu's.
        """
        cls_loss, box_loss = musu_losses(
            predictions, assignment, gts, alpha=self.loss_cls.alpha, gamma=self.loss_cls.gamma
        )
        return {
            "loss_cls": self.loss_cls.loss_weight * cls_loss,
            "loss_bbox": self.loss_bbox.loss_weight * box_loss,
        }


def musu_losses(
    predictions: DensePredictions,
    assignment: Assignment,
    gts: GroundTruths,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
) -> tuple[Tensor, Tensor]:
    """MuSu's classification and box loss of any predictions on the prior grid.

    Args:
        alpha: of the focal loss: weight of positives; negatives have 1 - alpha.
        gamma: its exponent.

    Gradient: reaches class and quality logits and boxes; the weights are constants.

    Raises:
        TypeError: the assignment is not MuSu's.

    Source:
        MuSu, eq. 5, 7 and 8. The paper's normaliser is the weights "in an image"; so it is under
        ``normaliser="image"``, and by default it is those of the batch. Either is at least 1.
    """
    if not isinstance(assignment, MuSuAssignment):
        raise TypeError(f"MuSu learns from a MuSuAssignment, got {type(assignment)}")
    pairs = assignment.candidates
    probability = joint_probability(predictions)  # (B, A, C)
    negative = (
        (1 - alpha) * probability.clamp(min=MIN_BASE).pow(gamma) * neg_log_complement(probability)
    )
    at_pairs = (pairs.image, pairs.prior, gts.labels[pairs.gt])
    log_p = log_pair_probability(predictions, pairs, gts)  # (N,)
    missing = (1 - probability[at_pairs]).clamp(min=MIN_BASE)
    positive = alpha * missing.pow(gamma) * -log_p
    # The sum over the map counts each pair's negative term once: bags share no prior.
    terms = assignment.pos_weight * positive + (assignment.neg_weight - 1) * negative[at_pairs]
    gap = pair_giou_loss(predictions, pairs, gts)
    cls_sum = negative.sum(dim=(1, 2)).index_add(0, pairs.image, terms)  # (B,)
    nothing = torch.zeros_like(cls_sum, requires_grad=False)
    box_sum = nothing.index_add(0, pairs.image, assignment.box_weight * gap)
    cls_weight = nothing.index_add(0, pairs.image, assignment.pos_weight.to(nothing.dtype))
    box_weight = nothing.index_add(0, pairs.image, assignment.box_weight.to(nothing.dtype))
    if assignment.normaliser == "image":
        return (cls_sum / cls_weight.clamp(min=1)).mean(), (
            box_sum / box_weight.clamp(min=1)
        ).mean()
    total_cls, total_box = mean_over_ranks(cls_weight.sum(), box_weight.sum(), like=cls_sum)
    return cls_sum.sum() / total_cls.clamp(min=1), box_sum.sum() / total_box.clamp(min=1)


def initial_log_sizes(num_anchors: int, seed: int) -> Tensor:
    """Half width and half height of the initial box of each prior of a location.

    Scales are uniform in [1, 2], aspect ratios (height / width) in [1/2, 2]; the area is that of a
    square of ``2 * scale`` strides.

    Returns:
        (num_anchors, 2) float32 logarithms, in strides; the same on every machine.

    Source:
        MuSu, sec. 4.2, which draws the two without saying what keeps the area.
    """
    draws = torch.rand(num_anchors, 2, generator=torch.Generator().manual_seed(seed))
    scale, ratio = 1 + draws[:, 0], 0.5 + 1.5 * draws[:, 1]
    stretch = ratio.log() / 2
    return torch.stack([scale.log() - stretch, scale.log() + stretch], dim=1)


def _init_cfg(prior_prob: float) -> dict[str, Any]:
    """mmengine's initialisation: normal 0.01 everywhere, but the regression starts at 0."""
    return dict(
        type="Normal",
        layer="Conv2d",
        std=0.01,
        override=[
            dict(type="Normal", name="conv_cls", std=0.01, bias_prob=prior_prob),
            dict(type="Constant", name="conv_reg", val=0.0, bias=0.0),
        ],
    )
