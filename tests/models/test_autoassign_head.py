"""AutoAssign's losses, centre prior and learning."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import AutoAssignHead  # noqa: E402

from assigners import AutoAssigner, DensePredictions, SoftAssignment  # noqa: E402
from assigners.boxes import aligned_giou  # noqa: E402
from models.autoassign_head import autoassign_losses  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .detector_cases import build_detector, overfit, total, two_images  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402

HEAD = "CoAutoAssignHead"
LOSSES = {"loss_pos", "loss_neg", "loss_center"}


def scene(images: list[int], dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """Predictions with leaves, priors and GTs."""
    head = build_head(HEAD)
    priors = head.build_priors(LEVELS, cases.make_metas(len(images)), "cpu")
    gts = ground_truths(cases.make_instances(images), cases.make_metas(len(images)), "cpu")
    generator = torch.Generator().manual_seed(0)
    shape = (len(images), priors.num_priors)
    distances = 5 + torch.rand(*shape, 4, generator=generator, dtype=dtype) * 60
    boxes = torch.cat([priors.points - distances[..., :2], priors.points + distances[..., 2:]], -1)
    logits = torch.randn(*shape, CLASSES, generator=generator, dtype=dtype) - 1
    centre = (len(images), CLASSES, 2)
    predictions = DensePredictions(
        cls=logits.requires_grad_(),
        boxes=boxes.to(dtype).requires_grad_(),
        quality=torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(),
        quality_kind="objectness",
        extras={
            "center_mean": torch.randn(centre, generator=generator, dtype=dtype).requires_grad_(),
            "center_sigma": (
                1 + torch.rand(centre, generator=generator, dtype=dtype)
            ).requires_grad_(),
        },
    )
    return predictions, priors, gts


def leaves_of(predictions: DensePredictions) -> list[Tensor]:
    assert predictions.quality is not None
    return [predictions.cls, predictions.boxes, predictions.quality, *predictions.extras.values()]


def assign(assigner: AutoAssigner, predictions: Any, priors: Any, gts: Any) -> Any:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return assigner.assign(table, candidates, priors, gts, num_classes=CLASSES, live=table)


# -- losses ---------------------------------------------------------------------------------------


def slow_losses(
    assigner: AutoAssigner, predictions: Any, neg_weight: Tensor, priors: Any, gts: Any
) -> dict[str, Tensor]:
    """The loss GT by GT, with autograd through the positive weights."""
    score = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    pairs = assigner.candidates(priors, gts)
    w_neg = torch.ones_like(score)
    positive = score.sum() * 0
    centre, prior_sum = [score.sum() * 0 for _ in range(gts.num_images)], 0.0
    for gt in range(gts.num_gts):  # in GT order: the last one decides w-
        rows = (pairs.gt == gt).nonzero().flatten()
        image, label, prior = int(gts.image[gt]), gts.labels[gt], pairs.prior[rows]
        w_neg[image, prior, label] = neg_weight[rows].to(score.dtype)
        box = gts.boxes[gt].to(score.dtype).expand(len(rows), 4)
        p_cls = score[image, prior, label]
        p_loc = torch.exp(
            -assigner.lambda_ * (1 - aligned_giou(predictions.boxes[image, prior], box))
        )
        mean, sigma = (predictions.extras[k][image, label] for k in ("center_mean", "center_sigma"))
        g = torch.exp(-((pairs.offset[rows] - mean) ** 2) / (2 * sigma**2)).prod(-1)
        g = g if assigner.center_weighting else torch.ones_like(g)
        chosen = {"joint": p_cls * p_loc, "cls": p_cls, "loc": p_loc}[assigner.confidence]
        weight = torch.exp(chosen / assigner.tau) if assigner.confidence_weighting else 1.0
        weight = weight * g
        weight = weight / weight.sum()
        weight = weight.detach() if assigner.detach_weights else weight
        if assigner.weights_on == "score":
            positive = positive - (weight * p_cls * p_loc).sum().log()
        else:
            positive = positive - (weight * (p_cls * p_loc).log()).sum()
        centre[image] = centre[image] + g.sum()
        prior_sum += float(g.detach().sum())
    q = w_neg * score if assigner.weights_on == "score" else score
    negative = q**2 * F.binary_cross_entropy(q, torch.zeros_like(q), reduction="none")
    negative = negative if assigner.weights_on == "score" else negative * w_neg
    counts = gts.counts
    centre_loss = torch.stack([n / s for n, s in zip(counts, centre) if n]).sum() / len(counts)
    learns = assigner.center_weighting and not assigner.detach_weights
    return {
        "loss_pos": 0.25 * positive / max(gts.num_gts, 1),
        "loss_neg": 0.75 * negative.sum() / max(prior_sum, 1),
        "loss_center": 0.75 * centre_loss * learns,
    }


@pytest.mark.parametrize(
    "switches",
    [
        dict(),
        dict(tau=0.7, lambda_=2.0, confidence="cls"),
        dict(confidence="loc"),
        dict(center_weighting=False),
        dict(confidence_weighting=False, negative_weighting=False),
        dict(detach_weights=True),
        dict(weights_on="loss"),
        dict(weights_on="loss", detach_weights=True),
    ],
)
def test_equals_the_loss_gt_by_gt(switches: dict[str, Any]) -> None:
    assigner = AutoAssigner(**switches)
    predictions, priors, gts = scene([0, 2, 1])
    weights = assign(assigner, predictions, priors, gts)
    results = []
    for losses in (
        autoassign_losses(predictions, weights, gts),
        slow_losses(assigner, predictions, weights.neg_weight, priors, gts),
    ):
        leaves = leaves_of(predictions)
        gradients = torch.autograd.grad(
            total(losses), leaves, allow_unused=True, materialize_grads=True
        )
        results.append((losses, gradients))
    (ours, our_gradients), (expected, gradients) = results
    assert set(ours) == set(expected) == LOSSES
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
    for mine, reference in zip(our_gradients, gradients):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("weights_on", "confidence"),
    [("score", "joint"), ("score", "cls"), ("score", "loc"), ("loss", "joint")],
)
def test_gradients_through_the_weights_in_double_precision(
    weights_on: str, confidence: str
) -> None:
    """The positive and the centre loss, assignment included; w- is a constant by definition."""
    assigner = AutoAssigner(weights_on=weights_on, confidence=confidence)
    predictions, priors, gts = scene([2], torch.float64)
    rows = assigner.candidates(priors, gts).prior[::60]

    def loss(cls: Tensor, boxes: Tensor, quality: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
        """A few priors vary, the others stay."""
        changed = replace(
            predictions,
            cls=predictions.cls.detach().index_copy(1, rows, cls),
            boxes=predictions.boxes.detach().index_copy(1, rows, boxes),
            quality=predictions.quality.detach().index_copy(1, rows, quality),
            extras={"center_mean": mean, "center_sigma": sigma},
        )
        losses = autoassign_losses(changed, assign(assigner, changed, priors, gts), gts)
        return (losses["loss_pos"] + losses["loss_center"]).double()

    leaves = [leaf.detach()[:, rows] for leaf in leaves_of(predictions)[:3]]
    leaves += [leaf.detach() for leaf in predictions.extras.values()]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(loss, leaves, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weights_on", ["score", "loss"])
def test_gradient_of_the_negative_loss_in_double_precision(weights_on: str) -> None:
    predictions, priors, gts = scene([2], torch.float64)
    weights = assign(AutoAssigner(weights_on=weights_on), predictions, priors, gts)
    rows = weights.candidates.prior[::60]

    def loss(cls: Tensor, quality: Tensor) -> Tensor:
        changed = replace(
            predictions,
            cls=predictions.cls.detach().index_copy(1, rows, cls),
            quality=predictions.quality.detach().index_copy(1, rows, quality),
        )
        return autoassign_losses(changed, weights, gts)["loss_neg"].double()

    leaves = [t.detach()[:, rows].requires_grad_() for t in (predictions.cls, predictions.quality)]
    assert torch.autograd.gradcheck(loss, leaves, rtol=1e-4, atol=1e-7)


def test_taught_by_oneself_differs_in_the_gradient_of_the_confidence_only() -> None:
    predictions, priors, gts = scene([0, 2])
    leaves = leaves_of(predictions)
    assigner = AutoAssigner()
    candidates = assigner.candidates(priors, gts)
    live = assigner.costs(predictions, candidates, gts)
    results = []
    for table in (live, live.detach()):
        weights = assigner.assign(table, candidates, priors, gts, num_classes=CLASSES, live=live)
        losses = autoassign_losses(predictions, weights, gts)
        results.append((losses, torch.autograd.grad(total(losses), leaves, retain_graph=True)))
    (alone, own), (taught, given) = results
    assert all(torch.equal(alone[name], taught[name]) for name in LOSSES)
    for index in (3, 4):  # the centre prior learns alike
        assert torch.equal(own[index], given[index]) and own[index].abs().max() > 0
    for index in (0, 1, 2):  # so do class, box and objectness, less the way through e^(P / tau)
        assert not torch.equal(own[index], given[index]) and given[index].abs().max() > 0


def test_gt_without_a_point_inside_adds_no_constant() -> None:
    predictions, priors, gts = scene([2])
    tiny = gts.boxes[:1] * 0 + torch.tensor([41.0, 41.0, 42.0, 42.0])
    more = replace(
        gts,
        boxes=torch.cat([gts.boxes, tiny]),
        labels=gts.labels.repeat(2),
        image=gts.image.repeat(2),
        counts=(2,),
    )
    results = []
    for scene_gts in (gts, more):
        weights = assign(AutoAssigner(), predictions, priors, scene_gts)
        results.append((autoassign_losses(predictions, weights, scene_gts), weights.stats))
    (one, _), (two, stats) = results
    torch.testing.assert_close(
        two["loss_pos"], one["loss_pos"] / 2
    )  # one more GT, nothing to learn
    assert int(stats["gt_without_candidate"]) == 1


@pytest.mark.parametrize("prior", ["category", "shared", "fixed", "none"])
@pytest.mark.parametrize("images", [[0, 1], [1]])
def test_every_parameter_has_a_gradient_with_any_prior(prior: str, images: list[int]) -> None:
    for assigner in (dict(), dict(center_weighting=False), dict(detach_weights=True)):
        head = build_head(HEAD, center_prior=prior, assigner=assigner)
        names = {name for name, _ in head.named_parameters() if "center_prior" in name}
        rows = {"category": CLASSES, "shared": 1}.get(prior)
        assert names == ({"center_prior.mean", "center_prior.sigma"} if rows else set())
        outs = head(cases.make_features(images))
        instances, metas = cases.make_instances(images), cases.make_metas(len(images))
        losses = head.loss_by_feat(*outs, instances, metas, None)
        assert set(losses) == LOSSES
        total(losses).backward()
        for name, parameter in head.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        learns = bool(rows) and images == [0, 1] and not assigner
        assert bool(losses["loss_center"]) == learns
        if rows:
            assert head.center_prior.sigma.shape == (rows, 2)
            assert bool(head.center_prior.sigma.grad.abs().max() > 0) == learns


def test_a_fixed_prior_is_the_initial_one() -> None:
    outs = build_head(HEAD)(cases.make_features([0]))
    losses = [
        build_head(HEAD, center_prior=prior).loss_by_feat(
            *outs, cases.make_instances([0]), cases.make_metas(1), None
        )
        for prior in ("category", "shared", "fixed")
    ]
    for name in ("loss_pos", "loss_neg"):
        assert losses[0][name] == losses[1][name] == losses[2][name]
    assert losses[2]["loss_center"] == 0  # a constant, so it is left out


def test_explicit_objectness_learns_from_its_own_target_alone() -> None:
    head = build_head(HEAD, objectness="explicit")
    outs = head(cases.make_features([0]))
    losses = head.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    assert set(losses) == LOSSES | {"loss_objectness"}
    branch = list(head.conv_centerness.parameters())
    rest = total({name: losses[name] for name in LOSSES})
    gradients = torch.autograd.grad(rest, branch, retain_graph=True, allow_unused=True)
    assert all(gradient is None or not gradient.any() for gradient in gradients)
    logits = torch.cat([level.flatten() for level in outs[2]])
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    x, y = priors.points.unbind(-1)
    boxes = ground_truths(cases.make_instances([0]), cases.make_metas(1), "cpu").boxes
    inside = torch.zeros(420, dtype=torch.bool)
    for x1, y1, x2, y2 in boxes:
        inside |= (x > x1) & (x < x2) & (y > y1) & (y < y2)
    p = logits.sigmoid()
    loss = torch.where(inside, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * torch.log1p(-p)).sum()
    torch.testing.assert_close(losses["loss_objectness"], loss / inside.sum())


def test_other_assignments_are_refused() -> None:
    head = build_head(HEAD)
    predictions, priors, gts = scene([0])
    soft = SoftAssignment(
        candidates=head.own_assigner.candidates(priors, gts),
        pos_weight=torch.zeros(0),
        neg_weight=torch.zeros(0),
        box_weight=torch.zeros(0),
    )
    with pytest.raises(TypeError, match="AutoAssign learns from an AutoAssignAssignment"):
        head.loss_from_assignment(predictions, (), soft, priors, gts, taught=True)


def test_saturated_scores_have_finite_losses_and_gradients() -> None:
    predictions, priors, gts = scene([0, 1])
    for logit in (-200.0, 200.0):
        full = {
            name: torch.full_like(getattr(predictions, name), logit).requires_grad_()
            for name in ("cls", "quality")
        }
        extreme = replace(predictions, **full)
        for weights_on in ("score", "loss"):
            weights = assign(AutoAssigner(weights_on=weights_on), extreme, priors, gts)
            losses = autoassign_losses(extreme, weights, gts)
            assert all(value.isfinite() for value in losses.values())
            for gradient in torch.autograd.grad(total(losses), leaves_of(extreme)):
                assert gradient.isfinite().all()


# -- mmdet ----------------------------------------------------------------------------------------


def mmdet_config(**fields: Any) -> dict[str, Any]:
    return dict(
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        norm_cfg=dict(type="GN", num_groups=2, requires_grad=True),
        strides=[8, 16, 32],
        loss_bbox=dict(type="GIoULoss", loss_weight=5.0),
        **fields,
    )


@pytest.mark.parametrize("images", [[0, 2], [0, 1], [1, 1]])
def test_equals_mmdet(images: list[int]) -> None:
    """Losses and parameter gradients, with an image without GT and a batch without any."""
    ours = build_head(HEAD, **mmdet_config())
    theirs = AutoAssignHead(**mmdet_config())
    theirs.load_state_dict(ours.state_dict())
    results = []
    for head in (ours, theirs):
        outs = head(cases.make_features(images))
        instances, metas = cases.make_instances(images), cases.make_metas(len(images))
        losses = head.loss_by_feat(*outs, instances, metas, None)
        parameters = dict(head.named_parameters())
        gradients = torch.autograd.grad(total(losses), list(parameters.values()))
        results.append((losses, dict(zip(parameters, gradients))))
    for name, value in results[1][0].items():
        torch.testing.assert_close(results[0][0][name], value, rtol=1e-5, atol=1e-7)
    for name, reference in results[1][1].items():
        scale = float(reference.abs().max())
        torch.testing.assert_close(
            results[0][1][name], reference, rtol=0, atol=1e-4 * scale + 1e-9, msg=name
        )


def test_exports_to_mmdets_head() -> None:
    config = dict(type=HEAD, center_prior="category", **mmdet_config(assigner=dict(tau=0.5)))
    head = build_head(**{"head_type": HEAD, **{k: v for k, v in config.items() if k != "type"}})
    plain = head.plain_config(config)
    assert plain.pop("type") == "AutoAssignHead"
    AutoAssignHead(**plain).load_state_dict(head.state_dict())
    shared = build_head(HEAD, center_prior="shared")
    with pytest.raises(ValueError, match="mmdet's AutoAssign has center_prior = 'category'"):
        shared.plain_config(dict(type=HEAD))


def test_box_loss_of_a_configuration_sets_lambda() -> None:
    assert build_head(HEAD).own_assigner == AutoAssigner()
    head = build_head(HEAD, loss_bbox=dict(type="GIoULoss", loss_weight=3.0))
    assert head.own_assigner == AutoAssigner(lambda_=3.0)
    with pytest.raises(ValueError, match=r"bbox_head\.loss_bbox\.type 'IoULoss'"):
        build_head(HEAD, loss_bbox=dict(type="IoULoss"))
    with pytest.raises(ValueError, match=r"bbox_head\.center_prior 'learned'"):
        build_head(HEAD, center_prior="learned")


# -- ranks and learning ---------------------------------------------------------------------------


def test_ranks_together_equal_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    """Rank 0 has an image with two GTs, rank 1 one without any."""
    script, store, out = Path(cases.__file__), tmp_path / "store", tmp_path / "rank1.pt"
    other = subprocess.Popen([sys.executable, str(script), HEAD, "1", str(store), str(out)])
    whole = cases.rank_losses(HEAD, [0, 1])
    first = cases.run_rank(HEAD, 0, str(store))
    assert other.wait(timeout=120) == 0
    second = torch.load(out, weights_only=True)
    for name, value in whole.items():
        # Gradients are averaged over ranks, so the losses must be as well.
        torch.testing.assert_close((first[name] + second[name]) / 2, value, rtol=1e-5, atol=1e-7)


def test_finds_the_objects_of_two_images() -> None:
    detector = build_detector(PRESETS["tiny_autoassign_r18"](2))
    trace = overfit(detector, 40)
    assert sum(trace[-3:]) < 0.7 * sum(trace[:3])
    images, samples = two_images()
    for module in detector.modules():  # two images are too few for running statistics
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats, module.running_mean, module.running_var = False, None, None
    detector.eval()
    with torch.no_grad():
        results = detector.predict(images, samples)
    for sample, result in zip(samples, results):
        best = result.pred_instances
        assert best.labels[0] == sample.gt_instances.labels[0]
        iou = aligned_giou(best.bboxes[:1], sample.gt_instances.bboxes)
        assert iou > 0.3
