"""Dual weighting: every point inside a GT has a positive and a negative weight of its own.

The positive weight follows how well class score and box agree, the negative one how likely the box
is to count as a false detection. Both come from one network's predictions; the loss that they weigh
is the learner's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assigners.points import (
    COST_FORMS,
    gaussian_prior,
    gt_count,
    gt_max,
    gt_min,
    gt_sum,
    inside_candidates,
    pair_cost,
    pair_giou_loss,
    pair_iou,
    pair_probability,
    rank_in_gt_level,
    take_pairs,
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

READINGS = ("released", "paper")
CANDIDATE_BAGS = ("soft_center_prior", "threshold", "topk")
CENTER_PRIORS = ("soft", "hard")
W_NEG_VARIANTS = ("none", "p_neg", "i_neg", "one_minus_w_pos", "p_neg_times_i_neg")
IOU_LOW, IOU_HIGH = 0.5, 0.95
"""COCO's IoU thresholds: below the first a detection is false, above the last it is true."""
EPS = 1e-12
_RELEASED_SIGMA, _PAPER_SIGMA = 1.11, math.sqrt(0.5)
_RELEASED_MU_NORM = 3.0
_MAX_MU = 50.0  # exp(mu) must stay far from float32's largest number


@dataclass(frozen=True, kw_only=True)
class DWAssignment(SoftAssignment):
    """Weights of the pairs, all detached, and the constants of the loss that they enter.

    Per pair, with the learner's score s and box: positive
    ``pos_factor * pos_weight * -ln s + box_factor * box_weight * (1 - GIoU)``, negative
    ``neg_weight * I * -ln(1 - s)`` with I = s^gamma_2, or 1 without ``use_importance``. Background:
    ``background_factor * s^background_gamma * -ln(1 - s)``.
    """

    p_neg: Tensor
    """(N,) in [0, 1]; 1 minus it, summed over the map, normalises the negative loss."""
    pos_factor: float
    box_factor: float
    use_importance: bool
    """Whether the negative term of a pair has the factor s^gamma_2."""
    gamma_2: float
    detach_importance: bool
    """Whether that factor is a constant (paper) or learns (released code)."""
    background_factor: float
    background_gamma: float

    @property
    def importance_everywhere(self) -> bool:
        """Whether pairs have the importance of the background, so that one map serves both."""
        return (
            self.use_importance
            and not self.detach_importance
            and self.background_factor == 1
            and self.background_gamma == self.gamma_2
        )


@dataclass(frozen=True, kw_only=True)
class DWAssigner:
    """Hyper-parameters of DW.

    Source:
        DW, sec. 3.2-3.3 and 3.5, tables 2-5. Reference code differs in every formula;
        ``reading="released"`` (default) is the code, ``"paper"`` the text. Fields that are None
        take the value that the reading implies.
    """

    assignment_kind: ClassVar[str] = "soft"
    default_scope: ClassVar[str] = "gt"

    reading: str = "released"
    """``"released"``: p = s exp(-beta (1 - GIoU)); ``"paper"``: p = s IoU^beta, Eq. 3."""
    beta: float = 5.0
    """Balance of box against class in p, the consistency of a pair."""
    mu: float = 5.0
    """Exponent of the positive weight: exp(mu p) p."""
    mu_norm: float | None = None
    """The same in the sum that normalises it: 3 (released), ``mu`` (paper)."""
    gamma_1: float = 2.0
    """Power of IoU in the probability of being negative, > 0."""
    gamma_2: float = 2.0
    """Power of s in the importance of a negative."""
    reg_loss_weight: float | None = None
    """Weight of 1 - GIoU beside the classification term; None ties it to ``beta``, as in Eq. 11."""
    w_neg: str = "p_neg_times_i_neg"
    """Negative weight inside the bag, table 5: ``"none"`` (0), ``"p_neg"``, ``"i_neg"``,
    ``"one_minus_w_pos"`` or their default product."""
    candidate_bag: str = "soft_center_prior"
    """Which points inside a GT enter its bag, table 4: all, weighted by the centre prior; those
    nearer to the centre than ``radius`` (``"threshold"``); the ``k`` nearest of each level
    (``"topk"``). The others are background."""
    radius: float = 1.5
    """For ``"threshold"``: in strides of the point's level. The paper tries 1, 1.3, 1.7, 2, 2.5."""
    k: int = 9
    """For ``"topk"``: points per level. The paper tries 9, 12, 15."""
    center_prior: str = "soft"
    """``"soft"``: exp(-r^2 / (2 center_sigma^2)), r in strides; ``"hard"``: 1 where that exceeds
    ``hard_prior_threshold``, else 0 (an option of the released code)."""
    center_sigma: float | None = None
    """In strides: 1.11 (released), sqrt(1/2), which gives exp(-r^2) (paper)."""
    hard_prior_threshold: float = 0.3
    cost: str = "neg_log"
    """Cost of a pair that another network looks at: -ln p, or ``"one_minus"``: 1 - p."""

    def __post_init__(self) -> None:
        for name, known in (
            ("reading", READINGS),
            ("w_neg", W_NEG_VARIANTS),
            ("candidate_bag", CANDIDATE_BAGS),
            ("center_prior", CENTER_PRIORS),
            ("cost", COST_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"DW: {name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("beta", "gamma_2", "reg_loss_weight"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"DW: {name} must be finite and >= 0, got {value!r}")
        for name in ("mu", "mu_norm"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= _MAX_MU:
                raise ValueError(f"DW: {name} must be in [0, {_MAX_MU:g}], got {value!r}")
        for name in ("gamma_1", "radius", "center_sigma"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"DW: {name} must be finite and > 0, got {value!r}")
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f"DW: k must be an integer >= 1, got {self.k!r}")
        if not 0 <= self.hard_prior_threshold < 1:
            raise ValueError(
                f"DW: hard_prior_threshold must be in [0, 1), got {self.hard_prior_threshold!r}"
            )

    # -- the contract ---------------------------------------------------------------------------

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """Pairs of a GT and a point of its bag, which lies strictly inside it on any level.

        Costs one synchronisation, or two where ``candidate_bag`` leaves points out.

        Source:
            DW, table 4. The paper's bags by distance do not say whether points outside the GT may
            enter; here they may not, since distances to its sides are >= 0.
        """
        pairs = inside_candidates(priors, gts)
        if self.candidate_bag == "soft_center_prior":
            return pairs
        assert pairs.offset is not None
        distance = torch.linalg.vector_norm(pairs.offset, dim=-1)  # (N,) in strides
        if self.candidate_bag == "threshold":
            keep = distance < self.radius
        else:
            keep = rank_in_gt_level(distance, pairs) < self.k
        return take_pairs(pairs, keep)[0]

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """Consistency of class and box of each pair, detached.

        Returns:
            Columns ``p_pos`` (s times the localisation term) and ``iou`` (predicted box and GT);
            the cost is -ln p_pos.

        Source:
            DW, eq. 3; reference code differs: exp(-5 (1 - GIoU)) for IoU^5.
        """
        with torch.no_grad():
            score = pair_probability(predictions, candidates, gts)
            iou = pair_iou(predictions, candidates, gts)
            if self.reading == "released":
                gap = pair_giou_loss(predictions, candidates, gts)
                p_pos = score * torch.exp(-self.beta * gap)
            else:
                p_pos = score * iou.pow(self.beta)
        cost = pair_cost(p_pos, self.cost)
        return CostTable(cost=cost, columns={"p_pos": p_pos, "iou": iou})

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
    ) -> DWAssignment:
        """Weights from the chosen rows; ``step`` and ``live`` are not used. No synchronisation.

        Returns:
            Detached weights; statistics ``gt_without_candidate`` and ``pos_weight_per_gt``, the
            mean over GTs of the sum of their positive weights.

        Source:
            DW, sec. 3.2-3.3.
        """
        assert candidates.offset is not None
        p_pos, iou = (table.columns[name].detach() for name in ("p_pos", "iou"))
        w_pos = self.positive_weight(p_pos, self.prior_weight(candidates.offset), candidates, gts)
        p_neg = self.negative_probability(iou, candidates, gts)
        total = gt_sum(w_pos, candidates.gt, gts.num_gts)
        released = self.reading == "released"
        pos_factor = 0.25 if released else 1.0
        reg_weight = self.beta if self.reg_loss_weight is None else self.reg_loss_weight
        return DWAssignment(
            candidates=candidates,
            pos_weight=w_pos,
            box_weight=w_pos,
            neg_weight=self._negative_weight(p_neg, w_pos),
            p_neg=p_neg,
            pos_factor=pos_factor,
            box_factor=pos_factor * reg_weight,
            use_importance=self.w_neg in ("none", "i_neg", "p_neg_times_i_neg"),
            gamma_2=self.gamma_2,
            detach_importance=not released,
            background_factor=1.0 if released else 0.75,
            background_gamma=self.gamma_2 if released else 2.0,
            stats={
                "gt_without_candidate": (gt_count(candidates.gt, gts.num_gts) == 0).sum(),
                "pos_weight_per_gt": total.sum() / max(gts.num_gts, 1),
            },
        )

    # -- the formulas ---------------------------------------------------------------------------

    def prior_weight(self, offset: Tensor) -> Tensor:
        """(N,) centre prior of pairs whose points lie ``offset`` (N, 2) strides off the centre."""
        if self.candidate_bag != "soft_center_prior":
            return torch.ones_like(offset[:, 0])
        implied = _RELEASED_SIGMA if self.reading == "released" else _PAPER_SIGMA
        sigma = implied if self.center_sigma is None else self.center_sigma
        weight = gaussian_prior(offset, 0.0, sigma)
        if self.center_prior == "soft":
            return weight
        return (weight > self.hard_prior_threshold).to(weight.dtype)

    def positive_weight(
        self, p_pos: Tensor, prior: Tensor, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) exp(mu p) p G over the GT's sum of exp(mu_norm p) p G.

        Source:
            DW, eq. 4; reference code differs: its sum has exponent 3 where the weight has 5, so
            weights add up to more than 1.
        """
        implied = _RELEASED_MU_NORM if self.reading == "released" else self.mu
        mu_norm = implied if self.mu_norm is None else self.mu_norm
        base = p_pos * prior
        total = gt_sum(torch.exp(mu_norm * p_pos) * base, candidates.gt, gts.num_gts)
        return torch.exp(self.mu * p_pos) * base / total.clamp(min=EPS)[candidates.gt]

    def negative_probability(
        self, iou: Tensor, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) P_neg in [0, 1]: 1 below IoU 0.5, lower for better boxes.

        Released: 1 - IoU^gamma_1, scaled to 1 at IoU 0.5, then min-max normalised within the GT, so
        its best box gets 0. Paper: the curve through (0.5, 1) and (0.95, 0).

        Source:
            DW, eq. 5 and 6.
        """
        if self.reading == "paper":
            low, high = IOU_LOW**self.gamma_1, IOU_HIGH**self.gamma_1
            curve = (high - iou.pow(self.gamma_1)) / (high - low)
            return torch.where(iou < IOU_LOW, 1.0, curve.clamp(min=0, max=1))
        odds = (1 - iou.pow(self.gamma_1)) / (1 - IOU_LOW**self.gamma_1)
        lowest = gt_min(odds, candidates.gt, gts.num_gts)[candidates.gt]
        highest = gt_max(odds, candidates.gt, gts.num_gts)[candidates.gt].clamp(max=1)
        normalised = (odds - lowest + EPS) / (highest - lowest + EPS)
        return torch.where(iou < IOU_LOW, 1.0, normalised)

    def _negative_weight(self, p_neg: Tensor, w_pos: Tensor) -> Tensor:
        """(N,) in [0, 1]: what is multiplied with the importance, or stands alone."""
        if self.w_neg in ("p_neg", "p_neg_times_i_neg"):
            return p_neg
        if self.w_neg == "one_minus_w_pos":
            return (1 - w_pos).clamp(min=0)  # released weights may exceed 1
        return torch.full_like(p_neg, 1.0 if self.w_neg == "i_neg" else 0.0)
