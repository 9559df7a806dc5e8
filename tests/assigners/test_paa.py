import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, is_tensor

import assigners.boxes
from assigners import (
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    HardAssignment,
    PAAAssigner,
    Priors,
)
from assigners.boxes import pairwise_iou
from assigners.paa import CUTS, SINGLE_CANDIDATE_RULES, build_bags
from orchestrator import exchange

from .point_scenes import EDGE_SCENES
from .scenes import (
    flat_priors,
    make_candidates,
    make_gts,
    make_priors,
    random_boxes,
    random_predictions,
)

CLASSES = 3


def run(
    assigner: PAAAssigner, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> tuple[Candidates, HardAssignment]:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return candidates, assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)


def assign_costs(
    costs: list[float], *, level: list[int] | None = None, gt: list[int] | None = None, **fields
) -> HardAssignment:
    """Assign given costs; the priors of one image are the rows."""
    level = level or [0] * len(costs)
    gt = gt or [0] * len(costs)
    candidates = make_candidates(gt, level)
    num_gts = max(gt, default=0) + 1
    sizes = np.bincount(level, minlength=1)
    return PAAAssigner(**fields).assign(
        CostTable(cost=torch.tensor(costs)),
        candidates,
        flat_priors(tuple(int(n) for n in sizes)),
        make_gts([[0, 0, 8, 8]] * num_gts),
        num_classes=CLASSES,
    )


# -- candidates -----------------------------------------------------------------------------------


def owners(candidates: Candidates, priors: Priors) -> Tensor:
    """(B, A) GT of each prior, -1 for none."""
    owner = torch.full(priors.valid.shape, -1)
    owner[candidates.image, candidates.prior] = candidates.gt
    return owner


def test_candidates_are_anchors_above_the_threshold() -> None:
    priors = make_priors()
    gts = make_gts([[0, 0, 120, 120]])
    found = owners(PAAAssigner().candidates(priors, gts), priors)[0]
    iou = pairwise_iou(gts.boxes, priors.boxes)[0]
    assert torch.equal(found >= 0, iou >= 0.1)


def test_an_overlap_at_the_threshold_is_enough() -> None:
    priors = make_priors(strides=(16, 32))
    gts = make_gts([[-64, -64, 64, 64]])  # the first anchor of stride 16, a quarter of stride 32's
    iou = pairwise_iou(gts.boxes, priors.boxes)[0]
    assert iou[64] == 0.25 and iou.max() == 1
    found = owners(PAAAssigner(iou_threshold=0.25).candidates(priors, gts), priors)[0]
    assert torch.equal(found >= 0, iou >= 0.25)


def test_small_gt_takes_every_anchor_that_contains_it() -> None:
    priors = make_priors(strides=(64,))
    gts = make_gts([[60, 60, 62, 62]])  # IoU 4 / 512^2 with each of the four anchors
    assert owners(PAAAssigner().candidates(priors, gts), priors)[0].tolist() == [0, 0, 0, 0]
    assert len(PAAAssigner(low_quality=False).candidates(priors, gts)) == 0


def test_later_gt_overwrites_a_shared_best_anchor() -> None:
    priors = make_priors((32, 32), strides=(32,))
    gts = make_gts([[-128, -128, 128, 128], [-128, -128, 128, 120]])
    assert owners(PAAAssigner().candidates(priors, gts), priors)[0].tolist() == [1]


def test_duplicated_boxes_go_to_the_later_gt_where_best_and_to_the_earlier_elsewhere() -> None:
    priors = make_priors()
    box = [10.0, 10.0, 100.0, 90.0]
    found = owners(PAAAssigner().candidates(priors, make_gts([box, box])), priors)[0]
    iou = pairwise_iou(torch.tensor([box]), priors.boxes)[0]
    assert torch.equal(found == 1, iou == iou.max())
    assert torch.equal(found == 0, (iou >= 0.1) & (iou < iou.max()))
    plain = PAAAssigner(low_quality=False).candidates(priors, make_gts([box, box]))
    assert torch.equal(owners(plain, priors)[0] == 0, iou >= 0.1) and not plain.gt.any()


def test_degenerate_gt_takes_every_anchor_left_at_zero_overlap() -> None:
    priors = make_priors((32, 32), strides=(16,))
    candidates = PAAAssigner().candidates(priors, make_gts([[5, 5, 5, 5]]))
    assert len(candidates) == priors.num_priors


def test_padding_is_never_a_candidate() -> None:
    priors = make_priors(images=2)
    priors.valid[1, ::2] = False
    box = [0.0, 0.0, 120.0, 120.0]
    gts = make_gts([box], [box])
    candidates, assignment = run(
        PAAAssigner(),
        random_predictions(priors, CLASSES, torch.Generator().manual_seed(0)),
        priors,
        gts,
    )
    assert priors.valid[candidates.image, candidates.prior].all()
    assert torch.equal(assignment.label_weights, priors.valid.float())
    assert (assignment.labels[1, ::2] == CLASSES).all()


def test_rows_are_sorted_and_levels_fit() -> None:
    priors = make_priors(images=3)
    generator = torch.Generator().manual_seed(0)
    gts = make_gts(random_boxes(3, generator), [], random_boxes(2, generator))
    candidates = PAAAssigner().candidates(priors, gts)
    key = candidates.gt * priors.num_priors + candidates.prior
    assert (key.diff() > 0).all()
    assert torch.equal(candidates.level, priors.level[candidates.prior])
    assert torch.equal(candidates.image, gts.image[candidates.gt])


@pytest.mark.parametrize("gts_per_block", [1, 2, 6])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, gts_per_block: int) -> None:
    priors = make_priors(images=4)
    generator = torch.Generator().manual_seed(1)
    same = [[9.0, 9.0, 70.0, 80.0]] * 6  # equal overlaps in several blocks: the first one owns
    gts = make_gts(random_boxes(3, generator), random_boxes(1, generator), [], same)
    predictions = random_predictions(priors, CLASSES, generator)
    whole = PAAAssigner().candidates(priors, gts)
    cost = PAAAssigner().costs(predictions, whole, gts).cost
    monkeypatch.setattr(assigners.boxes, "_BLOCK_ON_HOST", gts_per_block * priors.num_priors)
    split = PAAAssigner().candidates(priors, gts)
    assert torch.equal(whole.gt, split.gt) and torch.equal(whole.prior, split.prior)
    assert torch.equal(cost, PAAAssigner().costs(predictions, split, gts).cost)


def test_point_priors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"priors\.boxes is None"):
        PAAAssigner().candidates(flat_priors((4,)), make_gts([[0, 0, 8, 8]]))


# -- costs ----------------------------------------------------------------------------------------


def test_literal_cost() -> None:
    priors = make_priors((16, 16), strides=(16,))
    gts = make_gts([[-64, -64, 64, 64]], labels=[[1]])
    predictions = DensePredictions(cls=torch.zeros(1, 1, 2), boxes=gts.boxes[None])
    candidates = PAAAssigner().candidates(priors, gts)
    table = PAAAssigner().costs(predictions, candidates, gts)
    assert table.cost.item() == pytest.approx(math.log(2) / 4)  # the box is perfect
    moved = DensePredictions(cls=torch.zeros(1, 1, 2), boxes=gts.boxes[None] + 200)
    # Union 2 * 128^2, enclosing 328^2: 1 - GIoU = 1 + 1 - 0.30458...
    gap = 2 - 2 * 128**2 / 328**2
    weighted = PAAAssigner(reg_weight=2, cls_weight=3).costs(moved, candidates, gts)
    assert weighted.cost.item() == pytest.approx(2 * gap + 3 * math.log(2) / 4)
    half = DensePredictions(cls=torch.zeros(1, 1, 2), boxes=torch.tensor([[[-64.0, -64, 64, 0]]]))
    for shifted, iou in ((moved, 0.0), (half, 0.5)):
        printed = PAAAssigner(reg_weight=1, box_cost="iou").costs(shifted, candidates, gts)
        assert printed.cost.item() == pytest.approx(1 - iou + math.log(2) / 4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_cast_up(dtype: torch.dtype) -> None:
    priors, gts = make_priors(), make_gts([[0, 0, 100, 100]])
    generator = torch.Generator().manual_seed(0)
    full = random_predictions(priors, CLASSES, generator)
    half = DensePredictions(cls=full.cls.to(dtype), boxes=full.boxes.to(dtype))
    rounded = DensePredictions(cls=half.cls.float(), boxes=half.boxes.float())
    candidates = PAAAssigner().candidates(priors, gts)
    cost = PAAAssigner().costs(half, candidates, gts).cost
    assert cost.dtype == torch.float32
    assert torch.equal(cost, PAAAssigner().costs(rounded, candidates, gts).cost)


def test_costs_carry_no_graph() -> None:
    priors, gts = make_priors(), make_gts([[0, 0, 100, 100]])
    predictions = random_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    learning = DensePredictions(cls=predictions.cls.requires_grad_(), boxes=predictions.boxes)
    candidates = PAAAssigner().candidates(priors, gts)
    assert not PAAAssigner().costs(learning, candidates, gts).cost.requires_grad


# -- assignment -----------------------------------------------------------------------------------


def slow_positives(
    cost: np.ndarray, gt: np.ndarray, level: np.ndarray, topk: int, cut: str
) -> set[int]:
    """The rule GT by GT with scikit-learn, as published: the reference of the batched code."""
    mixture = pytest.importorskip("sklearn.mixture")
    positives: set[int] = set()
    for index in np.unique(gt):
        bag = np.concatenate(
            [
                rows[np.argsort(cost[rows], kind="stable")][:topk]
                for rows in (np.flatnonzero((gt == index) & (level == v)) for v in np.unique(level))
            ]
        )
        if len(bag) < 2:
            continue
        bag = bag[np.argsort(cost[bag], kind="stable")]
        x = cost[bag].astype(np.float64)[:, None]
        fit = mixture.GaussianMixture(
            2,
            weights_init=[0.5, 0.5],
            means_init=[x.min(0), x.max(0)],
            precisions_init=np.ones((2, 1, 1)),
            covariance_type="full",
        ).fit(x)
        if cut == "mean":
            lower = fit.means_.min() * (1 - 1e-9)
            positives.update(bag[x[:, 0] < lower].tolist())
            continue
        low = bag[fit.predict(x) == 0]
        density = fit.score_samples(x)[fit.predict(x) == 0]
        if len(low):
            mode = np.flatnonzero(density >= density.max() - 1e-9)[0]
            positives.update(low[: mode + 1].tolist())
    return positives


@pytest.mark.parametrize("cut", CUTS)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 60), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_equals_the_rule_applied_gt_by_gt(
    cut: str, seed: int, num_gts: int, rows: int, topk: int
) -> None:
    random = np.random.default_rng(seed)
    gt = np.sort(random.integers(0, num_gts, rows))
    level = random.integers(0, 3, rows)
    order = np.lexsort((level, gt))
    gt, level = gt[order], level[order]
    cost = random.choice([0.8, 3.0], rows) + random.gamma(2.0, 0.3, rows).astype(np.float32)
    cost = cost.astype(np.float32)
    candidates = make_candidates(gt.tolist(), level.tolist())
    assignment = PAAAssigner(topk=topk, cut=cut).assign(
        CostTable(cost=torch.from_numpy(cost)),
        candidates,
        flat_priors((rows, 0, 0)),
        make_gts([[0, 0, 8, 8]] * num_gts),
        num_classes=CLASSES,
    )
    assert set(assignment.pos_inds.tolist()) == slow_positives(cost, gt, level, topk, cut)
    assert torch.equal(assignment.pos_gt, candidates.gt[assignment.pos_inds])


def test_literal_split() -> None:
    # Component 0 is 0.2, 1.0, 1.1, 1.2 with mean 0.875; the sample nearest to it is the cut.
    assignment = assign_costs([4.0, 1.1, 1.0, 1.2, 4.2, 0.2])
    assert assignment.pos_inds.tolist() == [2, 5]
    assert assignment.labels[0].tolist() == [CLASSES, CLASSES, 0, CLASSES, CLASSES, 0]
    assert assignment.label_weights.min() == 1  # what is not positive is plain negative


def test_cut_at_the_lower_mean() -> None:
    # The same components: below 0.875 there is one cost, and none below the mean of equal ones.
    costs = [4.0, 1.1, 1.0, 1.2, 4.2, 0.2]
    assert assign_costs(costs, cut="mean").pos_inds.tolist() == [5]
    assert assign_costs([4.0, 0.9, 1.0, 1.2, 4.2], cut="mean").pos_inds.tolist() == [1, 2]
    for equal in ([2.0] * 7, [0.1] * 9, [0.0] * 3):
        assert assign_costs(equal, cut="mean").num_pos == 0
    far_below = [0.0, 5.0, 5.1, 5.2, 4.9, 5.0, 5.1]  # two costs at least make a component wide
    assert 0 not in assign_costs(far_below, cut="mean").pos_inds
    single = assign_costs([1.0], cut="mean", single_candidate="keep")
    assert single.pos_inds.tolist() == [0]


def test_only_the_lowest_costs_of_each_level_enter() -> None:
    costs, level = [1.0, 1.01, 1.02, 1.03, 5.0, 5.1], [0, 0, 0, 0, 1, 1]
    candidates = make_candidates([0] * 6, level)
    bags = build_bags(torch.tensor(costs), candidates, 1, 2, 2)
    assert bags.row.tolist() == [[0, 1, 4, 5]]
    bags = build_bags(torch.tensor(costs), candidates, 2, 2, 5)  # GT 1 has none
    assert bags.mask.sum(-1).tolist() == [6, 0]
    assert bags.row[0].tolist() == [0, 1, 2, 3, 4, 5, -1, -1, -1, -1]


def test_cost_ties_go_to_the_lower_prior() -> None:
    candidates = make_candidates([0] * 6, [0, 0, 0, 1, 1, 1])
    bags = build_bags(torch.tensor([2.0, 1.0, 1.0, 1.0, 1.0, 0.5]), candidates, 1, 2, 2)
    assert bags.row.tolist() == [[5, 1, 2, 3]]


def test_equal_costs_give_one_positive() -> None:
    assignment = assign_costs([2.0] * 7)
    assert assignment.pos_inds.tolist() == [0]
    assert int(assignment.stats["gmm_failed"]) == 0


def test_density_ties_go_to_the_lower_cost() -> None:
    # Two equal pairs: the members of the lower pair have the same density.
    assert assign_costs([1.0, 1.25, 9.0, 9.25]).pos_inds.tolist() == [0]


@pytest.mark.parametrize(("rule", "expected"), [("drop", []), ("keep", [0])])
def test_single_candidate(rule: str, expected: list[int]) -> None:
    assignment = assign_costs([1.0], single_candidate=rule)
    assert assignment.pos_inds.tolist() == expected
    assert int(assignment.stats["gt_single_candidate"]) == 1
    assert int(assignment.stats["gt_without_positive"]) == 1 - len(expected)
    assert assignment.label_weights.tolist() == [[1.0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_failed_fit_is_counted_and_leaves_the_gt_without_positive(bad: float) -> None:
    assignment = assign_costs([1.0, bad, 2.0, 1.0, 1.1, 5.0], gt=[0, 0, 0, 1, 1, 1], level=[0] * 6)
    assert int(assignment.stats["gmm_failed"]) == 1
    assert int(assignment.stats["gt_without_positive"]) == 1
    assert set(assignment.pos_gt.tolist()) == {1}


def test_no_gts() -> None:
    priors, gts = make_priors(images=2), make_gts([], [])
    predictions = random_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    candidates, assignment = run(PAAAssigner(), predictions, priors, gts)
    assert len(candidates) == 0 and assignment.num_pos == 0
    assert (assignment.labels == CLASSES).all() and (assignment.label_weights == 1).all()
    assert assignment.box_targets.shape == (0, 4)


def test_gt_without_candidates() -> None:
    priors = make_priors()
    box = [10.0, 10.0, 100.0, 90.0]
    gts = make_gts([box, [200.0, 200.0, 210.0, 210.0], box, box])
    predictions = random_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    candidates, assignment = run(PAAAssigner(), predictions, priors, gts)
    assert 2 not in candidates.gt  # of equal boxes the first takes the rest, the last the best
    assert int(assignment.stats["gt_without_positive"]) >= 1


def test_no_valid_prior() -> None:
    priors = make_priors()
    priors.valid[:] = False
    predictions = random_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    _, assignment = run(PAAAssigner(), predictions, priors, make_gts([[0, 0, 90, 90]]))
    assert assignment.num_pos == 0 and not assignment.label_weights.any()


def assert_usable(assignment: HardAssignment, priors: Priors, gts: GroundTruths) -> None:
    labels, weights = assignment.labels, assignment.label_weights
    assert labels.shape == weights.shape == priors.valid.shape
    assert ((labels >= 0) & (labels <= CLASSES)).all() and weights.unique().tolist() == [1.0]
    assert torch.equal((labels.flatten() < CLASSES).nonzero().flatten(), assignment.pos_inds)
    assert torch.equal(labels.flatten()[assignment.pos_inds], gts.labels[assignment.pos_gt])
    assert torch.equal(assignment.box_targets, gts.boxes[assignment.pos_gt])


@pytest.mark.parametrize("taught", [False, True])
@pytest.mark.parametrize("rule", SINGLE_CANDIDATE_RULES)
@pytest.mark.parametrize("name", EDGE_SCENES)
def test_edge_cases_have_defined_results(name: str, rule: str, taught: bool) -> None:
    boxes = EDGE_SCENES[name]
    priors, assigner = make_priors(images=len(boxes)), PAAAssigner(single_candidate=rule)
    gts = make_gts(*boxes, labels=[[i % CLASSES for i in range(len(own))] for own in boxes])
    candidates = assigner.candidates(priors, gts)
    tables = [
        assigner.costs(
            random_predictions(priors, CLASSES, torch.Generator().manual_seed(seed)),
            candidates,
            gts,
        )
        for seed in (0, 1)
    ]
    assignment = assigner.assign(
        tables[taught], candidates, priors, gts, num_classes=CLASSES, live=tables[0]
    )
    assert_usable(assignment, priors, gts)
    without = gts.num_gts - len(assignment.pos_gt.unique())
    assert int(assignment.stats["gt_without_positive"]) == without
    assert int(assignment.stats["gmm_failed"]) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_assigns_like_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    priors = make_priors(images=3)
    boxes = [random_boxes(n, generator, low=4) for n in (5, 0, 9)]
    predictions = random_predictions(priors, CLASSES, generator)
    _, expected = run(PAAAssigner(), predictions, priors, make_gts(*boxes))
    on_gpu = [
        replace(
            value,
            **{f.name: x.cuda() for f in fields(value) if is_tensor(x := getattr(value, f.name))},
        )
        for value in (predictions, priors, make_gts(*boxes))
    ]
    _, found = run(PAAAssigner(), *on_gpu)
    assert torch.equal(found.labels.cpu(), expected.labels)


# -- properties -----------------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_batch_equals_its_images(seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors(images=len(counts))
    boxes = [random_boxes(n, generator, low=4) for n in counts]
    predictions = random_predictions(priors, CLASSES, generator)
    _, together = run(PAAAssigner(), predictions, priors, make_gts(*boxes))
    for image, own in enumerate(boxes):
        single = make_priors()
        alone = DensePredictions(
            cls=predictions.cls[image : image + 1], boxes=predictions.boxes[image : image + 1]
        )
        _, assignment = run(PAAAssigner(), alone, single, make_gts(own))
        assert torch.equal(together.labels[image], assignment.labels[0])


@given(st.integers(0, 10**6), st.permutations(range(3)))
@settings(max_examples=40, deadline=None)
def test_permuted_gts_permute_the_assignment(seed: int, order: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors(strides=(8, 16))
    boxes = random_boxes(3, generator, low=70, high=120)
    iou = pairwise_iou(boxes, priors.boxes)
    attained = (iou == iou.amax(1, keepdim=True)).sum(0)
    ties = (iou == iou.amax(0)).sum(0)[iou.amax(0) >= 0.1]
    assume(attained.max() <= 1 and ties.max() <= 1)  # where the order of GTs decides
    predictions = random_predictions(priors, CLASSES, generator)
    _, straight = run(PAAAssigner(), predictions, priors, make_gts(boxes))
    _, permuted = run(PAAAssigner(), predictions, priors, make_gts(boxes[order]))
    assert torch.equal(straight.pos_inds, permuted.pos_inds)
    assert torch.equal(straight.pos_gt, torch.tensor(order)[permuted.pos_gt])


@given(st.integers(0, 10**6), st.sampled_from(SINGLE_CANDIDATE_RULES), st.sampled_from([1, 9]))
@settings(max_examples=25, deadline=None)
def test_taught_by_oneself_is_self_assignment(seed: int, rule: str, topk: int) -> None:
    """Costs that crossed to another network and back assign bit for bit as they did."""
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors(images=2)
    gts = make_gts(random_boxes(3, generator, low=4), [])
    predictions = random_predictions(priors, CLASSES, generator)
    assigner = PAAAssigner(single_candidate=rule, topk=topk)
    candidates, alone = run(assigner, predictions, priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    packed = exchange.pack(table, network="self", batch_id="0", digest="")
    crossed = exchange.unpack(packed, torch.device("cpu"))
    taught = assigner.assign(crossed, candidates, priors, gts, num_classes=CLASSES, live=table)
    for name in ("labels", "label_weights", "pos_inds", "pos_gt", "box_targets"):
        assert torch.equal(getattr(alone, name), getattr(taught, name)), name


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_wild_predictions_give_labels_in_range(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors()
    gts = make_gts(random_boxes(5, generator, low=1, high=300), labels=[[0, 1, 2, 0, 1]])
    predictions = random_predictions(priors, CLASSES, generator)
    wild = replace(predictions, cls=predictions.cls * 300, boxes=predictions.boxes * 1e4)
    candidates, assignment = run(PAAAssigner(), wild, priors, gts)
    cost = PAAAssigner().costs(wild, candidates, gts).cost
    assert cost.isfinite().all() and (cost >= 0).all()
    assert_usable(assignment, priors, gts)
