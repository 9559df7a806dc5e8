"""ALA's formulas and configuration; the contract is in test_point_contract.py."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners import ALAAssigner, CostTable, Step, build_assigner
from assigners.ala import ALAAssignment
from assigners.boxes import aligned_giou, aligned_iou

from .point_scenes import CLASSES, assign, scene
from .scenes import flat_priors, make_candidates, make_gts, random_boxes

# -- scores ---------------------------------------------------------------------------------------


def slow_scores(assigner: ALAAssigner, predictions: Any, priors: Any, gts: Any) -> dict:
    """(gt, prior) -> S+, GT by GT and point by point in float64."""
    result = {}
    for gt in range(gts.num_gts):
        image, label, box = int(gts.image[gt]), int(gts.labels[gt]), gts.boxes[gt].double()
        mean, sigma = (
            predictions.extras[key][image, label].double().numpy()
            for key in ("center_mean", "center_sigma")
        )
        for prior in range(priors.num_priors):
            x, y = priors.points[prior].double()
            if min(x - box[0], y - box[1], box[2] - x, box[3] - y) <= 0:
                continue
            p_cls = float(predictions.cls[image, prior, label].double().sigmoid())
            p_cls *= float(predictions.quality[image, prior].double().sigmoid())
            predicted = predictions.boxes[image, prior].double()[None]
            iou, giou = (float(f(predicted, box[None])) for f in (aligned_iou, aligned_giou))
            p_loc = {
                "consistent": np.exp(-((1 - iou) ** assigner.alpha)),
                "literal": np.exp(-(iou**assigner.alpha)),
                "loss": np.exp(-assigner.lambda_ * (1 - giou)),
            }[assigner.loc_likelihood]
            b = assigner.beta if assigner.beta_applies_to == "cls" else 1 - assigner.beta
            mixed = p_cls**b * p_loc ** (1 - b)
            p = mixed if assigner.combine == "mul" else b * p_cls + (1 - b) * p_loc
            if not assigner.use_p_cls:
                p = p_loc
            if not assigner.use_p_loc:
                p = p_cls
            score = p if assigner.confidence else 1.0
            if assigner.weight and assigner.center_weight:
                centre = ((box[:2] + box[2:]) / 2).numpy()
                offset = (np.array([x, y]) - centre) / float(priors.strides[prior])
                score *= np.exp(-((offset - mean) ** 2) / (2 * sigma**2)).prod()
            if assigner.weight and assigner.property_map:
                score *= float(predictions.extras["foreground"][image, prior])
            result[gt, prior] = score
    return result


@pytest.mark.parametrize(
    "switches",
    [
        dict(),
        dict(loc_likelihood="literal", alpha=1.4, beta=0.2),
        dict(loc_likelihood="loss", lambda_=2.0, beta_applies_to="loc"),
        dict(combine="add"),
        dict(combine="add", beta=0.2, beta_applies_to="loc"),
        dict(use_p_cls=False),
        dict(use_p_loc=False),
        dict(confidence=False),
        dict(weight=False),
        dict(center_weight=False),
        dict(property_map=False),
    ],
)
@given(st.integers(0, 10**6))
@settings(max_examples=5, deadline=None)
def test_equals_the_formulas_applied_pair_by_pair(switches: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(2, generator), random_boxes(1, generator)]
    predictions, priors, gts = scene(*boxes, seed=seed)
    predictions.boxes[0, :40] = gts.boxes[:1] + torch.randn(40, 4, generator=generator) * 6
    assigner = ALAAssigner(**switches)
    pairs = assigner.candidates(priors, gts)
    found = assigner.costs(predictions, pairs, gts).columns["s_pos"]
    expected = slow_scores(assigner, predictions, priors, gts)
    assert list(expected) == list(zip(pairs.gt.tolist(), pairs.prior.tolist()))
    reference = torch.tensor(list(expected.values()), dtype=torch.float64)
    torch.testing.assert_close(found.double(), reference, rtol=1e-3, atol=1e-6)


def test_negative_scores() -> None:
    predictions, *_ = scene([[5, 5, 120, 120]])
    joint = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    background = predictions.extras["background"][..., None]
    for switches, expected in (
        (dict(), joint * background),
        (dict(negative_map="none"), joint),
        (dict(property_map=False), joint),
        (dict(weight=False), joint),
        (dict(confidence=False), torch.ones_like(joint) * background),
    ):
        found = ALAAssigner(**switches).negative_score(predictions)
        torch.testing.assert_close(found, expected)


def test_a_network_without_branches_has_the_initial_prior_and_no_map() -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    shape = predictions.extras["center_mean"].shape
    initial = {
        "center_mean": torch.zeros(shape),
        "center_sigma": torch.ones(shape),
        "foreground": torch.ones(predictions.boxes.shape[:2]),
        "background": torch.ones(predictions.boxes.shape[:2]),
    }
    assigner = ALAAssigner()
    pairs = assigner.candidates(priors, gts)
    bare, stated = (
        assigner.costs(replace(predictions, extras=extras), pairs, gts).cost
        for extras in ({}, initial)
    )
    torch.testing.assert_close(bare, stated)


@pytest.mark.parametrize("likelihood", ["consistent", "literal"])
def test_slopes_are_finite_at_both_ends(likelihood: str) -> None:
    """An exponent below 1 has an infinite slope at 0."""
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    boxes = gts.boxes.expand_as(predictions.boxes).clone()
    boxes[0, ::2] = torch.tensor([500.0, 500, 600, 600])
    boxes.requires_grad_()
    assigner = ALAAssigner(loc_likelihood=likelihood)
    pairs = assigner.candidates(priors, gts)
    score = assigner.log_positive_score(replace(predictions, boxes=boxes), pairs, gts)
    (gradient,) = torch.autograd.grad(score.sum(), boxes)
    assert gradient.isfinite().all()


# -- sets and labels ------------------------------------------------------------------------------


def split(
    scores: list[float], *, iteration: int = 0, gt: list[int] | None = None, **switches: Any
) -> ALAAssignment:
    """Sets of given scores."""
    gt = [0] * len(scores) if gt is None else gt
    pairs = make_candidates(gt, [0] * len(scores))
    gts = make_gts([[0, 0, 60, 60]] * (max(gt, default=0) + 1))
    score = torch.tensor(scores)
    return ALAAssigner(**switches).assign(
        CostTable(cost=-score.clamp(min=1e-12).log(), columns={"s_pos": score}),
        pairs,
        flat_priors((len(scores),)),
        gts,
        num_classes=CLASSES,
        step=Step(iteration=iteration, max_iterations=100),
    )


def sets_of(assignment: ALAAssignment) -> str:
    return "".join(
        "h" if hard else "s" if soft else "n"
        for hard, soft in zip(assignment.hard.tolist(), assignment.soft.tolist())
    )


@pytest.mark.parametrize(
    ("scores", "switches", "expected"),
    [
        # mean 0.52, deviation 0.2713
        ([0.9, 0.6, 0.6, 0.4, 0.1], {}, "hsssn"),
        ([0.9, 0.6, 0.6, 0.4, 0.1], dict(loss_soft_pos=False), "hnnnn"),
        ([0.9, 0.6, 0.6, 0.4, 0.1], dict(ps3=False), "hhhhh"),
        ([0.9, 0.6, 0.6, 0.4, 0.1], dict(positive_threshold=0.6), "hhhss"),
        ([0.9, 0.6, 0.6, 0.4, 0.1], dict(positive_threshold=0.6, loss_soft_pos=False), "hhhnn"),
        ([0.6, 0.9, 0.9, 0.4, 0.1], dict(one_to_one=True), "nhnnn"),
        ([0.3], {}, "h"),
        ([0.1] * 7, {}, "hhhhhhh"),  # their mean is not 0.1 in floating point
        ([0.0, 0.0], {}, "hh"),
        ([0.8, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], {}, "hssssss"),  # mean - deviation < 0
        ([], {}, ""),
    ],
)
def test_literal_sets(scores: list[float], switches: dict[str, Any], expected: str) -> None:
    assignment = split(scores, **switches)
    assert sets_of(assignment) == expected
    assert assignment.neg_weight.tolist() == [float(c == "n") for c in expected]
    assert int(assignment.stats["hard_positives"]) == expected.count("h")
    assert int(assignment.stats["soft_positives"]) == expected.count("s")


def test_each_gt_has_its_own_sets() -> None:
    scores = [0.9, 0.6, 0.6, 0.4, 0.1]
    both = split([*scores, *(s / 100 for s in scores), 0.5], gt=[0] * 5 + [1] * 5 + [3])
    assert sets_of(both) == "hsssnhsssnh"
    assert int(both.stats["gt_without_candidate"]) == 1


@pytest.mark.parametrize(
    ("iteration", "factor"),
    [(0, 1), (50, 0.5), (100, 0), (30, 0.5 * (1 + math.cos(0.3 * math.pi)))],
)
def test_the_soft_label_falls_with_training(iteration: int, factor: float) -> None:
    scores = [0.9, 0.6, 0.6, 0.4, 0.1]
    adaptive = split(scores, iteration=iteration)
    expected = [1, *(factor * s / 0.9 for s in (0.6, 0.6, 0.4)), 0]
    assert adaptive.pos_weight.tolist() == pytest.approx(expected, abs=1e-6)
    fixed = split(scores, iteration=iteration, soft_label=0.7)
    assert fixed.pos_weight.tolist() == pytest.approx([1, 0.7, 0.7, 0.7, 0])


def test_weights_are_constants() -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    learning = replace(predictions, cls=predictions.cls.clone().requires_grad_())
    _, assignment = assign(ALAAssigner(), learning, priors, gts)
    assert not (assignment.pos_weight.requires_grad or assignment.neg_weight.requires_grad)


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        dict(weight=False),
        dict(confidence=False),
        *[dict(use_p_cls=cls, use_p_loc=not cls) for cls in (True, False)],
        *[
            dict(combine=combine, alpha=alpha, beta=beta)
            for combine in ("mul", "add")
            for alpha in (0.2, 0.8, 1.4)
            for beta in (0, 0.6, 1)
        ],
        *[dict(loc_likelihood=form) for form in ("consistent", "literal", "loss")],
        dict(beta_applies_to="loc"),
        *[dict(center_weight=a, property_map=b) for a in (True, False) for b in (True, False)],
        dict(ps3=False),
        *[dict(positive_threshold=v) for v in (0.3, 0.4, 0.5, 0.6, 0.7)],
        *[dict(soft_label=v) for v in (0.3, 0.5, 0.7, 1.0)],
        dict(loss_neg=False),
        dict(loss_soft_pos=False),
        dict(loss_hard_pos=False),
        dict(one_to_one=True),
        dict(center_loss_weight=0.75),
        dict(negative_map="none", normalizer="gts"),
    ],
)
def test_every_row_of_the_papers_tables_builds_and_assigns(switches: dict[str, Any]) -> None:
    assigner = build_assigner(dict(type="ALA", **switches))
    pairs, assignment = assign(assigner, *scene([[5, 5, 120, 120], [20, 20, 90, 90]]))
    assert len(pairs) > 0 and (assignment.pos_weight <= 1).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(alpha=0), "alpha must be finite and > 0, got 0"),
        (dict(beta=1.1), r"beta must be in \[0, 1\], got 1.1"),
        (dict(lambda_=-1), "lambda_ must be finite and >= 0"),
        (dict(center_loss_weight=float("nan")), "center_loss_weight must be finite"),
        (dict(combine="MUL"), r"combine must be one of .*'mul'.*got 'MUL'"),
        (dict(beta_applies_to="both"), "beta_applies_to must be one of"),
        (dict(loc_likelihood="iou"), "loc_likelihood must be one of"),
        (dict(negative_map="map"), "negative_map must be one of"),
        (dict(normalizer="mean"), "normalizer must be one of"),
        (dict(positive_threshold="fixed"), r"positive_threshold must be 'adaptive' or a number"),
        (dict(positive_threshold=True), "positive_threshold must be"),
        (dict(soft_label=1.5), r"soft_label must be 'adaptive' or a number in \[0, 1\], got 1.5"),
        (dict(confidence=False, weight=False), "confidence and weight are both off"),
        (dict(use_p_cls=False, use_p_loc=False), "use_p_cls and use_p_loc are both off"),
        (dict(cost="loss"), "cost must be one of"),
        (dict(aplha=1), "unknown field 'aplha'.*did you mean 'alpha'"),
    ],
)
def test_rejects_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(dict(type="ALA", **config))
