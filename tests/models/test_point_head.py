"""What the point-based heads share, tested on DW's."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import AutoAssignHead  # noqa: E402

from models.co_head import flatten_levels  # noqa: E402
from models.point_head import joint_logits  # noqa: E402

from . import point_cases as cases  # noqa: E402
from .point_cases import CLASSES, LEVELS, build_head  # noqa: E402


def test_priors_are_points_level_by_level() -> None:
    priors = build_head("CoDWHead").build_priors(LEVELS, cases.make_metas(2), "cpu")
    assert priors.level_sizes == (320, 80, 20) and priors.boxes is None
    assert priors.points[[0, 1, 20, 321]].tolist() == [[4, 4], [12, 4], [4, 12], [24, 8]]
    assert priors.strides[[0, 320, 400]].tolist() == [8, 16, 32]
    assert torch.equal(
        priors.level, torch.repeat_interleave(torch.arange(3), torch.tensor([320, 80, 20]))
    )
    assert priors.valid.shape == (2, 420) and priors.valid.all()
    shifted = build_head("CoDWHead", point_offset=0)
    assert shifted.build_priors(LEVELS, cases.make_metas(1), "cpu").points[1].tolist() == [8, 0]


def test_priors_of_one_location_follow_each_other() -> None:
    head = build_head("CoDWHead", num_anchors=3)
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    assert priors.level_sizes == (960, 240, 60)
    assert priors.points[:4].tolist() == [[4, 4], [4, 4], [4, 4], [12, 4]]
    outs = head(cases.make_features([0]))
    assert [level.shape[1] for level in (outs[0][0], outs[1][0], outs[2][0])] == [9, 12, 3]
    predictions = head.dense_predictions(outs, priors)
    assert predictions.cls.shape == (1, 1260, CLASSES)
    # Prior 1 * 3 + 2: location 1, slot 2.
    assert torch.equal(predictions.cls[0, 5], outs[0][0][0, 6:9, 0, 1])
    left_top = priors.points[5] - outs[1][0][0, 8:10, 0, 1]
    torch.testing.assert_close(predictions.boxes[0, 5, :2], left_top)
    assert predictions.quality is not None
    assert predictions.quality[0, 5] == outs[2][0][0, 2, 0, 1]
    losses = head.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    assert all(value.isfinite() for value in losses.values())
    results = head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(1))
    assert len(results) == 1


def test_initial_weights() -> None:
    head = build_head("CoDWHead")
    head.init_weights()
    outs = head(cases.make_features([0]))
    probability = torch.cat([level.flatten() for level in outs[0]]).sigmoid()
    assert probability.mean().item() == pytest.approx(0.02, rel=0.1)
    for level, stride in zip(outs[1], head.strides):
        assert level.dtype == torch.float32 and (level >= 0).all()
        assert level.mean().item() == pytest.approx(4 * stride, rel=0.1)


def test_boxes_are_decoded_without_clipping() -> None:
    head = build_head("CoDWHead")
    priors = head.build_priors(LEVELS, cases.make_metas(1), "cpu")
    outs = head(cases.make_features([0]))
    distances = torch.full((1, 4, *LEVELS[1]), 1000.0)
    predictions = head.dense_predictions(
        (outs[0], [outs[1][0], distances, outs[1][2]], outs[2]), priors
    )
    assert predictions.boxes[0, 320].tolist() == [-992, -992, 1008, 1008]
    assert predictions.quality_kind == "objectness" and not predictions.cls_is_prob


def test_distances_are_never_negative() -> None:
    raw = torch.tensor([-3.0, 0.0, 2.5]).expand(1, 4, 1, 3)
    for kind in ("CoDWHead", "CoAutoAssignHead", "CoALAHead"):
        assert build_head(kind).distances(raw, 16)[0, 0, 0].tolist() == [0, 0, 40]


def test_joint_logits_lose_no_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    cls = torch.randn(2, 2 * CLASSES, 3, 4, generator=generator, dtype=torch.float64) * 20
    objectness = torch.randn(2, 2, 3, 4, generator=generator, dtype=torch.float64) * 20
    product = cls.unflatten(1, (2, CLASSES)).sigmoid() * objectness.sigmoid()[:, :, None]
    found = joint_logits(cls.float(), objectness.float()).sigmoid()
    torch.testing.assert_close(found, product.flatten(1, 2).float(), rtol=2e-5, atol=1e-35)


def test_threshold_is_applied_to_the_product() -> None:
    head = build_head("CoDWHead")
    cls = [torch.full((1, CLASSES, *size), -20.0) for size in LEVELS]
    objectness = [torch.zeros(1, 1, *size) for size in LEVELS]
    boxes = [torch.full((1, 4, *size), 8.0) for size in LEVELS]
    cls[0][0, 1, 5, 5] = cls[0][0, 2, 9, 9] = 0.0
    objectness[0][0, 0, 5, 5] = 3.0
    objectness[0][0, 0, 9, 9] = -2.3  # 0.5 * 0.091 < 0.05
    (result,) = head.predict_by_feat(cls, boxes, objectness, batch_img_metas=cases.make_metas(1))
    assert result.labels.tolist() == [1]
    assert result.scores.tolist() == pytest.approx([0.5 / (1 + 2.718281828**-3)])
    assert result.bboxes.tolist() == [[36, 36, 52, 52]]


def test_without_objectness_there_is_no_branch() -> None:
    head = build_head("CoDWHead", objectness="none")
    assert not any("centerness" in name for name, _ in head.named_parameters())
    outs = head(cases.make_features([0, 1]))
    assert len(outs) == 2
    priors = head.build_priors(LEVELS, cases.make_metas(2), "cpu")
    assert head.dense_predictions(outs, priors).quality_kind == "none"
    losses = head.loss_by_feat(*outs, cases.make_instances([0, 1]), cases.make_metas(2), None)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    (result, _) = head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(2))
    cls = flatten_levels(outs[0], CLASSES).sigmoid()
    assert not len(result) or result.scores.max() <= cls.max()


def test_half_precision_outputs_give_float32_losses() -> None:
    head = build_head("CoDWHead")
    outs = [[level.detach().half() for level in maps] for maps in head(cases.make_features([0]))]
    losses = head.loss_by_feat(*outs, cases.make_instances([0]), cases.make_metas(1), None)
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert len(head.predict_by_feat(*outs, batch_img_metas=cases.make_metas(1))) == 1


def test_parameters_have_mmdets_names() -> None:
    """Weights of mmdet's head of the same shape load, its trained centre prior apart."""
    config = dict(in_channels=8, feat_channels=8, stacked_convs=1, strides=[8, 16, 32])
    theirs = AutoAssignHead(num_classes=CLASSES, norm_cfg=dict(type="GN", num_groups=2), **config)
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("center_prior")}
    build_head("CoDWHead").load_state_dict(state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(objectness="learned"), r"bbox_head\.objectness 'learned': expected one of"),
        (dict(assigner=dict(type="PAA")), r"bbox_head\.assigner\.type: expected 'DW', got 'PAA'"),
        (dict(assigner=dict(bta=3)), "assigner DW: unknown field 'bta'.*did you mean 'beta'"),
    ],
)
def test_rejects_bad_configurations(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head("CoDWHead", **fields)


def test_ranks_together_equal_one_rank_with_the_whole_batch(tmp_path: Path) -> None:
    """Rank 0 has an image with two GTs, rank 1 one without any."""
    script, store, out = Path(cases.__file__), tmp_path / "store", tmp_path / "rank1.pt"
    command = [sys.executable, str(script), "CoDWHead", "1", str(store), str(out)]
    other = subprocess.Popen(command)
    whole = cases.rank_losses("CoDWHead", [0, 1])
    first = cases.run_rank("CoDWHead", 0, str(store))
    assert other.wait(timeout=120) == 0
    second = torch.load(out, weights_only=True)
    for name, value in whole.items():
        # Gradients are averaged over ranks, so the losses must be as well.
        torch.testing.assert_close((first[name] + second[name]) / 2, value, rtol=1e-5, atol=1e-7)
