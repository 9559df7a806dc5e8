"""COP and IOP against the official heads: fusion maps, and losses on probability maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.paa_branches import cop_probability, iop_probability

from .case import (
    COST_TOLERANCE,
    GRADIENT_RTOL,
    Case,
    check_gradients,
    check_losses,
)


def check_cop_fusion(path: Path) -> None:
    """Conditional objectness: fused probabilities and gradients."""
    case = Case(path)
    names = ("atss_cls", "coeff_conv")
    inputs = [case.tensor(f"{name}_logits").requires_grad_() for name in names]
    _check_fusion(case, cop_probability(*inputs), dict(zip(names, inputs)))


def check_iop_fusion(path: Path) -> None:
    """Implicit objectness: fused probabilities and gradients."""
    case = Case(path)
    names = ("atss_cls", "objectness", "obj_bias")
    inputs = [case.tensor(f"{name}_logits").requires_grad_() for name in names]
    _check_fusion(case, iop_probability(*inputs), dict(zip(names, inputs)))


def _check_fusion(case: Case, fused: Tensor, inputs: dict[str, Tensor]) -> None:
    np.testing.assert_allclose(
        fused.detach().numpy(), case["fused_prob"], rtol=1e-5, atol=1e-7, err_msg="fused_prob"
    )
    gradients = torch.autograd.grad(fused, list(inputs.values()), case.tensor("upstream_grad"))
    for name, gradient in zip(inputs, gradients):
        expected = case[f"{name}_grad"]
        np.testing.assert_allclose(
            gradient.numpy(),
            expected,
            rtol=0,
            atol=GRADIENT_RTOL * np.abs(expected).max(),
            err_msg=f"{name}_grad",
        )


def check_branch_losses(path: Path, *, branch: str) -> None:
    """Costs, labels, losses and gradients of a head whose classes are probabilities."""
    case = Case(path)
    has_iou = "loss_iou" in case
    head = case.build_head(
        aux_cop=branch == "cop",
        aux_iop=branch == "iop",
        aux_iou="train_only" if has_iou else "none",
    )
    priors = case.build_priors(head)
    iou = case.level_maps("iou_logits") if has_iou else [None] * len(case.level_hw)
    outs = (case.level_maps("cls_prob"), case.level_maps("bbox_deltas"), iou)
    predictions = head.dense_predictions(outs, priors)
    assert predictions.cls_is_prob
    assigner = head.own_assigner
    candidates = assigner.candidates(priors, case.gts)
    table = assigner.costs(predictions, candidates, case.gts)
    for image in range(case.num_images):
        rows = candidates.image == image
        prior, order = candidates.prior[rows].sort()
        expected = np.argsort(case[f"cand_anchor_idx_{image}"])
        np.testing.assert_array_equal(prior.numpy(), case[f"cand_anchor_idx_{image}"][expected])
        np.testing.assert_allclose(
            table.cost[rows][order].numpy(), case[f"cand_cost_{image}"][expected], **COST_TOLERANCE
        )
    assignment = assigner.assign(table, candidates, priors, case.gts, num_classes=case.num_classes)
    np.testing.assert_array_equal(assignment.labels.numpy(), case["final_labels"])
    np.testing.assert_array_equal(assignment.label_weights.numpy(), case["final_label_weights"])
    losses = head.loss_from_assignment(
        predictions, outs, assignment, priors, case.gts, taught=False
    )
    names = ("loss_cls", "loss_bbox", *(["loss_iou"] if has_iou else []))
    check_losses(case, "", losses, names)
    inputs = {"cls_prob": outs[0], "bbox": outs[1], **({"iou": iou} if has_iou else {})}
    check_gradients(case, "", inputs, losses)
