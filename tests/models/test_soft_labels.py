import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("mmdet")

from assigners import DensePredictions, GroundTruths  # noqa: E402
from assigners.boxes import aligned_giou  # noqa: E402
from models.soft_labels import (  # noqa: E402
    SOFT_LOSSES,
    SoftSums,
    best_iou,
    soft_label_elements,
    soft_label_losses,
    soft_label_sums,
)

from . import soft_cases as cases  # noqa: E402
from .soft_cases import Settings, make_gts, make_predictions, make_priors  # noqa: E402

ALL = [0, 1, 2]


def sums_of(
    images: list[int], settings: Settings | None = None, gts: GroundTruths | None = None
) -> SoftSums:
    return soft_label_sums(
        make_predictions(images, 1),
        make_predictions(images, 2),
        make_priors(images),
        make_gts(images) if gts is None else gts,
        settings or Settings(),
    )


def as_tuple(sums: SoftSums) -> tuple[float, ...]:
    assert sums.quality is not None
    return tuple(x.item() for x in (sums.cls, sums.box, sums.quality, sums.weight)) + (
        sums.num_selected,
    )


# -- elements -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("loss", SOFT_LOSSES)
@pytest.mark.parametrize("is_prob", [False, True])
def test_gradients_of_elements(loss: str, gamma: float, is_prob: bool) -> None:
    random = torch.Generator().manual_seed(0)
    logit = 3 * torch.randn(40, generator=random, dtype=torch.float64)
    student = (logit.sigmoid() if is_prob else logit).requires_grad_()
    target = torch.rand(40, generator=random, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: soft_label_elements(x, target, is_prob=is_prob, loss=loss, gamma=gamma), student
    )


def test_elements_by_hand() -> None:
    """p = 0.5 against q = 0.8."""
    logit, target = torch.zeros(1), torch.tensor([0.8])
    divergence = 0.8 * torch.log(torch.tensor(1.6)) + 0.2 * torch.log(torch.tensor(0.4))
    for loss, gamma, expected in (
        ("kl", 0.0, divergence),
        ("kl", 0.5, 0.3**0.5 * divergence),
        ("kl", 2.0, 0.3**2 * divergence),
        ("l1", 0.5, 0.3),
        ("l2", 0.5, 0.09),
    ):
        found = soft_label_elements(logit, target, loss=loss, gamma=gamma)
        assert found.item() == pytest.approx(float(expected), rel=1e-4)


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20),
    probs=st.lists(st.floats(0, 1, width=32), min_size=20, max_size=20),
    loss=st.sampled_from(SOFT_LOSSES),
    gamma=st.sampled_from([0.0, 0.5, 2.0]),
    is_prob=st.booleans(),
)
def test_elements_are_finite_and_least_where_equal(
    logits: list[float], probs: list[float], loss: str, gamma: float, is_prob: bool
) -> None:
    student = torch.tensor(logits, dtype=torch.float64)
    student = (student.sigmoid() if is_prob else student).requires_grad_()
    target = torch.tensor(probs[: len(logits)], dtype=torch.float64)
    options: dict[str, Any] = dict(is_prob=is_prob, loss=loss, gamma=gamma)
    values = soft_label_elements(student, target, **options)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert (values >= -1e-9).all() and values.isfinite().all() and gradient.isfinite().all()
    same = student if is_prob else student.sigmoid()
    assert soft_label_elements(student, same, **options).abs().max() < 1e-9


def test_zero_and_one_as_targets_and_probabilities() -> None:
    edge = torch.tensor([0.0, 1.0])
    for loss in SOFT_LOSSES:
        for student in (edge.clone(), edge.flip(0)):
            student.requires_grad_()
            values = soft_label_elements(student, edge, is_prob=True, loss=loss)
            (gradient,) = torch.autograd.grad(values.sum(), student)
            assert values.isfinite().all() and gradient.isfinite().all()


def test_probabilities_are_held_inside_the_released_bounds() -> None:
    """KL of 0.9999 against 0.0001, from either side; no gradient beyond the bounds."""
    edge = torch.tensor([0.0, 1.0], dtype=torch.float64, requires_grad=True)
    values = soft_label_elements(edge, edge.flip(0), is_prob=True, gamma=0)
    gap = (0.9999 - 0.0001) * math.log(0.9999 / 0.0001)
    assert values.tolist() == pytest.approx([gap, gap])
    assert torch.autograd.grad(values.sum(), edge)[0].tolist() == [0, 0]


def test_unknown_loss() -> None:
    with pytest.raises(ValueError, match="soft_labels.loss 'mse'"):
        soft_label_elements(torch.zeros(1), torch.zeros(1), loss="mse")


# -- selection ------------------------------------------------------------------------------------


def test_selected_boxes_by_hand() -> None:
    """Teacher's boxes clipped to the image; overlap strictly above the threshold; no padding."""
    for threshold in (0.1, 0.5, 0.7):
        settings = Settings(iou_threshold=threshold)
        teacher, gts, priors = make_predictions(ALL, 2), make_gts(ALL), make_priors(ALL)
        weight, count, box = 0.0, 0, 0.0
        student = make_predictions(ALL, 1)
        for image, (height, width) in enumerate(cases.SIZES):
            limit = torch.tensor([width, height, width, height], dtype=torch.float32)
            boxes = teacher.boxes[image].detach().clamp(min=0).minimum(limit)
            mine = student.boxes[image].detach().clamp(min=0).minimum(limit)
            for prior in range(cases.PRIORS):
                own = gts.boxes[gts.image == image]
                if not len(own) or not priors.valid[image, prior]:
                    continue
                overlap = float(best_iou(boxes[prior][None, None], gts, torch.tensor([image])))
                if overlap > threshold:
                    weight, count = weight + overlap, count + 1
                    gap = 1 - aligned_giou(mine[prior][None], boxes[prior][None])
                    box += overlap * float(gap)
        sums = soft_label_sums(student, teacher, priors, gts, settings)
        assert sums.num_selected == count > 0
        assert sums.weight.item() == pytest.approx(weight) and sums.box.item() == pytest.approx(box)


def test_an_overlap_at_the_threshold_is_not_selected() -> None:
    gts, priors = make_gts([0]), make_priors([0])
    teacher = make_predictions([0], 2)
    half = gts.boxes[0] - torch.tensor([0, 0, 0, 0.5]) * (gts.boxes[0, 3] - gts.boxes[0, 1])
    boxes = half.expand_as(teacher.boxes).clone()
    assert best_iou(boxes, gts, torch.tensor([0])).unique().tolist() == [0.5]
    at = replace(teacher, boxes=boxes)
    found = [
        soft_label_sums(make_predictions([0], 1), at, priors, gts, Settings(iou_threshold=value))
        for value in (0.5, 0.4999)
    ]
    assert [sums.num_selected for sums in found] == [0, int(priors.valid.sum())]


def test_best_iou_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, gts = make_predictions(ALL, 2).boxes.detach(), make_gts(ALL)
    whole = best_iou(boxes, gts, torch.arange(3))
    monkeypatch.setattr("models.soft_labels._MAX_OVERLAPS", 1)
    assert torch.equal(best_iou(boxes, gts, torch.arange(3)), whole)
    assert (whole[1] == 0).all() and (whole[0] > 0).any()


def test_selection_by_anchor() -> None:
    settings = Settings(selection="anchor", iou_threshold=0.2)
    sums = sums_of(ALL, settings)
    anchors, gts = make_priors(ALL).boxes, make_gts(ALL)
    overlap = best_iou(anchors.expand(3, -1, -1), gts, torch.arange(3))
    assert sums.num_selected == int((overlap > 0.2).sum()) > 0
    assert sums.weight.item() == pytest.approx(float(overlap[overlap > 0.2].sum()))
    points = replace(make_priors(ALL), boxes=None)
    with pytest.raises(ValueError, match="the priors are points"):
        soft_label_sums(make_predictions(ALL, 1), make_predictions(ALL, 2), points, gts, settings)


def test_padding_counts_in_the_class_term_only() -> None:
    """Image 1 ends above its last two priors; the teacher's boxes there are the GT itself."""
    priors = make_priors(ALL)
    everywhere = replace(priors, valid=torch.ones_like(priors.valid))
    box = [20.0, 10.0, 70.0, 45.0]
    gts = GroundTruths.from_lists(
        [torch.tensor(rows).reshape(-1, 4) for rows in (cases.BOXES[0], [box], cases.BOXES[2])],
        [torch.zeros(count) for count in (2, 1, 1)],
        cases.SIZES,
    )
    teacher = make_predictions(ALL, 2)
    boxes = teacher.boxes.detach().clone()
    boxes[1, -2:] = torch.tensor(box)
    args = (make_predictions(ALL, 1), replace(teacher, boxes=boxes))
    padded, whole = (soft_label_sums(*args, grid, gts, Settings()) for grid in (priors, everywhere))
    assert torch.equal(padded.cls, whole.cls)
    assert whole.num_selected == padded.num_selected + 2
    torch.testing.assert_close(whole.weight, padded.weight + 2)


def test_clipping_ends_the_gradient_outside_the_image() -> None:
    teacher = make_predictions([0], 2)
    student = make_predictions([0], 1)
    boxes = student.boxes.detach().clone()
    boxes[0, :, 2] = 200.0  # right of the image
    boxes.requires_grad_()
    sums = soft_label_sums(
        replace(student, boxes=boxes), teacher, make_priors([0]), make_gts([0]), Settings()
    )
    (gradient,) = torch.autograd.grad(sums.box, boxes)
    assert (gradient[..., 2] == 0).all() and (gradient[..., 0] != 0).any()


# -- the whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SOFT_LOSSES)
def test_gradients_of_the_sums(loss: str) -> None:
    student, teacher = (make_predictions(ALL, seed, dtype=torch.float64) for seed in (1, 2))
    priors, gts = make_priors(ALL), make_gts(ALL, torch.float64)

    def total(cls: Tensor, boxes: Tensor, quality: Tensor) -> Tensor:
        given = replace(student, cls=cls, boxes=boxes, quality=quality)
        sums = soft_label_sums(given, teacher, priors, gts, Settings(loss=loss))
        assert sums.quality is not None
        return sums.cls + sums.box + sums.quality

    assert torch.autograd.gradcheck(total, (student.cls, student.boxes, student.quality))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = make_predictions(ALL, 1), make_predictions(ALL, 2)
    sums = soft_label_sums(student, teacher, make_priors(ALL), make_gts(ALL), Settings())
    losses = soft_label_losses([sums], student, Settings())
    torch.stack(list(losses.values())).sum().backward()
    assert student.cls.grad is not None and student.boxes.grad is not None
    assert teacher.cls.grad is None and teacher.boxes.grad is None and teacher.quality.grad is None


def test_weights_and_normaliser() -> None:
    sums = sums_of(ALL)
    losses, _ = cases.compute_losses(ALL)
    norm = sums.weight.item()
    assert losses["loss_soft_cls"].item() == pytest.approx(2 * sums.cls.item() / norm)
    assert losses["loss_soft_bbox"].item() == pytest.approx(1.3 * sums.box.item() / norm)
    assert losses["loss_soft_iou"].item() == pytest.approx(10 * sums.quality.item() / norm)


@pytest.mark.parametrize("images", [[1], [1, 1]])
def test_batch_without_gt(images: list[int]) -> None:
    """Only the class term, divided by 1; every output takes part."""
    losses, student = cases.compute_losses(images)
    assert losses["loss_soft_bbox"] == 0 and losses["loss_soft_iou"] == 0
    assert losses["loss_soft_cls"].item() == pytest.approx(2 * sums_of(images).cls.item())
    torch.stack(list(losses.values())).sum().backward()
    for output in (student.cls, student.boxes, student.quality):
        assert output.grad is not None and output.grad.isfinite().all()


def test_no_selected_box() -> None:
    losses, student = cases.compute_losses(ALL, Settings(iou_threshold=0.999))
    assert losses["loss_soft_bbox"] == 0 and losses["loss_soft_iou"] == 0
    assert losses["loss_soft_cls"] > 0
    torch.stack(list(losses.values())).sum().backward()
    assert student.boxes.grad is not None and student.quality.grad is not None


def test_no_teacher_at_all() -> None:
    """Under CoLAD a learner may be the best network in every image of its rank."""
    extra = torch.ones(3, requires_grad=True)
    student = make_predictions(ALL, 1, extras={"centre": extra})
    losses = soft_label_losses([], student, Settings())
    assert all(value == 0 for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for output in (student.cls, student.boxes, student.quality, extra):
        assert output.grad is not None and (output.grad == 0).all()


def test_quality_branches() -> None:
    student, teacher = make_predictions(ALL, 1), make_predictions(ALL, 2)
    rest = make_priors(ALL), make_gts(ALL)
    other = replace(teacher, quality_kind="centerness")
    with pytest.raises(ValueError, match="'iou', the teacher's 'centerness'; set soft_labels.iou"):
        soft_label_sums(student, other, *rest, Settings())
    sums = soft_label_sums(student, other, *rest, Settings(iou_weight=0.0))
    assert soft_label_losses([sums], student, Settings(iou_weight=0.0))["loss_soft_iou"] == 0
    bare = [replace(p, quality=None, quality_kind="none") for p in (student, teacher)]
    sums = soft_label_sums(bare[0], bare[1], *rest, Settings())
    assert set(soft_label_losses([sums], bare[0], Settings())) == {
        "loss_soft_cls",
        "loss_soft_bbox",
    }


def test_probabilities_of_either_side() -> None:
    """A teacher's probabilities are its logits' sigmoid; a learner's agree up to their bounds."""
    student, teacher = make_predictions(ALL, 1), make_predictions(ALL, 2)
    rest = make_priors(ALL), make_gts(ALL), Settings()
    logits = soft_label_sums(student, teacher, *rest)
    given = replace(teacher, cls=teacher.cls.sigmoid(), cls_is_prob=True)
    assert torch.equal(soft_label_sums(student, given, *rest).cls, logits.cls)
    own = replace(student, cls=student.cls.sigmoid(), cls_is_prob=True)
    torch.testing.assert_close(soft_label_sums(own, given, *rest).cls, logits.cls)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs(dtype: torch.dtype) -> None:
    student, teacher = (make_predictions(ALL, seed, dtype=dtype) for seed in (1, 2))
    sums = soft_label_sums(student, teacher, make_priors(ALL), make_gts(ALL), Settings())
    losses = soft_label_losses([sums], student, Settings())
    full, _ = cases.compute_losses(ALL)
    for name, value in losses.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(full[name].item(), rel=0.1)


def test_images_together_equal_images_alone() -> None:
    whole = as_tuple(sums_of(ALL))
    alone = [as_tuple(sums_of([image])) for image in ALL]
    assert whole == pytest.approx([sum(parts) for parts in zip(*alone)])


def test_rows_of_some_images() -> None:
    """A teacher of images 2 and 0 alone, in that order."""
    teacher = make_predictions([2, 0], 2)
    found = soft_label_sums(
        make_predictions(ALL, 1),
        teacher,
        make_priors(ALL),
        make_gts(ALL),
        Settings(),
        torch.tensor([2, 0]),
    )
    assert as_tuple(found) == pytest.approx(as_tuple(sums_of([2, 0])))
    assert found.num_images == 2


def test_two_teachers_share_one_normaliser() -> None:
    student = make_predictions(ALL, 1)
    parts = [
        soft_label_sums(
            student,
            make_predictions([image], 2),
            make_priors(ALL),
            make_gts(ALL),
            Settings(),
            torch.tensor([image]),
        )
        for image in ALL
    ]
    together = soft_label_losses(parts, student, Settings())
    expected, _ = cases.compute_losses(ALL)
    for name, value in expected.items():
        torch.testing.assert_close(together[name], value)


def test_order_of_gts_does_not_matter() -> None:
    gts = make_gts([0])
    order = torch.tensor([1, 0])
    permuted = replace(gts, boxes=gts.boxes[order], labels=gts.labels[order])
    assert as_tuple(sums_of([0])) == as_tuple(sums_of([0], gts=permuted))


@pytest.mark.parametrize(
    "boxes",
    [
        torch.tensor([[20.0, 20.0, 21.0, 21.0]]),  # one pixel
        torch.tensor([[-100.0, -100.0, 500.0, 400.0]]),  # larger than the image
        torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(300, 1),
        torch.tensor([[20.0, 20.0, 20.0, 20.0]]),  # empty
    ],
    ids=["pixel", "huge", "300", "empty"],
)
def test_unusual_gts(boxes: Tensor) -> None:
    gts = GroundTruths.from_lists([boxes], [torch.zeros(len(boxes))], [cases.SIZES[0]])
    sums = sums_of([0], gts=gts)
    student = make_predictions([0], 1)
    losses = soft_label_losses([sums], student, Settings())
    assert all(value.isfinite() for value in losses.values())
    if len(boxes) == 300:
        one = GroundTruths.from_lists([boxes[:1]], [torch.zeros(1)], [cases.SIZES[0]])
        assert as_tuple(sums) == as_tuple(sums_of([0], gts=one))


def test_ranks_together_equal_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    """Rank 0 has an image with two GTs, rank 1 one without any."""
    script, store = Path(cases.__file__), tmp_path / "store"
    out = tmp_path / "rank1.pt"
    other = subprocess.Popen([sys.executable, str(script), "1", str(store), str(out)])
    whole, _ = cases.compute_losses([0, 1])
    first = cases.run_rank(0, str(store))
    assert other.wait(timeout=120) == 0
    second = torch.load(out, weights_only=True)
    for name, value in whole.items():
        # Gradients are averaged over ranks, so the losses must be as well.
        torch.testing.assert_close((first[name] + second[name]) / 2, value)


def test_float16_labels_are_close_to_float32() -> None:
    """What crosses between networks is cast."""
    student, teacher = make_predictions(ALL, 1), make_predictions(ALL, 2)
    cast = DensePredictions(
        cls=teacher.cls.half().float(),
        boxes=teacher.boxes,
        quality=teacher.quality.half().float(),
        quality_kind="iou",
    )
    rest = make_priors(ALL), make_gts(ALL), Settings()
    exact, crossed = (as_tuple(soft_label_sums(student, t, *rest)) for t in (teacher, cast))
    assert crossed == pytest.approx(exact, rel=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_losses_on_a_gpu_equal_the_cpus() -> None:
    def on(value: Any, device: str) -> Any:
        return replace(
            value, **{k: v.to(device) for k, v in vars(value).items() if isinstance(v, Tensor)}
        )

    parts = (
        make_predictions(ALL, 1),
        make_predictions([2, 0], 2),
        make_priors(ALL),
        make_gts(ALL),
    )
    images = torch.tensor([2, 0])
    here = soft_label_sums(*parts, Settings(), images)
    there = soft_label_sums(*(on(part, "cuda") for part in parts), Settings(), images.cuda())
    assert as_tuple(there) == pytest.approx(as_tuple(here), rel=1e-5)
