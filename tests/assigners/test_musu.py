"""MuSu's ownership, bags, ranks and weights."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from assigners import (
    CostTable,
    DensePredictions,
    GroundTruths,
    MuSuAssigner,
    Priors,
    build_assigner,
)
from assigners.boxes import aligned_iou
from assigners.musu import CRITERIA, OWNER_RULES, TARGETS, MuSuAssignment
from orchestrator.switching import SwitchRule, choose

from .point_scenes import CLASSES, assign, in_double, predict, scene
from .scenes import flat_priors, make_candidates, make_gts, random_boxes

# -- the procedure --------------------------------------------------------------------------------


def slow_owner(
    assigner: MuSuAssigner, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> dict[tuple[int, int], int]:
    """(image, prior) -> the GT that owns it, prior by prior in float64."""
    owners = {}
    for image in range(gts.num_images):
        own = (gts.image == image).nonzero().flatten().tolist()
        for prior in range(priors.num_priors):
            x, y = priors.points[prior]
            box = predictions.boxes[image, prior].double()[None]
            best, owner = -1.0, -1
            for gt in own:
                x1, y1, x2, y2 = gts.boxes[gt]
                inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0
                if assigner.owner_rule == "inside" and not inside:
                    continue
                iou = float(aligned_iou(box, gts.boxes[gt].double()[None]))
                if iou > best:
                    best, owner = iou, gt if inside else -1
            if owner >= 0:
                owners[image, prior] = owner
    return owners


def slow_weights(
    assigner: MuSuAssigner, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(gt, prior) of every bag -> weights of class, its negative and box, GT by GT."""
    assert predictions.quality is not None
    owners, result = slow_owner(assigner, predictions, priors, gts), {}
    for gt in range(gts.num_gts):
        rows = []
        for (image, prior), owner in owners.items():
            if owner != gt:
                continue
            p = float(predictions.cls[image, prior, gts.labels[gt]].double().sigmoid())
            p *= float(predictions.quality[image, prior].double().sigmoid())
            box = predictions.boxes[image, prior].double()[None]
            q = float(aligned_iou(box, gts.boxes[gt].double()[None])) ** assigner.theta
            rows.append((prior, p, q))
        best = max((p * q for _, p, q in rows), default=0.0)
        bag = sorted(row for row in rows if row[1] * row[2] > assigner.b * best)
        tau_cls = np.sqrt(len(bag)) if assigner.tau_cls is None else assigner.tau_cls
        tau_reg = tau_cls / assigner.tau_ratio if assigner.tau_reg is None else assigner.tau_reg
        powers = {"mutual": (assigner.alpha, 1), "p_both": (1, 0), "q_both": (0, 1)}
        of_p, of_q = powers[assigner.criterion]
        if assigner.criterion == "mutual":
            v_reg = [p * q**assigner.alpha for _, p, q in bag]
        else:
            v_reg = [p**of_p * q**of_q for _, p, q in bag]
        v_cls = [p**of_p * q**of_q for _, p, q in bag]
        w_cls, w_reg = (
            slow_ranking(values, tau, hard=assigner.targets == "hard")
            for values, tau in ((v_cls, tau_cls), (v_reg, tau_reg))
        )
        for (prior, _, _), c, r in zip(bag, w_cls, w_reg):
            result[gt, prior] = (c, (1 - c) ** assigner.beta, r)
    return result


def slow_ranking(values: list[float], tau: float, *, hard: bool) -> list[float]:
    order = sorted(range(len(values)), key=lambda row: (-values[row], row))
    ranks = {row: rank for rank, row in enumerate(order)}
    return [
        float(ranks[row] < tau) if hard else float(np.exp(-ranks[row] / tau))
        for row in range(len(values))
    ]


@pytest.mark.parametrize("owner_rule", OWNER_RULES)
@given(
    seed=st.integers(0, 10**6),
    criterion=st.sampled_from(CRITERIA),
    targets=st.sampled_from(TARGETS),
    tau_cls=st.one_of(st.none(), st.floats(0.5, 10)),
    options=st.fixed_dictionaries(
        dict(
            b=st.floats(0, 0.9),
            theta=st.floats(0.5, 6),
            alpha=st.floats(0, 1),
            beta=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
            tau_ratio=st.floats(0.5, 4),
        )
    ),
)
@settings(max_examples=30, deadline=None)
def test_equals_the_procedure_gt_by_gt(
    owner_rule: str,
    seed: int,
    criterion: str,
    targets: str,
    tau_cls: float | None,
    options: dict[str, float],
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(3, generator), random_boxes(1, generator)]
    predictions, priors, gts = scene(*boxes, seed=seed)
    predictions.boxes[0, :30] = gts.boxes[:1] + torch.randn(30, 4, generator=generator) * 6
    assigner = MuSuAssigner(
        owner_rule=owner_rule,
        criterion=criterion,
        targets=targets,
        temperature="sqrt_bag_size" if tau_cls is None else "fixed",
        tau_cls=tau_cls,
        **options,
    )
    predictions = in_double(predictions)
    _, found = assign(assigner, predictions, priors, gts)
    expected = slow_weights(assigner, predictions, priors, gts)
    bag = found.candidates
    assert list(zip(bag.gt.tolist(), bag.prior.tolist())) == sorted(expected)
    reference = torch.tensor([expected[key] for key in sorted(expected)]).reshape(-1, 3)
    weights = torch.stack([found.pos_weight, found.neg_weight, found.box_weight], dim=1)
    torch.testing.assert_close(weights, reference, check_dtype=False)


def weights_of(
    p: list[float],
    q: list[float],
    *,
    gt: list[int] | None = None,
    prior: list[int] | None = None,
    owned: list[int] | None = None,
    **options: Any,
) -> MuSuAssignment:
    """Weights of given rows; by default one GT with a prior of its own for each row."""
    gt = [0] * len(p) if gt is None else gt
    pairs = make_candidates(gt, [0] * len(p))
    if prior is not None:
        pairs = replace(pairs, prior=torch.tensor(prior))
    own = [1] * len(p) if owned is None else owned
    columns = {"p": torch.tensor(p), "q": torch.tensor(q), "owned": torch.tensor(own).float()}
    gts = make_gts([[0, 0, 9, 9]] * (max(gt, default=0) + 1))
    return MuSuAssigner(**options).assign(
        CostTable(cost=torch.zeros(len(p)), columns=columns),
        pairs,
        flat_priors((max(len(p), 1),)),
        gts,
        num_classes=CLASSES,
    )


def test_literal_weights() -> None:
    """A bag of four: tau is 2 for the class and 1 for the box."""
    p, q = [0.8, 0.4, 0.2, 0.6, 0.01], [0.1, 0.8, 0.9, 0.3, 0.01]
    found = weights_of(p, q, alpha=0.0)
    assert found.candidates.prior.tolist() == [0, 1, 2, 3]
    by_q, by_p = [3, 1, 0, 2], [0, 2, 3, 1]
    assert found.pos_weight.tolist() == pytest.approx(np.exp(-np.array(by_q) / 2).tolist())
    assert found.box_weight.tolist() == pytest.approx(np.exp(-np.array(by_p) / 1).tolist())
    negative = (1 - np.exp(-np.array(by_q) / 2)) ** 4
    assert found.neg_weight.tolist() == pytest.approx(negative.tolist(), abs=1e-7)
    hard = weights_of(p, q, alpha=0.0, targets="hard")
    assert hard.pos_weight.tolist() == [0, 1, 1, 0]
    assert hard.neg_weight.tolist() == [1, 0, 0, 1]
    assert hard.box_weight.tolist() == [1, 0, 0, 0]


def test_criteria() -> None:
    p, q = torch.tensor([0.5]), torch.tensor([0.125])
    found = [
        [float(v) for v in MuSuAssigner(criterion=c, alpha=1 / 3).criteria(p, q)] for c in CRITERIA
    ]
    assert found[0] == pytest.approx([0.125 * 0.5 ** (1 / 3), 0.5 * 0.5])
    assert found[1:] == [[0.5, 0.5], [0.125, 0.125]]
    same = MuSuAssigner(alpha=1.0).criteria(p, q)
    assert torch.equal(same[0], same[1])


def test_temperatures() -> None:
    size = torch.tensor([9.0])
    for options, expected in (
        (dict(), [3, 1.5]),
        (dict(tau_ratio=3.0), [3, 1]),
        (dict(temperature="fixed", tau_cls=10.0), [10, 5]),
        (dict(temperature="fixed", tau_cls=10.0, tau_ratio=1.0), [10, 10]),
        (dict(temperature="fixed", tau_cls=5.0, tau_reg=2.5), [5, 2.5]),
    ):
        taus = MuSuAssigner(**options).temperatures(size)
        assert [float(tau) for tau in taus] == pytest.approx(expected)


def test_the_threshold_is_strict() -> None:
    found = weights_of([0.5, 0.25, 0.26], [1.0, 1.0, 1.0], b=0.5)
    assert found.candidates.prior.tolist() == [0, 2]
    everything = weights_of([0.5, 0.25, 0.0], [1.0, 1.0, 1.0], b=0.0)
    assert everything.candidates.prior.tolist() == [0, 1]


def test_gts_without_any_likely_pair_have_no_bag() -> None:
    found = weights_of([0.5, 0.5, 0.5], [0.0, 0.0, 1.0], gt=[0, 0, 1])
    assert found.candidates.gt.tolist() == [1]
    assert found.pos_weight.tolist() == found.box_weight.tolist() == [1]
    assert {k: float(v) for k, v in found.stats.items()} == {
        "gt_without_candidate": 0,
        "gt_without_bag": 1,
        "bag_size": 0.5,
        "contested": 0,
    }


def test_equal_criteria_rank_by_prior() -> None:
    found = weights_of([0.5] * 4, [0.5] * 4)
    expected = np.exp(-np.arange(4) / 2)
    assert found.pos_weight.tolist() == pytest.approx(expected.tolist())


def test_unowned_pairs_take_no_part() -> None:
    found = weights_of([0.9, 0.5, 0.05], [1.0, 1.0, 1.0], owned=[0, 1, 1])
    assert found.candidates.prior.tolist() == [1]  # 0.05 lies at the threshold of 0.5, not of 0.9
    assert float(found.stats["contested"]) == 0


# -- ownership ------------------------------------------------------------------------------------


def owned_of(assigner: MuSuAssigner, boxes: list[list[float]], predicted: list[float]) -> Tensor:
    """(G,) share of each GT's pairs that it owns where all priors predict one box."""
    predictions, priors, gts = scene(boxes)
    predictions.boxes[:] = torch.tensor(predicted)
    pairs = assigner.candidates(priors, gts)
    owned = assigner.costs(predictions, pairs, gts).columns["owned"]
    return torch.stack([owned[pairs.gt == gt].mean() for gt in range(len(boxes))])


SMALL, LARGE = [30.0, 30.0, 70.0, 70.0], [0.0, 0.0, 128.0, 128.0]


@pytest.mark.parametrize("owner_rule", OWNER_RULES)
def test_duplicated_gts_belong_to_the_lower(owner_rule: str) -> None:
    shares = owned_of(MuSuAssigner(owner_rule=owner_rule), [SMALL, SMALL], SMALL)
    assert shares.tolist() == [1, 0]


def test_the_most_overlapped_gt_owns_wherever_its_points_lie() -> None:
    """All boxes are the small GT: points outside it belong to nobody, or to the large GT."""
    assert owned_of(MuSuAssigner(), [LARGE, SMALL], SMALL).tolist() == [0, 1]
    shares = owned_of(MuSuAssigner(owner_rule="inside"), [LARGE, SMALL], SMALL)
    assert 0 < shares[0] < 1 and shares[1] == 1


def test_boxes_without_overlap_belong_to_the_lower_gt_and_to_no_bag() -> None:
    predictions, priors, gts = scene([LARGE, SMALL])
    predictions.boxes[:] = torch.tensor([500.0, 500, 600, 600])
    _, found = assign(MuSuAssigner(), predictions, priors, gts)
    assert len(found.candidates) == 0 and float(found.stats["gt_without_bag"]) == 2


# -- teaching -------------------------------------------------------------------------------------


def test_a_prior_that_two_teachers_give_to_two_gts_keeps_the_better() -> None:
    """GT 0's rows are one network's, GT 1's another's; both claim priors 0 to 2."""
    found = weights_of(
        [0.5, 0.5, 0.5, 0.5, 0.5, 0.5],
        [0.8, 0.6, 0.7, 0.7, 0.9, 0.7],
        gt=[0, 0, 0, 1, 1, 1],
        prior=[0, 1, 2, 0, 1, 2],
    )
    bag = found.candidates
    assert list(zip(bag.gt.tolist(), bag.prior.tolist())) == [(0, 0), (0, 2), (1, 1)]
    assert float(found.stats["contested"]) == 3
    assert found.pos_weight[2] == 1  # alone in its bag


@given(st.integers(0, 10**6), st.sampled_from(["gt", "gt_level", "image"]))
@settings(max_examples=30, deadline=None)
def test_under_colad_every_prior_is_in_one_bag_at_most(seed: int, scope: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, priors, gts = scene(random_boxes(5, generator), random_boxes(4, generator), seed=seed)
    assigner = MuSuAssigner()
    pairs = assigner.candidates(priors, gts)
    networks = {"a": first, "b": predict(priors, seed + 1)}
    tables = {name: assigner.costs(p, pairs, gts) for name, p in networks.items()}
    choice = choose(
        tables,
        pairs,
        rule=SwitchRule(criterion="std_mean", scope=scope),
        num_gts=gts.num_gts,
        num_images=gts.num_images,
        num_levels=len(priors.level_sizes),
    )
    found = assigner.assign(choice.table, pairs, priors, gts, num_classes=CLASSES)
    bag = found.candidates
    flat = bag.image * priors.num_priors + bag.prior
    assert len(flat.unique()) == len(flat)
    for gt in bag.gt.unique():
        assert found.pos_weight[bag.gt == gt].max() == 1
        assert found.box_weight[bag.gt == gt].max() == 1


def test_indicators_look_at_owned_pairs_only() -> None:
    predictions, priors, gts = scene([LARGE, SMALL])
    assigner = MuSuAssigner()
    pairs = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, pairs, gts)
    owned = table.columns["owned"] > 0.5
    assert owned.any() and not owned.all()
    rule, sizes = SwitchRule(criterion="std_mean", scope="gt"), dict(num_gts=2, num_images=1)
    other = assigner.costs(predict(priors, 5), pairs, gts)
    before = choose({"a": table, "b": other}, pairs, rule=rule, **sizes)
    noise = torch.where(owned, table.cost, table.cost * 100)
    after = choose({"a": replace(table, cost=noise), "b": other}, pairs, rule=rule, **sizes)
    assert torch.equal(before.decisions, after.decisions)
    assert torch.equal(before.indicator, after.indicator)


def test_several_priors_of_a_location_share_bags_and_ranks() -> None:
    """Each point twice: pairs double, and the bag ranks all of them together."""
    predictions, priors, gts = scene([SMALL])
    twice = replace(
        priors,
        points=priors.points.repeat_interleave(2, 0),
        strides=priors.strides.repeat_interleave(2),
        level=priors.level.repeat_interleave(2),
        valid=priors.valid.repeat_interleave(2, 1),
        level_sizes=tuple(2 * size for size in priors.level_sizes),
    )
    more = predict(twice, 3)
    assigner = MuSuAssigner(b=0.0)
    pairs, found = assign(assigner, more, twice, gts)
    assert len(pairs) == 2 * len(assigner.candidates(priors, gts))
    ranks = (-found.pos_weight.log() * np.sqrt(len(found.candidates))).round().long()
    assert sorted(ranks.tolist()) == list(range(len(found.candidates)))


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        dict(criterion="p_both"),
        dict(criterion="q_both"),
        *[dict(criterion="mutual", alpha=a) for a in (1, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 0)],
        *[dict(b=b) for b in (0.2, 0.1, 0.05)],
        dict(temperature="fixed", tau_cls=10.0, tau_reg=5.0),
        dict(temperature="fixed", tau_cls=5.0, tau_reg=2.5),
        dict(temperature="sqrt_bag_size", tau_cls=None, tau_reg=None),
        *[dict(tau_ratio=ratio) for ratio in (1.0, 1.5, 2.0, 3.0)],
        *[dict(targets=targets) for targets in TARGETS],
        dict(theta=2, beta=1),
        dict(normaliser="image"),
    ],
)
def test_every_row_of_the_papers_tables_builds_and_assigns(switches: dict[str, Any]) -> None:
    assigner = build_assigner(dict(type="MuSu", **switches))
    assert isinstance(assigner, MuSuAssigner)
    found = assign(assigner, *scene([[5, 5, 120, 120], [20, 20, 90, 90]]))[1]
    assert len(found.candidates) > 0 and found.pos_weight.isfinite().all()
    assert found.normaliser == assigner.normaliser


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(criterion="both"), r"criterion must be one of .*'mutual'.*got 'both'"),
        (dict(temperature="sqrt"), "temperature must be one of"),
        (dict(targets="firm"), "targets must be one of"),
        (dict(normaliser="gt"), "normaliser must be one of"),
        (dict(owner_rule="some"), "owner_rule must be one of"),
        (dict(cost="loss"), "cost must be one of"),
        (dict(b=1), r"b must be in \[0, 1\), got 1"),
        (dict(b=float("nan")), r"b must be in \[0, 1\)"),
        (dict(alpha=1.5), r"alpha must be in \[0, 1\], got 1.5"),
        (dict(beta=-1), "beta must be finite and >= 0"),
        (dict(theta=0), "theta must be finite and > 0"),
        (dict(tau_ratio=float("inf")), "tau_ratio must be finite and > 0"),
        (dict(temperature="fixed"), "temperature='fixed' needs tau_cls"),
        (dict(temperature="fixed", tau_cls=0.0), "tau_cls must be finite and > 0"),
        (dict(tau_cls=5.0), "tau_cls=5.0 does not fit temperature='sqrt_bag_size'"),
        (dict(tau_reg=5.0), "tau_reg=5.0 does not fit"),
        (dict(tauratio=2), "unknown field 'tauratio'.*did you mean 'tau_ratio'"),
    ],
)
def test_rejects_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(dict(type="MuSu", **config))
