"""AutoAssign: a GT is found if its points together find it, weighted by place and confidence.

Positive weights are differentiable: w+ = e^(P / tau) G / sum e^(P / tau) G, with the confidence P
of the chosen network and the centre prior G of the learner. So ``assign`` gives e^(P / tau) only,
and the learner's prior completes the weight in its loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assigners.center import gt_logsumexp
from assigners.points import (
    COST_FORMS,
    best_overlap,
    gt_count,
    gt_max,
    gt_min,
    inside_candidates,
    log_pair_probability,
    pair_cost,
    pair_giou_loss,
    pair_probability,
)
from assigners.types import (
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    Priors,
    SoftAssignment,
    Step,
)

CONFIDENCES = ("joint", "cls", "loc")
WEIGHTS_ON = ("score", "loss")
EPS = 1e-12
_MAX_EXPONENT = 50.0  # e^(1 / tau) must stay far from float32's largest number


@dataclass(frozen=True, kw_only=True)
class AutoAssignAssignment(SoftAssignment):
    """e^(P / tau) as ``pos_weight`` and ``box_weight``, w- as ``neg_weight``.

    The learner's centre prior and the normalisation over a GT's points come on top, in the loss.
    In self-assignment ``pos_weight`` has the gradient of the network's own confidence.
    """

    assigner: AutoAssigner
    """The method's constants, which the loss needs as well."""


@dataclass(frozen=True, kw_only=True)
class AutoAssigner:
    """Hyper-parameters of AutoAssign. The learned centre prior is the head's (``center_prior``).

    Source:
        AutoAssign, sec. 3. Defaults are those of the released code, which mmdet reproduces.
    """

    assignment_kind: ClassVar[str] = "soft"
    default_scope: ClassVar[str] = "gt"

    tau: float = 1 / 3
    """Temperature of the confidence weight e^(P / tau), Eq. 9; at least 0.02."""
    lambda_: float = 5.0
    """Weight of the box in the confidence: p_loc = exp(-lambda (1 - GIoU)), Eq. 4-7."""
    center_weighting: bool = True
    """Whether the learner's centre prior enters w+, table 2."""
    confidence_weighting: bool = True
    """Whether e^(P / tau) enters w+, table 2."""
    negative_weighting: bool = True
    """Whether well-placed boxes learn less background; else w- = 1 everywhere."""
    confidence: str = "joint"
    """The P of e^(P / tau), table 4: p_cls p_loc, ``"cls"``: p_cls, ``"loc"``: p_loc."""
    detach_weights: bool = False
    """Whether w+ is a constant of the loss (DW, table 6: 39.8 for 40.4 AP). The centre prior then
    stays as it began, since its own loss alone would widen it without end."""
    weights_on: str = "score"
    """What w+ and w- multiply: probabilities inside the logarithm, or ``"loss"`` terms (DW, table
    6, with detached weights: 36.6 AP)."""
    pos_loss_weight: float = 0.25
    """Weight of the positive loss."""
    neg_loss_weight: float = 0.75
    """Weight of the negative loss."""
    center_loss_weight: float = 0.75
    """Weight of the loss that keeps the centre prior wide; not in the paper."""
    cost: str = "neg_log"
    """Cost of a pair that another network looks at: -ln P with P = p_cls p_loc, or
    ``"one_minus"``: 1 - P."""

    def __post_init__(self) -> None:
        for name, known in (
            ("confidence", CONFIDENCES),
            ("weights_on", WEIGHTS_ON),
            ("cost", COST_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"AutoAssign: {name} must be one of {known}, got {getattr(self, name)!r}"
                )
        if not 1 / _MAX_EXPONENT <= self.tau < math.inf:
            raise ValueError(f"AutoAssign: tau must be finite and >= 0.02, got {self.tau!r}")
        for name in ("lambda_", "pos_loss_weight", "neg_loss_weight", "center_loss_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"AutoAssign: {name} must be finite and >= 0, got {value!r}")

    # -- the contract ---------------------------------------------------------------------------

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """Pairs of a GT and a point strictly inside it, on all levels. One synchronisation.

        Source:
            AutoAssign, sec. 3.1. The released code can also take the nearest points of a GT without
            a point inside (``force_topk``); that is off there and does not exist here.
        """
        return inside_candidates(priors, gts)

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """Confidences of each pair.

        Returns:
            Columns ``p_cls`` and ``p_loc``, with gradient, and ``max_iou_any_gt``, the overlap of
            the pair's box with the GT of the image that it overlaps most, detached. The cost is
            detached.

        Source:
            AutoAssign, sec. 3.3 and Eq. 11.
        """
        p_cls = pair_probability(predictions, candidates, gts)
        p_loc = torch.exp(-self.lambda_ * pair_giou_loss(predictions, candidates, gts))
        overlap = best_overlap(predictions.boxes, candidates, gts)[0]
        return CostTable(
            cost=pair_cost(p_cls * p_loc, self.cost),
            columns={"p_cls": p_cls, "p_loc": p_loc, "max_iou_any_gt": overlap},
        )

    def assign(
        self,
        table: CostTable,
        candidates: Candidates,
        priors: Priors,
        gts: GroundTruths,
        *,
        num_classes: int,
        step: Step | None = None,
        live: CostTable | None = None,
    ) -> AutoAssignAssignment:
        """Weights from the chosen rows; ``step`` and ``live`` are not used. No synchronisation.

        Returns:
            ``pos_weight`` has the gradient that the rows have: in self-assignment they are the
            network's own. Statistic ``gt_without_candidate``.

        Source:
            AutoAssign, sec. 3.3.3 and 3.4.
        """
        confidence = self._confidence(table)
        overlap = table.columns["max_iou_any_gt"].detach()
        return AutoAssignAssignment(
            candidates=candidates,
            pos_weight=confidence,
            box_weight=confidence,
            neg_weight=self.negative_weight(overlap, candidates, gts),
            assigner=self,
            stats={"gt_without_candidate": (gt_count(candidates.gt, gts.num_gts) == 0).sum()},
        )

    # -- the formulas ---------------------------------------------------------------------------

    def _confidence(self, table: CostTable) -> Tensor:
        """(N,) e^(P / tau), Eq. 9."""
        p_cls, p_loc = table.columns["p_cls"], table.columns["p_loc"]
        chosen = {"joint": p_cls * p_loc, "cls": p_cls, "loc": p_loc}[self.confidence]
        if not self.confidence_weighting:
            return torch.ones_like(p_cls.detach())
        return torch.exp((chosen.detach() if self.detach_weights else chosen) / self.tau)

    def negative_weight(self, overlap: Tensor, candidates: Candidates, gts: GroundTruths) -> Tensor:
        """(N,) w- in [0, 1]: 0 at the GT's best box, 1 at its worst, 0 at its only one.

        Source:
            AutoAssign, Eq. 11; f is the min-max normalisation within the GT.
        """
        if not self.negative_weighting:
            return torch.ones_like(overlap)
        odds = 1 / (1 - overlap).clamp(min=EPS)
        lowest = gt_min(odds, candidates.gt, gts.num_gts)[candidates.gt]
        highest = gt_max(odds, candidates.gt, gts.num_gts)[candidates.gt]
        return 1 - (odds - lowest + EPS) / (highest - lowest + EPS)

    def log_confidence(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) ln of p_cls p_loc, with gradient: what a learner's bag is made of."""
        gap = pair_giou_loss(predictions, candidates, gts)
        return log_pair_probability(predictions, candidates, gts) - self.lambda_ * gap

    def log_positive_weight(
        self, confidence: Tensor, log_prior: Tensor, gt: Tensor, num_gts: int
    ) -> Tensor:
        """(N,) ln w+ of Eq. 10, detached where ``detach_weights``.

        Args:
            confidence: (N,) e^(P / tau) of the chosen rows.
            log_prior: (N,) ln G of the learner.
            gt: (N,) GT of each pair.
        """
        weight = confidence.log() + log_prior
        total = gt_logsumexp(weight, gt, num_gts).clamp(min=math.log(EPS))
        log_weight = weight - total[gt]
        return log_weight.detach() if self.detach_weights else log_weight
