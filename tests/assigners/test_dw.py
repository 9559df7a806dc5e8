from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, is_tensor

from assigners import Candidates, DensePredictions, DWAssigner, GroundTruths, Priors, build_assigner
from assigners.boxes import aligned_giou, aligned_iou
from assigners.dw import CANDIDATE_BAGS, W_NEG_VARIANTS, DWAssignment
from orchestrator import exchange

from .scenes import make_gts, make_priors, random_boxes, random_point_predictions

CLASSES = 3
WEIGHTS = ("pos_weight", "box_weight", "neg_weight", "p_neg")
READINGS = pytest.mark.parametrize("reading", ["released", "paper"])


def run(
    assigner: DWAssigner, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> tuple[Candidates, DWAssignment]:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return candidates, assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)


def scene(*boxes: Any, seed: int = 0) -> tuple[DensePredictions, Priors, GroundTruths]:
    """Random predictions for the given GTs, one list of boxes per image; classes in turn."""
    priors = make_priors(images=len(boxes))
    predictions = random_point_predictions(priors, CLASSES, torch.Generator().manual_seed(seed))
    labels = [[i % CLASSES for i in range(len(own))] for own in boxes]
    return predictions, priors, make_gts(*boxes, labels=labels)


def assert_in_range(assigner: DWAssigner, assignment: DWAssignment) -> None:
    for name in WEIGHTS:
        weight = getattr(assignment, name)
        assert weight.isfinite().all() and (weight >= 0).all(), name
        assert not weight.requires_grad
    assert (assignment.neg_weight <= 1).all() and (assignment.p_neg <= 1).all()
    mu_norm = assigner.mu if assigner.reading == "paper" else 3.0
    assert (assignment.pos_weight <= np.exp(assigner.mu - mu_norm) + 1e-4).all()


# -- the formulas ---------------------------------------------------------------------------------


def slow_weights(
    assigner: DWAssigner, predictions: DensePredictions, priors: Priors, gts: GroundTruths
) -> dict[tuple[int, int], tuple[float, float]]:
    """(gt, prior) -> (w_pos, P_neg), GT by GT and point by point in float64."""
    result = {}
    released = assigner.reading == "released"
    for gt in range(gts.num_gts):
        image, box = int(gts.image[gt]), gts.boxes[gt].double()
        rows = []
        for prior in range(priors.num_priors):
            x, y = priors.points[prior].double()
            if min(x - box[0], y - box[1], box[2] - x, box[3] - y) <= 0:
                continue
            s = predictions.cls[image, prior, gts.labels[gt]].double().sigmoid()
            s = s * predictions.quality[image, prior].double().sigmoid()
            predicted = predictions.boxes[image, prior].double()[None]
            u, giou = (float(f(predicted, box[None])) for f in (aligned_iou, aligned_giou))
            p = float(s) * (np.exp(-assigner.beta * (1 - giou)) if released else u**assigner.beta)
            r2 = float(((torch.stack([x, y]) - (box[:2] + box[2:]) / 2) ** 2).sum())
            r2 /= float(priors.strides[prior]) ** 2
            rows.append((prior, p, u, np.exp(-r2 / (2 * 1.11**2)) if released else np.exp(-r2)))
        norm = 3 if released else assigner.mu
        total = max(sum(np.exp(norm * p) * p * g for _, p, _, g in rows), 1e-12)
        gamma = assigner.gamma_1
        odds = [(1 - u**gamma) / (1 - 0.5**gamma) for _, _, u, _ in rows]
        for (prior, p, u, g), y in zip(rows, odds):
            if released:
                low, high = min(odds), min(1, max(odds))
                p_neg = (y - low + 1e-12) / (high - low + 1e-12)
            else:
                p_neg = max(0.0, (0.95**gamma - u**gamma) / (0.95**gamma - 0.5**gamma))
            w_pos = np.exp(assigner.mu * p) * p * g / total
            result[gt, prior] = (w_pos, 1.0 if u < 0.5 else p_neg)
    return result


@READINGS
@given(st.integers(0, 10**6), st.floats(0.5, 8), st.floats(0, 8), st.floats(0.5, 4))
@settings(max_examples=15, deadline=None)
def test_equals_the_formulas_applied_pair_by_pair(
    reading: str, seed: int, beta: float, mu: float, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(2, generator), random_boxes(1, generator)]
    predictions, priors, gts = scene(*boxes, seed=seed)
    near = gts.boxes[:1] + torch.randn(40, 4, generator=generator) * 6  # some good boxes
    predictions.boxes[0, :40] = near
    assigner = DWAssigner(reading=reading, beta=beta, mu=mu, gamma_1=gamma)
    pairs, assignment = run(assigner, predictions, priors, gts)
    expected = slow_weights(assigner, predictions, priors, gts)
    assert list(expected) == list(zip(pairs.gt.tolist(), pairs.prior.tolist()))
    reference = torch.tensor(list(expected.values())).reshape(-1, 2)
    tolerance = dict(rtol=1e-3, atol=1e-6, check_dtype=False)
    torch.testing.assert_close(assignment.pos_weight, reference[:, 0], **tolerance)
    # Bags of nearly equal IoUs divide rounding errors by a small range.
    tolerance["atol"] = 1e-3
    torch.testing.assert_close(assignment.p_neg, reference[:, 1], **tolerance)


def weights_of(p_pos: list[float], iou: list[float], **options: Any) -> DWAssignment:
    """Weights of given rows that share one GT and its centre."""
    priors, gts = make_priors((64, 64), strides=(16,)), make_gts([[-1, -1, 63, 63]])
    assigner = DWAssigner(**options)
    pairs = assigner.candidates(priors, gts)
    rows = slice(0, len(p_pos))
    pairs = Candidates(
        image=pairs.image[rows],
        gt=pairs.gt[rows],
        prior=pairs.prior[rows],
        level=pairs.level[rows],
        offset=torch.zeros(len(p_pos), 2),
    )
    predictions = random_point_predictions(priors, CLASSES, torch.Generator().manual_seed(0))
    table = assigner.costs(predictions, pairs, gts)
    columns = {"p_pos": torch.tensor(p_pos), "iou": torch.tensor(iou)}
    table = replace(table, columns=columns)
    return assigner.assign(table, pairs, priors, gts, num_classes=CLASSES)


def test_literal_positive_weights() -> None:
    released = weights_of([0.2, 0.1], [0.9, 0.9]).pos_weight
    total = np.exp(0.6) * 0.2 + np.exp(0.3) * 0.1
    assert released.tolist() == pytest.approx([np.e * 0.2 / total, np.exp(0.5) * 0.1 / total])
    assert weights_of([0.2, 0.1], [0.9, 0.9], reading="paper").pos_weight.sum() == pytest.approx(1)
    even = weights_of([0.2, 0.2], [0.9, 0.9], mu=0.0, mu_norm=0.0).pos_weight
    assert even.tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("reading", "iou", "expected"),
    [
        ("released", [0.9, 0.5, 0.7, 0.2], [0, 1, (0.81 - 0.49) / (0.81 - 0.25), 1]),
        ("released", [0.9, 0.7], [0, 1]),  # the worst gets 1
        ("released", [0.8], [1]),  # alone: best and worst
        ("released", [0.3], [1]),
        ("released", [0.8, 0.8], [1, 1]),
        ("paper", [0.96, 0.95, 0.5, 0.2], [0, 0, 1, 1]),
        ("paper", [0.7], [(0.9025 - 0.49) / (0.9025 - 0.25)]),
    ],
)
def test_literal_negative_probability(
    reading: str, iou: list[float], expected: list[float]
) -> None:
    found = weights_of([0.1] * len(iou), iou, reading=reading).p_neg
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


@READINGS
@pytest.mark.parametrize("variant", W_NEG_VARIANTS)
def test_variants_of_the_negative_weight(variant: str, reading: str) -> None:
    found = weights_of([0.9, 0.1], [0.9, 0.7], w_neg=variant, reading=reading)
    expected = {
        "none": [0, 0],
        "i_neg": [1, 1],
        "one_minus_w_pos": [max(0, 1 - w) for w in found.pos_weight.tolist()],
    }.get(variant, found.p_neg.tolist())
    assert found.neg_weight.tolist() == pytest.approx(expected)
    assert found.use_importance == (variant in ("none", "i_neg", "p_neg_times_i_neg"))


def test_readings_set_the_constants_of_the_loss() -> None:
    released, paper = (weights_of([0.1], [0.9], reading=r) for r in ("released", "paper"))
    assert (released.pos_factor, released.box_factor) == (0.25, 1.25)
    assert (paper.pos_factor, paper.box_factor) == (1.0, 5.0)
    assert released.importance_everywhere and not paper.importance_everywhere
    assert (released.background_factor, paper.background_factor) == (1.0, 0.75)
    assert weights_of([0.1], [0.9], beta=3.0).box_factor == 0.75  # tied to beta
    assert weights_of([0.1], [0.9], beta=3.0, reg_loss_weight=2.0).box_factor == 0.5


def test_centre_priors() -> None:
    offset = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]])
    r2 = np.array([0.0, 1.0, 5.0])
    released = DWAssigner().prior_weight(offset)
    assert released.tolist() == pytest.approx(np.exp(-r2 / (2 * 1.11**2)).tolist())
    paper = DWAssigner(reading="paper").prior_weight(offset)
    assert paper.tolist() == pytest.approx(np.exp(-r2).tolist())
    own = DWAssigner(center_sigma=2.0).prior_weight(offset)
    assert own.tolist() == pytest.approx(np.exp(-r2 / 8).tolist())
    assert DWAssigner(center_prior="hard").prior_weight(offset).tolist() == [1, 1, 0]
    strict = DWAssigner(center_prior="hard", hard_prior_threshold=0.9)
    assert strict.prior_weight(offset).tolist() == [1, 0, 0]
    assert DWAssigner(candidate_bag="topk").prior_weight(offset).tolist() == [1, 1, 1]


# -- candidate bags -------------------------------------------------------------------------------


def bag_points(candidates: Candidates, priors: Priors, level: int) -> list[list[float]]:
    return priors.points[candidates.prior[candidates.level == level]].tolist()


def test_bag_by_threshold() -> None:
    priors = make_priors((96, 96), strides=(16, 32))
    gts = make_gts([[0, 0, 65, 65]])  # centre (32.5, 32.5)
    near = DWAssigner(candidate_bag="threshold", radius=1.1).candidates(priors, gts)
    assert bag_points(near, priors, 0) == [[32, 16], [16, 32], [32, 32], [48, 32], [32, 48]]
    assert bag_points(near, priors, 1) == [[32, 32], [64, 32], [32, 64]]
    assert near.offset is not None and (near.offset.norm(dim=-1) < 1.1).all()
    gts = make_gts([[0, 0, 64, 64]])  # neighbours of the centre at exactly 1 stride
    for radius, expected in ((1.0, 1), (1.001, 5)):
        near = DWAssigner(candidate_bag="threshold", radius=radius).candidates(priors, gts)
        assert len(bag_points(near, priors, 0)) == expected


def test_bag_of_the_nearest_of_each_level() -> None:
    priors = make_priors((96, 96), strides=(16, 32))
    gts = make_gts([[0, 0, 70, 70], [-9, -9, 90, 90]])  # centres (35, 35) and (40.5, 40.5)
    near = DWAssigner(candidate_bag="topk", k=2).candidates(priors, gts)
    first = priors.points[near.prior[near.gt == 0]].tolist()
    # (48, 32) and (32, 48) are equally far: the lower prior is in.
    assert first == [[32, 32], [48, 32], [32, 32], [64, 32]]
    assert len(near) == 8
    everything = DWAssigner(candidate_bag="topk", k=99).candidates(priors, gts)
    assert len(everything) == len(DWAssigner().candidates(priors, gts))


@pytest.mark.parametrize("bag", CANDIDATE_BAGS)
def test_points_outside_the_bag_do_not_change_it(bag: str) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    assigner = DWAssigner(candidate_bag=bag)
    pairs, before = run(assigner, predictions, priors, gts)
    outside = torch.ones(priors.num_priors, dtype=torch.bool)
    outside[pairs.prior] = False
    predictions.cls[0, outside] += 3
    predictions.boxes[0, outside] += 7
    _, after = run(assigner, predictions, priors, gts)
    assert all(torch.equal(getattr(before, n), getattr(after, n)) for n in WEIGHTS)


# -- costs and teaching ---------------------------------------------------------------------------


@READINGS
def test_cost_is_the_negative_logarithm_of_p(reading: str) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    assigner = DWAssigner(reading=reading)
    pairs = assigner.candidates(priors, gts)
    learning = replace(predictions, cls=predictions.cls.clone().requires_grad_())
    table = assigner.costs(learning, pairs, gts)
    assert set(table.columns) == {"p_pos", "iou"} and not table.cost.requires_grad
    torch.testing.assert_close(table.cost, -table.columns["p_pos"].clamp(min=1e-12).log())
    assert (table.cost >= 0).all()
    other = replace(assigner, cost="one_minus").costs(learning, pairs, gts)
    torch.testing.assert_close(other.cost, 1 - table.columns["p_pos"].clamp(min=1e-12))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_cast_up(dtype: torch.dtype) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    names = ("cls", "boxes", "quality")
    half = replace(predictions, **{n: getattr(predictions, n).to(dtype) for n in names})
    full = replace(half, **{n: getattr(half, n).float() for n in names})
    _, found = run(DWAssigner(), half, priors, gts)
    _, expected = run(DWAssigner(), full, priors, gts)
    assert all(getattr(found, n).dtype == torch.float32 for n in WEIGHTS)
    assert all(torch.equal(getattr(found, n), getattr(expected, n)) for n in WEIGHTS)


@READINGS
@given(st.integers(0, 10**6), st.sampled_from(CANDIDATE_BAGS), st.sampled_from(W_NEG_VARIANTS))
@settings(max_examples=20, deadline=None)
def test_taught_by_oneself_is_self_assignment(
    reading: str, seed: int, bag: str, variant: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions, priors, gts = scene(random_boxes(3, generator, low=4), [], seed=seed)
    assigner = DWAssigner(reading=reading, candidate_bag=bag, w_neg=variant)
    pairs, alone = run(assigner, predictions, priors, gts)
    table = assigner.costs(predictions, pairs, gts)
    packed = exchange.pack(table, network="self", batch_id="0", digest="")
    crossed = exchange.unpack(packed, torch.device("cpu"))
    taught = assigner.assign(crossed, pairs, priors, gts, num_classes=CLASSES, live=table)
    for name in WEIGHTS:
        assert torch.equal(getattr(alone, name), getattr(taught, name)), name


def test_weights_follow_the_chosen_rows() -> None:
    _, priors, gts = scene([[5, 5, 120, 120]])
    teacher, learner = (
        random_point_predictions(priors, CLASSES, torch.Generator().manual_seed(s)) for s in (1, 2)
    )
    assigner = DWAssigner()
    pairs, expected = run(assigner, teacher, priors, gts)
    table, live = (assigner.costs(p, pairs, gts) for p in (teacher, learner))
    taught = assigner.assign(table, pairs, priors, gts, num_classes=CLASSES, live=live)
    assert all(torch.equal(getattr(taught, n), getattr(expected, n)) for n in WEIGHTS)


# -- edge cases -----------------------------------------------------------------------------------

SCENES: dict[str, list[Any]] = {
    "no gts": [[], []],
    "one empty image": [[], [[5, 5, 120, 120]]],
    "no candidate": [[[41, 41, 42, 42]]],
    "one candidate": [[[47, 47, 49, 49]]],
    "one pixel": [[[40, 40, 41, 41], [0, 0, 128, 128]]],
    "larger than the image": [[[-900, -900, 900, 900]]],
    "degenerate": [[[50, 50, 50, 90]]],
    "duplicated": [[[5, 5, 120, 120]] * 3],
    "crowd": [random_boxes(300, torch.Generator().manual_seed(0), low=4)],
}


@READINGS
@pytest.mark.parametrize("bag", CANDIDATE_BAGS)
@pytest.mark.parametrize("name", SCENES)
def test_edge_cases_have_defined_results(name: str, bag: str, reading: str) -> None:
    predictions, priors, gts = scene(*SCENES[name])
    assigner = DWAssigner(candidate_bag=bag, reading=reading)
    pairs, assignment = run(assigner, predictions, priors, gts)
    assert all(len(getattr(assignment, n)) == len(pairs) for n in WEIGHTS)
    assert_in_range(assigner, assignment)
    without = gts.num_gts - len(pairs.gt.unique())
    assert int(assignment.stats["gt_without_candidate"]) == without
    assert all(value.isfinite() for value in assignment.stats.values())


@READINGS
@pytest.mark.parametrize("bag", CANDIDATE_BAGS)
@pytest.mark.parametrize("name", SCENES)
def test_edge_cases_have_defined_results_when_taught(name: str, bag: str, reading: str) -> None:
    learner, priors, gts = scene(*SCENES[name])
    teacher, _, _ = scene(*SCENES[name], seed=7)
    assigner = DWAssigner(candidate_bag=bag, reading=reading)
    pairs = assigner.candidates(priors, gts)
    table, live = (assigner.costs(p, pairs, gts) for p in (teacher, learner))
    assignment = assigner.assign(table, pairs, priors, gts, num_classes=CLASSES, live=live)
    assert all(len(getattr(assignment, n)) == len(pairs) for n in WEIGHTS)
    assert_in_range(assigner, assignment)


@READINGS
def test_equal_predictions_share_the_weight(reading: str) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    same = replace(
        predictions,
        cls=torch.zeros_like(predictions.cls),
        quality=torch.zeros_like(predictions.quality),
        boxes=gts.boxes.expand_as(predictions.boxes).clone(),
    )
    assigner = DWAssigner(reading=reading)
    pairs, assignment = run(assigner, same, priors, gts)
    assert pairs.offset is not None
    prior = assigner.prior_weight(pairs.offset)
    expected = prior * (assignment.pos_weight.sum() / prior.sum())
    torch.testing.assert_close(assignment.pos_weight, expected)
    assert assignment.p_neg.unique().tolist() == ([1.0] if reading == "released" else [0.0])


@READINGS
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_saturated_scores_stay_finite(reading: str, logit: float) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120], [20, 20, 90, 90]])
    extreme = replace(
        predictions,
        cls=torch.full_like(predictions.cls, logit),
        quality=torch.full_like(predictions.quality, logit),
    )
    assigner = DWAssigner(reading=reading)
    _, assignment = run(assigner, extreme, priors, gts)
    assert_in_range(assigner, assignment)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_weighs_like_a_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = scene(*[random_boxes(n, generator, low=4) for n in (5, 0, 9)])
    _, expected = run(DWAssigner(), *inputs)
    on_gpu = [
        replace(
            value,
            **{f.name: x.cuda() for f in fields(value) if is_tensor(x := getattr(value, f.name))},
        )
        for value in inputs
    ]
    _, found = run(DWAssigner(), *on_gpu)
    for name in WEIGHTS:
        expected_weight: Tensor = getattr(expected, name)
        torch.testing.assert_close(
            getattr(found, name).cpu(), expected_weight, rtol=1e-4, atol=1e-5
        )


# -- properties -----------------------------------------------------------------------------------


@READINGS
@given(
    st.integers(0, 10**6),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.sampled_from(CANDIDATE_BAGS),
)
@settings(max_examples=20, deadline=None)
def test_a_batch_equals_its_images(reading: str, seed: int, counts: list[int], bag: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(n, generator, low=4) for n in counts]
    predictions, priors, gts = scene(*boxes, seed=seed)
    assigner = DWAssigner(reading=reading, candidate_bag=bag)
    pairs, together = run(assigner, predictions, priors, gts)
    for image in range(len(counts)):
        _, single, own = scene(boxes[image])
        part = {n: getattr(predictions, n)[image : image + 1] for n in ("cls", "boxes", "quality")}
        alone_pairs, alone = run(assigner, replace(predictions, **part), single, own)
        rows = pairs.image == image
        assert torch.equal(pairs.prior[rows], alone_pairs.prior)
        for name in WEIGHTS:
            # Vectorised exponentials round differently at other offsets of an array.
            torch.testing.assert_close(
                getattr(together, name)[rows], getattr(alone, name), rtol=1e-4, atol=1e-5
            )


@READINGS
@given(st.integers(0, 10**6), st.permutations(range(4)), st.sampled_from(CANDIDATE_BAGS))
@settings(max_examples=20, deadline=None)
def test_permuted_gts_permute_the_weights(
    reading: str, seed: int, order: list[int], bag: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = random_boxes(4, generator)
    predictions, priors, _ = scene(boxes, seed=seed)
    labels = torch.tensor([0, 1, 2, 0])
    assigner = DWAssigner(reading=reading, candidate_bag=bag)
    results = []
    for rows in (list(range(4)), order):
        gts = make_gts(boxes[rows], labels=[labels[rows].tolist()])
        pairs, assignment = run(assigner, predictions, priors, gts)
        original = torch.tensor(rows)[pairs.gt]
        back = (original * priors.num_priors + pairs.prior).argsort()
        results.append([getattr(assignment, name)[back] for name in WEIGHTS])
    for straight, permuted in zip(*results):
        torch.testing.assert_close(straight, permuted, rtol=1e-4, atol=1e-5)


@READINGS
@given(st.integers(0, 10**6), st.floats(0, 8), st.floats(0, 8))
@settings(max_examples=20, deadline=None)
def test_weights_are_finite_and_in_range(reading: str, seed: int, beta: float, mu: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions, priors, gts = scene(random_boxes(5, generator, low=1, high=300), seed=seed)
    wild = replace(predictions, cls=predictions.cls * 30, boxes=predictions.boxes * 3)
    # The released denominator's exponent must not exceed the numerator's for the bound to hold.
    assigner = DWAssigner(reading=reading, beta=beta, mu=max(mu, 3.0))
    _, assignment = run(assigner, wild, priors, gts)
    assert_in_range(assigner, assignment)


# -- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        *[dict(beta=beta, mu=mu) for beta, mu in [(5, 3), (5, 8), (3, 4), (7, 5)]],
        *[dict(gamma_1=a, gamma_2=b) for a, b in [(1, 1), (5, 2), (2, 3)]],
        *[dict(candidate_bag="threshold", radius=r) for r in (1, 1.3, 1.7, 2, 2.5)],
        *[dict(candidate_bag="topk", k=k) for k in (9, 12, 15)],
        *[dict(w_neg=variant) for variant in W_NEG_VARIANTS],
        dict(reading="paper"),
        dict(reg_loss_weight=2.0),
        dict(center_prior="hard"),
    ],
)
def test_every_row_of_the_papers_tables_builds_and_assigns(switches: dict[str, Any]) -> None:
    assigner = build_assigner(dict(type="DW", **switches))
    assert isinstance(assigner, DWAssigner)
    predictions, priors, gts = scene([[5, 5, 120, 120], [20, 20, 90, 90]])
    pairs, assignment = run(assigner, predictions, priors, gts)
    assert len(pairs) > 0 and assignment.pos_weight.isfinite().all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(reading="code"), r"reading must be one of .*'released', 'paper'.*got 'code'"),
        (dict(beta=-1), "beta must be finite and >= 0, got -1"),
        (dict(mu=1000), r"mu must be in \[0, 50\], got 1000"),
        (dict(mu_norm=float("inf")), "mu_norm must be in"),
        (dict(gamma_1=0), "gamma_1 must be finite and > 0"),
        (dict(gamma_2=float("nan")), "gamma_2 must be finite"),
        (dict(radius=0), "radius must be finite and > 0"),
        (dict(center_sigma=0), "center_sigma must be finite and > 0"),
        (dict(k=0), "k must be an integer >= 1, got 0"),
        (dict(k=2.5), "k must be an integer"),
        (dict(w_neg="both"), "w_neg must be one of"),
        (dict(candidate_bag="all"), "candidate_bag must be one of"),
        (dict(center_prior="learned"), "center_prior must be one of"),
        (dict(hard_prior_threshold=1.5), r"hard_prior_threshold must be in \[0, 1\)"),
        (dict(cost="loss"), "cost must be one of"),
        (dict(gamma1=2), "unknown field 'gamma1'.*did you mean 'gamma_1'"),
    ],
)
def test_rejects_bad_configurations(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(dict(type="DW", **config))
