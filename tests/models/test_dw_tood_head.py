"""DW on TOOD's head: the same points and losses as on FCOS's."""

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import TOODHead  # noqa: E402

from assigners import DWAssigner  # noqa: E402
from assigners.dw import DWAssignment  # noqa: E402
from models.co_head import ground_truths  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .detector_cases import build_detector, overfit  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402


def build(**fields: object) -> torch.nn.Module:
    head = build_head("CoDWTOODHead", feat_channels=16, stacked_convs=2, **fields)
    head.init_weights()
    return head


def test_points_are_those_of_the_other_head() -> None:
    for offset in (0.5, 0.0):
        ours, other = (
            h.build_priors(LEVELS, cases.make_metas(2), "cpu")
            for h in (build(point_offset=offset), build_head("CoDWHead", point_offset=offset))
        )
        assert torch.equal(ours.points, other.points) and torch.equal(ours.strides, other.strides)
        assert ours.level_sizes == other.level_sizes and ours.boxes is None


def test_predictions_are_those_of_inference() -> None:
    head = build().eval()
    outs = head(cases.make_features([0, 2]))
    priors = head.build_priors(LEVELS, cases.make_metas(2), "cpu")
    predictions = head.dense_predictions(outs, priors)
    assert predictions.cls_is_prob and predictions.quality_kind == "none"
    head.test_cfg.update(score_thr=0.0, nms_pre=10**6)
    results = head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(2), with_nms=False)
    for image, result in enumerate(results):
        # Inference orders rows by score, level by level.
        found = sorted(map(tuple, result.bboxes[result.labels == 1].tolist()))
        assert found == sorted(map(tuple, predictions.boxes[image].tolist()))
        scores = result.scores[result.labels == 1].sort().values
        assert torch.equal(scores, predictions.cls[image, :, 1].sort().values)


def test_learns_from_weights_made_elsewhere() -> None:
    """A teacher with FCOS's head, a learner with TOOD's."""
    learner, teacher = build(), build_head("CoDWHead")
    features, metas = cases.make_features([0, 1]), cases.make_metas(2)
    priors = learner.build_priors(LEVELS, metas, "cpu")
    gts = ground_truths(cases.make_instances([0, 1]), metas, "cpu")
    assigner = DWAssigner()
    candidates = assigner.candidates(priors, gts)
    seen = teacher.dense_predictions(teacher(features), priors)
    table = assigner.costs(seen, candidates, gts)
    weights = assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)
    assert isinstance(weights, DWAssignment) and weights.pos_weight.sum() > 0
    outs = learner(features)
    predictions = learner.dense_predictions(outs, priors)
    losses = learner.loss_from_assignment(predictions, outs, weights, priors, gts, taught=True)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in learner.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_weights_of_mmdets_head_load() -> None:
    theirs = TOODHead(
        num_classes=CLASSES,
        in_channels=8,
        feat_channels=16,
        stacked_convs=2,
        norm_cfg=dict(type="GN", num_groups=2),
        anchor_generator=dict(
            type="AnchorGenerator",
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32],
        ),
    )
    build().load_state_dict(theirs.state_dict())


def test_rejects_bad_configurations() -> None:
    with pytest.raises(ValueError, match=r"bbox_head\.loss_bbox: DW's loss follows from"):
        build(loss_bbox=dict(type="GIoULoss"))
    with pytest.raises(ValueError, match=r"bbox_head\.assigner\.type: expected 'DW', got 'PAA'"):
        build(assigner=dict(type="PAA"))


def test_loss_falls_when_overfitting_two_images() -> None:
    trace = overfit(build_detector(PRESETS["tiny_dw_tood_r18"](2)), 40, lr=0.03)
    assert sum(trace[-3:]) < 0.7 * sum(trace[:3])
