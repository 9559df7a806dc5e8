"""MuSu against an implementation of the paper's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData

from assigners import MuSuAssigner, Priors
from assigners.musu import MuSuAssignment
from models.musu_head import CoMuSuHead

from .case import Case
from .points import build_point_head, check_point_gradients, check_point_losses, point_outputs

LOSSES = {"loss_cls": "loss_cls", "loss_bbox": "loss_reg"}
FIELDS = ("b", "theta", "alpha", "beta")


def check_musu(path: Path) -> None:
    """Owners, bags, weights, their sums, losses and gradients of self-assignment."""
    case = Case(path)
    head = _build(case)
    priors = _build_priors(case, head)
    outs = point_outputs(case)
    predictions = head.dense_predictions(outs, priors)
    assigner = head.own_assigner
    assert isinstance(assigner, MuSuAssigner)
    pairs = assigner.candidates(priors, case.gts)
    table = assigner.costs(predictions, pairs, case.gts)
    owned = table.columns["owned"] > 0.5
    joint = table.columns["p"] * table.columns["q"]
    weights = assigner.assign(table, pairs, priors, case.gts, num_classes=case.num_classes)
    bag = weights.candidates
    for image in range(case.num_images):
        rows = owned & (pairs.image == image)
        owner = np.full(priors.num_priors, -1)
        owner[pairs.prior[rows]] = pairs.gt[rows].numpy() - case.first_gt[image]
        np.testing.assert_array_equal(owner, case[f"owner_{image}"])
        _check_map(case, f"joint_P_{image}", priors, pairs.prior[rows], joint[rows])
        rows = bag.image == image
        member = np.full(priors.num_priors, -1)
        member[bag.prior[rows]] = bag.gt[rows].numpy() - case.first_gt[image]
        np.testing.assert_array_equal(member, case[f"gt_of_{image}"])
        sizes = np.bincount(member[member >= 0], minlength=case.gts.counts[image])
        np.testing.assert_array_equal(sizes, case[f"bag_sizes_{image}"])
        _check_map(case, f"w_cls_{image}", priors, bag.prior[rows], weights.pos_weight[rows])
        _check_map(case, f"w_reg_{image}", priors, bag.prior[rows], weights.box_weight[rows])
    losses = head.loss_from_assignment(predictions, outs, weights, priors, case.gts, taught=False)
    check_point_losses(case, losses, LOSSES)
    check_point_gradients(case, outs, losses)
    _check_sums(case, weights)
    _check_image_normaliser(case)
    _check_plain_training(case)


def _build(case: Case, **fields: object) -> CoMuSuHead:
    given = {name: float(case[name]) for name in FIELDS}
    head = build_point_head(
        case,
        CoMuSuHead,
        num_anchors=int(case["anchors_per_loc"]),
        assigner=dict(**given, owner_rule=str(case["owner_rule"]), **fields),
    )
    assert isinstance(head, CoMuSuHead)
    return head


def _build_priors(case: Case, head: CoMuSuHead) -> Priors:
    priors = head.build_priors(case.level_hw, case.metas, "cpu")
    each_once = priors.points[:: head.num_anchors].numpy()
    np.testing.assert_array_equal(each_once, case["points"])
    repeated = np.repeat(case["points"], head.num_anchors, axis=0)
    np.testing.assert_array_equal(priors.points.numpy(), repeated)
    return priors


def _check_map(
    case: Case, key: str, priors: Priors, prior: torch.Tensor, values: torch.Tensor
) -> None:
    found = np.zeros(priors.num_priors)
    found[prior] = values.numpy()
    np.testing.assert_allclose(found, case[key], rtol=2e-5, atol=1e-6, err_msg=key)


def _check_sums(case: Case, weights: MuSuAssignment) -> None:
    for ours, theirs in (("pos_weight", "norm_cls"), ("box_weight", "norm_reg")):
        total = max(float(getattr(weights, ours).sum()), 1.0)
        np.testing.assert_allclose(total, float(case[theirs]), rtol=1e-5, err_msg=theirs)


def _check_image_normaliser(case: Case) -> None:
    """The file has each image's sums of losses and weights: class, box, class, box."""
    head, outs = _build(case, normaliser="image"), point_outputs(case)
    losses = head.loss_by_feat(*outs, _instances(case), case.metas, None)
    sums = case["per_image_sums"]
    expected = (sums[:, :2] / np.maximum(sums[:, 2:], 1)).mean(0)
    found = [float(losses[name].detach()) for name in LOSSES]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def _check_plain_training(case: Case) -> None:
    """mmdet's entry point gives the same losses."""
    head, outs = _build(case), point_outputs(case)
    losses = head.loss_by_feat(*outs, _instances(case), case.metas, None)
    check_point_losses(case, losses, LOSSES)
    check_point_gradients(case, outs, losses)


def _instances(case: Case) -> list[InstanceData]:
    return [
        InstanceData(bboxes=case.tensor(f"gt_boxes_{i}"), labels=case.tensor(f"gt_labels_{i}"))
        for i in range(case.num_images)
    ]
