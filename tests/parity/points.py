"""What the files of the point-based methods have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from mmengine import ConfigDict
from torch import Tensor

from assigners import Candidates, Priors
from models.point_head import CoPointHead

from .case import GRADIENT_RTOL, LOSS_RTOL, Case

GRADIENTS = ("cls", "ltrb", "obj")


def build_point_head(case: Case, head: type[CoPointHead], **fields: Any) -> CoPointHead:
    """A head whose points are the file's; ``fields`` are further arguments."""
    stride = float(case["strides"][0])
    config: dict[str, Any] = dict(
        num_classes=case.num_classes,
        in_channels=8,
        feat_channels=8,
        stacked_convs=0,
        norm_cfg=dict(type="GN", num_groups=2),
        strides=[int(s) for s in case["strides"]],
        point_offset=float(case["points"][0, 0] / stride),
        test_cfg=ConfigDict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type="nms", iou_threshold=0.6),
            max_per_img=100,
        ),
    )
    return head(**{**config, **fields})


def build_priors(case: Case, head: CoPointHead) -> Priors:
    """The head's priors, which must be the file's."""
    priors = head.build_priors(case.level_hw, case.metas, "cpu")
    np.testing.assert_array_equal(priors.points.numpy(), case["points"])
    return priors


def point_outputs(case: Case) -> tuple[list[Tensor], ...]:
    """Level-shaped outputs of a head: class logits, distances, objectness logits; leaves."""
    return tuple(case.level_maps(name) for name in ("cls_logits", "ltrb_dist", "obj_logits"))


def reference_rows(case: Case, image: int) -> np.ndarray:
    """Order that sorts the file's pairs by (GT, point), as ``Candidates`` has them."""
    point, gt = case[f"inside_point_idx_{image}"], case[f"inside_gt_idx_{image}"]
    return np.lexsort((point, gt))


def check_pairs(case: Case, candidates: Candidates) -> None:
    """The same (point, GT) pairs, image by image."""
    for image in range(case.num_images):
        rows = candidates.image == image
        order = reference_rows(case, image)
        point = case[f"inside_point_idx_{image}"][order]
        gt = case[f"inside_gt_idx_{image}"][order]
        np.testing.assert_array_equal(candidates.prior[rows].numpy(), point)
        np.testing.assert_array_equal(candidates.gt[rows].numpy() - case.first_gt[image], gt)


def check_rows(case: Case, key: str, values: Tensor, candidates: Candidates) -> None:
    """Per-pair values against ``{key}_{image}``."""
    for image in range(case.num_images):
        expected = case[f"{key}_{image}"][reference_rows(case, image)]
        found = values[candidates.image == image].detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6, err_msg=f"{key}_{image}")


def check_point_losses(case: Case, losses: dict[str, Tensor], names: dict[str, str]) -> None:
    """Losses against the file's; ``names`` maps ours to theirs."""
    assert set(losses) == set(names)
    for ours, theirs in names.items():
        value = losses[ours].detach().numpy()
        np.testing.assert_allclose(value, case[theirs], rtol=LOSS_RTOL, atol=1e-8, err_msg=ours)


def check_point_gradients(
    case: Case, outs: tuple[list[Tensor], ...], losses: dict[str, Tensor]
) -> None:
    """d(sum of losses)/d(outputs) against ``grad_*``."""
    total = torch.stack(list(losses.values())).sum()
    for name, maps in zip(GRADIENTS, outs):
        gradients = torch.autograd.grad(total, maps, retain_graph=True)
        channels = case[f"grad_{name}"].shape[-1]
        flat = torch.cat(
            [g.permute(0, 2, 3, 1).reshape(case.num_images, -1, channels) for g in gradients],
            dim=1,
        )
        expected = case[f"grad_{name}"]
        np.testing.assert_allclose(
            flat.numpy(),
            expected,
            rtol=0,
            atol=GRADIENT_RTOL * max(np.abs(expected).max(), 1e-12),
            err_msg=f"grad_{name}",
        )


def check_detections(case: Case, results: list[Any]) -> None:
    """Detections of each image against ``det_*``."""
    for image, result in enumerate(results):
        np.testing.assert_array_equal(result.labels.numpy(), case[f"det_labels_{image}"])
        np.testing.assert_allclose(result.scores.numpy(), case[f"det_scores_{image}"], rtol=1e-5)
        np.testing.assert_allclose(
            result.bboxes.numpy(), case[f"det_boxes_{image}"], rtol=1e-5, atol=1e-3
        )
