"""ALA against a reference of its own (no code was released)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from assigners import ALAAssigner, Candidates, Step
from assigners.boxes import aligned_iou
from assigners.points import gt_mean, pair_boxes
from models.ala_head import CoALAHead

from .case import GRADIENT_RTOL, LOSS_RTOL, Case
from .points import build_point_head, build_priors, check_pairs, check_rows, reference_rows

STEPS = 10**6
HARD, SOFT = 2, 1


def check_ala(path: Path) -> None:
    """Property map, scores, sets, labels, losses and gradients of self-assignment."""
    case = Case(path)
    head = _build(case)
    priors = build_priors(case, head)
    leaves, outs = _outputs(case)
    maps = head.property_map(leaves["ipb"])
    np.testing.assert_allclose(maps.detach(), case["ipb_blurred"], rtol=1e-5, atol=1e-6)
    predictions = head.dense_predictions(outs, priors)
    given = {"center_mean": leaves["mu"], "center_sigma": leaves["sigma"]}
    predictions = replace(predictions, extras={**predictions.extras, **given})
    for name, key in (("foreground", "M_pos"), ("background", "M_neg")):
        found = predictions.extras[name].detach()
        np.testing.assert_allclose(found, case[key], rtol=1e-5, atol=1e-6, err_msg=key)
    assigner = head.own_assigner
    assert isinstance(assigner, ALAAssigner)
    pairs = assigner.candidates(priors, case.gts)
    check_pairs(case, pairs)
    iou = aligned_iou(pair_boxes(predictions, pairs), case.gts.boxes[pairs.gt])
    check_rows(case, "iou", iou, pairs)
    box_alone = ALAAssigner(
        use_p_cls=False, weight=False, alpha=assigner.alpha, loc_likelihood=assigner.loc_likelihood
    )
    p_loc = box_alone.log_positive_score(predictions, pairs, case.gts).exp()
    check_rows(case, "P_loc", p_loc, pairs)
    table = assigner.costs(predictions, pairs, case.gts)
    check_rows(case, "S_pos", table.columns["s_pos"], pairs)
    sets = assigner.assign(
        table,
        pairs,
        priors,
        case.gts,
        num_classes=case.num_classes,
        step=Step(iteration=round(float(case["it_frac"]) * STEPS), max_iterations=STEPS),
        live=table,
    )
    _check_sets(case, table.columns["s_pos"], sets, pairs)
    losses = head.loss_from_assignment(predictions, outs, sets, priors, case.gts, taught=False)
    num_pos = max(int((sets.hard | sets.soft).sum()), 1)
    _check_losses(case, losses, leaves, num_pos)


def _build(case: Case) -> CoALAHead:
    assigner = dict(
        alpha=float(case["alpha"]),
        beta=float(case["beta"]),
        loc_likelihood=str(case["loc_reading"]),
    )
    head = build_point_head(case, CoALAHead, assigner=assigner)
    assert isinstance(head, CoALAHead)
    return head


def _outputs(case: Case) -> tuple[dict[str, Any], tuple[list[Tensor], ...]]:
    """Leaves by name, and what the head's ``forward`` would return."""
    leaves: dict[str, Any] = {
        "cls": case.level_maps("cls_logits"),
        "ltrb": case.level_maps("ltrb_dist"),
        **{
            name: case.tensor(key).requires_grad_()
            for name, key in (("ipb", "ipb_logits"), ("mu", "mu"), ("sigma", "sigma"))
        },
    }
    centre = torch.zeros(case.num_images, case.num_classes, 4)  # the file begins at mu and sigma
    return leaves, (leaves["cls"], leaves["ltrb"], [leaves["ipb"]], [centre])


def _check_sets(case: Case, score: Tensor, sets: Any, pairs: Candidates) -> None:
    number = HARD * sets.hard.int() + SOFT * sets.soft.int()
    for image, first in enumerate(case.first_gt):
        rows = pairs.image == image
        expected = case[f"set_{image}"][reference_rows(case, image)]
        np.testing.assert_array_equal(number[rows].numpy(), expected)
        soft = expected == SOFT
        xi = case[f"xi_{image}"][reference_rows(case, image)]
        np.testing.assert_allclose(sets.pos_weight[rows].numpy()[soft], xi[soft], rtol=2e-5)
        wide = score.double()
        mean = gt_mean(wide, pairs.gt, case.gts.num_gts)
        std = gt_mean((wide - mean[pairs.gt]) ** 2, pairs.gt, case.gts.num_gts).sqrt()
        own = slice(first, first + case.gts.counts[image])
        for key, found in (("mean", mean), ("std", std)):
            np.testing.assert_allclose(
                found[own].numpy(), case[f"{key}_{image}"], rtol=2e-5, atol=1e-7, err_msg=key
            )


def _check_losses(
    case: Case, losses: dict[str, Tensor], leaves: dict[str, Any], num_pos: int
) -> None:
    """The file holds sums: ours times its normaliser."""
    num_gts = max(case.gts.num_gts, 1)
    scales = {"loss_hard": num_gts, "loss_soft": num_gts, "loss_neg": num_pos}
    assert set(losses) == set(scales)
    sums = {name: losses[name] * scale for name, scale in scales.items()}
    for name, value in sums.items():
        np.testing.assert_allclose(
            value.detach().numpy(), case[name], rtol=LOSS_RTOL, atol=1e-8, err_msg=name
        )
    total = torch.stack(list(sums.values())).sum()
    for name, leaf in leaves.items():
        maps = leaf if isinstance(leaf, list) else [leaf]
        gradients = torch.autograd.grad(total, maps, retain_graph=True)
        if isinstance(leaf, list):
            flat = torch.cat([g.permute(0, 2, 3, 1).flatten(1, 2) for g in gradients], dim=1)
        else:
            (flat,) = gradients
        expected = case[f"grad_{name}"]
        tolerance = GRADIENT_RTOL * max(np.abs(expected).max(), 1e-12)
        np.testing.assert_allclose(
            flat.numpy(), expected, rtol=0, atol=tolerance, err_msg=f"grad_{name}"
        )
