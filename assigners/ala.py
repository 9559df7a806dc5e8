"""ALA: a score from class, box, place and appearance splits each GT's points into three sets.

S+ says how well a point stands for a GT. Its mean and deviation over the GT's points divide them
into hard positives (learn 1), soft positives (learn a label that falls with training) and
negatives. The learner's S+ is also what it learns by: there is no separate box loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assigners.boxes import aligned_iou
from assigners.center import log_center_weight, log_gaussian
from assigners.focal import floored_log
from assigners.points import (
    COST_FORMS,
    MIN_PROBABILITY,
    gt_count,
    gt_max,
    gt_mean,
    gt_min,
    inside_candidates,
    joint_probability,
    log_pair_probability,
    pair_boxes,
    pair_cost,
    pair_giou_loss,
    rank_in_group,
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

FOREGROUND, BACKGROUND = "foreground", "background"
"""Keys of the extras: (B, A) probabilities of the property map at each prior."""
COMBINATIONS = ("mul", "add")
BETA_SIDES = ("cls", "loc")
LOC_LIKELIHOODS = ("consistent", "literal", "loss")
NEGATIVE_MAPS = ("background", "none")
NORMALIZERS = ("split", "gts")
ADAPTIVE = "adaptive"


@dataclass(frozen=True, kw_only=True)
class ALAAssignment(SoftAssignment):
    """Three sets of pairs, all detached. Neither hard nor soft: negative.

    ``pos_weight`` and ``box_weight`` are the label: 1 for hard positives, xi for soft ones, 0 for
    negatives. ``neg_weight`` is 1 for negatives, 0 for the others; a point that is positive for any
    GT of a class is no negative of that class.
    """

    assigner: ALAAssigner
    """The method's constants, which the loss needs as well."""
    hard: Tensor
    """(N,) bool."""
    soft: Tensor
    """(N,) bool."""


@dataclass(frozen=True, kw_only=True)
class ALAAssigner:
    """Hyper-parameters of ALA. Branches (property map, centre prior) are the head's.

    A network that states no centre prior has the initial one (mean 0, sigma 1); without property
    map that factor is 1.

    Source:
        ALA, sec. III. There is no released code; where the text contradicts itself the fields say
        which reading is the default.
    """

    assignment_kind: ClassVar[str] = "soft"
    default_scope: ClassVar[str] = "gt"

    confidence: bool = True
    """Whether class and box enter the scores, table III."""
    weight: bool = True
    """Whether centre prior and property map enter the scores, table III."""
    use_p_cls: bool = True
    """Whether the class enters S+, table IV; without box it stands alone."""
    use_p_loc: bool = True
    """Whether the box enters S+, table IV; without class it stands alone."""
    combine: str = "mul"
    """``"mul"``: p_cls^beta p_loc^(1 - beta), Eq. 3; ``"add"``: the weighted mean."""
    alpha: float = 0.8
    """Exponent of the localisation likelihood, Eq. 2."""
    beta: float = 0.6
    """Share of the class (or of the box: ``beta_applies_to``) in the confidence."""
    beta_applies_to: str = "cls"
    """``"cls"``, as Eq. 3, or ``"loc"``, which the text on table V suggests."""
    loc_likelihood: str = "consistent"
    """``"consistent"``: exp(-(1 - IoU)^alpha); ``"literal"``: exp(-IoU^alpha), as Eq. 2 is printed,
    which falls with IoU; ``"loss"``: exp(-lambda (1 - GIoU)), AutoAssign's."""
    lambda_: float = 5.0
    """For ``"loss"``."""
    center_weight: bool = True
    """Whether the centre prior enters, table VI."""
    property_map: bool = True
    """Whether the property map enters. Table VI switches its blur: the head's ``shape_blur``."""
    negative_map: str = "background"
    """``"background"``: S- = p_cls M-, Eq. 7. Only negatives teach M-, and all of them teach it to
    be 0, so that small networks soon have no negatives left; ``"none"``: S- = p_cls."""
    ps3: bool = True
    """Three sets; else every point inside is a hard positive, table VIII."""
    positive_threshold: str | float = ADAPTIVE
    """``"adaptive"``: mean + std and mean - std; a number: hard from that score, the rest soft
    (table IX: 0.3 to 0.7)."""
    soft_label: str | float = ADAPTIVE
    """``"adaptive"``: Eq. 10; a number: xi (table X: 0.3 to 1)."""
    loss_hard_pos: bool = True
    """Table XI."""
    loss_soft_pos: bool = True
    """Table XI. Without it there are two sets, and what would be soft is negative."""
    loss_neg: bool = True
    """Table XI."""
    one_to_one: bool = False
    """The best point of a GT is its only positive (sec. IV-D); test without NMS
    (``model.test_cfg.nms=None``)."""
    normalizer: str = "split"
    """``"split"``: hard and soft losses over the number of GTs, negative loss over that of the
    positives; ``"gts"``: all over that of the GTs, in the proportions of Eq. 12, which has none."""
    center_loss_weight: float = 0.0
    """Weight of AutoAssign's loss that keeps a learned centre prior wide; not ALA's."""
    cost: str = "neg_log"
    """Cost of a pair that another network looks at: -ln S+, or ``"one_minus"``: 1 - S+."""

    def __post_init__(self) -> None:
        for name, known in (
            ("combine", COMBINATIONS),
            ("beta_applies_to", BETA_SIDES),
            ("loc_likelihood", LOC_LIKELIHOODS),
            ("negative_map", NEGATIVE_MAPS),
            ("normalizer", NORMALIZERS),
            ("cost", COST_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"ALA: {name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("positive_threshold", "soft_label"):
            value = getattr(self, name)
            if value == ADAPTIVE:
                continue
            if isinstance(value, (str, bool)) or not 0 <= value <= 1:
                raise ValueError(
                    f"ALA: {name} must be {ADAPTIVE!r} or a number in [0, 1], got {value!r}"
                )
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"ALA: alpha must be finite and > 0, got {self.alpha!r}")
        if not 0 <= self.beta <= 1:
            raise ValueError(f"ALA: beta must be in [0, 1], got {self.beta!r}")
        for name in ("lambda_", "center_loss_weight"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"ALA: {name} must be finite and >= 0, got {value!r}")
        if not (self.confidence or self.weight):
            raise ValueError("ALA: confidence and weight are both off: every score would be 1")
        if not (self.use_p_cls or self.use_p_loc):
            raise ValueError("ALA: use_p_cls and use_p_loc are both off: set confidence=False")

    # -- the contract ---------------------------------------------------------------------------

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """Pairs of a GT and a point strictly inside it, on all levels. One synchronisation."""
        return inside_candidates(priors, gts)

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """Score of each pair, detached: column ``s_pos`` (S+); the cost is -ln S+.

        Source:
            ALA, Eq. 2-7.
        """
        with torch.no_grad():
            s_pos = self.log_positive_score(predictions, candidates, gts).exp()
        return CostTable(cost=pair_cost(s_pos, self.cost), columns={"s_pos": s_pos})

    def assign(
        self,
        table: CostTable,
        candidates: Candidates,
        priors: Priors,
        gts: GroundTruths,
        *,
        num_classes: int,
        step: Step,
        live: CostTable | None = None,
    ) -> ALAAssignment:
        """Sets and labels from the chosen rows; ``live`` is not used. No synchronisation.

        Args:
            step: the soft label falls with ``iteration / max_iterations``.

        Returns:
            Statistics ``gt_without_candidate``, ``hard_positives``, ``soft_positives``.

        Source:
            ALA, algorithm 1 and Eq. 10.
        """
        score = table.columns["s_pos"].detach()
        hard, soft = self.positives(score, candidates, gts)
        label = torch.where(soft, self._soft_label(score, candidates, gts, step), hard.to(score))
        return ALAAssignment(
            candidates=candidates,
            pos_weight=label,
            box_weight=label,
            neg_weight=(~(hard | soft)).to(score),
            hard=hard,
            soft=soft,
            assigner=self,
            stats={
                "gt_without_candidate": (gt_count(candidates.gt, gts.num_gts) == 0).sum(),
                "hard_positives": hard.sum(),
                "soft_positives": soft.sum(),
            },
        )

    # -- scores ---------------------------------------------------------------------------------

    def log_positive_score(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) ln S+ with S+ = P+ C M+, at most 0, with gradient. Eq. 7."""
        dtype = torch.promote_types(predictions.boxes.dtype, torch.float32)
        result = torch.zeros_like(candidates.gt, dtype=dtype)
        if self.confidence:
            result = result + self._log_confidence(predictions, candidates, gts)
        if self.weight and self.center_weight:
            centre = log_center_weight(predictions, candidates, gts)
            assert candidates.offset is not None
            result = result + (log_gaussian(candidates.offset, 0, 1) if centre is None else centre)
        if self.weight and self.property_map and FOREGROUND in predictions.extras:
            foreground = predictions.extras[FOREGROUND][candidates.image, candidates.prior]
            result = result + foreground.clamp(min=MIN_PROBABILITY).log()
        return result

    def _log_confidence(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) ln P+, Eq. 3."""
        log_cls = log_pair_probability(predictions, candidates, gts)
        log_loc = self._log_localisation(predictions, candidates, gts)
        if not (self.use_p_cls and self.use_p_loc):
            return log_cls if self.use_p_cls else log_loc
        share = self.beta if self.beta_applies_to == "cls" else 1 - self.beta
        if self.combine == "mul":
            return share * log_cls + (1 - share) * log_loc
        return floored_log(share * log_cls.exp() + (1 - share) * log_loc.exp())

    def _log_localisation(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) ln P_loc, Eq. 2."""
        if self.loc_likelihood == "loss":
            return -self.lambda_ * pair_giou_loss(predictions, candidates, gts)
        iou = aligned_iou(pair_boxes(predictions, candidates), gts.boxes[candidates.gt])
        base = 1 - iou if self.loc_likelihood == "consistent" else iou
        # Below 1 the exponent has an infinite slope at 0.
        return -base.clamp(min=MIN_PROBABILITY).pow(self.alpha)

    def negative_score(self, predictions: DensePredictions) -> Tensor:
        """(B, A, C) S- = p_cls M-, with gradient. Eq. 7."""
        result = joint_probability(predictions)
        if not self.confidence:
            result = torch.ones_like(result)
        mapped = self.weight and self.property_map and self.negative_map == "background"
        if mapped and BACKGROUND in predictions.extras:
            result = result * predictions.extras[BACKGROUND][..., None]
        return result

    # -- sets and labels ------------------------------------------------------------------------

    def positives(
        self, score: Tensor, candidates: Candidates, gts: GroundTruths
    ) -> tuple[Tensor, Tensor]:
        """(N,) bool each: hard and soft positives.

        Equal scores of a GT are all hard.

        Source:
            ALA, algorithm 1; the deviation is that of the population.
        """
        gt, num_gts = candidates.gt, gts.num_gts
        nothing = torch.zeros_like(score, dtype=torch.bool)
        if self.one_to_one:
            return rank_in_group(-score, gt) == 0, nothing
        if not self.ps3:
            return ~nothing, nothing
        if self.positive_threshold != ADAPTIVE:
            hard = score >= float(self.positive_threshold)
            return hard, ~hard if self.loss_soft_pos else nothing
        wide = score.double()
        # Rounding must not put the mean of equal scores above them.
        mean = gt_mean(wide, gt, num_gts)
        mean = torch.minimum(mean, gt_max(wide, gt, num_gts))
        mean = torch.maximum(mean, gt_min(wide, gt, num_gts))
        std = gt_mean((wide - mean[gt]) ** 2, gt, num_gts).sqrt()
        hard = wide >= (mean + std)[gt]
        soft = ~hard & (wide >= (mean - std)[gt])
        return hard, soft if self.loss_soft_pos else nothing

    def _soft_label(
        self, score: Tensor, candidates: Candidates, gts: GroundTruths, step: Step
    ) -> Tensor:
        """(N,) xi in [0, 1], Eq. 10."""
        if self.soft_label != ADAPTIVE:
            return torch.full_like(score, float(self.soft_label))
        progress = min(step.iteration / max(step.max_iterations, 1), 1.0)
        schedule = 0.5 * (1 + math.cos(math.pi * progress))
        highest = gt_max(score, candidates.gt, gts.num_gts)[candidates.gt]
        return schedule * score / highest.clamp(min=MIN_PROBABILITY)
