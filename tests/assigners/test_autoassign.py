"""AutoAssign's formulas and configuration; the contract is in test_point_contract.py."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners import AutoAssigner, GroundTruths, build_assigner
from assigners.boxes import aligned_giou, pairwise_iou
from assigners.center import center_loss, gt_logsumexp, log_center_weight, log_gaussian
from assigners.points import gaussian_prior

from .point_scenes import assign, scene
from .scenes import make_candidates, make_gts, random_boxes

# -- weights --------------------------------------------------------------------------------------


def slow_weights(assigner: AutoAssigner, predictions: Any, priors: Any, gts: GroundTruths) -> Any:
    """(gt, prior) -> e^(P / tau), w+, w-; GT by GT and point by point in float64."""
    result = {}
    for gt in range(gts.num_gts):
        image, label = int(gts.image[gt]), int(gts.labels[gt])
        box = gts.boxes[gt].double()
        own = gts.boxes[gts.image == image].double()
        mean, sigma = (
            predictions.extras[key][image, label].double()
            for key in ("center_mean", "center_sigma")
        )
        rows = []
        for prior in range(priors.num_priors):
            x, y = priors.points[prior].double()
            if min(x - box[0], y - box[1], box[2] - x, box[3] - y) <= 0:
                continue
            p_cls = float(predictions.cls[image, prior, label].double().sigmoid())
            p_cls *= float(predictions.quality[image, prior].double().sigmoid())
            predicted = predictions.boxes[image, prior].double()[None]
            p_loc = np.exp(-assigner.lambda_ * (1 - float(aligned_giou(predicted, box[None]))))
            p = {"joint": p_cls * p_loc, "cls": p_cls, "loc": p_loc}[assigner.confidence]
            confidence = np.exp(p / assigner.tau) if assigner.confidence_weighting else 1.0
            offset = (torch.stack([x, y]) - (box[:2] + box[2:]) / 2) / priors.strides[prior]
            centre = float(torch.exp(-((offset - mean) ** 2) / (2 * sigma**2)).prod())
            overlap = float(pairwise_iou(own, predicted).max())
            rows.append((prior, confidence, centre, 1 / max(1 - overlap, 1e-12)))
        total = max(sum(c * g for _, c, g, _ in rows), 1e-12)
        odds = [v for *_, v in rows]
        for prior, confidence, centre, v in rows:
            negative = 1 - (v - min(odds) + 1e-12) / (max(odds) - min(odds) + 1e-12)
            negative = negative if assigner.negative_weighting else 1.0
            result[gt, prior] = (confidence, confidence * centre / total, negative)
    return result


@pytest.mark.parametrize("confidence", ["joint", "cls", "loc"])
@given(st.integers(0, 10**6), st.floats(0.1, 2), st.floats(0, 8), st.booleans(), st.booleans())
@settings(max_examples=30, deadline=None)
def test_equals_the_formulas_applied_pair_by_pair(
    confidence: str, seed: int, tau: float, box: float, weighting: bool, negative: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(2, generator), random_boxes(1, generator)]
    predictions, priors, gts = scene(*boxes, seed=seed)
    predictions.boxes[0, :40] = gts.boxes[:1] + torch.randn(40, 4, generator=generator) * 6
    assigner = AutoAssigner(
        confidence=confidence,
        tau=tau,
        lambda_=box,
        confidence_weighting=weighting,
        negative_weighting=negative,
    )
    pairs, assignment = assign(assigner, predictions, priors, gts)
    expected = slow_weights(assigner, predictions, priors, gts)
    assert list(expected) == list(zip(pairs.gt.tolist(), pairs.prior.tolist()))
    reference = torch.tensor(list(expected.values())).reshape(-1, 3)
    tolerance = dict(rtol=1e-3, atol=1e-5, check_dtype=False)
    torch.testing.assert_close(assignment.pos_weight, reference[:, 0], **tolerance)
    prior = log_center_weight(predictions, pairs, gts)
    weight = assigner.log_positive_weight(assignment.pos_weight, prior, pairs.gt, gts.num_gts)
    torch.testing.assert_close(weight.exp(), reference[:, 1], **tolerance)
    # Bags of nearly equal overlaps divide rounding errors by a small range.
    torch.testing.assert_close(
        assignment.neg_weight, reference[:, 2], rtol=1e-3, atol=2e-3, check_dtype=False
    )


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ([0.5, 0.75, 0.0], [2 / 3, 0, 1]),  # 1 / (1 - u) is 2, 4, 1
        ([0.3], [0]),
        ([0.4, 0.4], [0, 0]),
        ([1.0, 0.0], [0, 1]),
        ([0.0, 0.0, 0.0], [0, 0, 0]),
    ],
)
def test_literal_negative_weights(overlap: list[float], expected: list[float]) -> None:
    pairs = make_candidates([0] * len(overlap), [0] * len(overlap))
    gts = make_gts([[0, 0, 60, 60]])
    found = AutoAssigner().negative_weight(torch.tensor(overlap), pairs, gts)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    without = AutoAssigner(negative_weighting=False)
    assert without.negative_weight(torch.tensor(overlap), pairs, gts).tolist() == [1] * len(overlap)


def test_a_box_on_another_gt_is_no_negative() -> None:
    """Eq. 11 looks at the overlap with any GT of the image, not only with the pair's own."""
    predictions, priors, gts = scene([[0, 0, 90, 90], [40, 40, 128, 128]])
    predictions.boxes[0] = torch.tensor([0.0, 0, 1, 1])
    pairs = AutoAssigner().candidates(priors, gts)
    both = set(pairs.prior[pairs.gt == 0].tolist()) & set(pairs.prior[pairs.gt == 1].tolist())
    shared = min(both)
    predictions.boxes[0, shared] = gts.boxes[1]
    _, assignment = assign(AutoAssigner(), predictions, priors, gts)
    assert assignment.neg_weight[pairs.prior == shared].tolist() == pytest.approx([0, 0])


def test_the_confidence_keeps_its_gradient_only_in_self_assignment() -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    learning = replace(
        predictions,
        cls=predictions.cls.clone().requires_grad_(),
        boxes=predictions.boxes.clone().requires_grad_(),
    )
    _, own = assign(AutoAssigner(), learning, priors, gts)
    gradients = torch.autograd.grad(own.pos_weight.sum(), (learning.cls, learning.boxes))
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for options in (dict(detach_weights=True), dict(confidence_weighting=False)):
        assert not assign(AutoAssigner(**options), learning, priors, gts)[
            1
        ].pos_weight.requires_grad


# -- the centre prior -----------------------------------------------------------------------------


def test_log_gaussian_is_the_logarithm_of_the_prior() -> None:
    offset = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        log_gaussian(offset, 0.3, 1.2), gaussian_prior(offset, 0.3, 1.2).log()
    )
    far = torch.tensor([[60.0, 0.0]], requires_grad=True)
    assert gaussian_prior(far, 0.0, 1.0) == 0 and log_gaussian(far, 0.0, 1.0).item() == -1800


def test_each_pair_reads_the_prior_of_its_image_and_class() -> None:
    predictions, priors, gts = scene([[0, 0, 60, 60]], [[0, 0, 60, 60], [20, 20, 128, 128]])
    pairs = AutoAssigner().candidates(priors, gts)
    found = log_center_weight(predictions, pairs, gts)
    assert found is not None and pairs.offset is not None
    for row in (0, len(pairs) // 2, len(pairs) - 1):
        index = (pairs.image[row], gts.labels[pairs.gt[row]])
        mean, sigma = (predictions.extras[k][index] for k in ("center_mean", "center_sigma"))
        expected = -((pairs.offset[row] - mean) ** 2 / (2 * sigma**2)).sum()
        torch.testing.assert_close(found[row], expected)
    assert log_center_weight(replace(predictions, extras={}), pairs, gts) is None


def test_centre_loss_counts_gts_over_weights_image_by_image() -> None:
    _, priors, gts = scene(
        [[0, 0, 60, 60], [5, 5, 70, 70]], [], [[41, 41, 42, 42]], [[-1, -1, 9, 9]]
    )
    pairs = AutoAssigner().candidates(priors, gts)
    weight = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0)).requires_grad_()
    first, last = (weight[pairs.image == image].sum() for image in (0, 3))
    torch.testing.assert_close(center_loss(weight, pairs, gts), 2 / first + 1 / last)
    (gradient,) = torch.autograd.grad(center_loss(weight * 0, pairs, gts), weight)
    assert gradient.isfinite().all()


def test_logsumexp_within_gts() -> None:
    values = torch.tensor([1.0, 2.0, -200.0, -201.0], requires_grad=True)
    found = gt_logsumexp(values, torch.tensor([0, 0, 2, 2]), 3)
    expected = [np.log(np.exp(1) + np.exp(2)), -100, -200 + np.log1p(np.exp(-1))]
    assert found.tolist() == pytest.approx(expected)
    (gradient,) = torch.autograd.grad(found[[0, 2]].sum(), values)
    p = 1 / (1 + np.exp(-1))
    assert gradient.tolist() == pytest.approx([1 - p, p, p, 1 - p])


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        *[
            dict(center_weighting=a, confidence_weighting=b, negative_weighting=c)
            for a in (True, False)
            for b in (True, False)
            for c in (True, False)
        ],
        *[dict(confidence=c) for c in ("cls", "loc", "joint")],
        *[dict(tau=tau, lambda_=box) for tau, box in ((0.1, 1.0), (0.5, 5.0), (1.0, 10.0))],
        dict(detach_weights=True),
        dict(weights_on="loss"),
        dict(weights_on="loss", detach_weights=True),
        dict(center_loss_weight=0.0),
    ],
)
def test_every_row_of_the_papers_tables_builds_and_assigns(switches: dict[str, Any]) -> None:
    assigner = build_assigner(dict(type="AutoAssign", **switches))
    pairs, assignment = assign(assigner, *scene([[5, 5, 120, 120], [20, 20, 90, 90]]))
    assert len(pairs) > 0 and assignment.pos_weight.isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(tau=0.01), r"tau must be finite and >= 0.02, got 0.01"),
        (dict(tau=float("nan")), "tau must be finite"),
        (dict(lambda_=-1), "lambda_ must be finite and >= 0, got -1"),
        (dict(center_loss_weight=float("inf")), "center_loss_weight must be finite"),
        (dict(confidence="both"), r"confidence must be one of .*'joint'.*got 'both'"),
        (dict(weights_on="logit"), "weights_on must be one of"),
        (dict(cost="loss"), "cost must be one of"),
        (dict(lamda=5), "unknown field 'lamda'.*did you mean 'lambda_'"),
    ],
)
def test_rejects_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(dict(type="AutoAssign", **config))
