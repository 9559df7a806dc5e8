"""ALA's branches, losses and learning."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mmengine import ConfigDict
from mmengine.logging import MessageHub
from torch import Tensor

pytest.importorskip("mmdet")

from assigners import ALAAssigner, DensePredictions, SoftAssignment, Step  # noqa: E402
from assigners.ala import ALAAssignment  # noqa: E402
from assigners.boxes import aligned_iou  # noqa: E402
from assigners.center import center_loss, log_center_weight  # noqa: E402
from models.ala_head import ala_losses, gaussian_blur, sample_map  # noqa: E402
from models.center_prior import CenterPredictor  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .detector_cases import build_detector, overfit, total, two_images  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402

HEAD = "CoALAHead"
STEP = Step(iteration=30, max_iterations=100)
LOSSES = {"loss_hard", "loss_soft", "loss_neg"}


def scene(images: list[int], dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """Predictions with leaves, priors and GTs."""
    head = build_head(HEAD)
    priors = head.build_priors(LEVELS, cases.make_metas(len(images)), "cpu")
    gts = ground_truths(cases.make_instances(images), cases.make_metas(len(images)), "cpu")
    generator = torch.Generator().manual_seed(0)
    shape = (len(images), priors.num_priors)
    distances = 5 + torch.rand(*shape, 4, generator=generator, dtype=dtype) * 60
    boxes = torch.cat([priors.points - distances[..., :2], priors.points + distances[..., 2:]], -1)
    centre = (len(images), CLASSES, 2)
    extras = {
        "center_mean": torch.randn(centre, generator=generator, dtype=dtype) * 0.3,
        "center_sigma": 1 + torch.rand(centre, generator=generator, dtype=dtype),
        "foreground": torch.rand(shape, generator=generator, dtype=dtype),
        "background": torch.rand(shape, generator=generator, dtype=dtype),
    }
    logits = torch.randn(*shape, CLASSES, generator=generator, dtype=dtype)
    predictions = DensePredictions(
        cls=logits.requires_grad_(),
        boxes=boxes.to(dtype).requires_grad_(),
        extras={name: value.requires_grad_() for name, value in extras.items()},
    )
    return predictions, priors, gts


def leaves_of(predictions: DensePredictions) -> list[Tensor]:
    return [predictions.cls, predictions.boxes, *predictions.extras.values()]


def assign(assigner: ALAAssigner, predictions: Any, priors: Any, gts: Any) -> ALAAssignment:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return assigner.assign(table, candidates, priors, gts, num_classes=CLASSES, step=STEP)


# -- losses ---------------------------------------------------------------------------------------


def slow_losses(
    assigner: ALAAssigner, predictions: Any, sets: ALAAssignment, gts: Any
) -> dict[str, Tensor]:
    """The loss pair by pair, then point by point."""
    pairs = sets.candidates
    score = assigner.log_positive_score(predictions, pairs, gts).exp()
    hard = soft = score.sum() * 0
    negative = torch.ones_like(predictions.cls)
    for row in range(len(pairs)):
        label = gts.labels[pairs.gt[row]]
        if sets.hard[row]:
            hard = hard - score[row].log()
        if sets.soft[row]:
            xi = sets.pos_weight[row]
            soft = soft - xi * score[row].log() - (1 - xi) * torch.log1p(-score[row])
        if sets.hard[row] or sets.soft[row]:
            negative[pairs.image[row], pairs.prior[row], label] = 0
    s = assigner.negative_score(predictions)
    loss = 0.75 * s**2 * F.binary_cross_entropy(s, torch.zeros_like(s), reduction="none")
    num_gts = max(gts.num_gts, 1)
    num_pos = max(int((sets.hard | sets.soft).sum()), 1)
    over = num_pos if assigner.normalizer == "split" else num_gts
    return {
        "loss_hard": hard / num_gts * assigner.loss_hard_pos,
        "loss_soft": soft / num_gts,
        "loss_neg": (loss * negative).sum() / over * assigner.loss_neg,
    }


@pytest.mark.parametrize(
    "switches",
    [
        dict(),
        dict(normalizer="gts", negative_map="none"),
        dict(loc_likelihood="loss", combine="add"),
        dict(positive_threshold=0.1, soft_label=0.6),
        dict(loss_soft_pos=False),
        dict(loss_hard_pos=False),
        dict(loss_neg=False),
        dict(ps3=False),
        dict(one_to_one=True),
        dict(weight=False),
    ],
)
def test_equals_the_loss_pair_by_pair(switches: dict[str, Any]) -> None:
    assigner = ALAAssigner(**switches)
    predictions, priors, gts = scene([0, 2, 1])
    sets = assign(assigner, predictions, priors, gts)
    results = []
    for losses in (
        ala_losses(predictions, sets, gts),
        slow_losses(assigner, predictions, sets, gts),
    ):
        gradients = torch.autograd.grad(
            total(losses), leaves_of(predictions), allow_unused=True, materialize_grads=True
        )
        results.append((losses, gradients))
    (ours, our_gradients), (expected, gradients) = results
    assert set(ours) == set(expected) == LOSSES
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-5)
    for mine, reference in zip(our_gradients, gradients):
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("combine", ["mul", "add"])
@pytest.mark.parametrize("likelihood", ["consistent", "literal", "loss"])
def test_gradients_in_double_precision(likelihood: str, combine: str) -> None:
    assigner = ALAAssigner(loc_likelihood=likelihood, combine=combine, center_loss_weight=0.5)
    predictions, priors, gts = scene([2], torch.float64)
    sets = assign(assigner, predictions, priors, gts)
    rows = sets.candidates.prior[::60]

    def loss(cls: Tensor, boxes: Tensor, fg: Tensor, bg: Tensor, *centre: Tensor) -> Tensor:
        """A few priors vary, the others stay."""
        fixed = {name: value.detach() for name, value in predictions.extras.items()}
        changed = replace(
            predictions,
            cls=predictions.cls.detach().index_copy(1, rows, cls),
            boxes=predictions.boxes.detach().index_copy(1, rows, boxes),
            extras={
                "foreground": fixed["foreground"].index_copy(1, rows, fg),
                "background": fixed["background"].index_copy(1, rows, bg),
                **dict(zip(("center_mean", "center_sigma"), centre)),
            },
        )
        return total(ala_losses(changed, sets, gts)).double()

    extras = predictions.extras
    per_prior = (predictions.cls, predictions.boxes, extras["foreground"], extras["background"])
    leaves = [leaf.detach()[:, rows] for leaf in per_prior]
    leaves += [extras[name].detach() for name in ("center_mean", "center_sigma")]
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    assert torch.autograd.gradcheck(loss, leaves, rtol=1e-4, atol=1e-7)


def test_taught_by_oneself_gives_the_loss_of_self_assignment() -> None:
    head = build_head(HEAD)
    images = [0, 1, 2]
    outs = head(cases.make_features(images))
    alone = head.loss_by_feat(*outs, cases.make_instances(images), cases.make_metas(3), None)
    priors = head.build_priors(LEVELS, cases.make_metas(3), "cpu")
    gts = ground_truths(cases.make_instances(images), cases.make_metas(3), "cpu")
    predictions = head.dense_predictions(outs, priors)
    assigner, step = head.own_assigner, head.current_step()
    candidates = assigner.candidates(priors, gts)
    live = assigner.costs(predictions, candidates, gts)
    sets = assigner.assign(
        live.detach(), candidates, priors, gts, num_classes=CLASSES, step=step, live=live
    )
    taught = head.loss_from_assignment(predictions, outs, sets, priors, gts, taught=True)
    assert all(torch.equal(alone[name], taught[name]) for name in alone)
    parameters = list(head.parameters())
    for one, other in zip(
        *(torch.autograd.grad(total(x), parameters, retain_graph=True) for x in (alone, taught))
    ):
        assert torch.equal(one, other)


def test_a_point_that_is_positive_for_one_gt_is_no_negative_of_its_class() -> None:
    """Two GTs of one class share points; the sets of the other one do not matter."""
    predictions, priors, gts = scene([0])
    same = replace(gts, labels=torch.zeros_like(gts.labels))
    sets = assign(ALAAssigner(loss_soft_pos=False), predictions, priors, same)
    pairs, positive = sets.candidates, sets.hard
    first, second = (set(pairs.prior[(pairs.gt == g) & positive].tolist()) for g in (0, 1))
    inside = set(pairs.prior[pairs.gt == 1].tolist())
    assert first & inside - second, "no point is positive for the first GT only"
    (gradient,) = torch.autograd.grad(
        ala_losses(predictions, sets, same)["loss_neg"], predictions.cls
    )
    found = set((gradient[0, :, 0] == 0).nonzero().flatten().tolist())
    assert first | second == found


def test_centre_loss_is_an_option() -> None:
    predictions, priors, gts = scene([0, 2, 1])
    sets = assign(ALAAssigner(center_loss_weight=0.75), predictions, priors, gts)
    losses = ala_losses(predictions, sets, gts)
    assert set(losses) == LOSSES | {"loss_center"}
    gradients = torch.autograd.grad(
        losses["loss_center"], leaves_of(predictions), allow_unused=True
    )
    touched = {n for n, g in zip(("cls", "boxes", *predictions.extras), gradients) if g is not None}
    assert touched == {"center_mean", "center_sigma"}
    prior = log_center_weight(predictions, sets.candidates, gts)
    assert prior is not None
    total = center_loss(prior.exp(), sets.candidates, gts)
    torch.testing.assert_close(losses["loss_center"], 0.75 * total / 3)  # of three images


def test_other_assignments_are_refused() -> None:
    head = build_head(HEAD)
    predictions, priors, gts = scene([0])
    soft = SoftAssignment(
        candidates=head.own_assigner.candidates(priors, gts),
        pos_weight=torch.zeros(0),
        neg_weight=torch.zeros(0),
        box_weight=torch.zeros(0),
    )
    with pytest.raises(TypeError, match="ALA learns from an ALAAssignment"):
        head.loss_from_assignment(predictions, (), soft, priors, gts, taught=True)


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_saturated_scores_have_finite_losses_and_gradients(logit: float) -> None:
    predictions, priors, gts = scene([0, 1])
    full = torch.full_like(predictions.cls, logit).requires_grad_()
    maps = {
        name: torch.full_like(predictions.extras[name], float(logit > 0)).requires_grad_()
        for name in ("foreground", "background")
    }
    extreme = replace(predictions, cls=full, extras={**predictions.extras, **maps})
    for combine in ("mul", "add"):
        losses = ala_losses(
            extreme, assign(ALAAssigner(combine=combine), extreme, priors, gts), gts
        )
        assert all(value.isfinite() for value in losses.values())
        for gradient in torch.autograd.grad(total(losses), leaves_of(extreme)):
            assert gradient.isfinite().all()


# -- branches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("objectness", ["ipb", "implicit", "centerness", "none"])
@pytest.mark.parametrize(
    "centre",
    [
        dict(),
        dict(center_prior="shared"),
        dict(center_params="table"),
        dict(center_prior="shared", center_params="table"),
        dict(center_prior="fixed"),
    ],
)
def test_every_parameter_has_a_gradient_in_every_head(
    objectness: str, centre: dict[str, Any]
) -> None:
    for assigner in (dict(), dict(confidence=False), dict(weight=False, loss_neg=False)):
        head = build_head(HEAD, objectness=objectness, assigner=assigner, **centre)
        for images in ([0, 1], [1]):
            outs = head(cases.make_features(images))
            metas = cases.make_metas(len(images))
            losses = head.loss_by_feat(*outs, cases.make_instances(images), metas, None)
            head.zero_grad()
            total(losses).backward()
            for name, parameter in head.named_parameters():
                assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert len(head.predict_by_feat(*outs, batch_img_metas=metas)) == len(images)
    names = " ".join(name for name, _ in head.named_parameters())
    predicted = centre.get("center_params") != "table" and centre.get("center_prior") != "fixed"
    assert ("center_predictor" in names) == predicted
    assert ("property" in names) == (objectness == "ipb")
    assert ("conv_centerness" in names) == (objectness in ("implicit", "centerness"))


def test_the_property_map_combines_two_levels() -> None:
    head = build_head(HEAD)
    features = cases.make_features([0])
    logits = head(features)[-2][0]
    assert logits.shape == (1, 2, *LEVELS[0])
    for level, reaches in ((0, True), (1, False), (2, True)):
        changed = [x + 1 if i == level else x for i, x in enumerate(features)]
        assert torch.equal(head(changed)[-2][0], logits) != reaches
    coarse = F.interpolate(features[2], size=LEVELS[0], mode="bilinear")
    weight = head.property_predict.weight
    expected = F.conv2d(head.property_align(features[0]), weight[:, :8]) + F.conv2d(
        coarse, weight[:, 8:], head.property_predict.bias
    )
    torch.testing.assert_close(logits, expected)


def test_points_read_the_property_map_where_they_lie() -> None:
    head = build_head(HEAD, shape_blur=False)
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    outs = [list(maps) for maps in head(cases.make_features([0]))]
    height, width = LEVELS[0]
    x = torch.linspace(-3, 3, width).expand(height, width)
    outs[-2] = [torch.stack([x, x * 0 - 1])[None]]
    extras = head.dense_predictions(outs, priors).extras
    torch.testing.assert_close(extras["foreground"][0, : height * width], x.flatten().sigmoid())
    assert extras["background"].unique().tolist() == pytest.approx([1 / (1 + 2.718281828)])
    coarse = priors.points[320]  # stride 16: (8, 8), between columns 0 and 1
    assert coarse.tolist() == [8, 8]
    expected = x[0, :2].sigmoid().mean()
    torch.testing.assert_close(extras["foreground"][0, 320], expected)


def test_the_map_that_is_measured_is_the_one_that_enters_the_scores() -> None:
    head = build_head(HEAD, shape_blur=True)
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    features = cases.make_features([0])
    extras = head.dense_predictions(head(features), priors).extras
    fine = priors.level == 0  # its points are the centres of the map's cells
    found = head.predict_property_map(features)[0].flatten(1)
    for values, name in zip(found, ("foreground", "background")):
        torch.testing.assert_close(values, extras[name][0, fine])


def test_blur_is_a_normalised_gaussian_of_variance_two() -> None:
    spike = torch.zeros(1, 1, 15, 15)
    spike[0, 0, 7, 7] = 1
    blurred = gaussian_blur(spike)[0, 0]
    assert blurred.sum().item() == pytest.approx(1) and (blurred > 0).sum() == 49
    ratio = blurred[7, 8] / blurred[7, 7]
    assert ratio.item() == pytest.approx(torch.tensor(-1 / 4).exp().item())
    constant = torch.full((2, 2, 5, 9), 0.3)
    torch.testing.assert_close(gaussian_blur(constant), constant)
    for size in ((1, 1), (3, 8)):  # too small to reflect
        constant = torch.full((1, 2, *size), 0.3)
        torch.testing.assert_close(gaussian_blur(constant), constant)


def test_beyond_the_map_its_border_is_read() -> None:
    ramp = torch.arange(4.0).expand(1, 1, 3, 4)
    cells = torch.tensor([[0.0, 0.0], [1.5, 1.0], [3.0, 2.0], [9.0, 1.0], [-5.0, -5.0]])
    assert sample_map(ramp, cells)[0, 0].tolist() == pytest.approx([0, 1.5, 3, 3, 0])


def test_centre_parameters_are_predicted_per_image() -> None:
    predictor = CenterPredictor("category", CLASSES, 8)
    features = cases.make_features([0, 2])
    with torch.no_grad():
        predictor.fc.weight.mul_(100)
        extras = predictor.extras(predictor(features))
        single = predictor.extras(predictor(cases.make_features([2])))
    for name, value in extras.items():
        assert value.shape == (2, CLASSES, 2)
        torch.testing.assert_close(value[1:], single[name])
        assert not torch.equal(value[0], value[1])
    pooled = [predictor([level]) for level in features]
    torch.testing.assert_close(predictor(features), torch.stack(pooled).mean(0))  # over levels
    shared = CenterPredictor("shared", CLASSES, 8)
    value = shared.extras(shared(features))["center_mean"]
    assert (value == value[:, :1]).all()


@pytest.mark.parametrize("raw", [-1e6, 0.0, math.log(64), 1e6])
def test_predicted_sigmas_are_bounded(raw: float) -> None:
    predictor = CenterPredictor("category", CLASSES, 8)
    given = torch.full((1, CLASSES, 4), raw, requires_grad=True)
    sigma = predictor.extras(given)["center_sigma"]
    bound = {-1e6: 1 / 64, 0.0: 1.0, math.log(64): 8.0, 1e6: 64.0}[raw]  # ln 64 is halved
    torch.testing.assert_close(sigma, torch.full_like(sigma, bound), rtol=1e-4, atol=0)
    sigma.sum().backward()
    assert given.grad is not None and given.grad.isfinite().all()


def test_centerness_learns_at_the_positives() -> None:
    head = build_head(HEAD, objectness="centerness", assigner=dict(one_to_one=True))
    outs = head(cases.make_features([2]))
    losses = head.loss_by_feat(*outs, cases.make_instances([2]), cases.make_metas(1), None)
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    gts = ground_truths(cases.make_instances([2]), cases.make_metas(1), "cpu")
    predictions = head.dense_predictions(outs, priors)
    assert predictions.quality_kind == "centerness"
    sets = assign(head.own_assigner, predictions, priors, gts)
    prior = sets.candidates.prior[sets.hard]
    assert len(prior) == 1
    (x, y), (x1, y1, x2, y2) = priors.points[prior[0]], gts.boxes[0]
    sides = [(x - x1, x2 - x), (y - y1, y2 - y)]
    target = torch.stack([min(pair) / max(pair) for pair in sides]).prod().sqrt()
    expected = F.binary_cross_entropy_with_logits(predictions.quality[0, prior[0]], target)
    torch.testing.assert_close(losses["loss_centerness"], expected)


def test_scores_of_inference_are_class_probabilities() -> None:
    head = build_head(HEAD)
    head.init_weights()
    outs = head(cases.make_features([0]))
    outs[0][0].data[0, 1, 5, 5] = 2.0
    (result,) = head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(1))
    assert result.labels[0] == 1
    assert result.scores[0].item() == pytest.approx(torch.tensor(2.0).sigmoid().item())


def test_one_to_one_tests_without_suppression() -> None:
    fields = dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, max_per_img=100)
    counts = []
    for nms in (dict(type="nms", iou_threshold=0.6), None):
        head = build_head(HEAD, test_cfg=ConfigDict(**fields, nms=nms))
        outs = head(cases.make_features([0]))
        for level in outs[0]:
            level.data.fill_(-9)
        for level in outs[1]:
            level.data.fill_(64)
        outs[0][0].data[0, 0, 5, 5:8] = 2.0  # three boxes that overlap nearly completely
        (result,) = head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(1))
        counts.append(len(result))
    assert counts == [1, 3]


def test_half_precision_outputs_give_float32_losses() -> None:
    head = build_head(HEAD)
    outs = [[level.detach().half() for level in maps] for maps in head(cases.make_features([0]))]
    losses = head.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_plain_training_follows_the_runners_schedule() -> None:
    head = build_head(HEAD)
    assert head.current_step() == Step(iteration=0, max_iterations=1)
    hub = MessageHub.get_instance("ala-schedule")
    hub.update_info("iter", 25)
    hub.update_info("max_iters", 100)
    assert head.current_step() == Step(iteration=25, max_iterations=100)
    hub.update_info("max_iters", None)
    MessageHub._instance_dict.pop("ala-schedule")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(objectness="explicit"), r"bbox_head\.objectness 'explicit': expected one of"),
        (dict(center_prior="none"), r"bbox_head\.center_prior 'none': expected one of"),
        (dict(center_params="learned"), r"bbox_head\.center_params 'learned'"),
        (dict(strides=[8, 16, 64]), r"bbox_head\.strides \(8, 16, 64\): the property map needs"),
        (dict(loss_bbox=dict(type="GIoULoss")), r"bbox_head\.loss_bbox: ALA's loss follows"),
        (dict(assigner=dict(type="DW")), r"bbox_head\.assigner\.type: expected 'ALA', got 'DW'"),
    ],
)
def test_rejects_bad_configurations(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(HEAD, **fields)


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
    config = PRESETS["tiny_ala_r18"](2)
    config.bbox_head.assigner = dict(negative_map="none", normalizer="gts", loc_likelihood="loss")
    detector = build_detector(config)
    trace = overfit(detector, 40)
    assert trace[-1] < 0.7 * trace[0]  # not 0: soft labels are no probabilities of 0 or 1
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
        assert aligned_iou(best.bboxes[:1], sample.gt_instances.bboxes) > 0.5
