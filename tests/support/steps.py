"""Networks of a tiny configuration and steps on batches of noise: no files, no feed, no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from assigners.types import Step
from orchestrator.batch import Batch
from orchestrator.building import build_detector
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import PreparedData, Split
from orchestrator.network import Network
from orchestrator.ranks import RankGroup
from orchestrator.step import NetworkSpec, StepResult
from tests.support.runs import ROOT

TINY = ROOT / "configs" / "tiny"
SIDE = 64
CLASSES = ("circle", "square", "triangle")
NOWHERE = Split(annotations="", images="", num_images=0, num_boxes=0)
DATA = PreparedData(train=NOWHERE, val=NOWHERE, classes=CLASSES)
STEPS = 8


def tiny_config(stem: str, overrides: Sequence[str] = ()) -> RunConfig:
    """``configs/tiny/{stem}_shapes.py`` with narrower networks and then the overrides."""
    path = TINY / f"{stem}_shapes.py"
    narrow = [
        item
        for name in load_config(path).networks
        for item in (
            f"networks.{name}.model.backbone.base_channels=8",
            f"networks.{name}.model.neck.in_channels=[8, 16, 32, 64]",
            f"networks.{name}.model.backbone.depth=18",
        )
    ]
    return load_config(path, [*narrow, f"train.max_iterations={STEPS}", *overrides])


def with_random_teachers(
    config: RunConfig, folder: Path, num_classes: int = len(CLASSES)
) -> RunConfig:
    """The same with files of random weights for the frozen networks, so that they can be built."""
    networks = dict(config.networks)
    for name, settings in config.networks.items():
        if settings.learner:
            continue
        random = replace(settings, learner=True, checkpoint=None, pretrained="none")
        detector, _ = build_detector(name, random, num_classes, config.seed)
        path = folder / f"{name}.pth"
        torch.save({"state_dict": detector.state_dict()}, path)
        networks[name] = replace(settings, checkpoint=str(path))
    return replace(config, networks=networks)


def noise_batch(counts: Sequence[int], seed: int = 0, side: int = SIDE) -> Batch:
    """Square images of noise; image i has ``counts[i]`` boxes."""
    rng = np.random.default_rng([seed, *counts])
    total = sum(counts)
    corner = rng.uniform(0, side / 2, (total, 2))
    extent = rng.uniform(side / 8, side / 2, (total, 2))
    meta = dict(ori_shape=(side, side), img_shape=(side, side), scale_factor=(1.0, 1.0))
    return Batch(
        batch_id=f"noise.{seed}",
        pixels=rng.integers(0, 256, len(counts) * 3 * side * side, dtype=np.uint8),
        shapes=np.tile(np.array([3, side, side], dtype=np.int64), (len(counts), 1)),
        boxes=np.concatenate([corner, corner + extent], axis=1).astype(np.float32),
        labels=rng.integers(0, len(CLASSES), total),
        counts=np.array(counts, dtype=np.int64),
        metas=[dict(img_id=index, img_path="", **meta) for index in range(len(counts))],
    )


def build_networks(
    config: RunConfig, group: RankGroup | None = None, rank: int = 0, data: PreparedData = DATA
) -> dict[str, Network]:
    """One rank of every network, all in this process and, if given, in one group of ranks."""
    return {
        name: Network(
            NetworkSpec(
                name=name,
                config=config,
                data=data,
                iterations_per_epoch=STEPS,
                max_iterations=STEPS,
                rank=rank,
            ),
            group if settings.learner else None,
        )
        for name, settings in config.networks.items()
    }


def take_steps(
    networks: dict[str, Network], batches: Iterable[Batch]
) -> list[dict[str, StepResult]]:
    """One training step per batch; the learners' results."""
    records = []
    for iteration, batch in enumerate(batches):
        step = Step(iteration=iteration, max_iterations=STEPS)
        tables = {name: network.begin_step(batch, step) for name, network in networks.items()}
        record = {}
        for name, network in networks.items():
            if network.learner:
                others = [t for other, t in tables.items() if other != name and t is not None]
                record[name] = network.finish_step(others)
        records.append(record)
    return records
