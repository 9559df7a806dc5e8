"""What each network of a configuration would assign on an image: weights as maps over the levels.

Nothing is trained; networks are in eval mode and predict once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assigners import build_assigner
from assigners.types import (
    Assignment,
    Candidates,
    CostTable,
    DensePredictions,
    GroundTruths,
    Priors,
    Step,
)
from orchestrator.batch import unpack_gts, unpack_images
from orchestrator.building import build_detector, import_custom
from orchestrator.config import NetworkConfig, RunConfig
from orchestrator.errors import ConfigError
from orchestrator.grid import View, build_view
from orchestrator.pair_weights import pair_weights
from orchestrator.report.scenes import Scene
from orchestrator.saved_runs import SavedRun
from orchestrator.switching import SwitchRule, choose

CHOICE = "as taught"
"""View of what is learned: the assignment made of the costs that the switch chose."""
COUNTS_FROM = 0.1
"""A pair counts as a positive from this share of its object's largest weight."""


@dataclass(frozen=True, kw_only=True)
class LevelMap:
    """Weights over the prior grid of one pyramid level."""

    stride: int
    positive: NDArray[np.float32]
    """(H, W) in 0..1, for each pixel of the input that of the nearest location: the largest of its
    positive weights, each as a share of its object's largest."""
    negative: NDArray[np.float32]
    """(H, W) in 0..1: the smallest of the location's negative weights."""


@dataclass(frozen=True, kw_only=True)
class AssignmentView:
    """One way of assigning one image."""

    title: str
    levels: tuple[LevelMap, ...]
    counts: NDArray[np.int64]
    """(G,) positives of each object (``COUNTS_FROM``)."""
    taught: dict[str, float]
    """Share of the decisions that went to each network; empty for a network's own assignment."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A configuration with built networks."""

    title: str
    config: RunConfig
    detectors: Mapping[str, nn.Module]
    views: Mapping[str, View]
    step: Step


def method_of_config(title: str, config: RunConfig, classes: Sequence[str]) -> Method:
    """A configuration's networks with their initial weights (or those it names).

    Raises:
        ConfigError, ModelError, CheckpointError: a network does not build.
    """
    import_custom(config.custom_imports)
    detectors = {
        name: build_detector(name, network, len(classes), config.seed, classes=classes)[0].eval()
        for name, network in config.networks.items()
    }
    return _method(title, config, detectors, len(classes), 0)


def method_of_run(title: str, saved: SavedRun, config: RunConfig | None = None) -> Method:
    """The networks of a run at a checkpoint; ``config`` replaces assigner and switch."""
    detectors = {name: saved.build(name)[0] for name in saved.config.networks}
    own = saved.config
    if config is not None:
        same = tuple(config.networks) == tuple(own.networks)
        switch = config.switch if same else own.switch
        own = dataclasses.replace(own, assigner=config.assigner, switch=switch)
    return _method(title, own, detectors, len(saved.data.classes), saved.iteration)


def method_at_start(title: str, saved: SavedRun) -> Method:
    """The networks of a run as they were before its first iteration."""
    return method_of_config(title, saved.config, saved.data.classes)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _method(
    title: str,
    config: RunConfig,
    detectors: Mapping[str, nn.Module],
    num_classes: int,
    iteration: int,
) -> Method:
    detectors = {name: detector.to(_device()) for name, detector in detectors.items()}
    views = {
        name: build_view(name, config, detector.get_submodule("bbox_head"), num_classes)
        for name, detector in detectors.items()
    }
    length = config.train.max_iterations or max(iteration, 1)
    step = Step(iteration=min(iteration, length - 1), max_iterations=length)
    return Method(title=title, config=config, detectors=detectors, views=views, step=step)


def with_checkpoint(config: RunConfig, path: str) -> RunConfig:
    """The configuration whose one network takes these weights.

    Raises:
        ConfigError: it has several networks.
    """
    if len(config.networks) != 1:
        raise ConfigError(
            f"--checkpoint {path} holds one network, the configuration has "
            f"{list(config.networks)}: set networks.NAME.checkpoint, or give a run directory"
        )
    networks: dict[str, NetworkConfig] = {
        name: dataclasses.replace(network, checkpoint=path)
        for name, network in config.networks.items()
    }
    return dataclasses.replace(config, networks=networks)


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """One network's look at a scene."""

    priors: Priors
    predictions: DensePredictions
    candidates: Candidates
    table: CostTable
    sizes: tuple[tuple[int, int], ...]


@torch.no_grad()
def assign_scene(method: Method, scene: Scene) -> list[AssignmentView]:
    """How each network would assign the scene for itself; last, where there is a switch, together.

    Raises:
        ConfigError: the assigner does not fit the networks.
    """
    assigner = build_assigner(method.config.assigner)
    gts = unpack_gts(scene.batch, _device())
    seen: dict[str, _Seen] = {}
    views = []
    try:
        for name, detector in method.detectors.items():
            seen[name] = look = _look(detector, method.views[name], assigner, scene, gts)
            made = _assign(assigner, look.table, look, gts, method.step)
            alone = len(method.detectors) == 1 and method.title
            title = method.title if alone else f"{method.title} {name}".strip()
            views.append(_view(title, look, made, gts, {}))
    except (ValueError, KeyError) as error:
        kind = method.config.assigner["type"]
        raise ConfigError(f"{method.title}: assigner {kind!r} does not fit it: {error}") from error
    if method.config.switch.criterion == "self":
        return views
    switch = method.config.switch
    rule = SwitchRule(
        criterion=switch.criterion,
        scope=switch.scope or assigner.default_scope,
        teacher=switch.teacher,
    )
    tables = {name: seen[name].table for name in method.config.readable}
    look = seen[method.config.learners[0]]
    choice = choose(
        tables,
        look.candidates,
        rule=rule,
        num_gts=gts.num_gts,
        num_images=1,
        num_levels=len(look.priors.level_sizes),
    )
    made = _assign(assigner, choice.table, look, gts, method.step)
    shares = choice.shares if switch.teacher is None else {switch.teacher: 1.0}
    return [*views, _view(f"{method.title} {CHOICE}".strip(), look, made, gts, shares)]


def _look(detector: Any, view: View, assigner: Any, scene: Scene, gts: GroundTruths) -> _Seen:
    from mmdet.structures import DetDataSample

    samples = [DetDataSample(metainfo=dict(meta)) for meta in scene.batch.metas]
    data = dict(inputs=unpack_images(scene.batch), data_samples=samples)
    processed = detector.data_preprocessor(data, training=False)
    metas = [sample.metainfo for sample in processed["data_samples"]]
    outs = detector.bbox_head(detector.extract_feat(processed["inputs"]))
    priors, predictions = view(outs, metas)
    candidates = assigner.candidates(priors, gts)
    height, width = processed["inputs"].shape[-2:]
    return _Seen(
        priors=priors,
        predictions=predictions,
        candidates=candidates,
        table=assigner.costs(predictions, candidates, gts),
        sizes=_level_shapes(priors, height, width),
    )


def _level_shapes(priors: Priors, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of locations of each level."""
    shapes, start = [], 0
    for size in priors.level_sizes:
        stride = float(priors.strides[start])
        shapes.append((-(-height // int(stride)), -(-width // int(stride))))
        start += size
    return tuple(shapes)


def _assign(
    assigner: Any, table: CostTable, look: _Seen, gts: GroundTruths, step: Step
) -> Assignment:
    made: Assignment = assigner.assign(
        table,
        look.candidates,
        look.priors,
        gts,
        num_classes=look.predictions.num_classes,
        step=step,
        live=look.table,
    )
    return made


def _view(
    title: str, look: _Seen, made: Assignment, gts: GroundTruths, taught: dict[str, float]
) -> AssignmentView:
    height, width = gts.image_shapes[0].long().tolist()
    hw = (height, width)
    positive, negative = pair_weights(made, look.candidates, look.predictions, gts)
    gt, prior = look.candidates.gt, look.candidates.prior
    positive, negative, gt, prior = (x.cpu() for x in (positive, negative, gt, prior))
    largest = torch.zeros(gts.num_gts).scatter_reduce(0, gt, positive, "amax")
    share = positive / largest.clamp(min=1e-12)[gt]
    share = torch.where(largest[gt] > 0, share, torch.zeros_like(share))
    total = look.priors.num_priors
    pos_map = torch.zeros(total).scatter_reduce(0, prior, share, "amax")
    neg_map = torch.ones(total).scatter_reduce(0, prior, negative.clamp(0, 1), "amin")
    counted = (share >= COUNTS_FROM).long()
    counts = torch.zeros(gts.num_gts, dtype=torch.int64).scatter_add(0, gt, counted)
    return AssignmentView(
        title=title,
        levels=_levels(look, hw, pos_map, neg_map),
        counts=counts.numpy(),
        taught=dict(taught),
    )


def _levels(look: _Seen, hw: tuple[int, int], *maps: Tensor) -> tuple[LevelMap, ...]:
    """Positive and negative (A,) maps, level by level, at the size of the input."""
    levels, start = [], 0
    for size, (rows, columns) in zip(look.priors.level_sizes, look.sizes):
        stride = float(look.priors.strides[start])
        left, top = look.priors.points[start].tolist()
        y = _nearest(hw[0], top, stride, rows)[:, None]
        x = _nearest(hw[1], left, stride, columns)
        shape = (rows, columns, size // (rows * columns))
        positive, negative = (part[start : start + size].reshape(shape) for part in maps)
        levels.append(
            LevelMap(
                stride=int(stride),
                positive=positive.amax(-1).numpy()[y, x],
                negative=negative.amin(-1).numpy()[y, x],
            )
        )
        start += size
    return tuple(levels)


def _nearest(pixels: int, first: float, stride: float, count: int) -> NDArray[np.int64]:
    """(pixels,) index of the location nearest to each pixel's centre."""
    index = np.round((np.arange(pixels) + 0.5 - first) / stride)
    return index.clip(0, count - 1).astype(np.int64)
