"""Probabilistic anchor assignment: which priors of each GT are positive, judged by predictions.

Candidates come from anchor-GT overlap, costs from one network's predictions, and a Gaussian mixture
fitted to each GT's lowest costs separates positives from negatives. LAD and CoLAD use the same
three steps with another network's costs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from assigners.boxes import aligned_giou, aligned_iou, gt_blocks, pairwise_iou, rows_per_block
from assigners.focal import focal_cost
from assigners.mixture import fit_mixture
from assigners.types import (
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    Priors,
    Step,
)

SINGLE_CANDIDATE_RULES = ("drop", "keep")
CUTS = ("mode", "mean")
BOX_COSTS = ("giou", "iou")
_DENSITY_TIE = 1e-9  # log-densities closer than this are rounding noise of one tie
_MEAN_TIE = 1e-9  # relative: a cost closer than this to a mean is the mean


@dataclass(frozen=True, kw_only=True)
class Bags:
    """Per GT its lowest-cost candidates of each level, ascending by cost, padded to one length."""

    cost: Tensor
    """(G, K) float32; +inf where padded. K = top-k times levels."""
    row: Tensor
    """(G, K) int64 candidate row; -1 where padded."""
    mask: Tensor
    """(G, K) bool."""


@dataclass(frozen=True, kw_only=True)
class PAAAssigner:
    """Hyper-parameters of PAA's assignment.

    Source:
        PAA, sec. 3.1-3.2 and fig. 3(c); LAD, sec. 3.2. Reference code differs from the papers, and
        we follow the code: GIoU with weight 1.3 and focal loss over all classes in the cost,
        low-quality matches besides IoU >= 0.1, the nine lowest costs of each level, and a cut at
        the density mode of component 0 rather than at its mean. LAD's text is ``box_cost="iou"``,
        ``reg_weight=1``, ``low_quality=False`` and ``cut="mean"``.
    """

    assignment_kind: ClassVar[str] = "hard"
    default_scope: ClassVar[str] = "gt_level"

    topk: int = 9
    """Lowest-cost candidates of each GT and level that enter the mixture."""
    iou_threshold: float = 0.1
    """An anchor whose best IoU reaches this is a candidate of that GT."""
    low_quality: bool = True
    """Whether the anchors that overlap a GT most are candidates below ``iou_threshold``, too, and
    taken from other GTs."""
    cls_weight: float = 1.0
    """Weight of the focal loss in the cost."""
    reg_weight: float = 1.3
    """Weight of the box in the cost."""
    box_cost: str = "giou"
    """The box's part of the cost: 1 - GIoU, or ``"iou"``: 1 - IoU (LAD, eq. 2)."""
    alpha: float = 0.25
    """Focal loss: weight of the positive term."""
    gamma: float = 2.0
    """Focal loss: exponent of the modulating factor."""
    single_candidate: str = "drop"
    """A GT's only candidate: ``"drop"`` makes it negative (LAD, CoLAD), ``"keep"`` positive."""
    cut: str = "mode"
    """Where positives end: at the ``"mode"`` of the mixture's density among component 0, inclusive,
    or below the lower ``"mean"`` (LAD, sec. 3.2)."""

    def __post_init__(self) -> None:
        if isinstance(self.topk, bool) or not isinstance(self.topk, int) or self.topk < 1:
            raise ValueError(f"PAA: topk must be an integer >= 1, got {self.topk!r}")
        if not 0 < self.iou_threshold <= 1:
            raise ValueError(f"PAA: iou_threshold must be in (0, 1], got {self.iou_threshold!r}")
        for name in ("cls_weight", "reg_weight", "gamma"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"PAA: {name} must be finite and >= 0, got {value!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"PAA: alpha must be in [0, 1], got {self.alpha!r}")
        for name, known in (
            ("box_cost", BOX_COSTS),
            ("single_candidate", SINGLE_CANDIDATE_RULES),
            ("cut", CUTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"PAA: {name} must be one of {known}, got {getattr(self, name)!r}")

    def candidates(self, priors: Priors, gts: GroundTruths) -> Candidates:
        """Anchors that overlap a GT, each belonging to one GT; rows sorted by (gt, prior).

        An anchor goes to the GT it overlaps most (lowest index on ties) if that IoU reaches
        ``iou_threshold``. Then (``low_quality``) every anchor that attains a GT's largest IoU goes
        to that GT, all ties included, later GTs overwriting earlier ones. Costs one
        synchronisation.

        Raises:
            ValueError: the priors have no anchor boxes.
        """
        if priors.boxes is None:
            raise ValueError("PAA matches anchors with GTs, but priors.boxes is None")
        owner, overwriting = _match(priors.boxes.float(), priors.valid, gts, self.iou_threshold)
        if self.low_quality:
            owner = torch.where(overwriting >= 0, overwriting, owner)  # (B, A)
        image, prior = (owner >= 0).nonzero(as_tuple=True)
        gt = owner[image, prior]
        order = gt.argsort(stable=True)
        image, prior, gt = image[order], prior[order], gt[order]
        return Candidates(image=image, gt=gt, prior=prior, level=priors.level[prior])

    def costs(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> CostTable:
        """Classification plus localisation loss of each candidate, detached.

        Returns:
            A table without columns; weighted sum of the focal loss over all classes and the box's
            part (``box_cost``).

        Source:
            LAD, eq. 2, with the released code's GIoU and weight.
        """
        boxes = predictions.boxes.detach()[candidates.image, candidates.prior].float()
        overlap = aligned_giou if self.box_cost == "giou" else aligned_iou
        gap = 1 - overlap(boxes, gts.boxes[candidates.gt])
        classification = self._classification(predictions, candidates, gts)
        return CostTable(cost=self.reg_weight * gap + self.cls_weight * classification)

    def _classification(
        self, predictions: DensePredictions, candidates: Candidates, gts: GroundTruths
    ) -> Tensor:
        """(N,) focal loss over all classes, in blocks of rows: (N, C) would be the peak."""
        cls, labels = predictions.cls.detach(), gts.labels[candidates.gt]
        size = rows_per_block(predictions.num_classes, cls.device)
        costs = [cls.new_zeros(0, dtype=torch.float32)]
        for image, prior, label in zip(
            candidates.image.split(size), candidates.prior.split(size), labels.split(size)
        ):
            costs.append(
                focal_cost(
                    cls[image, prior].float(),
                    label,
                    is_prob=predictions.cls_is_prob,
                    alpha=self.alpha,
                    gamma=self.gamma,
                )
            )
        return torch.cat(costs)

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
    ) -> HardAssignment:
        """Positives of each GT: component 0 of its mixture, up to the density mode (or ``cut``).

        ``step`` and ``live`` are not used. Ties of cost go to the lower prior index, ties of
        density to the lower cost. Shapes depend on G, top-k and levels only; synchronises once for
        the positives and once per few iterations of the fit.

        Returns:
            Labels over all valid priors; statistics ``gmm_failed`` (mixtures that could not be
            fitted), ``gt_without_positive`` and ``gt_single_candidate``.

        Source:
            PAA, sec. 3.2, fig. 3(c); LAD, sec. 3.2.
        """
        cost = table.cost.detach().float()
        bags = build_bags(cost, candidates, gts.num_gts, len(priors.level_sizes), self.topk)
        positive, failed = self._select(bags)
        count = bags.mask.sum(-1)
        stats = {
            "gmm_failed": failed.sum(),
            "gt_without_positive": (~positive.any(-1)).sum(),
            "gt_single_candidate": (count == 1).sum(),
        }
        return _hard_assignment(
            bags.row[positive], candidates, priors, gts, num_classes=num_classes, stats=stats
        )

    def _select(self, bags: Bags) -> tuple[Tensor, Tensor]:
        """(G, K) bool positives among the bag members, and (G,) bool bags whose fit failed."""
        mixture = fit_mixture(bags.cost, bags.mask)
        members = bags.mask & mixture.fitted[:, None]
        sample = torch.where(members, bags.cost, 0.0)
        per_component, density = mixture.log_density(sample)
        low = members & (per_component[:, 0] >= per_component[:, 1])
        density = torch.where(low, density, -math.inf)
        is_mode = low & (density >= density.amax(-1, keepdim=True) - _DENSITY_TIE)
        # Everything of component 0 before the first mode, and the mode itself.
        before_mode = is_mode.long().cumsum(-1) - is_mode.long() == 0
        positive = low & before_mode
        if self.cut == "mean":
            # Rounding must not put equal costs below their own mean.
            lower = mixture.means.amin(-1, keepdim=True)
            positive = members & (sample < lower - _MEAN_TIE * lower.abs())
        count = bags.mask.sum(-1)
        if self.single_candidate == "keep":
            positive = positive | (bags.mask & (count == 1)[:, None])
        return positive, (count >= 2) & ~mixture.fitted


def _match(
    anchors: Tensor, valid: Tensor, gts: GroundTruths, threshold: float
) -> tuple[Tensor, Tensor]:
    """GTs of each anchor over the batch: the one overlapped most, and the one whose best it is.

    Args:
        anchors: (A, 4).
        valid: (B, A) bool.

    Returns:
        (B, A) int64 twice, -1 for none: above the threshold, and the last GT that this anchor
        overlaps as much as any does.
    """
    best = torch.full(valid.shape, -1.0, device=valid.device)
    owner = torch.full(valid.shape, -1, dtype=torch.int64, device=valid.device)
    overwriting = owner.clone()
    for block in gt_blocks(gts, anchors.shape[0]):
        rows, index = block.images, block.index[:, :, None]  # (b, m, 1)
        allowed = (index >= 0) & valid[rows, None]  # (b, m, A)
        iou = torch.where(allowed, pairwise_iou(block.boxes, anchors), -1.0)
        highest, slot = iou.max(dim=1)  # (b, A); the first of equal maxima
        better = highest > best[rows]  # strictly: earlier blocks hold earlier GTs
        best[rows] = torch.where(better, highest, best[rows])
        owner[rows] = torch.where(better, block.index.gather(1, slot), owner[rows])
        attains = allowed & (iou == iou.amax(dim=2, keepdim=True))
        # The largest index is the last GT to overwrite.
        last = torch.where(attains, index, -1).amax(dim=1)
        overwriting[rows] = torch.maximum(overwriting[rows], last)
    return torch.where(best >= threshold, owner, -1), overwriting


def build_bags(
    cost: Tensor, candidates: Candidates, num_gts: int, num_levels: int, topk: int
) -> Bags:
    """The ``topk`` lowest costs of each (GT, level), merged per GT in ascending order.

    Equal costs keep the order of the rows, i.e. the lower prior index goes first.

    Args:
        cost: (N,) float32, aligned with ``candidates``.

    Returns:
        Bags of shape (G, topk * num_levels), without synchronisation.
    """
    width = topk * num_levels
    bag_cost = cost.new_full((num_gts * width + 1,), math.inf)
    bag_row = torch.full_like(bag_cost, -1, dtype=torch.int64)
    group = candidates.gt * num_levels + candidates.level  # non-decreasing over the rows
    bits = (cost + 0.0).view(torch.int32)  # + 0.0 turns -0 into 0
    ascending = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # integers in the order of the costs
    order = ((group << 32) + ascending).argsort(stable=True)  # by (group, cost, prior)
    # Rows are sorted by group already, so position n of the new order is in group[n] as well.
    first = torch.searchsorted(group, group)
    rank = torch.arange(len(group), device=group.device) - first
    # Slot = (gt, level, rank); what does not fit goes to the spare slot at the end.
    slot = torch.where(rank < topk, group * topk + rank, num_gts * width)
    bag_cost[slot] = cost[order]
    bag_row[slot] = order
    bag_cost, bag_row = bag_cost[:-1].view(num_gts, width), bag_row[:-1].view(num_gts, width)
    by_cost = torch.where(bag_row >= 0, bag_cost, math.inf).argsort(dim=-1, stable=True)
    bag_row = bag_row.gather(1, by_cost)
    return Bags(cost=bag_cost.gather(1, by_cost), row=bag_row, mask=bag_row >= 0)


def _hard_assignment(
    rows: Tensor,
    candidates: Candidates,
    priors: Priors,
    gts: GroundTruths,
    *,
    num_classes: int,
    stats: dict[str, Tensor],
) -> HardAssignment:
    """The assignment whose positives are the given (P,) candidate rows."""
    flat = candidates.image[rows] * priors.num_priors + candidates.prior[rows]
    flat, order = flat.sort()  # a prior has one GT, so flat indices are unique
    gt = candidates.gt[rows[order]]
    labels = torch.full_like(priors.valid, num_classes, dtype=torch.int64)
    labels.view(-1)[flat] = gts.labels[gt]
    return HardAssignment(
        labels=labels,
        label_weights=priors.valid.float(),
        pos_inds=flat,
        pos_gt=gt,
        box_targets=gts.boxes[gt].float(),
        stats=stats,
    )
