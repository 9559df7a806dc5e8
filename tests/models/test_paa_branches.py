from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine import ConfigDict
from torch import Tensor, nn

pytest.importorskip("mmdet")

from mmdet.models.dense_heads import PAAHead  # noqa: E402

from models.co_head import ground_truths  # noqa: E402
from models.paa_branches import AUX_IOU, cop_probability, iop_probability  # noqa: E402
from models.paa_head import CoPAAHead  # noqa: E402
from models.presets import PRESETS  # noqa: E402

from . import head_cases as cases  # noqa: E402
from .detector_cases import build_detector, make_sample, total, two_images  # noqa: E402
from .head_cases import CLASSES, LEVELS  # noqa: E402

BRANCHES: dict[str, dict[str, Any]] = {"cop": {"aux_cop": True}, "iop": {"aux_iop": True}}
PRODUCTS = {**BRANCHES, "product": {"aux_iop": True, "iop_floor": False}, "neither": {}}


def build(**fields: Any) -> CoPAAHead:
    return CoPAAHead(**cases.head_config(**fields))


# -- probabilities --------------------------------------------------------------------------------


def test_cop_by_hand() -> None:
    """The definition, position by position: zero-padded logits, nine coefficients row by row."""
    random = torch.Generator().manual_seed(0)
    cls = torch.randn(2, 3, 4, 5, generator=random)
    coefficients = torch.randn(2, 9, 4, 5, generator=random)
    expected = torch.zeros_like(cls)
    for y in range(4):
        for x in range(5):
            for k in range(9):
                row, column = y + k // 3 - 1, x + k % 3 - 1
                inside = 0 <= row < 4 and 0 <= column < 5
                logit = cls[:, :, row, column] if inside else torch.zeros(2, 3)
                objectness = coefficients[:, k, y, x].sigmoid()[:, None]
                expected[:, :, y, x] += objectness * logit.sigmoid() / 9
    torch.testing.assert_close(cop_probability(cls, coefficients), expected)


def test_cop_at_initialisation() -> None:
    """An edge is more probable than the interior, a corner more than an edge."""
    cls = torch.full((1, 1, 5, 5), -torch.tensor(99.0).log().item())  # probability 0.01
    found = cop_probability(cls, torch.zeros(1, 9, 5, 5))[0, 0]
    assert found[2, 2].item() == pytest.approx(0.005, rel=1e-3)
    assert found[0, 2].item() == pytest.approx(0.0867, rel=1e-2)
    assert found[0, 0].item() == pytest.approx(0.141, rel=1e-2)


def test_iop_by_hand() -> None:
    cls, objectness, bias = (
        torch.tensor(values).view(1, -1, 1, 1) for values in ([0.0, -3.0], [1.0], [-1.0])
    )
    found = iop_probability(cls, objectness, bias)
    assert found[0, 0].item() == pytest.approx((0.5 - 0.268941) * 0.731059, rel=1e-4)
    assert found[0, 1] == 0  # below the floor
    plain = iop_probability(cls, objectness, None)
    expected = [0.5 * 0.731059, 0.047426 * 0.731059]
    assert plain.flatten().tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("branch", BRANCHES)
def test_gradients(branch: str) -> None:
    random = torch.Generator().manual_seed(1)

    def draw(channels: int, shift: float = 0.0) -> Tensor:
        maps = torch.randn(2, channels, 3, 4, generator=random, dtype=torch.float64)
        return (maps + shift).requires_grad_()

    if branch == "cop":
        assert torch.autograd.gradcheck(cop_probability, (draw(2), draw(9)))
    else:
        assert torch.autograd.gradcheck(iop_probability, (draw(2), draw(1), draw(1, -6.0)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_maps_give_float32_probabilities(dtype: torch.dtype) -> None:
    maps = torch.zeros(1, 9, 2, 2, dtype=dtype)
    assert cop_probability(maps, maps).dtype == torch.float32
    assert iop_probability(maps, maps[:, :1], maps[:, :1]).dtype == torch.float32


# -- the head -------------------------------------------------------------------------------------


@pytest.mark.parametrize("aux_iou", AUX_IOU)
@pytest.mark.parametrize("branch", PRODUCTS)
def test_no_unused_parameter(branch: str, aux_iou: str) -> None:
    """Every combination of table 10, and those without COP and IOP: with positives and without."""
    config = PRESETS["tiny_r18"](2)
    config.bbox_head.update(aux_iou=aux_iou, **PRODUCTS[branch])
    detector = build_detector(config)
    images, samples = two_images()
    for given in (samples, [make_sample([], []), make_sample([], [])]):
        detector.zero_grad()
        losses = detector.loss(images, given)
        assert set(losses) == {
            "loss_cls",
            "loss_bbox",
            *(["loss_iou"] if aux_iou != "none" else []),
        }
        total(losses).backward()
        for name, parameter in detector.named_parameters():
            assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    detector.eval()
    with torch.no_grad():
        results = detector.predict(images, samples)
    assert all(r.pred_instances.bboxes.isfinite().all() for r in results)


def test_convolutions_built() -> None:
    plain = {name for name, _ in build().named_parameters()}
    iou = {"atss_centerness.weight", "atss_centerness.bias"}
    assert {n for n, _ in build(aux_iou="none").named_parameters()} == plain - iou
    assert {n for n, _ in build(aux_cop=True).named_parameters()} - plain == {
        "objectness.coefficients.weight",
        "objectness.coefficients.bias",
    }
    assert {n for n, _ in build(aux_iop=True).named_parameters()} - plain == {
        "objectness.objectness.weight",
        "objectness.objectness.bias",
        "objectness.bias.weight",
        "objectness.bias.bias",
    }
    product = build(aux_iop=True, iop_floor=False)
    assert {n for n, _ in product.named_parameters()} - plain == {
        "objectness.objectness.weight",
        "objectness.objectness.bias",
    }


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for fields in BRANCHES.values():
        head = build(**fields)
        head.init_weights()
        for name, module in head.objectness.named_modules():
            if isinstance(module, nn.Conv2d):
                assert module.weight.std().item() == pytest.approx(0.01, rel=0.3)
                expected = -9.2103 if name == "bias" else 0.0
                assert (module.bias - expected).abs().max() < 1e-3
        assert (head.atss_cls.bias + 4.595).abs().max() < 1e-2  # as mmdet: probability 0.01


def make_maps(seed: int = 0) -> tuple[list[Tensor], ...]:
    return tuple([level.detach() for level in maps] for maps in cases.make_outputs([0], seed=seed))


def predict(head: PAAHead, cls: list[Tensor], boxes: list[Tensor], iou: Any) -> Any:
    meta = cases.make_metas(1)
    with torch.no_grad():
        return head.predict_by_feat(cls, boxes, iou, batch_img_metas=meta)[0]


TEST_CFG = ConfigDict(
    nms_pre=50,
    min_bbox_size=0,
    score_thr=0.05,
    nms=dict(type="nms", iou_threshold=0.6),
    max_per_img=30,
)


def assert_same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected) > 0
    assert torch.equal(found.labels, expected.labels)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("score_voting", [True, False])
def test_inference_with_iou_equals_mmdet(score_voting: bool) -> None:
    """Probabilities p and logits of the same p are the same detections."""
    cls, boxes, iou = make_maps()
    fields = dict(test_cfg=TEST_CFG, score_voting=score_voting)
    expected = predict(build(**fields), cls, boxes, iou)
    probs = [level.sigmoid() for level in cls]
    assert_same(predict(build(aux_cop=True, **fields), probs, boxes, iou), expected)


@pytest.mark.parametrize("score_voting", [True, False])
@pytest.mark.parametrize("branch", PRODUCTS)
def test_inference_without_iou(branch: str, score_voting: bool) -> None:
    """The score is p: mmdet's sqrt(p * IoU) with the IoU saturated and p squared."""
    cls, boxes, iou = make_maps()
    fields = dict(test_cfg=TEST_CFG, score_voting=score_voting)
    square = [torch.logit(level.sigmoid().double().square()).float() for level in cls]
    expected = predict(build(**fields), square, boxes, [level * 0 + 50 for level in iou])
    given = cls if branch == "neither" else [level.sigmoid() for level in cls]
    for aux_iou in ("none", "train_only"):
        head = build(aux_iou=aux_iou, **PRODUCTS[branch], **fields)
        third = [None] * len(LEVELS) if aux_iou == "none" else iou
        found = predict(head, given, boxes, third)
        assert_same(found, expected)
        best = torch.cat([level.sigmoid().flatten() for level in cls]).max()
        assert torch.equal(found.scores.max(), best)  # to the last bit


@pytest.mark.parametrize("branch", BRANCHES)
def test_probability_losses_without_iou_weight_boxes_alike(branch: str) -> None:
    """Without an IoU branch the box loss is the plain mean, taught or not."""
    head = build(aux_iou="none", **BRANCHES[branch])
    cls, boxes, _ = cases.make_outputs([0, 2])
    outs = ([level.sigmoid() for level in cls], boxes, [None] * len(LEVELS))
    metas = cases.make_metas(2)
    priors = head.build_priors(LEVELS, metas, "cpu")
    gts = ground_truths(cases.make_instances([0, 2]), metas, "cpu")
    predictions = head.dense_predictions(outs, priors)
    assert predictions.cls_is_prob and predictions.quality is None
    assigner = head.own_assigner
    candidates = assigner.candidates(priors, gts)
    table = assigner.costs(predictions, candidates, gts)
    assignment = assigner.assign(table, candidates, priors, gts, num_classes=CLASSES)
    losses = [
        head.loss_from_assignment(predictions, outs, assignment, priors, gts, taught=taught)
        for taught in (False, True)
    ]
    assert losses[0].keys() == {"loss_cls", "loss_bbox"}
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(aux_iou="test_only"), r"bbox_head\.aux_iou 'test_only'"),
        (dict(aux_cop=True, aux_iop=True), "set one of them"),
        (dict(iop_floor=False), "iop_floor=False is IOP's"),
        (
            dict(aux_cop=True, loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True)),
            r"loss_cls must be a FocalLoss",
        ),
    ],
)
def test_rejects(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**fields)


def test_mmdet_counterpart() -> None:
    ours = dict(aux_cop=False, weigh_taught_boxes=True, assigner=dict(type="PAA"))
    config = dict(cases.head_config(), type="CoPAAHead", **ours)
    plain = build().plain_config(config)
    assert plain == dict(cases.head_config(), type="PAAHead")
    for fields in (dict(aux_iou="none"), dict(aux_iou="train_only"), *BRANCHES.values()):
        with pytest.raises(ValueError, match="mmdet's PAAHead has the IoU branch"):
            build(**fields).plain_config({**config, **fields})


def test_table_10_is_covered() -> None:
    """The tiny configurations set these fields, which a sweep can set as well."""
    from orchestrator.building import build_head
    from orchestrator.config_file import load_config

    tiny = Path(__file__).parents[2] / "configs" / "tiny" / "paa_shapes.py"
    for aux_iou in AUX_IOU:
        for branch in ("aux_cop", "aux_iop"):
            prefix = "networks.r18.model.bbox_head"
            config = load_config(tiny, [f"{prefix}.aux_iou={aux_iou}", f"{prefix}.{branch}=True"])
            head = build_head("r18", config.networks["r18"], 3)
            assert head.aux_iou == aux_iou and getattr(head, branch)
