"""How strongly each pair of an assignment teaches, in one form for all methods: for log and report.

What a loss does with the weights differs between methods; this is the part that says *where*.
"""

from __future__ import annotations

import torch
from torch import Tensor

from assigners.autoassign import AutoAssignAssignment
from assigners.center import log_center_weight
from assigners.types import (
    Assignment,
    Candidates,
    DensePredictions,
    GroundTruths,
    HardAssignment,
)


@torch.no_grad()
def pair_weights(
    assignment: Assignment,
    candidates: Candidates,
    predictions: DensePredictions,
    gts: GroundTruths,
) -> tuple[Tensor, Tensor]:
    """Positive and negative weight of every candidate pair.

    A hard assignment has 0 and 1. Of a soft one they are its own; AutoAssign's are multiplied by
    the learner's centre prior and normalised over the GT's pairs, as its loss does. Candidates that
    the method dropped (MuSu's outside a bag) are background: 0 and 1.

    Args:
        assignment: of these candidates.
        candidates: N pairs.
        predictions: of the learner.
        gts: of the batch.

    Returns:
        (N,) float32 each, on the device of the assignment.
    """
    if isinstance(assignment, HardAssignment):
        label = assignment.labels[candidates.image, candidates.prior]
        positive = (label < predictions.num_classes).float()
        return positive, 1 - positive
    pos, neg = assignment.pos_weight.float(), assignment.neg_weight.float()
    own = assignment.candidates
    if isinstance(assignment, AutoAssignAssignment):
        method = assignment.assigner
        log_prior = log_center_weight(predictions, own, gts) if method.center_weighting else None
        log_prior = torch.zeros_like(neg) if log_prior is None else log_prior
        pos = method.log_positive_weight(pos, log_prior, own.gt, gts.num_gts).exp()
    if len(own) == len(candidates):
        return pos, neg
    width = predictions.boxes.shape[1]
    rows = torch.searchsorted(candidates.gt * width + candidates.prior, own.gt * width + own.prior)
    all_pos, all_neg = pos.new_zeros(len(candidates)), neg.new_ones(len(candidates))
    all_pos[rows], all_neg[rows] = pos, neg
    return all_pos, all_neg
