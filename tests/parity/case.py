"""One reference file, read into the project's types. Everything comes from the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import ConfigDict
from torch import Tensor

from assigners import Candidates, DensePredictions, GroundTruths, HardAssignment, Priors
from models.paa_head import CoPAAHead

LOSS_RTOL = 1e-5
GRADIENT_RTOL = 1e-4  # of the largest gradient
COST_TOLERANCE = dict(rtol=1e-5, atol=1e-6)


class Case:
    """A detector case: GTs, prior grid and level-shaped head outputs of one or two networks."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self.data: dict[str, np.ndarray] = {name: archive[name] for name in archive.files}

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def __getitem__(self, key: str) -> np.ndarray:
        return self.data[key]

    def tensor(self, key: str) -> Tensor:
        return torch.from_numpy(self.data[key].copy())

    @cached_property
    def num_images(self) -> int:
        return len(self["pad_shape"])

    @cached_property
    def level_hw(self) -> list[tuple[int, int]]:
        return [(int(h), int(w)) for h, w in self["level_hw"]]

    @cached_property
    def num_classes(self) -> int:
        return int(self["num_classes"])

    @cached_property
    def metas(self) -> list[dict[str, Any]]:
        return [
            dict(img_shape=tuple(map(int, image)), pad_shape=tuple(map(int, pad)))
            for image, pad in zip(self["img_shape"], self["pad_shape"])
        ]

    @cached_property
    def gts(self) -> GroundTruths:
        images = range(self.num_images)
        return GroundTruths.from_lists(
            [self.tensor(f"gt_boxes_{i}") for i in images],
            [self.tensor(f"gt_labels_{i}") for i in images],
            [meta["img_shape"] for meta in self.metas],
        )

    @cached_property
    def first_gt(self) -> list[int]:
        """Index over the batch of each image's first GT."""
        return [sum(self.gts.counts[:image]) for image in range(self.num_images)]

    def build_head(self, **overrides: Any) -> CoPAAHead:
        """A head whose anchors are the file's (``check_priors`` proves it)."""
        first = self["anchors"][0].astype(np.float64)
        width, height = first[2] - first[0], first[3] - first[1]
        stride = float(self["strides"][0])
        config: dict[str, Any] = dict(
            num_classes=self.num_classes,
            in_channels=8,
            feat_channels=8,
            stacked_convs=0,
            anchor_generator=dict(
                type="AnchorGenerator",
                ratios=[float(height / width)],
                octave_base_scale=float(np.sqrt(width * height) / stride),
                scales_per_octave=1,
                center_offset=float((first[0] + first[2]) / 2 / stride),
                strides=[int(s) for s in self["strides"]],
            ),
            bbox_coder=dict(
                type="DeltaXYWHBBoxCoder",
                target_means=[0.0, 0.0, 0.0, 0.0],
                target_stds=[0.1, 0.1, 0.2, 0.2],
            ),
            loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25),
            loss_bbox=dict(type="GIoULoss", loss_weight=1.3),
            loss_centerness=dict(type="CrossEntropyLoss", use_sigmoid=True, loss_weight=0.5),
            test_cfg=ConfigDict(
                nms_pre=1000,
                min_bbox_size=0,
                score_thr=0.05,
                nms=dict(type="nms", iou_threshold=0.6),
                max_per_img=100,
            ),
        )
        return CoPAAHead(**{**config, **overrides})

    def build_priors(self, head: CoPAAHead) -> Priors:
        """The head's priors, which must be the file's."""
        priors = head.build_priors(self.level_hw, self.metas, "cpu")
        assert priors.boxes is not None
        np.testing.assert_array_equal(priors.boxes.numpy(), self["anchors"])
        if "valid" in self:
            np.testing.assert_array_equal(priors.valid.numpy(), self["valid"])
        return priors

    def level_maps(self, key: str) -> list[Tensor]:
        """The (B, A, channels) array as leaves of shape (B, k channels, H, W), with gradient.

        k is the number of priors per location.
        """
        flat = self.tensor(key)
        per_location = flat.shape[1] // sum(height * width for height, width in self.level_hw)
        maps, start = [], 0
        for height, width in self.level_hw:
            level = flat[:, start : start + height * width * per_location]
            start += height * width * per_location
            level = level.reshape(len(flat), height, width, -1).permute(0, 3, 1, 2)
            maps.append(level.contiguous().requires_grad_())
        assert start == flat.shape[1], f"{key}: level_hw sums to {start}, not {flat.shape[1]}"
        return maps

    def outputs(self, prefix: str = "") -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Level-shaped head outputs of one network: class, box, IoU maps."""
        cls, boxes, iou = (
            self.level_maps(f"{prefix}{name}")
            for name in ("cls_logits", "bbox_deltas", "iou_logits")
        )
        return cls, boxes, iou

    def is_prob(self, prefix: str) -> bool:
        """Whether this network's ``cls_logits`` are probabilities."""
        key = {"t_": "teacher_cls_is_prob", "s_": "student_cls_is_prob"}.get(prefix, "cls_is_prob")
        return key in self and bool(self[key])


def check_candidates(case: Case, candidates: Candidates) -> None:
    """The same (prior, GT) pairs, image by image."""
    for image in range(case.num_images):
        rows = candidates.image == image
        prior, gt, _ = reference_candidates(case, image)
        np.testing.assert_array_equal(candidates.prior[rows].numpy(), prior)
        np.testing.assert_array_equal(candidates.gt[rows].numpy() - case.first_gt[image], gt)


def reference_candidates(case: Case, image: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Prior, GT of the image, and the order that sorts the file's rows by (GT, prior)."""
    prior, gt = case[f"cand_anchor_idx_{image}"], case[f"cand_gt_idx_{image}"]
    order = np.lexsort((prior, gt))
    return prior[order], gt[order], order


def check_costs(case: Case, key: str, cost: Tensor, candidates: Candidates) -> None:
    """``key`` is the name of the per-image cost arrays; an image without candidates may lack it."""
    for image in range(case.num_images):
        if f"{key}_{image}" not in case:
            assert not (candidates.image == image).any()
            continue
        order = reference_candidates(case, image)[2]
        np.testing.assert_allclose(
            cost[candidates.image == image].numpy(),
            case[f"{key}_{image}"][order],
            **COST_TOLERANCE,
            err_msg=f"{key}_{image}",
        )


def check_assignment(case: Case, assignment: HardAssignment) -> None:
    """Labels, weights, positives and their targets."""
    np.testing.assert_array_equal(assignment.labels.numpy(), case["final_labels"])
    np.testing.assert_array_equal(assignment.label_weights.numpy(), case["final_label_weights"])
    positives = np.flatnonzero(case["final_labels"] != case.num_classes)
    np.testing.assert_array_equal(assignment.pos_inds.numpy(), positives)
    if "pos_flat_idx" in case:
        np.testing.assert_array_equal(np.sort(case["pos_flat_idx"]), positives)
    expected = int(case["num_pos"]) if "num_pos" in case else case["num_pos_per_image"].sum()
    assert assignment.num_pos == expected
    targets = case["bbox_targets"].reshape(-1, 4)[positives]
    np.testing.assert_array_equal(assignment.box_targets.numpy(), targets)


LOSSES = ("loss_cls", "loss_bbox", "loss_iou")


def check_losses(
    case: Case, prefix: str, losses: Mapping[str, Tensor], names: Sequence[str] = LOSSES
) -> None:
    """All losses, which are ``names``, against ``{prefix}{name}``."""
    assert set(losses) == set(names)
    for name, value in losses.items():
        np.testing.assert_allclose(
            value.detach().numpy(),
            case[f"{prefix}{name}"],
            rtol=LOSS_RTOL,
            atol=1e-8,
            err_msg=prefix + name,
        )


def check_gradients(case: Case, prefix: str, outs: Any, losses: Mapping[str, Tensor]) -> None:
    """d(sum of losses)/d(input) against ``{prefix}grad_*``.

    ``outs`` are the maps by name, or those of class, box and IoU.
    """
    total = torch.stack(list(losses.values())).sum()
    named = outs if isinstance(outs, dict) else dict(zip(("cls", "bbox", "iou"), outs))
    for name, maps in named.items():
        gradients = torch.autograd.grad(total, maps, retain_graph=True)
        flat = torch.cat([g.permute(0, 2, 3, 1).flatten(1, 2) for g in gradients], dim=1)
        expected = case[f"{prefix}grad_{name}"]
        np.testing.assert_allclose(
            flat.numpy(),
            expected,
            rtol=0,
            atol=GRADIENT_RTOL * max(np.abs(expected).max(), 1e-12),
            err_msg=f"{prefix}grad_{name}",
        )


def predictions_of(
    case: Case, head: CoPAAHead, priors: Priors, prefix: str = ""
) -> tuple[Any, DensePredictions]:
    """Level-shaped outputs of one network and their common form."""
    outs = case.outputs(prefix)
    predictions = head.dense_predictions(outs, priors)
    if case.is_prob(prefix):
        predictions = DensePredictions(
            cls=predictions.cls,
            boxes=predictions.boxes,
            cls_is_prob=True,
            quality=predictions.quality,
            quality_kind=predictions.quality_kind,
        )
    return outs, predictions
