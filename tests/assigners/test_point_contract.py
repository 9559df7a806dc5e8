"""What every assigner over weighted pairs must keep, alone and taught: AutoAssign, ALA, MuSu."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assigners import SoftAssignment, build_assigner
from orchestrator import exchange

from .point_scenes import CLASSES, EDGE_SCENES, STEP, assign, in_double, one_image, predict, scene
from .scenes import make_gts, random_boxes

CONFIGS: dict[str, dict[str, Any]] = {
    "autoassign": dict(type="AutoAssign"),
    "autoassign-cls": dict(type="AutoAssign", confidence="cls", cost="one_minus"),
    "autoassign-plain": dict(
        type="AutoAssign", confidence_weighting=False, negative_weighting=False
    ),
    "autoassign-detached": dict(type="AutoAssign", detach_weights=True, weights_on="loss"),
    "musu": dict(type="MuSu"),
    "musu-p": dict(type="MuSu", criterion="p_both", targets="hard", owner_rule="inside"),
    "musu-fixed": dict(type="MuSu", temperature="fixed", tau_cls=5.0, alpha=0.0, b=0.0),
    "ala": dict(type="ALA"),
    "ala-add": dict(type="ALA", combine="add", beta_applies_to="loc", cost="one_minus"),
    "ala-loss": dict(type="ALA", loc_likelihood="loss", negative_map="none", normalizer="gts"),
    "ala-fixed": dict(type="ALA", positive_threshold=0.1, soft_label=0.7, confidence=False),
    "ala-all": dict(type="ALA", ps3=False, loc_likelihood="literal", weight=False),
    "ala-top-1": dict(type="ALA", one_to_one=True, use_p_loc=False),
}
EVERY = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def weights_of(assignment: SoftAssignment) -> dict[str, torch.Tensor]:
    """Every per-pair tensor of an assignment, detached."""
    values = {f.name: getattr(assignment, f.name) for f in fields(assignment)}
    found = {k: v.detach() for k, v in values.items() if isinstance(v, torch.Tensor)}
    return {**found, **{k: v.detach() for k, v in assignment.columns.items()}}


def assert_usable(assignment: SoftAssignment) -> None:
    for name, weight in weights_of(assignment).items():
        assert len(weight) == len(assignment.candidates), name
        assert weight.isfinite().all() and (weight >= 0).all(), name
    assert (assignment.neg_weight <= 1).all() and not assignment.neg_weight.requires_grad
    assert all(value.isfinite() for value in assignment.stats.values())


@EVERY
@pytest.mark.parametrize("name", EDGE_SCENES)
def test_edge_cases_have_defined_results(name: str, config: dict[str, Any]) -> None:
    predictions, priors, gts = scene(*EDGE_SCENES[name])
    pairs, assignment = assign(build_assigner(config), predictions, priors, gts)
    assert_usable(assignment)
    without = gts.num_gts - len(pairs.gt.unique())
    assert int(assignment.stats["gt_without_candidate"]) == without


@EVERY
@pytest.mark.parametrize("name", EDGE_SCENES)
def test_edge_cases_have_defined_results_when_taught(name: str, config: dict[str, Any]) -> None:
    learner, priors, gts = scene(*EDGE_SCENES[name])
    assigner = build_assigner(config)
    pairs = assigner.candidates(priors, gts)
    table, live = (assigner.costs(p, pairs, gts) for p in (predict(priors, 7), learner))
    assert_usable(
        assigner.assign(
            table.detach(), pairs, priors, gts, num_classes=CLASSES, step=STEP, live=live
        )
    )


@EVERY
def test_cost_is_the_negative_logarithm_of_a_probability(config: dict[str, Any]) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    learning = replace(predictions, cls=predictions.cls.clone().requires_grad_())
    tables = []
    for form in ("neg_log", "one_minus"):
        assigner = build_assigner({**config, "cost": form})
        pairs = assigner.candidates(priors, gts)
        tables.append(assigner.costs(learning, pairs, gts))
    assert all((t.cost >= 0).all() and not t.cost.requires_grad for t in tables)
    torch.testing.assert_close(1 - (-tables[0].cost).exp(), tables[1].cost, rtol=1e-4, atol=1e-6)


@EVERY
@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_taught_by_oneself_is_self_assignment(config: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions, priors, gts = scene(random_boxes(3, generator, low=4), [], seed=seed)
    assigner = build_assigner(config)
    pairs, alone = assign(assigner, predictions, priors, gts)
    table = assigner.costs(predictions, pairs, gts)
    packed = exchange.pack(table, network="self", batch_id="0", digest="")
    crossed = exchange.unpack(packed, torch.device("cpu"))
    taught = assigner.assign(
        crossed, pairs, priors, gts, num_classes=CLASSES, step=STEP, live=table
    )
    mine, theirs = weights_of(alone), weights_of(taught)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


@EVERY
def test_weights_follow_the_chosen_rows(config: dict[str, Any]) -> None:
    teacher, priors, gts = scene([[5, 5, 120, 120]], seed=1)
    assigner = build_assigner(config)
    pairs, expected = assign(assigner, teacher, priors, gts)
    table, live = (assigner.costs(p, pairs, gts) for p in (teacher, predict(priors, 2)))
    taught = assigner.assign(
        table.detach(), pairs, priors, gts, num_classes=CLASSES, step=STEP, live=live
    )
    found = weights_of(taught)
    assert all(torch.equal(found[k], value) for k, value in weights_of(expected).items())
    assert not any(w.requires_grad for w in (taught.pos_weight, taught.box_weight))


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_predictions_are_cast_up(dtype: torch.dtype, config: dict[str, Any]) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120]])
    names = ("cls", "boxes", "quality")
    half = replace(predictions, **{n: getattr(predictions, n).to(dtype) for n in names})
    full = replace(half, **{n: getattr(half, n).float() for n in names})
    results = [assign(build_assigner(config), p, priors, gts)[1] for p in (half, full)]
    found, expected = (weights_of(result) for result in results)
    assert all(torch.equal(found[k], expected[k]) for k in expected)
    assert results[0].pos_weight.dtype == torch.float32


@EVERY
@given(st.integers(0, 10**6), st.lists(st.integers(0, 4), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_a_batch_equals_its_images(config: dict[str, Any], seed: int, counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(n, generator, low=4) for n in counts]
    predictions, priors, gts = scene(*boxes, seed=seed)
    predictions = in_double(predictions)
    assigner = build_assigner(config)
    _, together = assign(assigner, predictions, priors, gts)
    for image in range(len(counts)):
        _, single, own = scene(boxes[image])
        _, alone = assign(assigner, one_image(predictions, image), single, own)
        rows = together.candidates.image == image
        assert torch.equal(together.candidates.prior[rows], alone.candidates.prior)
        whole = weights_of(together)
        for name, weight in weights_of(alone).items():
            torch.testing.assert_close(whole[name][rows], weight, rtol=1e-4, atol=1e-5)


@EVERY
@given(st.integers(0, 10**6), st.permutations(range(4)))
@settings(max_examples=15, deadline=None)
def test_permuted_gts_permute_the_weights(
    config: dict[str, Any], seed: int, order: list[int]
) -> None:
    boxes = random_boxes(4, torch.Generator().manual_seed(seed))
    predictions, priors, _ = scene(boxes, seed=seed)
    predictions = in_double(predictions)
    labels = torch.tensor([0, 1, 2, 0])
    results = []
    for rows in (list(range(4)), order):
        gts = make_gts(boxes[rows], labels=[labels[rows].tolist()])
        _, assignment = assign(build_assigner(config), predictions, priors, gts)
        pairs = assignment.candidates
        original = torch.tensor(rows)[pairs.gt]
        back = (original * priors.num_priors + pairs.prior).argsort()
        results.append({k: v[back] for k, v in weights_of(assignment).items()})
    for name, straight in results[0].items():
        torch.testing.assert_close(straight, results[1][name], rtol=1e-4, atol=1e-5)


@EVERY
@given(st.integers(0, 10**6))
@settings(max_examples=15, deadline=None)
def test_wild_predictions_give_finite_weights(config: dict[str, Any], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    predictions, priors, gts = scene(random_boxes(5, generator, low=1, high=300), seed=seed)
    wild = replace(predictions, cls=predictions.cls * 30, boxes=predictions.boxes * 3)
    assert_usable(assign(build_assigner(config), wild, priors, gts)[1])


@EVERY
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_saturated_scores_stay_finite(logit: float, config: dict[str, Any]) -> None:
    predictions, priors, gts = scene([[5, 5, 120, 120], [20, 20, 90, 90]])
    extreme = replace(
        predictions,
        cls=torch.full_like(predictions.cls, logit),
        quality=torch.full(predictions.boxes.shape[:2], logit),
    )
    assert_usable(assign(build_assigner(config), extreme, priors, gts)[1])


@EVERY
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_weighs_like_a_cpu(config: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = scene(*[random_boxes(n, generator, low=4) for n in (5, 0, 9)])
    _, expected = assign(build_assigner(config), *inputs)
    on_gpu = [_cuda(value) for value in inputs]
    _, found = assign(build_assigner(config), *on_gpu)
    values = weights_of(found)
    for name, weight in weights_of(expected).items():
        torch.testing.assert_close(values[name].cpu(), weight, rtol=1e-4, atol=1e-5)


def _cuda(value: Any) -> Any:
    moved = {}
    for field in fields(value):
        x = getattr(value, field.name)
        if isinstance(x, torch.Tensor):
            moved[field.name] = x.cuda()
        elif field.name == "extras":
            moved[field.name] = {name: extra.cuda() for name, extra in x.items()}
    return replace(value, **moved)
