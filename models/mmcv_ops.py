"""Stand-in for ``mmcv._ext``, the compiled operators of mmcv, where those were not built.

mmdet imports ``mmcv.ops``, which asks the extension module ``mmcv._ext`` for every operator it
knows before anything is built. An mmcv installed without its operators has no such module, so not
even ``import mmdet`` works. :func:`install` then puts a module of that name in place. It supplies,
in plain PyTorch and for any device, the operators that dense detectors call; any other operator
can be looked up but raises when it is called. Where the compiled operators exist, nothing is
replaced.

Names and order of the arguments are those that mmcv's own wrappers (``mmcv/ops/*.py``, the same in
mmcv 2.1 and onedl-mmcv 2.3) call with: results are written into tensors that the caller allocated,
and the scratch buffers of the compiled operators are taken but not used.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
from collections.abc import Callable
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from models import mmcv_deform_conv

logger = logging.getLogger(__name__)

EXTENSION = "mmcv._ext"
HOW_TO_BUILD = (
    "Build mmcv with its operators (needs a C++ compiler, and nvcc for CUDA): MMCV_WITH_OPS=1 pip "
    "install --no-build-isolation --no-cache-dir --force-reinstall --no-deps "
    "--no-binary onedl-mmcv 'onedl-mmcv>=2.3.6,<2.4' "
    "(the original: --no-binary mmcv mmcv==2.1.0, with setuptools<80 installed)"
)
_NMS_BLOCK = 512
"""Boxes decided together; bounds the IoU matrix to 512 x N floats (20 MB for 10,000 boxes)."""


def install() -> None:
    """Make ``mmcv._ext`` importable. Call before the first import of mmdet or ``mmcv.ops``.

    Does nothing where this ran before or where the compiled module exists, also if that cannot be
    loaded: a binary built for another PyTorch is to be rebuilt, not silently replaced.

    Raises:
        ImportError: mmcv itself is not installed.

    Side effects: one entry in ``sys.modules``.
    """
    if EXTENSION in sys.modules:
        return
    mmcv_spec = importlib.util.find_spec("mmcv")
    if mmcv_spec is None:
        raise ImportError("mmcv is not installed, mmdet needs it: pip install colad[mmdet]")
    # Not find_spec("mmcv._ext"): that would import mmcv, and OpenCV with it.
    search_locations = mmcv_spec.submodule_search_locations
    if importlib.machinery.PathFinder.find_spec(EXTENSION, search_locations) is not None:
        return
    sys.modules[EXTENSION] = build_stand_in()
    logger.info("mmcv has no compiled operators; the stand-in in plain PyTorch is used")


def build_stand_in() -> ModuleType:
    """The module that :func:`install` puts in place, without putting it there."""
    loader = _StandInLoader()
    spec = importlib.machinery.ModuleSpec(EXTENSION, loader, origin="stand-in of models.mmcv_ops")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def is_stand_in() -> bool:
    """Whether ``mmcv._ext`` is, in this process, the module that :func:`install` made."""
    spec = getattr(sys.modules.get(EXTENSION), "__spec__", None)
    return isinstance(getattr(spec, "loader", None), _StandInLoader)


class _StandInLoader(importlib.abc.Loader):
    """Fills the module. mmcv and mmengine ask for its spec and loader to tell whether it exists."""

    def exec_module(self, module: ModuleType) -> None:
        for operator in (
            nms,
            softnms,
            sigmoid_focal_loss_forward,
            sigmoid_focal_loss_backward,
            mmcv_deform_conv.deform_conv_forward,
            mmcv_deform_conv.deform_conv_backward_input,
            mmcv_deform_conv.deform_conv_backward_parameters,
            mmcv_deform_conv.modulated_deform_conv_forward,
            mmcv_deform_conv.modulated_deform_conv_backward,
        ):
            setattr(module, operator.__name__, _like_compiled(operator))
        # Printed by mmcv when it lists the environment.
        module.get_compiler_version = lambda: "none"  # type: ignore[attr-defined]
        module.get_compiling_cuda_version = lambda: "none"  # type: ignore[attr-defined]
        module.__getattr__ = _unsupplied  # type: ignore[method-assign]


def _like_compiled(operator: Callable) -> Callable:
    """Hides an operator from autograd and autocast, as a compiled one is hidden from them."""

    @functools.wraps(operator)
    def hidden(input: Tensor, *args, **kwargs):
        with torch.no_grad(), torch.autocast(input.device.type, enabled=False):
            return operator(input, *args, **kwargs)

    return hidden


def _unsupplied(name: str) -> Callable[..., None]:
    """``__getattr__`` of the stand-in: mmcv checks on import that every operator is present."""
    if name.startswith("__"):
        raise AttributeError(f"module {EXTENSION!r} has no attribute {name!r}")

    def raise_not_compiled(*args: object, **kwargs: object) -> None:
        raise RuntimeError(
            f"mmcv operator {name!r} was called, but mmcv was installed without compiled operators "
            f"and the stand-in does not supply this one. {HOW_TO_BUILD}"
        )

    return raise_not_compiled


def _compute_dtype(tensor: Tensor) -> torch.dtype:
    """Half precision is computed in float32: at 2048 pixels and above its coordinates are even."""
    return torch.promote_types(tensor.dtype, torch.float32)


# --- Non-maximum suppression ------------------------------------------------------------------


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Greedy non-maximum suppression over all boxes, whatever their class.

    Args:
        boxes: (N, 4), xyxy.
        scores: (N,). Of equal scores the lower index goes first.
        iou_threshold: a box is dropped when its IoU with a kept one is strictly greater.
        offset: 1 where x2, y2 are inclusive pixel indices, else 0.

    Returns:
        (K,) int64, indices of the kept boxes, highest score first.
    """
    order = torch.sort(scores, descending=True, stable=True).indices
    sorted_boxes = boxes[order].to(_compute_dtype(boxes))
    kept = []
    while order.numel():
        block = sorted_boxes[:_NMS_BLOCK]
        overlaps = _compute_iou(block, sorted_boxes, offset) > iou_threshold  # (block, remaining)
        keep = _greedy_keep(overlaps[:, : len(block)])
        kept.append(order[:_NMS_BLOCK][keep])
        survives = ~overlaps[keep].any(dim=0)
        survives[: len(block)] = False
        order, sorted_boxes = order[survives], sorted_boxes[survives]
    return torch.cat(kept) if kept else order


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Soft-NMS: instead of dropping the boxes that overlap a kept one, lowers their scores.

    Args:
        boxes, scores, offset: as for :func:`nms`.
        dets: (N, 5), receives the K kept boxes with their scores at the time they were chosen.
        iou_threshold: IoU from which methods 0 and 1 act.
        sigma: width of method 2.
        min_score: a box whose score was lowered below it is dropped.
        method: 0 to zero the score, 1 to multiply it by 1 - IoU, 2 by exp(-IoU^2 / sigma).

    Returns:
        (K,) int64, indices of the kept boxes in the order chosen.
    """
    boxes, scores = boxes.to(_compute_dtype(boxes)), scores.to(_compute_dtype(scores))
    remaining = torch.arange(len(boxes), device=boxes.device)
    kept: list[Tensor] = []
    while remaining.numel():
        best = scores.argmax()  # the first of equal ones
        dets[len(kept)] = torch.cat((boxes[best], scores[best, None]))
        kept.append(remaining[best])
        iou = _compute_iou(boxes[best, None], boxes, offset)[0]
        if method == 2:
            scores = scores * torch.exp(-(iou * iou) / sigma)
        else:
            lowered = scores * (1 - iou) if method == 1 else torch.zeros_like(scores)
            scores = torch.where(iou >= iou_threshold, lowered, scores)
        survives = ~(scores < min_score)
        survives[best] = False
        remaining, boxes, scores = remaining[survives], boxes[survives], scores[survives]
    return torch.stack(kept) if kept else remaining


def _greedy_keep(overlaps: Tensor) -> Tensor:
    """Which of M boxes, sorted by score, survive each other.

    Iterates "kept unless a kept, better one overlaps" to its fixed point, which is the greedy
    answer: box i is settled once all better ones are. Passes: the longest chain of suppressions.

    Args:
        overlaps: (M, M) bool.

    Returns:
        (M,) bool.
    """
    suppresses = overlaps.triu(diagonal=1)  # (M better, M worse)
    keep = overlaps.new_ones(len(overlaps))
    while True:
        updated = ~(suppresses & keep[:, None]).any(dim=0)
        if torch.equal(updated, keep):  # one GPU sync per pass
            return keep
        keep = updated


def _compute_iou(boxes: Tensor, others: Tensor, offset: int) -> Tensor:
    """(M, 4) and (N, 4) xyxy -> (M, N). Two empty boxes give NaN, which exceeds no threshold."""
    x1, y1, x2, y2 = boxes.T.contiguous()[:, :, None]  # (M, 1) each
    other_x1, other_y1, other_x2, other_y2 = others.T.contiguous()[:, None]  # (1, N) each
    width = torch.minimum(x2, other_x2).sub_(torch.maximum(x1, other_x1)).add_(offset).clamp_(min=0)
    height = torch.minimum(y2, other_y2).sub_(torch.maximum(y1, other_y1)).add_(offset)
    intersection = width.mul_(height.clamp_(min=0))  # (M, N)
    area = (x2 - x1 + offset) * (y2 - y1 + offset)
    other_area = (other_x2 - other_x1 + offset) * (other_y2 - other_y1 + offset)
    return intersection / (area + other_area).sub_(intersection)


# --- Focal loss -------------------------------------------------------------------------------


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of each logit, written into ``output``; mmdet calls it for CUDA tensors only.

    Args:
        input: (N, C) logits.
        target: (N,) int64 labels; C is background.
        weight: (C,) weight by target class, or empty for none.
        output: (N, C).

    Source: RetinaNet, Eq. 5. The compiled operator differs: it takes log(1 - p) of a rounded p, so
    a negative with a logit above 17 costs 87; here, as in mmdet's CPU path, the logarithm is exact.
    """
    logits = input.to(_compute_dtype(input))
    prob = logits.sigmoid()
    positive = -alpha * (1 - prob).pow(gamma) * F.logsigmoid(logits)
    negative = -(1 - alpha) * prob.pow(gamma) * F.logsigmoid(-logits)
    output.copy_(_select_by_target(positive, negative, target, weight))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Derivative of :func:`sigmoid_focal_loss_forward` by each logit, into ``grad_input``."""
    logits = input.to(_compute_dtype(input))
    prob = logits.sigmoid()
    rest = (-logits).sigmoid()  # 1 - prob without cancellation
    slope_positive = rest - gamma * prob * F.logsigmoid(logits)
    slope_negative = gamma * rest * F.logsigmoid(-logits) - prob
    positive = -alpha * rest.pow(gamma) * slope_positive
    negative = -(1 - alpha) * prob.pow(gamma) * slope_negative
    grad_input.copy_(_select_by_target(positive, negative, target, weight))


def _select_by_target(positive: Tensor, negative: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """(N, C): ``positive`` where the class is the target, else ``negative``; times its weight."""
    classes = torch.arange(positive.size(1), device=target.device)
    selected = torch.where(target[:, None] == classes, positive, negative)
    return selected * weight[target][:, None] if weight.numel() else selected
