"""Inputs for mmcv's operators, and the file of what its compiled operators answer to them.

Run where mmcv has its compiled operators (``MMCV_WITH_OPS=1``), on a CPU:

    python tests/models/make_mmcv_ops_reference.py

``test_mmcv_ops.py`` runs the same cases on the stand-in of ``models.mmcv_ops``. The focal loss is
not among them: compiled, it exists for CUDA only.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

REFERENCE = Path(__file__).parent / "data" / "mmcv_ops_reference.npz"
Tensors = dict[str, Tensor]


class DeformCase(NamedTuple):
    """One deformable convolution; ``version`` 2 has a mask. Pairs are (vertical, horizontal)."""

    version: int
    channels: int = 4
    out_channels: int = 4
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    deform_groups: int = 1
    bias: bool = False
    spread: float = 1.0
    """Standard deviation of the offsets, pixels."""
    on_pixels: bool = False
    """Whole-number offsets, 0 among them: the slope is one-sided there, and -1 is on the border."""


GROUPED = {
    "channels": 8,
    "kernel": (3, 2),
    "stride": (2, 1),
    "padding": (1, 2),
    "dilation": (1, 2),
    "groups": 2,
    "deform_groups": 4,
}
DEFORM_CASES = {
    "v1_plain": DeformCase(1),
    "v1_grouped": DeformCase(1, **GROUPED),
    "v1_as_in_tood": DeformCase(1, kernel=(1, 1), padding=(0, 0), groups=4, deform_groups=4),
    "v1_far_outside": DeformCase(1, spread=30.0),
    "v1_on_pixels": DeformCase(1, on_pixels=True),
    "v2_plain": DeformCase(2),
    "v2_grouped": DeformCase(2, **GROUPED, bias=True),
    "v2_far_outside": DeformCase(2, bias=True, spread=30.0),
    "v2_on_pixels": DeformCase(2, bias=True, on_pixels=True),
}
NMS_CASES = {
    "nms_loose": {"iou_threshold": 0.6},
    "nms_tight_inclusive": {"iou_threshold": 0.3, "offset": 1},
    "nms_scored": {"iou_threshold": 0.5, "score_threshold": 0.3, "max_num": 100},
}
SOFT_NMS_CASES = {
    "softnms_naive": {"method": "naive"},
    "softnms_linear": {"method": "linear", "offset": 1},
    "softnms_gaussian": {"method": "gaussian", "min_score": 0.05},
}
CASES = (*DEFORM_CASES, *NMS_CASES, *SOFT_NMS_CASES)


def make_inputs(case: str) -> Tensors:
    """The seeded inputs of a case. The reference file holds them too: seeds may drift."""
    generator = torch.Generator().manual_seed(CASES.index(case))
    if case in DEFORM_CASES:
        return _make_deform_inputs(DEFORM_CASES[case], generator)
    # Several boxes around each centre, and more of them than one block of the stand-in holds.
    centers, per_center = (90, 8) if case in NMS_CASES else (6, 7)
    center = torch.rand(centers, 1, 2, generator=generator) * 600
    size = 20 + 100 * torch.rand(centers, 1, 2, generator=generator)
    center = center + 0.2 * size * torch.randn(centers, per_center, 2, generator=generator)
    size = size * (0.8 + 0.4 * torch.rand(centers, per_center, 2, generator=generator))
    boxes = torch.cat((center - size / 2, center + size / 2), dim=-1).flatten(0, 1)
    boxes = (boxes * 4).round() / 4  # compresses well
    scores = torch.rand(len(boxes), generator=generator)
    return {"boxes": boxes, "scores": scores}


def _make_deform_inputs(case: DeformCase, generator: torch.Generator) -> Tensors:
    """Sizes are not powers of two, to which the stand-in pads."""
    batch, height, width = 2, 5, 7
    positions = case.deform_groups * case.kernel[0] * case.kernel[1]
    out_size = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, padding, dilation, kernel, stride in zip(
            (height, width), case.padding, case.dilation, case.kernel, case.stride
        )
    ]

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = {
        "input": randn(batch, case.channels, height, width),
        "offset": randn(batch, 2 * positions, *out_size) * case.spread,
        "weight": randn(case.out_channels, case.channels // case.groups, *case.kernel),
        "grad_output": randn(batch, case.out_channels, *out_size),
    }
    if case.on_pixels:
        inputs["offset"] = inputs["offset"].round()
    if case.version == 2:
        inputs["mask"] = torch.rand(batch, positions, *out_size, generator=generator)
    if case.bias:
        inputs["bias"] = randn(case.out_channels)
    return inputs


def run_case(case: str, inputs: Tensors) -> Tensors:
    """Outputs, and gradients where there are any, through mmcv's own wrappers."""
    if case in DEFORM_CASES:
        return _run_deform(DEFORM_CASES[case], inputs)
    nms_module = importlib.import_module("mmcv.ops.nms")
    if case in NMS_CASES:
        _, kept = nms_module.nms(inputs["boxes"], inputs["scores"], **NMS_CASES[case])
        return {"kept": kept}
    dets, kept = nms_module.soft_nms(inputs["boxes"], inputs["scores"], **SOFT_NMS_CASES[case])
    return {"dets": dets, "kept": kept}


def _run_deform(case: DeformCase, inputs: Tensors) -> Tensors:
    operator, names = deform_operator(case)
    leaves = [inputs[name].detach().requires_grad_() for name in names]
    output = operator(*leaves)
    grads = torch.autograd.grad(output, leaves, inputs["grad_output"])
    return {"output": output.detach()} | {f"grad_{name}": g for name, g in zip(names, grads)}


def deform_operator(case: DeformCase) -> tuple[Callable[..., Tensor], list[str]]:
    """A function of the differentiable inputs of a case only, and the names of those."""
    mmcv_ops = importlib.import_module("mmcv.ops")
    geometry = (case.stride, case.padding, case.dilation, case.groups, case.deform_groups)
    if case.version == 1:
        names = ["input", "offset", "weight"]
        return lambda *leaves: mmcv_ops.deform_conv2d(*leaves, *geometry), names
    names = ["input", "offset", "mask", "weight", *(["bias"] if case.bias else [])]
    no_bias = [] if case.bias else [None]
    return lambda *leaves: mmcv_ops.modulated_deform_conv2d(*leaves, *no_bias, *geometry), names


def main() -> None:
    from mmcv.utils import ext_loader

    if not ext_loader.check_ops_exist():
        raise SystemExit("mmcv has no compiled operators here: nothing to record")
    arrays: dict[str, np.ndarray] = {}
    for case in CASES:
        inputs = make_inputs(case)
        outputs = run_case(case, inputs)
        arrays |= {f"{case}/in/{name}": tensor.numpy() for name, tensor in inputs.items()}
        arrays |= {f"{case}/out/{name}": tensor.numpy() for name, tensor in outputs.items()}
    REFERENCE.parent.mkdir(exist_ok=True)
    np.savez_compressed(REFERENCE, **arrays)


if __name__ == "__main__":
    main()
