"""AutoAssign against mmdet's head and the official implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor

from assigners import AutoAssigner, Candidates
from assigners.center import gt_logsumexp, log_center_weight
from assigners.points import gt_count, pair_giou_loss, scatter_pairs
from models.autoassign_head import CoAutoAssignHead

from .case import GRADIENT_RTOL, LOSS_RTOL, Case
from .points import (
    build_point_head,
    build_priors,
    check_pairs,
    check_point_gradients,
    check_rows,
    point_outputs,
)

LOSSES = ("loss_pos", "loss_neg", "loss_center")


def check_autoassign(path: Path) -> None:
    """Pairs, every intermediate value, losses and gradients of self-assignment."""
    case = Case(path)
    head = _build(case)
    priors = build_priors(case, head)
    outs = point_outputs(case)
    predictions = head.dense_predictions(outs, priors)
    assigner = head.own_assigner
    assert isinstance(assigner, AutoAssigner)
    pairs = assigner.candidates(priors, case.gts)
    check_pairs(case, pairs)
    table = assigner.costs(predictions, pairs, case.gts)
    weights = assigner.assign(
        table, pairs, priors, case.gts, num_classes=case.num_classes, live=table
    )
    gap = pair_giou_loss(predictions, pairs, case.gts)
    check_rows(case, "giou_loss_x5", assigner.lambda_ * gap, pairs)
    check_rows(case, "p_cls", table.columns["p_cls"], pairs)
    check_rows(case, "p_loc", table.columns["p_loc"], pairs)
    check_rows(case, "max_iou_over_gts", table.columns["max_iou_any_gt"], pairs)
    log_prior = log_center_weight(predictions, pairs, case.gts)
    assert log_prior is not None
    check_rows(case, "center_prior", log_prior.exp(), pairs)
    log_weight = assigner.log_positive_weight(
        weights.pos_weight, log_prior, pairs.gt, case.gts.num_gts
    )
    check_rows(case, "w_pos", log_weight.exp(), pairs)
    log_p = assigner.log_confidence(predictions, pairs, case.gts)
    _check_bags(case, gt_logsumexp(log_weight + log_p, pairs.gt, case.gts.num_gts).exp())
    w_neg = scatter_pairs(weights.neg_weight, pairs, case.gts, predictions.cls, fill=1.0)
    for image in range(case.num_images):
        expected = case[f"w_neg_map_{image}"]
        np.testing.assert_allclose(w_neg[image].numpy(), expected, rtol=2e-5, atol=1e-6)
    assert max(case.gts.num_gts, 1) == float(case["pos_avg_factor"])
    total = float(log_prior.detach().exp().sum().clamp(min=1))
    np.testing.assert_allclose(total, case["neg_avg_factor"], rtol=1e-5)
    losses = head.loss_from_assignment(predictions, outs, weights, priors, case.gts, taught=False)
    _check(case, head, pairs, outs, losses)
    _check_plain_training(case, pairs)


def _build(case: Case) -> CoAutoAssignHead:
    head = build_point_head(case, CoAutoAssignHead)
    assert isinstance(head, CoAutoAssignHead)
    head.center_prior.load_state_dict({"mean": case.tensor("mu"), "sigma": case.tensor("sigma")})
    return head


def _check_bags(case: Case, bags: Tensor) -> None:
    for image, first in enumerate(case.first_gt):
        own = bags[first : first + case.gts.counts[image]].detach().numpy()
        np.testing.assert_allclose(own, case[f"bag_prob_{image}"], rtol=2e-5, atol=1e-6)


def _check(
    case: Case, head: CoAutoAssignHead, pairs: Candidates, outs: Any, losses: dict[str, Tensor]
) -> None:
    """Losses, and gradients of outputs and centre prior.

    A GT without a point inside costs the references a constant, -ln of a probability of 0 cut off
    at 100; ours leaves it out.
    """
    assert set(losses) == set(LOSSES)
    without = int((gt_count(pairs.gt, case.gts.num_gts) == 0).sum())
    constant = 0.25 * 100 * without / float(case["pos_avg_factor"])
    for name in LOSSES:
        found = losses[name].item() + (constant if name == "loss_pos" else 0.0)
        np.testing.assert_allclose(found, case[name], rtol=LOSS_RTOL, atol=1e-8, err_msg=name)
        official = "official_" + name.replace("center", "norm")
        if official in case:
            np.testing.assert_allclose(found, case[official].item(), rtol=LOSS_RTOL)
    check_point_gradients(case, outs, losses)
    prior = head.center_prior
    total = torch.stack(list(losses.values())).sum()
    gradients = torch.autograd.grad(total, (prior.mean, prior.sigma), retain_graph=True)
    for key, found in zip(("grad_mu", "grad_sigma"), gradients):
        tolerance = GRADIENT_RTOL * max(np.abs(case[key]).max(), 1e-12)
        np.testing.assert_allclose(found.numpy(), case[key], rtol=0, atol=tolerance, err_msg=key)


def _check_plain_training(case: Case, pairs: Candidates) -> None:
    """mmdet's entry point gives the same losses."""
    head, outs = _build(case), point_outputs(case)
    instances = [
        InstanceData(bboxes=case.tensor(f"gt_boxes_{i}"), labels=case.tensor(f"gt_labels_{i}"))
        for i in range(case.num_images)
    ]
    _check(case, head, pairs, outs, head.loss_by_feat(*outs, instances, case.metas, None))
