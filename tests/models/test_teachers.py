"""Adapters of frozen teachers: every family against its own head's ``predict``, in both modes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from mmdet.models.dense_heads import DDODHead, GFLHead, LADHead, LDHead
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine import ConfigDict
from torch import Tensor, nn

from assigners.types import DensePredictions
from models.paa_head import CoPAAHead
from models.teachers import ADAPTERS, CoTeacher, TeacherAdapter, register_teacher, teacher_adapter
from tests.models.teacher_cases import CLASSES, FAMILIES, STRIDES, WIDTH, head_config, randomise

EXACT = "donot_use_mm_for_euclid_dist"
PADDED = (128, 160)
SHAPES = ((128, 150), (90, 160))  # both images are padded, along different axes
QUALITY = dict(
    ATSS="centerness",
    FCOS="centerness",
    FCOS_norm="centerness",
    PAA="iou",
    AutoAssign="objectness",
)
PROBABILITIES = ("TOOD", "TOOD_anchors", "RetinaNet_softmax")
UNCLIPPED = ("TOOD", "TOOD_anchors")  # mmdet's TOOD predicts boxes beyond the image
EVERYTHING = ConfigDict(  # predict returns each (location, class) pair
    nms_pre=10**6,
    min_bbox_size=-1,
    score_thr=0.0,
    nms=dict(type="nms", iou_threshold=1.0),
    max_per_img=10**6,
)

pytestmark = pytest.mark.filterwarnings("ignore:DeprecationWarning. `num_anchors`:UserWarning")


def build_head(family: str, levels: int = 5, **fields: Any) -> Any:
    config = {**head_config(family, levels, **fields), "train_cfg": None, "test_cfg": EVERYTHING}
    head = MODELS.build(ConfigDict(config))
    randomise(head, seed=levels)
    return head.eval()


def make_features(levels: int, *, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    height, width = PADDED
    return [
        torch.randn(len(SHAPES), WIDTH, -(-height // s), -(-width // s), generator=generator)
        for s in STRIDES[:levels]
    ]


def make_metas() -> list[dict[str, Any]]:
    return [dict(img_shape=shape, pad_shape=PADDED) for shape in SHAPES]


@torch.no_grad()
def run_adapter(head: Any, features: list[Tensor], *, training: bool) -> DensePredictions:
    """Predictions from the head's outputs; batch statistics stay out of it in train mode."""
    head.train(training)
    for module in head.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    outs = head(features)
    return teacher_adapter(head).dense_predictions(outs, make_metas())


def as_detections(family: str, predictions: DensePredictions, image: int) -> Tensor:
    """Rows (label, score, x1, y1, x2, y2) of all pairs, as mmdet scores and clips them."""
    cls = predictions.cls[image]
    scores = cls if predictions.cls_is_prob else cls.sigmoid()
    if predictions.quality is not None:
        scores = scores * predictions.quality[image].sigmoid()[:, None]
    if family == "PAA":
        scores = scores.sqrt()
    boxes = predictions.boxes[image]
    if family not in UNCLIPPED:
        height, width = SHAPES[image]
        limits = boxes.new_tensor([width, height, width, height])
        boxes = torch.minimum(boxes.clamp(min=0), limits)
    labels = torch.arange(CLASSES).expand_as(scores)
    rows = [labels[..., None], scores[..., None], boxes[:, None].expand(-1, CLASSES, -1)]
    return torch.cat(rows, dim=-1).flatten(0, 1)


def assert_same_rows(found: Tensor, expected: Tensor) -> None:
    """Equal in any order: a label counts as 100 pixels of difference, a score as a hundredth."""
    assert found.shape == expected.shape
    scale = found.new_tensor([100, 100, 1, 1, 1, 1])
    gap = torch.cdist(found * scale, expected * scale, p=math.inf, compute_mode=EXACT)
    assert gap.amin(dim=0).max() < 0.01 and gap.amin(dim=1).max() < 0.01


@torch.no_grad()
def head_detections(head: Any, features: list[Tensor]) -> list[Tensor]:
    """The same rows from the head's own ``predict``, in eval mode."""
    head.eval()
    samples = [DetDataSample(metainfo=meta) for meta in make_metas()]
    return [
        torch.cat([r.labels[:, None], r.scores[:, None], r.bboxes], dim=1)
        for r in head.predict(tuple(features), samples, rescale=False)
    ]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("levels", [5, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_those_of_the_head(family: str, levels: int, training: bool) -> None:
    head, features = build_head(family, levels), make_features(levels)
    expected = head_detections(head, features)
    predictions = run_adapter(head, features, training=training)
    locations = sum(f.shape[-2] * f.shape[-1] for f in features)
    assert predictions.cls.shape == (len(SHAPES), locations, CLASSES)
    assert predictions.boxes.dtype == torch.float32
    for image, rows in enumerate(expected):
        assert len(rows) == locations * CLASSES
        found = as_detections(family, predictions, image)
        assert_same_rows(found, rows)
        assert found[:, 2:].std(dim=0).min() > 1, "the case would not tell boxes apart"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_supplies(family: str) -> None:
    predictions = run_adapter(build_head(family), make_features(5), training=False)
    assert predictions.quality_kind == QUALITY.get(family, "none")
    assert predictions.cls_is_prob == (family in PROBABILITIES)
    if predictions.cls_is_prob:
        assert 0 <= predictions.cls.min() and predictions.cls.max() <= 1


def test_row_order_is_level_row_column() -> None:
    """A location's index depends on its place only, so families agree on it."""
    head = build_head("ATSS", 3)
    height, width = 16, 20
    outs = [
        [torch.zeros(1, c, height // k, width // k) for k in (1, 2, 4)] for c in (CLASSES, 4, 1)
    ]
    outs[0][1][0, 2, 3, 5] = 7.0  # level 1, row 3, column 5
    predictions = teacher_adapter(head).dense_predictions(outs, make_metas()[:1])
    index = int(predictions.cls[0, :, 2].argmax())
    assert index == height * width + 3 * (width // 2) + 5
    centre = (predictions.boxes[0, index, :2] + predictions.boxes[0, index, 2:]) / 2
    assert centre.tolist() == [5 * 16, 3 * 16]


def test_half_precision_outputs_become_float32() -> None:
    head = build_head("GFL", 3)
    with torch.no_grad():
        outs = head(make_features(3))
    halves = [[level.half() for level in maps] for maps in outs]
    adapter = teacher_adapter(head)
    low = adapter.dense_predictions(halves, make_metas())
    full = adapter.dense_predictions(outs, make_metas())
    assert (low.cls.dtype, low.boxes.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(low.boxes, full.boxes, rtol=1e-2, atol=0.5)


@pytest.mark.parametrize("scale", [8, 4])
def test_our_own_heads_teach_with_their_own_anchors(scale: int) -> None:
    generator = {**head_config("PAA", 3)["anchor_generator"], "octave_base_scale": scale}
    plain = build_head("PAA", 3, anchor_generator=generator)
    config = {**head_config("PAA", 3, anchor_generator=generator), "type": "CoPAAHead"}
    ours = MODELS.build(ConfigDict({**config, "test_cfg": EVERYTHING})).eval()
    ours.load_state_dict(plain.state_dict())
    assert isinstance(ours, CoPAAHead)
    adapter = teacher_adapter(ours)
    assert isinstance(adapter, CoTeacher)
    assert (adapter.strides, adapter.priors_per_location) == ((8, 16, 32), 1)
    features = make_features(3)
    ours_view = run_adapter(ours, features, training=False)
    plain_view = run_adapter(plain, features, training=False)
    for name in ("cls", "boxes", "quality"):
        torch.testing.assert_close(getattr(ours_view, name), getattr(plain_view, name))


class Renamed(GFLHead):
    """A user's variant that keeps what the outputs mean."""


class Changed(GFLHead):
    """A user's variant that does not."""

    def forward_single(self, x: Tensor, scale: Any) -> Any:
        cls_score, bbox_pred = super().forward_single(x, scale)
        return cls_score, bbox_pred * 2


def bare(kind: type[nn.Module], **attributes: Any) -> nn.Module:
    """A head of this class without its layers."""
    head = kind.__new__(kind)
    nn.Module.__init__(head)
    for name, value in attributes.items():
        setattr(head, name, value)
    return head


@pytest.mark.parametrize("kind, parent", [(Renamed, "GFL"), (LDHead, "GFL"), (LADHead, "PAA")])
def test_subclasses_that_change_no_output_are_served(kind: type[nn.Module], parent: str) -> None:
    like = build_head(parent)
    head = bare(kind, prior_generator=like.prior_generator)
    assert type(teacher_adapter(head)) is type(teacher_adapter(like))


def test_subclass_that_changes_outputs_is_refused() -> None:
    with pytest.raises(ValueError, match="Changed changes forward_single of GFLHead"):
        teacher_adapter(bare(Changed))
    from mmdet.models.dense_heads import CondInstBboxHead  # an FCOS head with mask parameters

    with pytest.raises(ValueError, match="CondInstBboxHead changes"):
        teacher_adapter(bare(CondInstBboxHead))


@pytest.mark.parametrize("kind", ["DETRHead", "DINOHead", "RPNHead", "YOLOV3Head"])
def test_heads_without_adapter_are_refused(kind: str) -> None:
    from mmdet.models import dense_heads

    with pytest.raises(ValueError, match=f"{kind} has no adapter.*ATSSHead.*two-stage"):
        teacher_adapter(bare(getattr(dense_heads, kind)))


def test_several_priors_per_location_are_refused() -> None:
    generator = dict(
        type="AnchorGenerator",
        octave_base_scale=4,
        scales_per_octave=3,
        ratios=[0.5, 1.0, 2.0],
        strides=list(STRIDES),
    )
    head = build_head("RetinaNet", anchor_generator=generator)
    with pytest.raises(ValueError, match="RetinaHead has 9 priors per location"):
        teacher_adapter(head)


def test_class_channels_of_another_kind_are_refused() -> None:
    head = build_head("RetinaNet")
    head.loss_cls.custom_cls_channels = True
    with pytest.raises(ValueError, match="class channels of its own"):
        teacher_adapter(head)


def test_uneven_strides_are_refused() -> None:
    head = build_head("RetinaNet", 3)
    head.prior_generator.strides = [(8, 8), (16, 8), (32, 32)]
    with pytest.raises(ValueError, match=r"strides \[\(16, 8\)\] differ"):
        teacher_adapter(head).strides  # noqa: B018


@pytest.fixture
def ddod() -> Iterator[type[TeacherAdapter]]:
    """The worked example of docs/teachers.md."""

    @register_teacher(DDODHead)
    class DDODTeacher(TeacherAdapter):
        quality_kind = "iou"

    yield DDODTeacher
    del ADAPTERS[DDODHead]


def test_a_registered_family_teaches(ddod: type[TeacherAdapter]) -> None:
    config = {
        **head_config("ATSS"),
        "type": "DDODHead",
        "loss_iou": dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=1.0),
        "train_cfg": None,
        "test_cfg": EVERYTHING,
    }
    del config["loss_centerness"]
    head = MODELS.build(ConfigDict(config))
    randomise(head)
    features = make_features(5)
    expected = head_detections(head, features)
    predictions = run_adapter(head, features, training=False)
    assert isinstance(teacher_adapter(head), ddod)
    for image, rows in enumerate(expected):
        assert_same_rows(as_detections("DDOD", predictions, image), rows)
