"""LAD, CoLAD and the switch criteria against the official implementation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from assigners import Candidates, CostTable
from orchestrator.switching import (
    Choice,
    Indicators,
    SwitchRule,
    choose,
    compute_indicators,
)

from .case import (
    Case,
    check_assignment,
    check_candidates,
    check_costs,
    check_gradients,
    check_losses,
    predictions_of,
)
from .paa import check_mixtures


def check_lad(path: Path) -> None:
    """A fixed teacher's costs assign; the student learns."""
    case = Case(path)
    head = case.build_head()
    assigner, priors = head.own_assigner, case.build_priors(head)
    _, teacher = predictions_of(case, head, priors, "t_")
    outs, student = predictions_of(case, head, priors, "s_")
    candidates = assigner.candidates(priors, case.gts)
    check_candidates(case, candidates)
    tables = {
        name: assigner.costs(predictions, candidates, case.gts)
        for name, predictions in (("teacher", teacher), ("student", student))
    }
    check_costs(case, "t_cand_cost", tables["teacher"].cost, candidates)
    choice = choose(
        tables,
        candidates,
        rule=SwitchRule(criterion="fixed", teacher="teacher"),
        num_gts=case.gts.num_gts,
        num_images=case.num_images,
    )
    check_mixtures(case, choice.table, candidates, priors, assigner.topk)
    assignment = assigner.assign(
        choice.table, candidates, priors, case.gts, num_classes=case.num_classes
    )
    check_assignment(case, assignment)
    losses = head.loss_from_assignment(student, outs, assignment, priors, case.gts, taught=True)
    check_losses(case, "", losses)
    check_gradients(case, "s_", outs, losses)


def check_colad(path: Path) -> None:
    """Two learners: costs, switch table, the shared assignment, both networks' losses."""
    case = Case(path)
    head = case.build_head()
    assigner, priors = head.own_assigner, case.build_priors(head)
    networks = {prefix: predictions_of(case, head, priors, prefix) for prefix in ("t_", "s_")}
    candidates = assigner.candidates(priors, case.gts)
    check_candidates(case, candidates)
    # The released code's teacher first: it wins ties.
    tables = {
        prefix: assigner.costs(predictions, candidates, case.gts)
        for prefix, (_, predictions) in networks.items()
    }
    for prefix, table in tables.items():
        check_costs(case, f"{prefix}cand_cost", table.cost, candidates)
    sizes = dict(
        num_gts=case.gts.num_gts,
        num_images=case.num_images,
        num_levels=len(priors.level_sizes),
    )
    choice = choose(tables, candidates, rule=SwitchRule(), **sizes)
    values = compute_indicators(list(tables.values()), candidates, scope="gt_level", **sizes)
    _check_switch_tables(case, choice, values)
    check_mixtures(case, choice.table, candidates, priors, assigner.topk)
    assignment = assigner.assign(
        choice.table, candidates, priors, case.gts, num_classes=case.num_classes
    )
    check_assignment(case, assignment)
    for prefix, (outs, predictions) in networks.items():
        losses = head.loss_from_assignment(
            predictions, outs, assignment, priors, case.gts, taught=True
        )
        check_losses(case, prefix, losses)
        check_gradients(case, prefix, outs, losses)


def _check_switch_tables(case: Case, choice: Choice, values: Indicators) -> None:
    """Every row (gt, level, n, s_mean, s_std, t_mean, t_std, use_teacher), and no other group."""
    num_levels = len(case.level_hw)
    rows = []
    for image in range(case.num_images):
        if f"switch_table_{image}" in case:
            table = case[f"switch_table_{image}"].copy()
            table[:, 0] += case.first_gt[image]
            rows.append(table)
    table = np.concatenate(rows) if rows else np.zeros((0, 8))
    group = (table[:, 0] * num_levels + table[:, 1]).astype(int)
    decided = choice.decisions.numpy() >= 0
    np.testing.assert_array_equal(np.flatnonzero(decided), np.sort(group))
    np.testing.assert_array_equal(values.count.numpy()[group], table[:, [2, 2]])
    close = dict(rtol=1e-4, atol=1e-6)  # the reference reduces in float32
    mean = values.mean.numpy()[group]
    np.testing.assert_allclose(mean, table[:, [5, 3]], **close)
    several = table[:, 2] >= 2
    std = values.std_mean.numpy()[group] * mean
    np.testing.assert_allclose(std[several], table[several][:, [6, 4]], **close)
    # Single costs that tie exactly: the released code says student, ours the first network.
    tie = ~several & (table[:, 3] == table[:, 5])
    uses_teacher = choice.decisions.numpy()[group] == 0
    np.testing.assert_array_equal(uses_teacher[~tie], table[~tie][:, 7] == 1)


def check_criteria(path: Path) -> None:
    """Std/mean and Fisher at every scope."""
    case = Case(path)
    candidates, tables = _criteria_tables(case)
    num_images = int(candidates.image.max()) + 1
    first_gt = [int(candidates.gt[candidates.image == i].min()) for i in range(num_images)]
    num_gts = int(candidates.gt.max()) + 1
    num_levels = int(candidates.level.max()) + 1
    values = {
        scope: compute_indicators(
            tables,
            candidates,
            scope=scope,
            num_gts=num_gts,
            num_images=num_images,
            num_levels=num_levels,
            fisher=True,
        )
        for scope in ("gt_level", "gt", "image", "iteration")
    }
    for row in case["table_img_gt_level_n_sSM_tSM_sF_tF"]:
        image, gt, level = (int(value) for value in row[:3])
        if image < 0:
            scope, group = "iteration", 0
        elif gt < 0:
            scope, group = "image", image
        elif level < 0:
            scope, group = "gt", first_gt[image] + gt
        else:
            scope, group = "gt_level", (first_gt[image] + gt) * num_levels + level
        found = values[scope]
        assert found.fisher is not None
        message = f"{scope}, row {row[:4]}"
        np.testing.assert_array_equal(found.count[group].numpy(), row[[3, 3]], err_msg=message)
        close = dict(rtol=1e-5, err_msg=message)
        if row[3] >= 2:
            np.testing.assert_allclose(found.std_mean[group].numpy(), row[4:6], **close)
        if row[3] >= 4:  # below, we judge by std/mean
            np.testing.assert_allclose(found.fisher[group].numpy(), row[6:8], **close)


def _criteria_tables(case: Case) -> tuple[Candidates, list[CostTable]]:
    """Rows of all images, sorted by (GT, level); student first, as in the file."""
    columns: dict[str, list[np.ndarray]] = {k: [] for k in ("image", "gt", "level", "s", "t")}
    image, next_gt = 0, 0
    while f"s_cost_{image}" in case:
        gt, level = case[f"cand_gt_{image}"], case[f"cand_level_{image}"]
        order = np.lexsort((level, gt))
        columns["image"].append(np.full(len(gt), image))
        columns["gt"].append(gt[order] + next_gt)
        columns["level"].append(level[order])
        columns["s"].append(case[f"s_cost_{image}"][order])
        columns["t"].append(case[f"t_cost_{image}"][order])
        image, next_gt = image + 1, next_gt + int(gt.max(initial=-1)) + 1
    merged = {name: torch.from_numpy(np.concatenate(parts)) for name, parts in columns.items()}
    candidates = Candidates(
        image=merged["image"].long(),
        gt=merged["gt"].long(),
        prior=torch.arange(len(merged["gt"])),
        level=merged["level"].long(),
    )
    return candidates, [CostTable(cost=merged["s"]), CostTable(cost=merged["t"])]
