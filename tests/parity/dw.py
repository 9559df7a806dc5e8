"""DW, its inference and its box refinement against the official implementation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.structures import InstanceData

from assigners import DWAssigner, Priors
from assigners.points import pair_giou_loss, pair_probability, scatter_pairs
from models.dw_head import CoDWHead

from .case import GRADIENT_RTOL, Case
from .points import (
    build_point_head,
    build_priors,
    check_detections,
    check_pairs,
    check_point_gradients,
    check_point_losses,
    check_rows,
    point_outputs,
)

LOSSES = {name: name for name in ("loss_cls_pos", "loss_loc", "loss_cls_neg")}


def check_dw(path: Path) -> None:
    """Pairs, every intermediate value, weights, losses and gradients of self-assignment."""
    case = Case(path)
    head = _build(case)
    priors = build_priors(case, head)
    outs = point_outputs(case)
    predictions = head.dense_predictions(outs, priors)
    assigner = head.own_assigner
    assert isinstance(assigner, DWAssigner)
    pairs = assigner.candidates(priors, case.gts)
    check_pairs(case, pairs)
    table = assigner.costs(predictions, pairs, case.gts)
    gap = pair_giou_loss(predictions, pairs, case.gts)
    check_rows(case, "giou_loss", gap, pairs)
    check_rows(case, "iou", table.columns["iou"], pairs)
    check_rows(case, "p_loc", torch.exp(-assigner.beta * gap), pairs)
    check_rows(case, "p_cls", pair_probability(predictions, pairs, case.gts), pairs)
    assert pairs.offset is not None
    check_rows(case, "center_prior", assigner.prior_weight(pairs.offset), pairs)
    weights = _assign(case, assigner, table, pairs, priors)
    check_rows(case, "w_pos", weights.pos_weight, pairs)
    check_rows(case, "p_neg", weights.neg_weight, pairs)
    p_neg = scatter_pairs(weights.neg_weight, pairs, case.gts, predictions.cls, fill=1.0)
    for image in range(case.num_images):
        expected = case[f"neg_prob_map_{image}"]
        np.testing.assert_allclose(p_neg[image].numpy(), expected, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose((1 - p_neg).sum().clamp(min=1), case["neg_avg_factor"], rtol=1e-5)
    assert max(case.gts.num_gts, 1) == float(case["pos_avg_factor"])
    losses = head.loss_from_assignment(predictions, outs, weights, priors, case.gts, taught=False)
    check_point_losses(case, losses, LOSSES)
    check_point_gradients(case, outs, losses)
    _check_plain_training(case)


def _build(case: Case) -> CoDWHead:
    center_prior = "soft" if int(case["soft_prior"]) else "hard"
    head = build_point_head(case, CoDWHead, assigner=dict(center_prior=center_prior))
    assert isinstance(head, CoDWHead)
    return head


def _assign(case: Case, assigner: DWAssigner, table: Any, pairs: Any, priors: Priors) -> Any:
    return assigner.assign(table, pairs, priors, case.gts, num_classes=case.num_classes)


def _check_plain_training(case: Case) -> None:
    """mmdet's entry point gives the same losses."""
    head, outs = _build(case), point_outputs(case)
    instances = [
        InstanceData(bboxes=case.tensor(f"gt_boxes_{i}"), labels=case.tensor(f"gt_labels_{i}"))
        for i in range(case.num_images)
    ]
    losses = head.loss_by_feat(*outs, instances, case.metas, None)
    check_point_losses(case, losses, LOSSES)
    check_point_gradients(case, outs, losses)


def check_dw_postprocess(path: Path) -> None:
    """Detections."""
    case = Case(path)
    head = build_point_head(case, CoDWHead)
    build_priors(case, head)
    outs = ([level.detach() for level in maps] for maps in point_outputs(case))
    check_detections(case, head.predict_by_feat(*outs, batch_img_metas=case.metas))


def check_dw_refinement(path: Path) -> None:
    """The head's own path from the convolutions' outputs to refined distances; gradients."""
    case = Case(path)
    levels = sorted({key.split("_")[0] for key in case.data if key.startswith("l")})
    for level in levels:
        _check_refined_level(case, level)


def _check_refined_level(case: Case, level: str) -> None:
    stride = int(case[f"{level}_stride"])
    raw = case.tensor(f"{level}_raw_reg").requires_grad_()
    offsets = case.tensor(f"{level}_offset_raw").requires_grad_()
    point_offset = float(case[f"{level}_points"][0, 0]) / stride
    head = CoDWHead(
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=0,
        norm_cfg=dict(type="GN", num_groups=2),
        strides=[stride],
        point_offset=point_offset,
        box_refine=True,
    )
    head.conv_offset = torch.nn.Identity()  # the file holds what the convolution returned
    coarse = head.distances(raw, stride)
    refined = head.refine(coarse, offsets, stride)
    for key, found in (("coarse_ltrb", coarse), ("refined_ltrb", refined)):
        np.testing.assert_allclose(
            found.detach().numpy(), case[f"{level}_{key}"], rtol=1e-5, atol=1e-3, err_msg=key
        )
    upstream = case.tensor(f"{level}_upstream_grad")
    gradients = torch.autograd.grad(refined, (raw, offsets), upstream)
    for key, found in zip(("grad_raw_reg", "grad_offset_raw"), gradients):
        expected = case[f"{level}_{key}"]
        tolerance = GRADIENT_RTOL * np.abs(expected).max()
        np.testing.assert_allclose(
            found.numpy(), expected, rtol=0, atol=tolerance, err_msg=f"{level}_{key}"
        )
