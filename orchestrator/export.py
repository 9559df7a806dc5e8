"""One network of a run as a plain mmdet config and checkpoint, which need nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.datasets import build_pipeline
from orchestrator.errors import ConfigError, ModelError
from orchestrator.saved_runs import SavedRun, open_run
from orchestrator.trainer import part_name


def export_network(run: Path, network: str, out: Path) -> tuple[Path, Path]:
    """Write ``config.py`` and ``weights.pth`` of a network into ``out``.

    mmdet's ``init_detector`` loads them; the head is mmdet's own, with the same parameters.

    Raises:
        CheckpointError: no such run, checkpoint or network.
        ModelError: mmdet has no head for these weights.
    """
    from mmengine.config import Config

    saved = open_run(run)
    detector, model = saved.build(network)
    head = _plain_head(saved, network, detector.get_submodule("bbox_head"), model["bbox_head"])
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out}: cannot write there ({error.strerror})") from error
    config_path, weights_path = out / "config.py", out / "weights.pth"
    config = mmdet_config(saved, {**model, "bbox_head": head})
    config_path.write_text(Config(config).pretty_text, encoding="utf-8")
    meta = dict(dataset_meta=dict(classes=tuple(saved.data.classes)), iter=saved.iteration)
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), weights_path)
    return config_path, weights_path


def _plain_head(
    saved: SavedRun, network: str, head: nn.Module, config: dict[str, Any]
) -> dict[str, Any]:
    """mmdet's configuration of a head; a frozen teacher may have mmdet's own already."""
    from models.co_head import CoHead

    if not isinstance(head, CoHead):
        return config
    try:
        return head.plain_config(config)
    except ValueError as error:
        part = saved.checkpoint / part_name(network, 0)
        raise ModelError(
            f"network {network!r} cannot be exported to plain mmdet: {error}. `colad eval` tests "
            f"it, and another run takes its weights with networks.NAME.checkpoint={part}"
        ) from error


def mmdet_config(saved: SavedRun, model: dict[str, Any]) -> dict[str, Any]:
    """The mmdet configuration that tests the exported weights of a plain ``model``."""
    split = saved.data.val
    dataset = dict(
        type="CocoDataset",
        ann_file=split.annotations,
        data_prefix=dict(img=split.images),
        metainfo=dict(classes=tuple(saved.data.classes)),
        test_mode=True,
        pipeline=build_pipeline(saved.config.data, train=False),
    )
    return dict(
        default_scope="mmdet",
        model=model,
        test_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dataset,
        ),
        test_evaluator=dict(type="CocoMetric", ann_file=split.annotations, metric="bbox"),
        test_cfg=dict(type="TestLoop"),
    )
