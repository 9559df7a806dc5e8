"""DW's losses, refinement and learning."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("mmdet")

from assigners import DensePredictions, DWAssigner, PAAAssigner, SoftAssignment  # noqa: E402
from assigners.boxes import aligned_giou  # noqa: E402
from assigners.dw import W_NEG_VARIANTS, DWAssignment  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.dw_head import dw_losses, refine_distances  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .detector_cases import build_detector, overfit, total, two_images  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402

READINGS = pytest.mark.parametrize("reading", ["released", "paper"])


def scene(images: list[int], dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any]:
    """Predictions with leaves, priors and GTs."""
    head = build_head("CoDWHead")
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


def assign(assigner: DWAssigner, predictions: Any, priors: Any, gts: Any) -> DWAssignment:
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    return assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)


# -- losses ---------------------------------------------------------------------------------------


def slow_losses(
    assigner: DWAssigner, predictions: Any, weights: DWAssignment, gts: Any
) -> dict[str, Tensor]:
    """The loss pair by pair and point by point."""
    score = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    released, pairs = assigner.reading == "released", weights.candidates
    alpha = 0.25 if released else 1.0
    positive = localisation = score.sum() * 0
    p_neg, factor = torch.ones_like(score), torch.ones_like(score)
    importance = score**assigner.gamma_2 if released else 0.75 * score**2
    importance = importance.clone()
    for row in range(len(pairs)):  # rows in GT order: the last GT decides
        gt, at = pairs.gt[row], (pairs.image[row], pairs.prior[row])
        label = gts.labels[gt]
        s, box = score[at][label], predictions.boxes[at][None]
        w = weights.pos_weight[row]
        positive = positive - alpha * w * s.log()
        localisation = localisation + alpha * assigner.beta * w * (
            1 - aligned_giou(box, gts.boxes[gt][None])[0]
        )
        p_neg[at][label] = weights.p_neg[row]
        factor[at][label] = {
            "none": torch.tensor(0.0),
            "i_neg": torch.tensor(1.0),
            "one_minus_w_pos": (1 - w).clamp(min=0),
        }.get(assigner.w_neg, weights.p_neg[row])
        inside = s**assigner.gamma_2 if released else s.detach() ** assigner.gamma_2
        if assigner.w_neg in ("p_neg", "one_minus_w_pos"):
            inside = torch.ones_like(s)
        importance[at][label] = inside
    negative = (factor * importance * -torch.log1p(-score)).sum()
    return {
        "loss_cls_pos": positive / max(gts.num_gts, 1),
        "loss_loc": localisation / max(gts.num_gts, 1),
        "loss_cls_neg": negative / (1 - p_neg).sum().clamp(min=1),
    }


@READINGS
@pytest.mark.parametrize("variant", W_NEG_VARIANTS)
@pytest.mark.parametrize("images", [[0, 2], [2]])
def test_equals_the_loss_pair_by_pair(images: list[int], variant: str, reading: str) -> None:
    assigner = DWAssigner(reading=reading, w_neg=variant, gamma_2=1.5)
    predictions, priors, gts = scene(images)
    weights = assign(assigner, predictions, priors, gts)
    leaves = (predictions.cls, predictions.quality, predictions.boxes)
    results = []
    for losses in (
        dw_losses(predictions, weights, gts),
        slow_losses(assigner, predictions, weights, gts),
    ):
        results.append((losses, torch.autograd.grad(total(losses), leaves)))
    (ours, our_gradients), (expected, gradients) = results
    assert set(ours) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-4, atol=1e-6)
    for mine, reference in zip(our_gradients, gradients):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("reading", "variant"),
    [*(("released", v) for v in W_NEG_VARIANTS), ("paper", "p_neg"), ("paper", "one_minus_w_pos")],
)
def test_gradients_in_double_precision(variant: str, reading: str) -> None:
    """The released factor s^gamma_2 learns; where the paper's is detached, see the next test."""
    predictions, priors, gts = scene([2], torch.float64)
    weights = assign(DWAssigner(reading=reading, w_neg=variant), predictions, priors, gts)
    rows = torch.arange(0, len(weights.candidates), 40)
    picked = weights.candidates.prior[rows]

    def loss(cls: Tensor, quality: Tensor, boxes: Tensor) -> Tensor:
        """A few priors vary, the others stay."""
        changed = replace(
            predictions,
            cls=predictions.cls.detach().index_copy(1, picked, cls),
            quality=predictions.quality.detach().index_copy(1, picked, quality),
            boxes=predictions.boxes.detach().index_copy(1, picked, boxes),
        )
        return total(dw_losses(changed, weights, gts)).double()

    leaves = [
        getattr(predictions, name).detach()[:, picked].requires_grad_()
        for name in ("cls", "quality", "boxes")
    ]
    assert torch.autograd.gradcheck(loss, leaves, rtol=1e-4, atol=1e-7)


def test_paper_detaches_the_importance() -> None:
    predictions, priors, gts = scene([2])
    weights = assign(DWAssigner(reading="paper"), predictions, priors, gts)
    pairs = weights.candidates
    (gradient,) = torch.autograd.grad(
        dw_losses(predictions, weights, gts)["loss_cls_neg"], predictions.cls
    )
    score = (predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]).detach()
    p = score[0, pairs.prior, 1]
    slope = p * (1 - predictions.cls.detach()[0, pairs.prior, 1].sigmoid())  # ds / dlogit
    expected = weights.p_neg * p**2 / (1 - p) * slope / (1 - weights.p_neg).sum().clamp(min=1)
    torch.testing.assert_close(gradient[0, pairs.prior, 1], expected, rtol=1e-4, atol=1e-7)


@READINGS
def test_taught_by_oneself_gives_the_loss_of_self_assignment(reading: str) -> None:
    head = build_head("CoDWHead", assigner=dict(reading=reading))
    outs = head(cases.make_features([0, 1, 2]))
    images = [0, 1, 2]
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


def test_image_without_gts_learns_background_only() -> None:
    predictions, priors, gts = scene([1])
    losses = dw_losses(predictions, assign(DWAssigner(), predictions, priors, gts), gts)
    assert losses["loss_cls_pos"] == 0 and losses["loss_loc"] == 0
    score = predictions.cls.sigmoid() * predictions.quality.sigmoid()[..., None]
    expected = -(score**2 * torch.log1p(-score)).sum()  # 1 - P_neg adds up to 0: divided by 1
    torch.testing.assert_close(losses["loss_cls_neg"], expected)


@READINGS
@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_saturated_scores_have_finite_losses_and_gradients(logit: float, reading: str) -> None:
    predictions, priors, gts = scene([0, 1])
    full = {
        name: torch.full_like(getattr(predictions, name), logit).requires_grad_()
        for name in ("cls", "quality")
    }
    extreme = replace(predictions, **full)
    for gamma in (0.0, 0.5, 2.0):
        assigner = DWAssigner(reading=reading, gamma_2=gamma)
        losses = dw_losses(extreme, assign(assigner, extreme, priors, gts), gts)
        assert all(value.isfinite() for value in losses.values())
        leaves = (*full.values(), predictions.boxes)
        for gradient in torch.autograd.grad(total(losses), leaves):
            assert gradient.isfinite().all()


def test_other_assignments_are_refused() -> None:
    head = build_head("CoDWHead")
    predictions, priors, gts = scene([0])
    soft = SoftAssignment(
        candidates=head.own_assigner.candidates(priors, gts),
        pos_weight=torch.zeros(0),
        neg_weight=torch.zeros(0),
        box_weight=torch.zeros(0),
    )
    with pytest.raises(TypeError, match="DW learns from a DWAssignment"):
        head.loss_from_assignment(predictions, (), soft, priors, gts, taught=True)
    assert head.assignment_kind == "soft" != PAAAssigner.assignment_kind


@pytest.mark.parametrize("field", ["loss_cls", "loss_bbox"])
def test_losses_are_not_configured_apart_from_the_assigner(field: str) -> None:
    with pytest.raises(ValueError, match=rf"bbox_head\.{field}: DW's loss follows from"):
        build_head("CoDWHead", **{field: dict(type="GIoULoss")})


# -- box refinement -------------------------------------------------------------------------------


def slow_refinement(distances: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Cell by cell, tap by tap."""
    batch, _, height, width = distances.shape
    refined = torch.zeros_like(distances)
    axis, sign = (0, 1, 0, 1), (-1, -1, 1, 1)
    for b, side, i, j in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, 4, height, width))
    ):
        moved = sign[side] * distances[b, side, i, j] / stride
        y = i + offsets[b, 2 * side, i, j] + (moved if axis[side] else 0)
        x = j + offsets[b, 2 * side + 1, i, j] + (0 if axis[side] else moved)
        value = torch.zeros(())
        for row in (y.floor().long(), y.floor().long() + 1):
            for column in (x.floor().long(), x.floor().long() + 1):
                if 0 <= row < height and 0 <= column < width:
                    cell = (row if axis[side] else column) + 0.5
                    coordinate = cell * stride + sign[side] * distances[b, side, row, column]
                    value = value + coordinate * (1 - (y - row).abs()) * (1 - (x - column).abs())
        point = ((i if axis[side] else j) + 0.5) * stride
        refined[b, side, i, j] = (sign[side] * (value - point)).clamp(min=0)
    return refined


@pytest.mark.parametrize("size", [(4, 5), (1, 1), (1, 6)])
def test_refinement_equals_the_rule_cell_by_cell(size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    distances = torch.rand(2, 4, *size, generator=generator) * 30
    offsets = torch.randn(2, 8, *size, generator=generator)
    expected = slow_refinement(distances, offsets, 8)
    torch.testing.assert_close(
        refine_distances(distances, offsets, 8), expected, rtol=1e-4, atol=1e-3
    )


def test_equal_boxes_refine_to_themselves() -> None:
    """Where every point predicts the same box, its sides are found wherever they are sampled."""
    stride, box = 8, torch.tensor([17.0, 20.0, 44.0, 47.0])
    y, x = (torch.arange(8) * stride + 4.0).view(8, 1), (torch.arange(8) * stride + 4.0).view(1, 8)
    distances = torch.stack(
        [x - box[0] + 0 * y, y - box[1] + 0 * x, box[2] - x + 0 * y, box[3] - y + 0 * x]
    )
    inside = (distances > 0).all(0)
    refined = refine_distances(distances[None], torch.zeros(1, 8, 8, 8), stride)[0]
    torch.testing.assert_close(refined[:, inside], distances[:, inside])


def test_refinement_gradients_in_double_precision() -> None:
    generator = torch.Generator().manual_seed(1)
    distances = 1 + torch.rand(1, 4, 3, 4, generator=generator, dtype=torch.float64) * 20
    offsets = torch.randn(1, 8, 3, 4, generator=generator, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda d, o: refine_distances(d, o, 8),
        (distances.requires_grad_(), offsets.requires_grad_()),
    )


def test_refinement_adds_one_convolution_that_learns() -> None:
    plain, refining = build_head("CoDWHead"), build_head("CoDWHead", box_refine=True)
    added = {n for n, _ in refining.named_parameters()} - {n for n, _ in plain.named_parameters()}
    assert added == {"conv_offset.weight", "conv_offset.bias"}
    for images in ([0, 1], [1]):
        outs = refining(cases.make_features(images))
        losses = refining.loss_by_feat(
            *outs, cases.make_instances(images), cases.make_metas(len(images)), None
        )
        refining.zero_grad()
        total(losses).backward()
        for name, parameter in refining.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    outs = refining(cases.make_features([0]))
    losses = refining.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    (gradient,) = torch.autograd.grad(losses["loss_loc"], refining.conv_offset.weight)
    assert gradient.abs().max() > 0


# -- learning -------------------------------------------------------------------------------------


@pytest.mark.parametrize("box_refine", [False, True])
def test_finds_the_objects_of_two_images(box_refine: bool) -> None:
    config = PRESETS["tiny_dw_r18"](2)
    config.bbox_head.box_refine = box_refine
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
