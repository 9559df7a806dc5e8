"""The stand-in for mmcv's compiled operators: values, gradients, and where it is put in place."""

import importlib.util
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

if importlib.util.find_spec("mmdet") is None:
    pytest.skip("needs mmdet: pip install colad[mmdet]", allow_module_level=True)

from models import mmcv_ops  # noqa: E402  (importing models calls install)

_path = Path(__file__).with_name("make_mmcv_ops_reference.py")
_spec = importlib.util.spec_from_file_location(_path.stem, _path)
reference = importlib.util.module_from_spec(_spec)
sys.modules[_path.stem] = reference  # NamedTuple resolves its annotations there
_spec.loader.exec_module(reference)

# The stand-in adds up in another order than the compiled operators and counts positions in other
# units: a few float32 roundings of values of magnitude 1 to 10.
TOLERANCE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, which mmcv's wrappers call in this test also where mmcv is compiled."""
    module = mmcv_ops.build_stand_in()
    for wrapper in ("nms", "focal_loss", "deform_conv", "modulated_deform_conv"):
        importlib.import_module(f"mmcv.ops.{wrapper}")  # mmcv.ops.nms, the name, is a function
        monkeypatch.setattr(sys.modules[f"mmcv.ops.{wrapper}"], "ext_module", module)
    return module


@pytest.fixture(scope="module")
def recorded() -> dict[str, Tensor]:
    with np.load(reference.REFERENCE) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def select(recorded: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in recorded.items() if n.startswith(prefix)}


# --- Agreement with the compiled operators ----------------------------------------------------


@pytest.mark.parametrize("case", reference.CASES)
def test_agrees_with_recorded_outputs_of_compiled_operators(case, recorded, stand_in):
    outputs = reference.run_case(case, select(recorded, f"{case}/in/"))
    torch.testing.assert_close(outputs, select(recorded, f"{case}/out/"), **TOLERANCE)


@pytest.mark.skipif(
    mmcv_ops.is_stand_in(), reason="needs mmcv with compiled operators: MMCV_WITH_OPS=1 pip install"
)
@pytest.mark.parametrize("case", reference.CASES)
def test_agrees_with_installed_compiled_operators(case, request):
    inputs = reference.make_inputs(case)
    expected = reference.run_case(case, inputs)
    request.getfixturevalue("stand_in")  # from here on the wrappers call the stand-in
    torch.testing.assert_close(reference.run_case(case, inputs), expected, **TOLERANCE)


# --- Deformable convolution -------------------------------------------------------------------


@pytest.mark.parametrize("case", ["v1_grouped", "v1_as_in_tood", "v2_grouped"])
def test_deform_conv_gradients_match_finite_differences(case, stand_in):
    operator, names = reference.deform_operator(reference.DEFORM_CASES[case])
    inputs = reference.make_inputs(case)
    leaves = [inputs[name].double().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(operator, leaves, fast_mode=True)


@pytest.mark.parametrize("case", ["v1_grouped", "v2_grouped"])
def test_without_offsets_deform_conv_is_a_convolution(case, stand_in):
    config = reference.DEFORM_CASES[case]
    inputs = reference.make_inputs(case)
    inputs["offset"].zero_()
    if config.version == 2:
        inputs["mask"].fill_(1)
    operator, names = reference.deform_operator(config)
    expected = F.conv2d(
        inputs["input"],
        inputs["weight"],
        inputs.get("bias"),
        config.stride,
        config.padding,
        config.dilation,
        config.groups,
    )
    torch.testing.assert_close(operator(*(inputs[name] for name in names)), expected, **TOLERANCE)


@pytest.mark.parametrize("case", ["v1_far_outside", "v2_far_outside"])
@pytest.mark.parametrize("offset", [1e30, float("inf"), float("nan")])
def test_samples_outside_the_map_are_zero_and_have_no_gradient(case, offset, stand_in):
    inputs = reference.make_inputs(case)
    inputs["offset"].fill_(offset)
    outputs = reference.run_case(case, inputs)
    bias = inputs.get("bias", torch.zeros(4))[:, None, None]
    torch.testing.assert_close(outputs["output"], bias.expand_as(outputs["output"]))
    for name in ("grad_input", "grad_offset", "grad_weight"):
        assert not outputs[name].any(), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["v1_grouped", "v2_grouped"])
def test_deform_conv_in_half_precision(case, dtype, stand_in):
    inputs = {name: tensor.to(dtype) for name, tensor in reference.make_inputs(case).items()}
    outputs = reference.run_case(case, inputs)
    wider = reference.run_case(case, {name: t.float() for name, t in inputs.items()})
    assert {tensor.dtype for tensor in outputs.values()} == {dtype}
    # Only the results are rounded to half precision.
    wider = {name: tensor.to(dtype) for name, tensor in wider.items()}
    torch.testing.assert_close(outputs, wider)


def test_deform_conv_under_autocast_follows_the_offsets(stand_in):
    inputs = reference.make_inputs("v1_plain")
    expected = reference.run_case("v1_plain", inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = reference.run_case("v1_plain", inputs)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=0)


def test_deform_conv_names_a_wrong_number_of_offsets(stand_in):
    inputs = reference.make_inputs("v1_plain")
    inputs["offset"] = inputs["offset"][:, :-2]
    with pytest.raises(RuntimeError, match="offset has 16 channels"):
        reference.run_case("v1_plain", inputs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("case", reference.CASES)
def test_agrees_between_cpu_and_cuda(case, stand_in):
    inputs = reference.make_inputs(case)
    outputs = reference.run_case(case, {name: tensor.cuda() for name, tensor in inputs.items()})
    assert {tensor.device.type for tensor in outputs.values()} == {"cuda"}
    outputs = {name: tensor.cpu() for name, tensor in outputs.items()}
    # TF32 is off by default for matrix products; convolutions are not used.
    torch.testing.assert_close(outputs, reference.run_case(case, inputs), **TOLERANCE)


# --- Non-maximum suppression ------------------------------------------------------------------

BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [20.0, 20.0, 30.0, 30.0]])


@pytest.mark.parametrize("iou_threshold, kept", [(0.5, [1, 0, 2]), (0.49, [1, 2])])
def test_nms_suppresses_strictly_above_the_threshold(iou_threshold, kept, stand_in):
    scores = torch.tensor([0.8, 0.9, 0.7])  # the IoU of the first two is 1/2
    assert stand_in.nms(BOXES, scores, iou_threshold=iou_threshold, offset=0).tolist() == kept


def test_nms_of_equal_scores_keeps_the_lower_index_first(stand_in):
    boxes = BOXES[[2, 0, 0, 2]]
    assert stand_in.nms(boxes, torch.ones(4), iou_threshold=0.5, offset=0).tolist() == [0, 1]


def test_nms_keeps_what_a_suppressed_box_would_suppress(stand_in):
    chain = torch.tensor([[float(x), 0.0, x + 10.0, 10.0] for x in range(0, 24, 4)])
    scores = torch.linspace(0.9, 0.4, 6)  # IoU 0.43 with the neighbour, 0.11 with the next one
    assert stand_in.nms(chain, scores, iou_threshold=0.4, offset=0).tolist() == [0, 2, 4]


def test_nms_of_nothing_and_of_empty_boxes(stand_in):
    none = stand_in.nms(torch.empty(0, 4), torch.empty(0), iou_threshold=0.5, offset=0)
    assert none.dtype == torch.int64 and none.shape == (0,)
    empty_boxes = torch.zeros(3, 4)
    kept = stand_in.nms(empty_boxes, torch.ones(3), iou_threshold=0.5, offset=0)
    assert kept.tolist() == [0, 1, 2]


# --- Focal loss -------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma, alpha", [(2.0, 0.25), (1.5, 0.4)])
@pytest.mark.parametrize("with_weight", [False, True])
def test_focal_loss_and_gradient_match_the_formula(gamma, alpha, with_weight, stand_in):
    from mmcv.ops import sigmoid_focal_loss

    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64) * 6
    labels = torch.randint(0, 5 if with_weight else 6, (40,), generator=generator)  # 5: background
    weight = torch.rand(5, generator=generator, dtype=torch.float64) if with_weight else None
    logits.requires_grad_()

    is_label = F.one_hot(labels, 6)[:, :5].to(logits.dtype)
    prob_t = torch.where(is_label > 0, logits.sigmoid(), (-logits).sigmoid())
    alpha_t = torch.where(is_label > 0, alpha, 1 - alpha)
    expected = -alpha_t * (1 - prob_t) ** gamma * prob_t.log()
    if weight is not None:
        expected = expected * weight[labels][:, None]

    loss = sigmoid_focal_loss(logits, labels, gamma, alpha, weight, "none")
    torch.testing.assert_close(loss, expected)
    (expected_grad,) = torch.autograd.grad(expected.sum(), logits)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), logits)[0], expected_grad)


def test_focal_loss_is_finite_at_extreme_logits(stand_in):
    from mmcv.ops import sigmoid_focal_loss

    logits = torch.tensor([[-100.0, 100.0]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([0]), 2.0, 0.25, None, "none")
    torch.testing.assert_close(loss, torch.tensor([[25.0, 75.0]]))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(grad, torch.tensor([[-0.25, 0.75]]))


# --- Where it is put in place -----------------------------------------------------------------


def test_an_operator_not_supplied_says_so_when_called(stand_in):
    assert hasattr(stand_in, "roi_align_forward")
    with pytest.raises(
        RuntimeError, match="'roi_align_forward'.*without compiled.*MMCV_WITH_OPS=1"
    ):
        stand_in.roi_align_forward(torch.zeros(1), aligned_height=7)
    assert not hasattr(stand_in, "__path__")


def test_install_twice_changes_nothing():
    module = sys.modules.get(mmcv_ops.EXTENSION)
    mmcv_ops.install()
    assert sys.modules.get(mmcv_ops.EXTENSION) is module


def test_install_leaves_compiled_operators_alone(tmp_path, monkeypatch):
    package = tmp_path / "mmcv"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_ext.py").touch()
    _forget_mmcv(monkeypatch)
    monkeypatch.syspath_prepend(tmp_path)
    mmcv_ops.install()
    assert mmcv_ops.EXTENSION not in sys.modules
    assert not mmcv_ops.is_stand_in()


def test_install_without_mmcv_says_what_to_install(monkeypatch):
    _forget_mmcv(monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install colad\[mmdet\]"):
        mmcv_ops.install()


def _forget_mmcv(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mmcv", mmcv_ops.EXTENSION):
        monkeypatch.delitem(sys.modules, name, raising=False)


DETECTOR_RUN = """
    from models import mmcv_ops

    import torch
    from mmcv.utils.ext_loader import check_ops_exist
    from mmdet.registry import MODELS
    from mmdet.structures import DetDataSample
    from mmdet.utils import register_all_modules
    from mmengine.config import ConfigDict
    from mmengine.logging import MessageHub
    from mmengine.structures import InstanceData
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_ops.is_stand_in() and check_ops_exist() and mmcv_full_available()
    register_all_modules()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    MessageHub.get_current_instance().update_info("epoch", 0)  # TOODHead asks for it
    meta = {"img_shape": (64, 64), "scale_factor": (1.0, 1.0), "ori_shape": (64, 64)}
    sample = DetDataSample(
        metainfo=meta | {"batch_input_shape": (64, 64), "pad_shape": (64, 64)},
        gt_instances=InstanceData(
            bboxes=torch.tensor([[8.0, 8.0, 40.0, 40.0]]), labels=torch.tensor([1])
        ),
    )
    image = torch.randn(1, 3, 64, 64)
    anchors = dict(
        type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
        strides=[8, 16],
    )
    coder = dict(
        type="DeltaXYWHBBoxCoder", target_means=[0.0] * 4, target_stds=[0.1, 0.1, 0.2, 0.2]
    )
    focal = dict(type="FocalLoss", use_sigmoid=True)
    giou = dict(type="GIoULoss")
    common = dict(
        num_classes=3, in_channels=32, feat_channels=32, anchor_generator=anchors,
        bbox_coder=coder, loss_bbox=giou,
    )
    heads = {
        "ATSS": dict(type="ATSSHead", stacked_convs=1, loss_cls=focal, **common),
        "TOOD": dict(
            type="TOODHead", stacked_convs=2, anchor_type="anchor_free", initial_loss_cls=focal,
            loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, activated=True), **common,
        ),
    }
    heads["TOOD"]["norm_cfg"] = heads["ATSS"]["norm_cfg"] = dict(type="GN", num_groups=4)
    train = {
        "ATSS": dict(assigner=dict(type="ATSSAssigner", topk=9), allowed_border=-1, pos_weight=-1),
        "TOOD": dict(
            initial_epoch=0, initial_assigner=dict(type="ATSSAssigner", topk=9), alpha=1, beta=6,
            assigner=dict(type="TaskAlignedAssigner", topk=13), allowed_border=-1, pos_weight=-1,
        ),
    }
    test = dict(nms_pre=100, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.6), max_per_img=20)
    for name, head in heads.items():
        detector = MODELS.build(ConfigDict(
            type=name,
            backbone=dict(type="ResNet", depth=18, base_channels=8, out_indices=(1, 2)),
            neck=dict(type="FPN", in_channels=[16, 32], out_channels=32, num_outs=2),
            bbox_head=head, train_cfg=train[name], test_cfg=test,
        ))
        detector.init_weights()
        optimizer = torch.optim.SGD(detector.parameters(), lr=0.01)
        losses = []
        for _ in range(4):
            terms = detector.loss(image, [sample])
            loss = sum(sum(t) if isinstance(t, list) else t for t in terms.values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0] < float("inf"), (name, losses)
        if name == "TOOD":
            grad = detector.bbox_head.reg_offset_module[-1].weight.grad
            assert grad.abs().sum() > 0  # reached through the deformable convolution
        detector.eval()
        predictions = detector.predict(image, [sample])[0].pred_instances
        assert 0 < len(predictions) <= 20, (name, len(predictions))
"""


@pytest.mark.skipif(not mmcv_ops.is_stand_in(), reason="mmcv has its compiled operators here")
def test_mmdet_trains_and_predicts_with_the_stand_in():
    """In a process of its own, where no other test has changed what mmdet finds."""
    command = [sys.executable, "-c", textwrap.dedent(DETECTOR_RUN)]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
