"""Soft labels against the official implementation, alone and on top of LAD."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from models.soft_labels import (
    SoftLabelSettings,
    SoftSums,
    best_iou,
    soft_label_elements,
    soft_label_losses,
    soft_label_sums,
)

from .case import (
    GRADIENT_RTOL,
    LOSS_RTOL,
    Case,
    check_gradients,
    predictions_of,
)

NAMES = {
    "loss_soft_cls": "loss_kd_cls",
    "loss_soft_bbox": "loss_kd_bbox",
    "loss_soft_iou": "loss_kd_centerness",
}
"""Our losses under the file's names."""


def settings_of(case: Case) -> SoftLabelSettings:
    return SimpleNamespace(
        loss="kl",
        gamma=float(case["kd_gamma"]),
        cls_weight=float(case["kd_w_cls"]),
        iou_weight=float(case["kd_w_iou"]),
        box_weight=float(case["kd_w_bbox"]),
        iou_threshold=float(case["kd_min_iou"]),
        selection="teacher_box" if int(case["kd_use_pred_bbox"]) else "anchor",
    )


def check_soft_labels(path: Path) -> None:
    """Selected boxes, normaliser, the three soft losses, LAD's where it has them; gradients."""
    case = Case(path)
    head = case.build_head()
    priors = case.build_priors(head)
    outs, student = predictions_of(case, head, priors, "s_")
    _, teacher = predictions_of(case, head, priors, "t_")
    settings = settings_of(case)
    sums = soft_label_sums(student, teacher, priors, case.gts, settings)
    _check_selection(case, sums)
    losses = soft_label_losses([sums], student, settings)
    expected = {name: case[key] for name, key in NAMES.items()}
    if "loss_cls" in case:
        assigner = head.own_assigner
        candidates = assigner.candidates(priors, case.gts)
        table = assigner.costs(teacher, candidates, case.gts)
        assignment = assigner.assign(
            table, candidates, priors, case.gts, num_classes=case.num_classes
        )
        np.testing.assert_array_equal(assignment.labels.numpy(), case["final_labels"])
        np.testing.assert_array_equal(assignment.label_weights.numpy(), case["final_label_weights"])
        assert assignment.num_pos == int(case["num_pos"])
        losses |= head.loss_from_assignment(
            student, outs, assignment, priors, case.gts, taught=True
        )
        expected |= {name: case[name] for name in ("loss_cls", "loss_bbox", "loss_iou")}
    assert set(losses) == set(expected)
    for name, value in losses.items():
        np.testing.assert_allclose(
            value.detach().numpy(), expected[name], rtol=LOSS_RTOL, atol=1e-8, err_msg=name
        )
    np.testing.assert_allclose(
        sum(value.item() for value in losses.values()), case["loss_total"], rtol=LOSS_RTOL
    )
    check_gradients(case, "s_", outs, losses)


def _check_selection(case: Case, sums: SoftSums) -> None:
    assert sums.num_images == case.num_images
    assert sums.num_selected == int(case["kd_sel_mask"].sum()) == len(case["kd_sel_weight"])
    if sums.num_selected:
        np.testing.assert_allclose(sums.weight.item(), case["kd_avg_factor"], rtol=LOSS_RTOL)
    boxes = case.tensor("kd_sel_teacher_boxes")
    image = np.nonzero(case["kd_sel_mask"])[0]
    if int(case["kd_use_pred_bbox"]):
        for i in range(case.num_images):
            weight = best_iou(boxes[image == i][None], case.gts, torch.tensor([i]))[0]
            np.testing.assert_allclose(
                weight.numpy(), case["kd_sel_weight"][image == i], rtol=1e-5, atol=1e-6
            )


def check_elements(path: Path) -> None:
    """Element losses over a grid of logits and probabilities.

    The paper's focal factor, which is not smoothed, agrees where that makes no difference.
    """
    case = Case(path)
    target = case.tensor("teacher_prob")
    for key in [k for k in case.data if k.startswith("kl_gamma") and not k.endswith("_grad")]:
        gamma = float(key.removeprefix("kl_gamma"))
        logit = case.tensor("student_logit").requires_grad_()
        values = soft_label_elements(logit, target, loss="kl", gamma=gamma)
        _assert_close(values.detach(), case[key], key)
        (gradient,) = torch.autograd.grad(values.sum(), logit)
        _assert_close(gradient, case[f"{key}_grad"], f"{key}_grad")
        exact = soft_label_elements(
            logit.detach().double(), target.double(), loss="kl", gamma=gamma
        ).numpy()
        student = 1 / (1 + np.exp(-case["student_logit"].astype(float)))
        clear = np.abs(student - case["teacher_prob"]) > 0.1
        np.testing.assert_allclose(
            exact[clear], case[f"f64_paper_{key}"][clear], rtol=2e-4, err_msg=f"paper {key}"
        )
    for loss in ("l1", "l2"):
        values = soft_label_elements(case.tensor("student_logit"), target, loss=loss)
        _assert_close(values, case[loss], loss)


def _assert_close(actual: torch.Tensor, expected: np.ndarray, message: str) -> None:
    """float32 differences of logarithms: absolute where the terms cancel."""
    np.testing.assert_allclose(
        actual.numpy(),
        expected,
        rtol=LOSS_RTOL,
        atol=GRADIENT_RTOL * 1e-2 * np.abs(expected).max(),
        err_msg=message,
    )
