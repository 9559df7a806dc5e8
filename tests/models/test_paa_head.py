import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import PAAHead  # noqa: E402

from assigners import HardAssignment, PAAAssigner, SoftAssignment  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.paa_head import CoPAAHead  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import head_cases as cases  # noqa: E402
from .detector_cases import build_detector, make_sample, overfit, total, two_images  # noqa: E402
from .head_cases import CLASSES, LEVELS, SIZE  # noqa: E402


def build(**fields: Any) -> CoPAAHead:
    return CoPAAHead(**cases.head_config(**fields))


# -- interface ------------------------------------------------------------------------------------


def test_priors_follow_the_anchor_generator() -> None:
    head = build()
    metas = cases.make_metas(2)
    metas[1]["pad_shape"] = (96, 128)
    priors = head.build_priors(LEVELS, metas, "cpu")
    assert priors.level_sizes == (320, 80, 20)
    assert priors.boxes[321].tolist() == [-48.0, -64.0, 80.0, 64.0]  # stride 16, column 1
    assert priors.points[321].tolist() == [16.0, 0.0] and priors.strides[321] == 16
    assert torch.equal(
        priors.level, torch.repeat_interleave(torch.arange(3), torch.tensor([320, 80, 20]))
    )
    assert priors.valid[0].all()
    inside = (priors.points[:, 0] < 128) & (priors.points[:, 1] < 96)
    assert torch.equal(priors.valid[1], inside)


def test_allowed_border_restricts_the_priors() -> None:
    train_cfg = cases.head_config()["train_cfg"]
    train_cfg["allowed_border"] = 0
    head = build(train_cfg=train_cfg)
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    inside = (priors.boxes[:, :2] >= 0).all(1)
    inside &= (priors.boxes[:, 2] < SIZE[1]) & (priors.boxes[:, 3] < SIZE[0])
    assert torch.equal(priors.valid[0], inside) and inside.any() and not inside.all()


def test_predictions_are_level_major_and_decoded() -> None:
    head = build()
    priors = head.build_priors(LEVELS, cases.make_metas(2), "cpu")
    cls, boxes, iou = cases.make_outputs([0, 2])
    with torch.no_grad():
        boxes[1].zero_()
        cls[1][1, 2, 3, 4] = 42.0  # image 1, class 2, level 1, row 3, column 4
        iou[2][0, 0, 1, 2] = 43.0
    predictions = head.dense_predictions((cls, boxes, iou), priors)
    assert predictions.cls.shape == (2, 420, CLASSES) and predictions.boxes.shape == (2, 420, 4)
    assert predictions.cls[1, 320 + 3 * 10 + 4, 2] == 42
    assert predictions.quality[0, 400 + 5 + 2] == 43
    assert predictions.quality_kind == "iou" and not predictions.cls_is_prob
    level = slice(320, 400)
    torch.testing.assert_close(predictions.boxes[0, level], priors.boxes[level])


def test_half_precision_outputs_give_float32_losses() -> None:
    head = build()
    outs = tuple([level.half() for level in maps] for maps in cases.make_outputs([0, 1]))
    losses = head.loss_by_feat(*outs, cases.make_instances([0, 1]), cases.make_metas(2))
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_soft_assignment_is_refused() -> None:
    head = build()
    outs = cases.make_outputs([0])
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    gts = ground_truths(cases.make_instances([0]), cases.make_metas(1), "cpu")
    soft = SoftAssignment(
        candidates=head.own_assigner.candidates(priors, gts),
        pos_weight=torch.zeros(0),
        neg_weight=torch.zeros(0),
        box_weight=torch.zeros(0),
    )
    predictions = head.dense_predictions(outs, priors)
    with pytest.raises(TypeError, match="hard assignment"):
        head.loss_from_assignment(predictions, outs, soft, priors, gts, taught=True)


# -- losses ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:DeprecationWarning. `num_anchors`:UserWarning")  # mmdet's own
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("images", [[0, 2], [0, 1], [1, 1]])
def test_equals_mmdet(seed: int, images: list[int]) -> None:
    """Losses and gradients of mmdet's head, with an image without GT and a batch without any."""
    pytest.importorskip("sklearn")
    results = []
    for head in (build(), PAAHead(**cases.head_config())):
        outs = cases.make_outputs(images, seed=seed)
        losses = head.loss_by_feat(
            *outs, cases.make_instances(images), cases.make_metas(len(images))
        )
        inputs = [level for maps in outs for level in maps]
        results.append((losses, torch.autograd.grad(total(losses), inputs)))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-5, atol=1e-7)
    for mine, reference in zip(our_gradients, their_gradients):
        scale = float(reference.abs().max())
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-4 * scale + 1e-9)


def test_taught_box_loss_weights_positives_alike() -> None:
    head = build()
    outs = cases.make_outputs([0])
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    gts = ground_truths(cases.make_instances([0]), cases.make_metas(1), "cpu")
    predictions = head.dense_predictions(outs, priors)
    # Two positives: one box perfect, one disjoint and touching (IoU 0, GIoU 0).
    target = gts.boxes[0]
    width = target[2] - target[0]
    boxes = predictions.boxes.detach().clone()
    boxes[0, 7], boxes[0, 9] = target, target + torch.stack([width, 0 * width] * 2)
    assignment = HardAssignment(
        labels=torch.full((1, 420), CLASSES),
        label_weights=torch.ones(1, 420),
        pos_inds=torch.tensor([7, 9]),
        pos_gt=torch.tensor([0, 0]),
        box_targets=target.expand(2, 4),
    )
    given = replace(predictions, boxes=boxes)
    losses = {
        taught: head.loss_from_assignment(given, outs, assignment, priors, gts, taught=taught)
        for taught in (True, False)
    }
    assert losses[True]["loss_bbox"].item() == pytest.approx(1.3 * (0 + 1) / 2)
    assert losses[False]["loss_bbox"].item() == pytest.approx(0, abs=1e-6)  # weight IoU = 0
    for name in ("loss_cls", "loss_iou"):
        assert torch.equal(losses[True][name], losses[False][name])
    as_printed = build(weigh_taught_boxes=True).loss_from_assignment(
        given, outs, assignment, priors, gts, taught=True
    )
    assert all(torch.equal(as_printed[name], value) for name, value in losses[False].items())


def test_probabilities_train_like_logits() -> None:
    head = build()
    outs = cases.make_outputs([0, 2])
    priors = head.build_priors(LEVELS, cases.make_metas(2), "cpu")
    gts = ground_truths(cases.make_instances([0, 2]), cases.make_metas(2), "cpu")
    logits = head.dense_predictions(outs, priors)
    probs = replace(logits, cls=logits.cls.sigmoid(), cls_is_prob=True)
    results = []
    for predictions in (logits, probs):
        candidates = head.own_assigner.candidates(priors, gts)
        table = head.own_assigner.costs(predictions, candidates, gts)
        assignment = head.own_assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)
        loss = head.loss_from_assignment(predictions, outs, assignment, priors, gts, taught=True)
        results.append([loss["loss_cls"], *torch.autograd.grad(loss["loss_cls"], outs[0])])
    for from_logits, from_probs in zip(*results):
        torch.testing.assert_close(from_logits, from_probs, rtol=1e-4, atol=1e-7)


def test_ranks_together_equal_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    """Rank 0 has an image with two GTs, rank 1 one without any."""
    script, store = Path(cases.__file__), tmp_path / "store"
    out = tmp_path / "rank1.pt"
    other = subprocess.Popen([sys.executable, str(script), "1", str(store), str(out)])
    whole = cases.rank_losses([0, 1])
    first = cases.run_rank(0, str(store))
    assert other.wait(timeout=120) == 0
    second = torch.load(out, weights_only=True)
    for name, value in whole.items():
        # Gradients are averaged over ranks, so the losses must be as well.
        torch.testing.assert_close((first[name] + second[name]) / 2, value, rtol=1e-5, atol=1e-7)


# -- configuration --------------------------------------------------------------------------------


def test_own_assigner_follows_the_head() -> None:
    train_cfg = cases.head_config()["train_cfg"]
    train_cfg["assigner"].update(pos_iou_thr=0.2, neg_iou_thr=0.2)
    head = build(
        topk=5,
        train_cfg=train_cfg,
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=1.5, alpha=0.3, loss_weight=0.5),
    )
    assert head.own_assigner == PAAAssigner(
        topk=5, iou_threshold=0.2, cls_weight=0.5, reg_weight=2.0, alpha=0.3, gamma=1.5
    )
    explicit = build(assigner=dict(type="PAA", topk=4, single_candidate="keep"))
    assert explicit.own_assigner == PAAAssigner(topk=4, single_candidate="keep")
    assert explicit.topk == 4


def _train_cfg(**fields: Any) -> Any:
    train_cfg = cases.head_config()["train_cfg"]
    train_cfg["assigner"].update(fields)
    return train_cfg


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            dict(
                anchor_generator=dict(
                    type="AnchorGenerator",
                    ratios=[0.5, 1.0],
                    octave_base_scale=8,
                    scales_per_octave=1,
                    strides=[8, 16, 32],
                )
            ),
            r"bbox_head\.anchor_generator: \[2\] anchors per location",
        ),
        (dict(reg_decoded_bbox=False), r"bbox_head\.reg_decoded_bbox"),
        (dict(covariance_type="tied"), r"bbox_head\.covariance_type 'tied'"),
        (dict(topk=9, assigner=dict(topk=5)), r"topk=9 contradicts assigner\.topk=5"),
        (dict(assigner=dict(type="PAA", tpok=5)), "unknown field 'tpok'"),
        (dict(train_cfg=_train_cfg(neg_iou_thr=0.05)), r"train_cfg\.assigner\.neg_iou_thr"),
        (dict(train_cfg=_train_cfg(min_pos_iou=0.05)), r"train_cfg\.assigner\.min_pos_iou"),
        (dict(train_cfg=_train_cfg(match_low_quality=False)), "match_low_quality"),
        (
            dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=False)),
            r"bbox_head\.loss_cls\.use_sigmoid",
        ),
    ],
)
def test_rejects_what_paa_does_not_have(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_rejects_a_weight_for_positives() -> None:
    train_cfg = cases.head_config()["train_cfg"]
    train_cfg["pos_weight"] = 2.0
    with pytest.raises(ValueError, match=r"train_cfg\.pos_weight=2\.0"):
        build(train_cfg=train_cfg)


@pytest.mark.filterwarnings("ignore:DeprecationWarning. `num_anchors`:UserWarning")  # mmdet's own
def test_weights_of_mmdets_head_load() -> None:
    build().load_state_dict(PAAHead(**cases.head_config()).state_dict())


# -- tiny detectors -------------------------------------------------------------------------------


def test_loss_falls_when_overfitting_two_images() -> None:
    trace = overfit(build_detector(PRESETS["tiny_r18"](2)), 15)
    assert sum(trace[-3:]) / 3 < 0.5 * trace[0]


def test_without_positives_only_classification_learns() -> None:
    detector = build_detector(PRESETS["tiny_r18"](2))
    images, _ = two_images()
    losses = detector.loss(images, [make_sample([], []), make_sample([], [])])
    assert losses["loss_bbox"] == 0 and losses["loss_iou"] == 0 and losses["loss_cls"] > 0
