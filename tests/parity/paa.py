"""PAA, its inference, and its mixtures against mmdet, scikit-learn and a float64 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mmengine.structures import InstanceData

from assigners import Candidates, CostTable, GroundTruths, PAAAssigner, Priors
from assigners.mixture import fit_mixture
from assigners.paa import build_bags

from .case import (
    Case,
    check_assignment,
    check_candidates,
    check_costs,
    check_gradients,
    check_losses,
    predictions_of,
    reference_candidates,
)


def check_paa(path: Path) -> None:
    """Candidates, costs, mixtures, labels, losses and gradients of self-assignment."""
    case = Case(path)
    head = case.build_head()
    priors = case.build_priors(head)
    outs, predictions = predictions_of(case, head, priors)
    assigner = head.own_assigner
    candidates = assigner.candidates(priors, case.gts)
    check_candidates(case, candidates)
    _check_pre_assignment(case)
    for key, part in (
        ("cand_cost", assigner),
        ("cand_cls_cost", PAAAssigner(reg_weight=0)),
        ("cand_reg_cost", PAAAssigner(cls_weight=0)),
    ):
        check_costs(case, key, part.costs(predictions, candidates, case.gts).cost, candidates)
    table = assigner.costs(predictions, candidates, case.gts)
    check_mixtures(case, table, candidates, priors, assigner.topk)
    assignment = assigner.assign(table, candidates, priors, case.gts, num_classes=case.num_classes)
    check_assignment(case, assignment)
    decoded = predictions.boxes.detach().flatten(0, 1)[assignment.pos_inds]
    if "pos_decoded" in case:
        np.testing.assert_allclose(decoded.numpy(), case["pos_decoded"], rtol=1e-5, atol=1e-4)
    losses = head.loss_from_assignment(
        predictions, outs, assignment, priors, case.gts, taught=False
    )
    check_losses(case, "", losses)
    check_gradients(case, "", outs, losses)
    _check_plain_training(case)


def _check_pre_assignment(case: Case) -> None:
    """The file's own labels before re-assignment follow from its candidates."""
    for image in range(case.num_images):
        expected = np.full(case["pre_labels"].shape[1], case.num_classes)
        prior, gt, _ = reference_candidates(case, image)
        expected[prior] = case[f"gt_labels_{image}"][gt]
        np.testing.assert_array_equal(case["pre_labels"][image], expected)


def _check_plain_training(case: Case) -> None:
    """mmdet's entry point gives the same losses."""
    head, outs = case.build_head(), case.outputs()
    instances = [
        InstanceData(bboxes=case.tensor(f"gt_boxes_{i}"), labels=case.tensor(f"gt_labels_{i}"))
        for i in range(case.num_images)
    ]
    losses = head.loss_by_feat(*outs, instances, case.metas)
    check_losses(case, "", losses)
    check_gradients(case, "", outs, losses)


def check_mixtures(
    case: Case, table: CostTable, candidates: Candidates, priors: Priors, topk: int
) -> None:
    """Bags and fits against the log of scikit-learn's, GT by GT.

    scikit-learn had float32 costs and an uncentred variance, so parameters agree loosely, and only
    where both stop at the same iteration; positives are compared exactly through the labels.
    """
    bags = build_bags(table.cost, candidates, case.gts.num_gts, len(priors.level_sizes), topk)
    fitted = (bags.mask.sum(-1) >= 2).nonzero().flatten()
    assert len(fitted) == int(case["gmm_num_fits"])
    mixture = fit_mixture(bags.cost, bags.mask)
    component, density = mixture.log_density(torch.where(bags.mask, bags.cost, 0.0))
    offsets = case["gmm_offsets"]
    for log, gt in enumerate(fitted.tolist()):
        rows = slice(offsets[log], offsets[log + 1])
        count = int(bags.mask[gt].sum())
        cost = bags.cost[gt, :count].numpy()
        np.testing.assert_allclose(cost, case["gmm_sorted_cost"][rows], rtol=1e-5, atol=1e-6)
        prior = candidates.prior[bags.row[gt, :count]].numpy()
        assert set(prior) == set(case["gmm_anchor_idx"][rows])
        if int(mixture.n_iter[gt]) != int(case["gmm_n_iter"][log]):
            continue
        spread = cost.std()
        if spread < 0.01 or np.sqrt(case["gmm_vars"][log].min()) < 0.05 * spread:
            continue  # float32 variances of such narrow bags or components are rounding noise
        _assert_close(mixture.means[gt], case["gmm_means"][log], f"means of GT {gt}")
        _assert_close(mixture.variances[gt], case["gmm_vars"][log], f"variances of GT {gt}")
        _assert_close(mixture.weights[gt], case["gmm_weights"][log], f"weights of GT {gt}")
        # scikit-learn squares float32 deviations here: measured differences reach 1.5e-3.
        found = density[gt, :count].numpy()
        np.testing.assert_allclose(found, case["gmm_loglik"][rows], rtol=1e-2, atol=1e-2)
        is_second = component[gt, 1, :count] > component[gt, 0, :count]
        np.testing.assert_array_equal(is_second.numpy(), case["gmm_component"][rows])


def _assert_close(actual: torch.Tensor, expected: np.ndarray, message: str) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-4, atol=1e-5, err_msg=message)


def check_gmm1d(path: Path) -> None:
    """One-GT bags: parameters of the float64 fit, and positives where readings agree."""
    case = Case(path)
    offsets, cost = case["offsets"], case.tensor("cost")
    counts = np.diff(offsets)
    bag = torch.repeat_interleave(torch.arange(len(counts)), torch.from_numpy(counts))
    candidates = Candidates(
        image=torch.zeros_like(bag),
        gt=bag,
        prior=torch.arange(len(cost)),
        level=torch.zeros_like(bag),
    )
    _check_fits(case, cost, candidates, counts)
    positive = _positives(cost, candidates, counts)
    for index in np.flatnonzero(case["robust"]):
        rows = slice(offsets[index], offsets[index + 1])
        for reference in ("pos_em64", "pos_mmdet_diag", "pos_mmdet_full"):
            expected = case[reference][rows]
            if not (expected == -1).any():  # scikit-learn raised
                message = f"bag {index}, {reference}"
                np.testing.assert_array_equal(positive[rows], expected, err_msg=message)


def _check_fits(case: Case, cost: torch.Tensor, candidates: Candidates, counts: np.ndarray) -> None:
    bags = build_bags(cost, candidates, len(counts), 1, int(counts.max()))
    mixture = fit_mixture(bags.cost, bags.mask)
    reference = case["em64_mu_var_iter_npos_nfg_contig"]
    np.testing.assert_array_equal(mixture.fitted.numpy(), counts >= 2)
    for index in np.flatnonzero(counts >= 2):
        expected = reference[index]
        assert int(mixture.n_iter[index]) == int(expected[4]), f"iterations of bag {index}"
        tolerance = dict(rtol=1e-9, atol=1e-12, err_msg=f"bag {index}")
        np.testing.assert_allclose(mixture.means[index].numpy(), expected[:2], **tolerance)
        np.testing.assert_allclose(mixture.variances[index].numpy(), expected[2:4], **tolerance)


def _positives(cost: torch.Tensor, candidates: Candidates, counts: np.ndarray) -> np.ndarray:
    """(N,) bool from the assigner, every bag a GT of one image."""
    total, num_gts = len(cost), len(counts)
    priors = Priors(
        points=torch.zeros(total, 2),
        strides=torch.ones(total),
        level=torch.zeros(total, dtype=torch.int64),
        valid=torch.ones(1, total, dtype=torch.bool),
        level_sizes=(total,),
    )
    gts = GroundTruths.from_lists([torch.zeros(num_gts, 4)], [torch.zeros(num_gts)], [(1, 1)])
    assignment = PAAAssigner(topk=int(counts.max())).assign(
        CostTable(cost=cost), candidates, priors, gts, num_classes=1
    )
    return (assignment.labels[0] == 0).numpy()


def check_postprocess(path: Path) -> None:
    """Detections with and without score voting."""
    case = Case(path)
    for voting, prefix in ((True, "voted"), (False, "novote")):
        head = case.build_head(score_voting=voting)
        case.build_priors(head)
        cls, boxes, iou = ([level.detach() for level in maps] for maps in case.outputs())
        results = head.predict_by_feat(cls, boxes, iou, batch_img_metas=case.metas)
        for image, result in enumerate(results):
            expected = {
                name: case[f"{prefix}_{name}_{image}"] for name in ("boxes", "scores", "labels")
            }
            np.testing.assert_array_equal(result.labels.numpy(), expected["labels"])
            np.testing.assert_allclose(result.scores.numpy(), expected["scores"], rtol=1e-5)
            np.testing.assert_allclose(
                result.bboxes.numpy(), expected["boxes"], rtol=1e-5, atol=1e-3
            )
