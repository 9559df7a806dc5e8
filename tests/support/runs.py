"""A tiny co-training run and what tests look at afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "configs" / "tiny" / "colad_shapes.py"

# Small enough for some 40 ms an iteration, with everything a real run has.
SMALL = (
    "data.shapes={'train': 32, 'val': 8, 'size': 64}",
    "data.scale=[64, 64]",
    "train.batch_size=4",
    "train.max_iterations=20",
    "evaluation.interval=None",
    "networks.r18.model.backbone.base_channels=8",
    "networks.r18.model.neck.in_channels=[8, 16, 32, 64]",
    "networks.r34.model.backbone.base_channels=8",
    "networks.r34.model.neck.in_channels=[8, 16, 32, 64]",
    "networks.r34.model.backbone.depth=18",
)


def final_weights(run_dir: Path) -> dict[str, dict[str, Any]]:
    """Network name -> state of its newest checkpoint."""
    from orchestrator.checkpoints import latest_valid, read_part, read_state
    from orchestrator.weights import deserialise

    checkpoint = latest_valid(run_dir / "checkpoints", warn=pytest.fail)
    assert checkpoint is not None
    names = read_state(checkpoint).networks
    return {name: deserialise(read_part(checkpoint, f"{name}-rank0.pt"))["model"] for name in names}


def assert_equal_weights(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Bit for bit, all networks."""
    import torch

    assert left.keys() == right.keys()
    for name in left:
        assert left[name].keys() == right[name].keys()
        differing = [k for k in left[name] if not torch.equal(left[name][k], right[name][k])]
        assert not differing, f"{name}: {len(differing)} tensors differ, first {differing[:3]}"


def processes(run_dir: Path) -> dict[str, Any]:
    """What the controller wrote about its actors."""
    return json.loads((run_dir / "processes.json").read_text(encoding="utf-8"))
