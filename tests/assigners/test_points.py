"""Pairs by geometry and arithmetic over pairs."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import assigners.boxes
import assigners.points
from assigners import Candidates, DensePredictions, GroundTruths
from assigners.boxes import pairwise_iou
from assigners.points import (
    at_least_float32,
    best_overlap,
    gaussian_prior,
    gt_count,
    gt_max,
    gt_mean,
    gt_min,
    gt_sum,
    inside_candidates,
    joint_probability,
    log_pair_probability,
    neg_log_complement,
    pair_cost,
    pair_probability,
    rank_in_gt_level,
    scatter_pairs,
)

from .scenes import make_candidates, make_gts, make_priors, random_boxes, random_point_predictions

CLASSES = 3


def test_only_points_strictly_inside_are_candidates() -> None:
    priors = make_priors((64, 64), strides=(16,))  # points at 0, 16, 32, 48
    pairs = inside_candidates(priors, make_gts([[16, 0, 49, 33]]))
    # On the left, upper or right side is outside: x = 32, 48; y = 16, 32.
    assert priors.points[pairs.prior].tolist() == [[32, 16], [48, 16], [32, 32], [48, 32]]
    assert pairs.offset is not None
    assert pairs.offset[0].tolist() == [(32 - 32.5) / 16, (16 - 16.5) / 16]
    pairs = inside_candidates(priors, make_gts([[0, 16, 48, 48]]))  # points on all four sides
    assert priors.points[pairs.prior].tolist() == [[16, 32], [32, 32]]


def test_rows_are_sorted_and_complete() -> None:
    priors = make_priors(images=3)
    generator = torch.Generator().manual_seed(0)
    gts = make_gts(random_boxes(3, generator), [], random_boxes(2, generator))
    pairs = inside_candidates(priors, gts)
    key = pairs.gt * priors.num_priors + pairs.prior
    assert (key.diff() > 0).all()
    assert torch.equal(pairs.level, priors.level[pairs.prior])
    assert torch.equal(pairs.image, gts.image[pairs.gt])
    left_top = priors.points[None] - gts.boxes[:, None, :2]
    right_bottom = gts.boxes[:, None, 2:] - priors.points[None]
    inside = torch.cat([left_top, right_bottom], -1).amin(-1) > 0  # (G, A)
    assert len(pairs) == int(inside.sum()) and inside[pairs.gt, pairs.prior].all()


def test_invalid_points_take_no_part() -> None:
    priors = make_priors(images=2)
    priors.valid[1, ::2] = False
    pairs = inside_candidates(priors, make_gts([[5, 5, 100, 100]], [[5, 5, 100, 100]]))
    assert priors.valid[pairs.image, pairs.prior].all()
    assert (pairs.image == 1).any() and (pairs.image == 0).sum() > (pairs.image == 1).sum()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    priors = make_priors(images=4)
    generator = torch.Generator().manual_seed(1)
    same = [[9.0, 9.0, 70.0, 80.0]] * 6  # equal overlaps in several blocks: the first one owns
    gts = make_gts(random_boxes(3, generator), random_boxes(1, generator), [], same)
    boxes = random_point_predictions(priors, CLASSES, generator).boxes
    monkeypatch.setattr(assigners.points, "_PRIORS_PER_PAIR", 10**9)
    whole = inside_candidates(priors, gts)
    overlap = best_overlap(boxes, whole, gts)
    monkeypatch.setattr(assigners.boxes, "_BLOCK_ON_HOST", 2 * priors.num_priors)
    split = inside_candidates(priors, gts)
    again = best_overlap(boxes, whole, gts)
    assert torch.equal(whole.gt, split.gt) and torch.equal(whole.prior, split.prior)
    assert torch.equal(overlap[0], again[0]) and torch.equal(overlap[1], again[1])


@pytest.mark.parametrize("box", [[5, 5, 5, 5], [30, 30, 31, 31], [500, 500, 600, 600]])
def test_gts_without_a_point_inside_have_no_rows(box: list[float]) -> None:
    pairs = inside_candidates(make_priors(), make_gts([box]))
    assert len(pairs) == 0 and pairs.offset is not None and pairs.offset.shape == (0, 2)


def test_gt_larger_than_the_image_contains_every_point() -> None:
    priors = make_priors()
    assert len(inside_candidates(priors, make_gts([[-900, -900, 900, 900]]))) == priors.num_priors


# -- predictions at pairs -------------------------------------------------------------------------


def test_objectness_enters_the_probability_and_other_qualities_do_not() -> None:
    priors, gts = make_priors(), make_gts([[0, 0, 100, 100]], labels=[[2]])
    predictions = random_point_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    pairs = inside_candidates(priors, gts)
    assert predictions.quality is not None
    cls, objectness = predictions.cls.sigmoid(), predictions.quality.sigmoid()
    joint = joint_probability(predictions)
    torch.testing.assert_close(joint, cls * objectness[..., None])
    at_pairs = pair_probability(predictions, pairs, gts)
    torch.testing.assert_close(at_pairs, joint[0, pairs.prior, 2])
    torch.testing.assert_close(log_pair_probability(predictions, pairs, gts), at_pairs.log())
    for kind in ("iou", "centerness"):
        other = DensePredictions(
            cls=predictions.cls,
            boxes=predictions.boxes,
            quality=predictions.quality,
            quality_kind=kind,
        )
        torch.testing.assert_close(joint_probability(other), cls)
        torch.testing.assert_close(pair_probability(other, pairs, gts), cls[0, pairs.prior, 2])
    given = DensePredictions(cls=cls, boxes=predictions.boxes, cls_is_prob=True)
    assert torch.equal(joint_probability(given), cls)
    log = log_pair_probability(given, pairs, gts)
    torch.testing.assert_close(log, cls[0, pairs.prior, 2].log())


def test_logarithms_are_floored_with_finite_gradients() -> None:
    probability = torch.tensor([0.0, 1e-9, 0.5, 1.0], requires_grad=True)
    loss = neg_log_complement(probability)
    assert loss[0] == 0 and loss[3] == 100
    assert loss[1].item() == pytest.approx(1e-9) and loss[2].item() == pytest.approx(math.log(2))
    loss.sum().backward()
    assert probability.grad is not None and probability.grad.isfinite().all()


def test_costs() -> None:
    probability = torch.tensor([0.0, 0.25, 1.0, 1.0000001], requires_grad=True)
    cost = pair_cost(probability)
    assert not cost.requires_grad and (cost >= 0).all()
    assert cost.tolist() == pytest.approx([-math.log(1e-12), math.log(4), 0, 0])
    assert pair_cost(probability, "one_minus").tolist() == pytest.approx([1, 0.75, 0, 0])


def test_gaussian_prior() -> None:
    offset = torch.tensor([[0.0, 0.0], [1.0, 2.0]])
    assert gaussian_prior(offset, 0.0, 1.0).tolist() == pytest.approx([1, math.exp(-2.5)])
    mean, sigma = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 2.0])
    assert gaussian_prior(offset, mean, sigma).tolist() == pytest.approx(
        [math.exp(-0.5), math.exp(-0.5)]
    )
    arguments = [torch.randn(4, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(gaussian_prior, arguments)


def every_pair(boxes: Tensor, gts: GroundTruths) -> Candidates:
    """Each GT with all priors of its image."""
    gt = torch.arange(gts.num_gts).repeat_interleave(boxes.shape[1])
    prior = torch.arange(boxes.shape[1]).repeat(gts.num_gts)
    return make_pairs(gts, gt, prior)


def make_pairs(gts: GroundTruths, gt: Tensor, prior: Tensor) -> Candidates:
    return Candidates(image=gts.image[gt], gt=gt, prior=prior, level=torch.zeros_like(gt))


@pytest.fixture(params=["pairs", "priors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """``best_overlap`` goes one way for all sizes."""
    per_prior = 0 if request.param == "pairs" else 10**9
    monkeypatch.setattr(assigners.points, "_PRIORS_PER_PAIR", per_prior)
    return request.param


def test_best_overlap_is_per_image_and_prefers_the_lower_gt(way: str) -> None:
    box = [10.0, 10.0, 50.0, 50.0]
    gts = make_gts([box, box], [], [[60, 60, 90, 90], [0, 0, 20, 20]])
    boxes = torch.tensor([box, [200.0, 200, 210, 210]]).expand(3, 2, 4)
    best, owner = best_overlap(boxes, every_pair(boxes, gts), gts)
    expected = pairwise_iou(boxes[2], gts.boxes[2:]).amax(1)
    assert best.tolist() == [1, 0, 1, 0] + expected.tolist() * 2
    assert owner.tolist() == [0, 0, 0, 0, 3, 2, 3, 2]


def test_best_overlap_of_no_pair() -> None:
    boxes = torch.zeros(3, 2, 4)
    for gts in (make_gts([], [], []), make_gts([], [[1.0, 1.0, 2.0, 2.0]], [])):
        nothing = torch.zeros(0, dtype=torch.int64)
        best, owner = best_overlap(boxes, make_pairs(gts, nothing, nothing), gts)
        assert best.shape == owner.shape == (0,)
        assert best.dtype == torch.float32 and owner.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_best_overlap_has_the_same_bits_both_ways(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ragged images, equal GTs, boxes without extent, turned inside out and not a number."""
    generator = torch.Generator().manual_seed(2)
    same = [[9.0, 9.0, 70.0, 80.0]] * 3
    counts = (5, 1, 0, 9)
    gts = make_gts(
        same + random_boxes(2, generator).tolist(), same[:1], [], random_boxes(9, generator)
    )
    boxes = torch.rand(len(counts), 300, 4, generator=generator) * 120
    boxes[:, 200:, 2:] += boxes[:, 200:, :2]
    boxes[:, 100:120] = torch.tensor(same[0])
    boxes[:, 120:130, 2:] = boxes[:, 120:130, :2]
    boxes[:, 130:135, 1] = math.nan
    boxes[:, 135:140, 2] = math.inf
    boxes = boxes.to(dtype)
    pairs = every_pair(boxes, gts)
    found = []
    for per_prior in (0, 10**9):
        monkeypatch.setattr(assigners.points, "_PRIORS_PER_PAIR", per_prior)
        found.append(best_overlap(boxes.requires_grad_(), pairs, gts))
    monkeypatch.setattr(assigners.points, "_PRIORS_PER_PAIR", 0)
    monkeypatch.setattr(assigners.boxes, "_BLOCK_ON_HOST", 7 * max(counts))  # several blocks
    found.append(best_overlap(boxes, pairs, gts))
    for best, owner in found:
        assert torch.equal(best, found[0][0]) and torch.equal(owner, found[0][1])
        assert not best.requires_grad and best.dtype == at_least_float32(boxes).dtype
    overlaps = pairwise_iou(at_least_float32(boxes.detach()), gts.boxes.to(found[0][0].dtype))
    own_image = gts.image == torch.arange(len(counts))[:, None]  # (B, G)
    expected, gt = torch.where(own_image[:, None], overlaps, -1.0).max(-1)
    finite = boxes.isfinite().all(-1)[pairs.image, pairs.prior]
    best, owner = found[0]
    assert torch.equal(best[finite], expected[pairs.image, pairs.prior][finite])
    assert torch.equal(owner[finite], gt[pairs.image, pairs.prior][finite])
    assert (owner[boxes.isnan().any(-1)[pairs.image, pairs.prior]] == -1).all()


@pytest.mark.parametrize(("pairs", "way"), [(33, "_of_pairs"), (34, "_of_priors")])
def test_best_overlap_takes_the_way_of_fewer_operations(
    pairs: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes, gts = torch.rand(2, 50, 4), make_gts([[1, 1, 9, 9]], [[1, 1, 9, 9]])
    taken = []
    for name in ("_of_pairs", "_of_priors"):
        function = getattr(assigners.points, f"_best_overlap{name}")

        def spy(*arguments: Any, name: str = name, function: Any = function) -> Any:
            taken.append(name)
            return function(*arguments)

        monkeypatch.setattr(assigners.points, f"_best_overlap{name}", spy)
    prior = torch.arange(pairs)
    best_overlap(boxes, make_pairs(gts, torch.zeros_like(prior), prior), gts)
    assert taken == [way]


# -- per-GT reductions ----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_reductions_equal_those_gt_by_gt(seed: int, rows: int, num_gts: int) -> None:
    random = np.random.default_rng(seed)
    gt = torch.from_numpy(np.sort(random.integers(0, num_gts, rows)))
    values = torch.from_numpy(random.normal(size=rows))
    for index in range(num_gts):
        own = values[gt == index]
        assert gt_count(gt, num_gts)[index] == len(own)
        torch.testing.assert_close(gt_sum(values, gt, num_gts)[index], own.sum())
        mean, high, low = (f(values, gt, num_gts)[index] for f in (gt_mean, gt_max, gt_min))
        if len(own):
            torch.testing.assert_close(mean, own.mean())
            assert high == own.max() and low == own.min()
        else:
            assert mean == high == low == 0


def test_sums_and_means_carry_gradients() -> None:
    gt = torch.tensor([0, 0, 2])
    values = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gt_sum(x, gt, 3), values)
    assert torch.autograd.gradcheck(lambda x: gt_mean(x, gt, 3), values)


@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_ranks_count_within_gt_and_level(seed: int, rows: int, num_gts: int) -> None:
    random = np.random.default_rng(seed)
    gt, level = random.integers(0, num_gts, rows), random.integers(0, 3, rows)
    order = np.lexsort((level, gt))
    gt, level = gt[order], level[order]
    values = random.integers(0, 5, rows).astype(np.float32)  # many ties
    candidates = make_candidates(gt.tolist(), level.tolist())
    ranks = rank_in_gt_level(torch.from_numpy(values), candidates).tolist()
    for row in range(rows):
        same = (gt == gt[row]) & (level == level[row])
        before = (values < values[row]) | ((values == values[row]) & (np.arange(rows) < row))
        assert ranks[row] == (same & before).sum()


# -- pairs back to the map ------------------------------------------------------------------------


def test_scatter_lets_the_last_gt_decide() -> None:
    priors = make_priors(images=2)
    box, other = [10.0, 10.0, 100.0, 90.0], [20.0, 20.0, 60.0, 60.0]
    gts = make_gts([], [box, other, box], labels=[[], [1, 1, 2]])
    pairs = inside_candidates(priors, gts)
    like = torch.zeros(2, priors.num_priors, CLASSES)
    values = pairs.gt.float() + 10
    result = scatter_pairs(values, pairs, gts, like, fill=-1.0)
    first = torch.zeros(priors.num_priors, dtype=torch.bool)
    first[pairs.prior[pairs.gt == 0]] = True
    second = torch.zeros_like(first)
    second[pairs.prior[pairs.gt == 1]] = True
    assert (result[0] == -1).all() and (result[1, :, 0] == -1).all()
    assert torch.equal(result[1, :, 1] == 11, second)
    assert torch.equal(result[1, :, 1] == 10, first & ~second)
    assert torch.equal(result[1, :, 2] == 12, first)


def test_scatter_of_nothing_fills() -> None:
    priors, gts = make_priors(), make_gts([])
    pairs = inside_candidates(priors, gts)
    like = torch.zeros(1, priors.num_priors, CLASSES)
    assert (scatter_pairs(torch.zeros(0), pairs, gts, like, fill=1.0) == 1).all()
