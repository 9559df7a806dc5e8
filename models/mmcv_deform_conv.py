"""Deformable convolution v1 and v2 in plain PyTorch, for the stand-in of :mod:`models.mmcv_ops`.

Names and order of the arguments are mmcv's. Letters in the shapes, beyond those of
``assigners.types``: D deformable groups, K kernel positions (height x width), O output channels,
S output positions (height x width).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class _Geometry(NamedTuple):
    """How a deformable convolution moves over its input; pairs are (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    deform_groups: int


_V1_KEYWORDS = (("kH", "kW"), ("dH", "dW"), ("padH", "padW"), ("dilationH", "dilationW"))
_V2_KEYWORDS = (
    ("kernel_h", "kernel_w"),
    ("stride_h", "stride_w"),
    ("pad_h", "pad_w"),
    ("dilation_h", "dilation_w"),
)


def _read_geometry(keywords: dict[str, int]) -> _Geometry:
    """From mmcv's keywords. v1's ``im2col_step``, images per pass to bound memory, is not used."""
    names = _V2_KEYWORDS if "kernel_h" in keywords else _V1_KEYWORDS
    kernel, stride, padding, dilation = ((keywords[y], keywords[x]) for y, x in names)
    groups, deform_groups = keywords["group"], keywords["deformable_group"]
    return _Geometry(kernel, stride, padding, dilation, groups, deform_groups)


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    **geometry: int,
) -> None:
    """Deformable convolution (v1), written into ``output``.

    Args:
        input: (B, C, H, W).
        weight: (O, C / groups, kernel height, kernel width).
        offset: (B, D * K * 2, output height, output width), y before x, in input pixels.
        output: (B, O, output height, output width).

    Source: Dai et al. 2017, Eq. 2-4.
    """
    columns = _sample_columns(_read_geometry(geometry), input, offset)
    output.copy_(_apply_weight(columns, weight, geometry["group"]).view_as(output))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **geometry: int,
) -> None:
    """Gradients of :func:`deform_conv_forward` by input and offset, added to the zeros given."""
    leaves = (input, offset)
    _, grads = _backward_sampling(_read_geometry(geometry), weight, grad_output, leaves)
    grad_input.add_(grads[0])
    grad_offset.add_(grads[1])


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    *,
    scale: float,
    **geometry: int,
) -> None:
    """Gradient of :func:`deform_conv_forward` by its weight, times ``scale``, added."""
    columns = _sample_columns(_read_geometry(geometry), input, offset)
    grad = _grad_of_weight(columns, grad_output, geometry["group"])
    grad_weight.add_(grad.view_as(grad_weight), alpha=scale)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Deformable convolution (v2), written into ``output``.

    Args:
        input, weight, offset, output: as for :func:`deform_conv_forward`.
        bias: (O,), read only ``with_bias``.
        mask: (B, D * K, output height, output width), a factor on each sample.

    Source: Zhu et al. 2019, Eq. 1.
    """
    columns = _sample_columns(_read_geometry(geometry), input, offset, mask)
    result = _apply_weight(columns, weight, geometry["group"]).view_as(output)
    output.copy_(result + bias[:, None, None] if with_bias else result)


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    *,
    with_bias: bool,
    **geometry: int,
) -> None:
    """Gradients of :func:`modulated_deform_conv_forward`, added to the zeros given."""
    leaves = (input, offset, mask)
    columns, grads = _backward_sampling(_read_geometry(geometry), weight, grad_output, leaves)
    for total, grad in zip((grad_input, grad_offset, grad_mask), grads):
        total.add_(grad)
    grad_weight.add_(_grad_of_weight(columns, grad_output, geometry["group"]).view_as(grad_weight))
    if with_bias:
        grad_bias.add_(grad_output.to(columns.dtype).sum(dim=(0, 2, 3)))


def _sample_columns(
    geometry: _Geometry, input: Tensor, offset: Tensor, mask: Tensor | None = None
) -> Tensor:
    """The input values under each kernel position, bilinear, zero outside the map.

    ``grid_sample`` counts positions in units of half the map. The map is padded with zeros to
    powers of two, so that this unit is exact and a position on a pixel (all of them while the
    offsets are still zero) stays on it: rounded to below it, its slope would be the one before.

    Returns:
        (B, C, K, S), in float32 or wider.
    """
    batch, channels, height, width = input.shape
    sampling_groups = batch * geometry.deform_groups
    y, x = _sample_positions(geometry, offset, (height, width))
    padded_height, padded_width = (1 << (size - 1).bit_length() for size in (height, width))
    padded = F.pad(input.to(y.dtype), (0, padded_width - width, 0, padded_height - height))
    grid = torch.stack(((2 * x + 1) / padded_width - 1, (2 * y + 1) / padded_height - 1), dim=-1)
    columns = F.grid_sample(
        padded.reshape(sampling_groups, -1, padded_height, padded_width),
        grid,
        mode="bilinear",
        padding_mode="zeros",
        align_corners=False,
    )  # (B * D, C / D, K, S)
    if mask is not None:
        columns = columns * mask.to(y.dtype).reshape(sampling_groups, 1, *columns.shape[2:])
    return columns.reshape(batch, channels, *columns.shape[2:])


def _sample_positions(
    geometry: _Geometry, offset: Tensor, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Where each kernel position samples: y and x in input pixels, (B * D, K, S) each.

    Positions a pixel or more outside, and those that are not finite, become (-2, -2), a constant:
    there neither value nor slope depends on the input. (At -1 itself ``grid_sample`` has a slope.)
    """
    out_height, out_width = offset.shape[-2:]
    expected = 2 * geometry.deform_groups * geometry.kernel[0] * geometry.kernel[1]
    if offset.size(1) != expected:
        raise RuntimeError(f"offset has {offset.size(1)} channels, {geometry} needs {expected}")
    start_y, start_x = (
        torch.arange(kernel, device=offset.device)[:, None] * dilation
        + torch.arange(out, device=offset.device) * stride
        - padding
        for kernel, stride, padding, dilation, out in zip(*geometry[:4], (out_height, out_width))
    )  # (kernel height, output height), (kernel width, output width)
    shifts = offset.to(torch.promote_types(offset.dtype, torch.float32))
    shifts = shifts.reshape(-1, *geometry.kernel, 2, out_height, out_width)
    y = start_y[:, None, :, None] + shifts[:, :, :, 0]
    x = start_x[None, :, None, :] + shifts[:, :, :, 1]
    inside = (y > -1) & (x > -1) & (y < input_size[0]) & (x < input_size[1])
    y, x = (torch.where(inside, position, -2.0).flatten(3).flatten(1, 2) for position in (y, x))
    return y, x  # (B * D, K, S)


def _apply_weight(columns: Tensor, weight: Tensor, groups: int) -> Tensor:
    """(B, C, K, S) columns -> (B, groups, O / groups, S)."""
    flat_weight = weight.to(columns.dtype).reshape(groups, weight.size(0) // groups, -1)
    return flat_weight @ columns.reshape(columns.size(0), groups, -1, columns.size(-1))


def _grad_of_weight(columns: Tensor, grad_output: Tensor, groups: int) -> Tensor:
    """Gradient by the weight, summed over the images, (groups, O / groups, C / groups * K)."""
    batch, positions = columns.size(0), columns.size(-1)
    grad = grad_output.to(columns.dtype).reshape(batch, groups, -1, positions)
    return (grad @ columns.reshape(batch, groups, -1, positions).transpose(2, 3)).sum(dim=0)


def _backward_sampling(
    geometry: _Geometry, weight: Tensor, grad_output: Tensor, sampled: tuple[Tensor, ...]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Samples again, then passes the gradient back through the weight and the sampling.

    On CUDA, ``grid_sample`` sums the gradient by input in no fixed order; so does the compiled
    operator.

    Args:
        sampled: input, offset and, in v2, mask.

    Returns:
        The columns, and the gradients by each of ``sampled``.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in sampled]
    with torch.enable_grad():
        columns = _sample_columns(geometry, *leaves)
    groups = geometry.groups
    flat_weight = weight.to(columns.dtype).reshape(groups, weight.size(0) // groups, -1)
    grad = grad_output.to(columns.dtype).reshape(len(columns), groups, -1, columns.size(-1))
    grad_columns = (flat_weight.transpose(1, 2) @ grad).view_as(columns)
    return columns.detach(), torch.autograd.grad(columns, leaves, grad_columns)
