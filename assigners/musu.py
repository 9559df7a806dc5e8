"""Mutual supervision: the box ranks who learns the class, and the class ranks who learns the box.

Of the points inside a GT, those whose predicted box overlaps this GT most belong to it; the likely
ones among them form its bag. Two rankings of the bag give two sets of weights, one for each branch
of the head. All of it comes from one network's predictions; the loss is the learner's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assigners.points import (
    COST_FORMS,
    best_overlap,
    gt_count,
    gt_max,
    inside_candidates,
    pair_cost,
    pair_iou,
    pair_probability,
    rank_in_group,
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

CRITERIA = ("mutual", "p_both", "q_both")
TEMPERATURES = ("sqrt_bag_size", "fixed")
TARGETS = ("soft", "hard")
NORMALISERS = ("batch", "image")
OWNER_RULES = ("all", "inside")


@dataclass(frozen=True, kw_only=True)
class MuSuAssignment(SoftAssignment):
    """Weights of the pairs in bags, all detached; every other prior is background.

    ``candidates`` holds the bags alone, and a prior at most once. With l+ and l- the focal terms of
    the GT's class a pair's loss is ``pos_weight l+ + neg_weight l- + box_weight (1 - GIoU)``.
    """

    normaliser: str
    """Whose positive weights divide the loss: those of the ``"batch"``, or of each ``"image"``."""


@dataclass(frozen=True, kw_only=True)
class MuSuAssigner:
    """Hyper-parameters of MuSu.

    With p the class score and q = IoU^theta of a pair, its bag holds the pairs of a GT for which
    p q > b max p q, and weights follow from their ranks R there: w = exp(-R / tau).

    Source:
        MuSu, sec. 3 and 4.1, tables 1-4. There is no released code.
    """

    assignment_kind: ClassVar[str] = "soft"
    default_scope: ClassVar[str] = "gt"

    b: float = 0.1
    """Threshold of the bag, as a share of the GT's best p q. Table 2: 0.2, 0.1, 0.05."""
    theta: float = 4.0
    """Power of IoU in q, > 0."""
    criterion: str = "mutual"
    """What ranks: ``"mutual"``: q p^alpha for the class branch, p q^alpha for the box branch;
    ``"p_both"`` or ``"q_both"``: that alone for both (table 1)."""
    alpha: float = 1 / 3
    """Share of the branch's own output in its ranking, 0 to 1; for ``"mutual"``. Table 1: 1, 1/2,
    1/3, 1/4, 1/6, 0."""
    temperature: str = "sqrt_bag_size"
    """tau of the class branch: root of the bag's size, or ``"fixed"``: ``tau_cls``."""
    tau_cls: float | None = None
    """For ``"fixed"``, and required there. Table 3: 5, 10."""
    tau_reg: float | None = None
    """For ``"fixed"``; None: tau_cls / tau_ratio. Table 3: 2.5, 5."""
    tau_ratio: float = 2.0
    """tau of the class branch over that of the box branch. Table 4: 1, 1.5, 2, 3."""
    targets: str = "soft"
    """``"soft"``: w = exp(-R / tau); ``"hard"``: 1 where R < tau, else 0."""
    beta: float = 4.0
    """Power of 1 - w in the negative weight of a pair in a bag."""
    normaliser: str = "batch"
    """Sum of positive weights that divides the losses: over the ``"batch"`` (mean-reduced over the
    ranks), or over each ``"image"``, whose losses are then averaged."""
    owner_rule: str = "all"
    """Whose overlaps decide which GT owns a point: those with ``"all"`` GTs of the image, so that a
    point may own none that contains it, or with those it lies ``"inside"``."""
    cost: str = "neg_log"
    """Cost of a pair that another network looks at: -ln(p q), or ``"one_minus"``: 1 - p q."""

    def __post_init__(self) -> None:
        for name, known in (
            ("criterion", CRITERIA),
            ("temperature", TEMPERATURES),
            ("targets", TARGETS),
            ("normaliser", NORMALISERS),
            ("owner_rule", OWNER_RULES),
            ("cost", COST_FORMS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"MuSu: {name} must be one of {known}, got {getattr(self, name)!r}"
                )
        if not 0 <= self.b < 1:
            raise ValueError(f"MuSu: b must be in [0, 1), got {self.b!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"MuSu: alpha must be in [0, 1], got {self.alpha!r}")
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"MuSu: beta must be finite and >= 0, got {self.beta!r}")
        for name in ("theta", "tau_cls", "tau_reg", "tau_ratio"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"MuSu: {name} must be finite and > 0, got {value!r}")
        self._check_temperature()

    def _check_temperature(self) -> None:
        if self.temperature == "fixed":
            if self.tau_cls is None:
                raise ValueError("MuSu: temperature='fixed' needs tau_cls, got None")
            return
        for name in ("tau_cls", "tau_reg"):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"MuSu: {name}={getattr(self, name)!r} does not fit temperature="
                    f"{self.temperature!r}, which finds it; set temperature='fixed' or leave it out"
                )

    # -- the contract ---------------------------------------------------------------------------

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """All pairs of a GT and a point strictly inside it, once for each prior of the point.

        Ownership depends on predictions, so it is a column of the costs. One synchronisation.
        """
        return inside_candidates(priors, gts)

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """Class score, overlap and ownership of each pair, detached.

        Returns:
            Columns ``p`` (class score), ``q`` (IoU^theta) and ``owned`` (1 where the GT is the one
            that the predicted box overlaps most, else 0); the cost is -ln(p q). No synchronisation.

        Source:
            MuSu, eq. 1 and procedure 1, line 4. Equal overlaps: the lower GT owns.
        """
        with torch.no_grad():
            p = pair_probability(predictions, candidates, gts)
            iou = pair_iou(predictions, candidates, gts)
            if self.owner_rule == "all":
                owned = best_overlap(predictions.boxes, candidates, gts)[1] == candidates.gt
            else:
                images, priors = predictions.boxes.shape[:2]
                everyone = torch.ones_like(candidates.prior, dtype=torch.bool)
                owned = _best_of_prior(iou, everyone, candidates, priors, images)
            q = iou.pow(self.theta)
        columns = {"p": p, "q": q, "owned": owned.to(p.dtype)}
        return CostTable(cost=pair_cost(p * q, self.cost), columns=columns)

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
    ) -> MuSuAssignment:
        """Bags, ranks and weights from the chosen rows; ``step`` and ``live`` are not used.

        Rows chosen from several networks may give one prior to several GTs; the one with the
        highest q keeps it, the lower of equal ones. One synchronisation.

        Returns:
            Statistics ``gt_without_candidate``, ``gt_without_bag``, ``bag_size`` (mean over GTs)
            and ``contested`` (pairs that a GT lost because the rows of another network gave the
            prior to another GT).

        Source:
            MuSu, eq. 2-4, 6 and 7, procedure 1.
        """
        p, q = (table.columns[name].detach() for name in ("p", "q"))
        claimed = table.columns["owned"].detach() > 0.5
        owned = _best_of_prior(q, claimed, candidates, priors.num_priors, priors.num_images)
        joint = torch.where(owned, p * q, 0.0)
        best = gt_max(joint, candidates.gt, gts.num_gts)
        bag, rows = take_pairs(candidates, owned & (joint > self.b * best[candidates.gt]))
        size = gt_count(bag.gt, gts.num_gts)  # (G,)
        v_cls, v_reg = self.criteria(p[rows], q[rows])
        tau_cls, tau_reg = self.temperatures(size[bag.gt].to(p.dtype))
        w_cls = self.weight(rank_in_group(-v_cls, bag.gt), tau_cls)
        w_reg = self.weight(rank_in_group(-v_reg, bag.gt), tau_reg)
        return MuSuAssignment(
            candidates=bag,
            pos_weight=w_cls,
            neg_weight=(1 - w_cls).pow(self.beta),
            box_weight=w_reg,
            normaliser=self.normaliser,
            stats={
                "gt_without_candidate": (gt_count(candidates.gt, gts.num_gts) == 0).sum(),
                "gt_without_bag": (size == 0).sum(),
                "bag_size": size.sum() / max(gts.num_gts, 1),
                "contested": claimed.sum() - owned.sum(),
            },
        )

    # -- the formulas ---------------------------------------------------------------------------

    def criteria(self, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        """What ranks the pairs of a bag for the class branch and for the box branch, (N,) each.

        Source:
            MuSu, eq. 3 and table 1.
        """
        if self.criterion == "p_both":
            return p, p
        if self.criterion == "q_both":
            return q, q
        return q * p.pow(self.alpha), p * q.pow(self.alpha)

    def temperatures(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """tau of the class branch and of the box branch for bags of ``size`` (N,) pairs.

        Source:
            MuSu, eq. 6, tables 3 and 4.
        """
        if self.tau_cls is None:
            return size.sqrt(), size.sqrt() / self.tau_ratio
        reg = self.tau_cls / self.tau_ratio if self.tau_reg is None else self.tau_reg
        return torch.full_like(size, self.tau_cls), torch.full_like(size, reg)

    def weight(self, rank: Tensor, tau: Tensor) -> Tensor:
        """(N,) weight in [0, 1] of the pairs at ``rank`` (N,) int64, 0 for the best.

        Source:
            MuSu, eq. 4; hard targets: sec. 4.2.
        """
        if self.targets == "hard":
            return (rank < tau).to(tau.dtype)
        return torch.exp(-rank / tau)


def _best_of_prior(
    values: Tensor, allowed: Tensor, candidates: Candidates, num_priors: int, num_images: int
) -> Tensor:
    """(N,) bool: the allowed pair of each prior with the highest value (>= 0), then lowest GT."""
    gt, flat = candidates.gt, candidates.image * num_priors + candidates.prior
    cells = num_images * num_priors
    best = values.new_full((cells,), -1.0).scatter_reduce(
        0, flat, torch.where(allowed, values, -1.0), reduce="amax"
    )
    at_best = allowed & (values == best[flat])
    beyond = torch.iinfo(gt.dtype).max
    first = gt.new_full((cells,), beyond).scatter_reduce(
        0, flat, torch.where(at_best, gt, beyond), reduce="amin"
    )
    return at_best & (gt == first[flat])
