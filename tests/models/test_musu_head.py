"""MuSu's losses, initial boxes and learning."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet")

from assigners import DensePredictions, MuSuAssigner, SoftAssignment  # noqa: E402
from assigners.boxes import aligned_giou  # noqa: E402
from assigners.musu import NORMALISERS, MuSuAssignment  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.musu_head import MAX_LOG_DISTANCE, initial_log_sizes, musu_losses  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .detector_cases import build_detector, overfit, total, two_images  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402

HEAD = "CoMuSuHead"
NORMALISER = pytest.mark.parametrize("normaliser", NORMALISERS)


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
    predictions = DensePredictions(
        cls=logits.requires_grad_(),
        boxes=boxes.to(dtype).requires_grad_(),
        quality=torch.randn(*shape, generator=generator, dtype=dtype).requires_grad_(),
        quality_kind="objectness",
    )
    return predictions, priors, gts


def leaves_of(predictions: DensePredictions) -> tuple[Any, ...]:
    return predictions.cls, predictions.quality, predictions.boxes


def assign(assigner: MuSuAssigner, predictions: Any, priors: Any, gts: Any) -> MuSuAssignment:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)


# -- losses ---------------------------------------------------------------------------------------


def slow_losses(
    predictions: Any, weights: MuSuAssignment, gts: Any, *, alpha: float, gamma: float
) -> list[Tensor]:
    """Prior by prior; class and box."""
    score = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    pairs, results = weights.candidates, []
    for image in range(len(score)):
        cls, box = score.sum() * 0, predictions.boxes.sum() * 0
        served = {int(pairs.prior[r]): r for r in (pairs.image == image).nonzero().flatten()}
        for prior in range(score.shape[1]):
            for label in range(CLASSES):
                p = score[image, prior, label]
                negative = (1 - alpha) * p**gamma * -torch.log1p(-p)
                row = served.get(prior)
                if row is None or gts.labels[pairs.gt[row]] != label:
                    cls = cls + negative
                    continue
                w = weights.pos_weight[row]
                cls = cls + w * alpha * (1 - p) ** gamma * -p.log() + (1 - w) ** 4 * negative
                corners = predictions.boxes[image, prior][None], gts.boxes[pairs.gt[row]][None]
                box = box + weights.box_weight[row] * (1 - aligned_giou(*corners)[0])
        rows = pairs.image == image
        sums = weights.pos_weight[rows].sum(), weights.box_weight[rows].sum()
        results.append(torch.stack([cls, box, *sums]))
    each = torch.stack(results)  # (B, 4)
    if weights.normaliser == "image":
        return [(each[:, i] / each[:, i + 2].clamp(min=1)).mean() for i in (0, 1)]
    whole = each.sum(0)
    return [whole[i] / whole[i + 2].clamp(min=1) for i in (0, 1)]


@NORMALISER
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.4, 1.0)])
@pytest.mark.parametrize("targets", ["soft", "hard"])
def test_equals_the_loss_prior_by_prior(
    targets: str, alpha: float, gamma: float, normaliser: str
) -> None:
    assigner = MuSuAssigner(targets=targets, normaliser=normaliser)
    predictions, priors, gts = scene([0, 1, 2])
    weights = assign(assigner, predictions, priors, gts)
    results = []
    for losses in (
        musu_losses(predictions, weights, gts, alpha=alpha, gamma=gamma),
        slow_losses(predictions, weights, gts, alpha=alpha, gamma=gamma),
    ):
        results.append((losses, torch.autograd.grad(sum(losses), leaves_of(predictions))))
    (ours, gradients), (expected, references) = results
    for mine, reference in zip((*ours, *gradients), (*expected, *references)):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


@NORMALISER
def test_gradients_in_double_precision(normaliser: str) -> None:
    predictions, priors, gts = scene([0, 1], torch.float64)
    weights = assign(MuSuAssigner(normaliser=normaliser), predictions, priors, gts)
    bag = weights.candidates
    in_bag = bag.prior[bag.image == 0][::3]
    outside = torch.tensor([p for p in range(0, 420, 60) if p not in bag.prior])
    picked = torch.cat([in_bag, outside])
    assert len(in_bag) >= 3 and len(outside) >= 3

    def loss(cls: Tensor, quality: Tensor, boxes: Tensor) -> Tensor:
        """A few priors vary, the others stay."""
        changed = replace(
            predictions,
            cls=predictions.cls.detach().index_copy(1, picked, cls),
            quality=predictions.quality.detach().index_copy(1, picked, quality),
            boxes=predictions.boxes.detach().index_copy(1, picked, boxes),
        )
        return sum(musu_losses(changed, weights, gts)).double()

    leaves = [
        getattr(predictions, name).detach()[:, picked].requires_grad_()
        for name in ("cls", "quality", "boxes")
    ]
    assert torch.autograd.gradcheck(loss, leaves, rtol=1e-4, atol=1e-7)


def test_taught_by_oneself_gives_the_loss_of_self_assignment() -> None:
    head = build_head(HEAD)
    images = [0, 1, 2]
    outs = head(cases.make_features(images))
    alone = head.loss_by_feat(*outs, cases.make_instances(images), cases.make_metas(3), None)
    priors = head.build_priors(LEVELS, cases.make_metas(3), "cpu")
    gts = ground_truths(cases.make_instances(images), cases.make_metas(3), "cpu")
    predictions = head.dense_predictions(outs, priors)
    assigner = head.own_assigner
    candidates = assigner.candidates(priors, gts)
    live = assigner.costs(predictions, candidates, gts)
    weights = assigner.assign(
        live.detach(), candidates, priors, gts, num_classes=CLASSES, live=live
    )
    taught = head.loss_from_assignment(predictions, outs, weights, priors, gts, taught=True)
    assert all(torch.equal(alone[name], taught[name]) for name in alone)
    parameters = list(head.parameters())
    for one, other in zip(
        *(torch.autograd.grad(total(x), parameters, retain_graph=True) for x in (alone, taught))
    ):
        assert torch.equal(one, other)


@NORMALISER
def test_image_without_gts_learns_background_only(normaliser: str) -> None:
    predictions, priors, gts = scene([1])
    weights = assign(MuSuAssigner(normaliser=normaliser), predictions, priors, gts)
    cls, box = musu_losses(predictions, weights, gts)
    score = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    torch.testing.assert_close(cls, -(0.75 * score**2 * torch.log1p(-score)).sum())
    assert box == 0


@NORMALISER
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_saturated_scores_have_finite_losses_and_gradients(logit: float, normaliser: str) -> None:
    predictions, priors, gts = scene([0, 1])
    full = {
        name: torch.full_like(getattr(predictions, name), logit).requires_grad_()
        for name in ("cls", "quality")
    }
    extreme = replace(predictions, **full)
    weights = assign(MuSuAssigner(normaliser=normaliser), predictions, priors, gts)
    assert len(weights.candidates) > 0
    for gamma in (0.0, 0.5, 2.0):
        losses = musu_losses(extreme, weights, gts, gamma=gamma)
        assert all(value.isfinite() for value in losses)
        for gradient in torch.autograd.grad(sum(losses), (*full.values(), predictions.boxes)):
            assert gradient.isfinite().all()


def test_loss_settings_are_read() -> None:
    plain = build_head(HEAD)
    head = build_head(
        HEAD,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, alpha=0.5, gamma=1.0, loss_weight=2.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=3.0),
    )
    outs = plain(cases.make_features([0]))
    arguments = (*outs, cases.make_instances([0]), cases.make_metas(1), None)
    default, changed = plain.loss_by_feat(*arguments), head.loss_by_feat(*arguments)
    torch.testing.assert_close(changed["loss_bbox"], 3 * default["loss_bbox"])
    assert changed["loss_cls"] > default["loss_cls"]


def test_other_assignments_are_refused() -> None:
    head = build_head(HEAD)
    predictions, priors, gts = scene([0])
    soft = SoftAssignment(
        candidates=head.own_assigner.candidates(priors, gts),
        pos_weight=torch.zeros(0),
        neg_weight=torch.zeros(0),
        box_weight=torch.zeros(0),
    )
    with pytest.raises(TypeError, match="MuSu learns from a MuSuAssignment"):
        head.loss_from_assignment(predictions, (), soft, priors, gts, taught=True)


# -- the head -------------------------------------------------------------------------------------


def test_boxes_start_as_squares_of_two_strides() -> None:
    head = build_head(HEAD)
    head.init_weights()
    assert head.anchor_seed is None and "_anchor_seed" not in head.state_dict()
    outs = head(cases.make_features([0]))
    for level, stride in zip(outs[1], head.strides):
        assert (level == stride).all()
    probability = torch.cat([level.flatten() for level in outs[0]]).sigmoid()
    assert probability.mean().item() == pytest.approx(0.01, rel=0.1)


def test_scales_and_ratios_span_the_papers_ranges() -> None:
    width, height = (initial_log_sizes(10_000, seed=0).exp() * 2).unbind(-1)
    scale, ratio = (width * height).sqrt() / 2, height / width
    for values, low, high in ((scale, 1, 2), (ratio, 0.5, 2)):
        assert values.min().item() == pytest.approx(low, abs=1e-3)
        assert values.max().item() == pytest.approx(high, abs=1e-3)
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=0.02)  # uniform
    assert abs(torch.corrcoef(torch.stack([scale, ratio]))[0, 1]) < 0.05  # drawn apart


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_several_priors_start_as_the_boxes_of_their_seed(count: int) -> None:
    sizes = initial_log_sizes(count, seed=7).exp() * 2  # strides
    width, height = sizes.unbind(-1)
    scale, ratio = (width * height).sqrt() / 2, height / width
    assert (scale >= 1 - 1e-6).all() and (scale <= 2 + 1e-6).all() and scale.std() > 0
    assert (ratio >= 0.5 - 1e-6).all() and (ratio <= 2 + 1e-6).all() and ratio.std() > 0
    heads = [build_head(HEAD, num_anchors=count, anchor_seed=seed) for seed in (7, 7, 8)]
    boxes = []
    for head in heads:
        torch.manual_seed(len(boxes))  # other weights of the towers
        head.init_weights()
        priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
        predictions = head.dense_predictions(head(cases.make_features([0])), priors)
        boxes.append(predictions.boxes[0].unflatten(0, (-1, count)))  # (locations, slots, 4)
    found = (boxes[0][..., 2:] - boxes[0][..., :2]) / torch.tensor(8.0)
    torch.testing.assert_close(found[:320], sizes.expand(320, count, 2))
    assert torch.equal(boxes[0], boxes[1]) and not torch.equal(boxes[0], boxes[2])


def test_the_seed_of_initial_boxes_travels_with_the_weights() -> None:
    trained, fresh = (build_head(HEAD, num_anchors=3, anchor_seed=seed) for seed in (5, 0))
    assert (trained.anchor_seed, fresh.anchor_seed) == (5, 0)
    fresh.load_state_dict(trained.state_dict())
    assert fresh.anchor_seed == 5


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("images", [[0, 1], [1, 1]])
def test_every_parameter_learns(images: list[int], count: int) -> None:
    head = build_head(HEAD, num_anchors=count)
    outs = head(cases.make_features(images))
    assert [level.shape[1] for level in (outs[0][0], outs[1][0], outs[2][0])] == [
        count * CLASSES,
        count * 4,
        count,
    ]
    losses = head.loss_by_feat(*outs, cases.make_instances(images), cases.make_metas(2), None)
    total(losses).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert len(head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(2))) == 2


def test_absurd_distances_stay_finite() -> None:
    head = build_head(HEAD)
    raw = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    distances = head.distances(raw.view(1, 3, 1, 1), 8).flatten()
    expected = torch.tensor([0.0, 0.0, MAX_LOG_DISTANCE]).exp() * 8
    expected[0] = 0
    torch.testing.assert_close(distances, expected)
    (gradient,) = torch.autograd.grad(distances.sum(), raw)
    assert gradient.isfinite().all()


def test_half_precision_outputs_give_float32_losses() -> None:
    head = build_head(HEAD)
    outs = [[level.detach().half() for level in maps] for maps in head(cases.make_features([0]))]
    losses = head.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_switches_of_the_head_build_and_learn() -> None:
    """Without objectness, and with a deformable last layer of the towers (table 6)."""
    for fields in (dict(objectness="none"), dict(dcn_on_last_conv=True, num_anchors=3)):
        head = build_head(HEAD, **fields)
        head.init_weights()
        outs = head(cases.make_features([0, 1]))
        losses = head.loss_by_feat(*outs, cases.make_instances([0, 1]), cases.make_metas(2), None)
        total(losses).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(num_anchors=0), r"bbox_head\.num_anchors must be an integer >= 1, got 0"),
        (dict(num_anchors=2.5), r"num_anchors must be an integer"),
        (dict(num_anchors=2, init_cfg=dict(type="Xavier")), r"init_cfg with num_anchors=2"),
        (dict(loss_bbox=dict(type="IoULoss")), r"loss_bbox\.type: .*GIoULoss, got 'IoULoss'"),
        (
            dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True)),
            r"loss_cls\.type: .*FocalLoss, got 'CrossEntropyLoss'",
        ),
        (dict(objectness="learned"), r"bbox_head\.objectness 'learned'"),
        (dict(assigner=dict(type="DW")), r"assigner\.type: expected 'MuSu', got 'DW'"),
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


@pytest.mark.parametrize("count", [1, 3])
def test_finds_the_objects_of_two_images(count: int) -> None:
    config = PRESETS["tiny_musu_r18"](2)
    config.bbox_head.num_anchors = count
    detector = build_detector(config)
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
        assert aligned_giou(best.bboxes[:1], sample.gt_instances.bboxes) > 0.3
