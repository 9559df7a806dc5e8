"""Losses and gradients where there is little or much to learn, alone, taught and under a switch."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet")

from assigners import (  # noqa: E402
    Assigner,
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    Priors,
    build_assigner,
)
from assigners.ala import ALAAssignment  # noqa: E402
from assigners.autoassign import AutoAssignAssignment  # noqa: E402
from assigners.dw import DWAssignment  # noqa: E402
from assigners.musu import MuSuAssignment  # noqa: E402
from models.ala_head import ala_losses  # noqa: E402
from models.autoassign_head import autoassign_losses  # noqa: E402
from models.dw_head import dw_losses  # noqa: E402
from models.musu_head import musu_losses  # noqa: E402
from models.paa_head import CoPAAHead  # noqa: E402
from orchestrator.switching import SwitchRule, choose  # noqa: E402
from tests.assigners.point_scenes import CLASSES, EDGE_SCENES, STEP, predict, scene  # noqa: E402

from .head_cases import head_config  # noqa: E402

ASSIGNERS: dict[str, dict[str, Any]] = {
    "paa": dict(type="PAA"),
    "paa-keep": dict(type="PAA", single_candidate="keep"),
    "paa-text": dict(type="PAA", low_quality=False, box_cost="iou", cut="mean", reg_weight=1.0),
    "dw": dict(type="DW"),
    "dw-paper": dict(type="DW", reading="paper", candidate_bag="topk"),
    "autoassign": dict(type="AutoAssign"),
    "autoassign-loss": dict(type="AutoAssign", detach_weights=True, weights_on="loss"),
    "ala": dict(type="ALA", center_loss_weight=0.75),
    "ala-printed": dict(type="ALA", loc_likelihood="literal", combine="add", one_to_one=True),
    "musu": dict(type="MuSu"),
    "musu-image": dict(type="MuSu", normaliser="image", targets="hard", owner_rule="inside"),
}
RULES = (
    None,  # self-assignment
    SwitchRule(criterion="fixed", teacher="teacher"),
    SwitchRule(criterion="std_mean", scope="gt_level"),
    SwitchRule(criterion="fisher", scope="image"),
)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def learning(predictions: DensePredictions, dtype: torch.dtype, is_paa: bool) -> DensePredictions:
    """The same with leaves of ``dtype``, boxes in float32 as every head decodes them."""
    assert predictions.quality is not None
    return replace(
        predictions,
        cls=predictions.cls.to(dtype).requires_grad_(),
        boxes=predictions.boxes.clone().requires_grad_(),
        quality=predictions.quality.to(dtype).requires_grad_(),
        quality_kind="iou" if is_paa else "objectness",
        extras={}
        if is_paa
        else {name: value.clone().requires_grad_() for name, value in predictions.extras.items()},
    )


def chosen(
    rule: SwitchRule,
    assigner: Assigner,
    teacher: DensePredictions,
    live: CostTable,
    pairs: Candidates,
    priors: Priors,
    gts: GroundTruths,
) -> CostTable:
    """The rows that a learner takes beside a teacher."""
    return choose(
        {"teacher": assigner.costs(teacher, pairs, gts).detach(), "learner": live.detach()},
        pairs,
        rule=rule,
        num_gts=gts.num_gts,
        num_images=gts.num_images,
        num_levels=len(priors.level_sizes),
    ).table


def losses_of(
    predictions: DensePredictions,
    assignment: Any,
    priors: Priors,
    gts: GroundTruths,
    *,
    alone: bool,
) -> list[Tensor]:
    if isinstance(assignment, HardAssignment):
        head = CoPAAHead(**head_config())
        found = head.loss_from_assignment(
            predictions, (), assignment, priors, gts, taught=not alone
        )
        return list(found.values())
    if isinstance(assignment, MuSuAssignment):
        return list(musu_losses(predictions, assignment, gts))
    losses = {
        DWAssignment: dw_losses,
        AutoAssignAssignment: autoassign_losses,
        ALAAssignment: ala_losses,
    }[type(assignment)]
    return list(losses(predictions, assignment, gts).values())


@pytest.mark.parametrize("config", ASSIGNERS.values(), ids=ASSIGNERS)
@pytest.mark.parametrize("name", EDGE_SCENES)
def test_losses_and_gradients_are_finite(name: str, config: dict[str, Any]) -> None:
    raw, priors, gts = scene(*EDGE_SCENES[name])
    other = predict(priors, 7)
    assigner, is_paa = build_assigner(config), config["type"] == "PAA"
    pairs = assigner.candidates(priors, gts)
    for rule, dtype in product(RULES, DTYPES):
        learner, teacher = (learning(p, dtype, is_paa) for p in (raw, other))
        live = assigner.costs(learner, pairs, gts)
        rows = live if rule is None else chosen(rule, assigner, teacher, live, pairs, priors, gts)
        assignment = assigner.assign(
            rows, pairs, priors, gts, num_classes=CLASSES, step=STEP, live=live
        )
        losses = losses_of(learner, assignment, priors, gts, alone=rule is None)
        message = f"{rule}, {dtype}"
        for loss in losses:
            assert loss.dtype == torch.float32 and loss.isfinite() and loss >= 0, message
        leaves = [learner.cls, learner.boxes, learner.quality, *learner.extras.values()]
        gradients = torch.autograd.grad(torch.stack(losses).sum(), leaves, allow_unused=True)
        assert all(g is None or bool(g.isfinite().all()) for g in gradients), message
        background = gradients[0]
        assert background is not None and background.any(), message
