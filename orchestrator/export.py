"""One network of a run as a plain mmdet config and checkpoint, which need nothing of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from orchestrator.datasets import build_pipeline
from orchestrator.saved_runs import SavedRun, open_run


def export_network(run: Path, network: str, out: Path) -> tuple[Path, Path]:
    """Write ``config.py`` and ``weights.pth`` of a network into ``out``.

    mmdet's ``init_detector`` loads them; the head is mmdet's own, with the same parameters.

    Raises:
        CheckpointError: no such run, checkpoint or network.
    """
    from mmengine.config import Config

    saved = open_run(run)
    detector, model = saved.build(network)
    out.mkdir(parents=True, exist_ok=True)
    config_path, weights_path = out / "config.py", out / "weights.pth"
    config_path.write_text(Config(mmdet_config(saved, model)).pretty_text, encoding="utf-8")
    meta = dict(dataset_meta=dict(classes=tuple(saved.data.classes)), iter=saved.iteration)
    torch.save(dict(state_dict=detector.state_dict(), meta=meta), weights_path)
    return config_path, weights_path


def mmdet_config(saved: SavedRun, model: dict[str, Any]) -> dict[str, Any]:
    """The mmdet configuration that tests the exported weights."""
    from models.co_head import plain_head_type

    head = {k: v for k, v in model["bbox_head"].items() if k != "assigner"}
    head["type"] = plain_head_type(head["type"])
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
        model={**model, "bbox_head": head},
        test_dataloader=dict(
            batch_size=1,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            dataset=dataset,
        ),
        test_evaluator=dict(type="CocoMetric", ann_file=split.annotations, metric="bbox"),
        test_cfg=dict(type="TestLoop"),
    )
