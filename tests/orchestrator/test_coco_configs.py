"""configs/coco: every file is valid, says what its paper says, and trains in full size."""

from __future__ import annotations

import gc
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.building import resolve_model
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.network import Network
from tests.support.runs import ROOT
from tests.support.steps import (
    DATA,
    build_networks,
    noise_batch,
    take_steps,
    with_random_teachers,
)

PATHS = sorted((ROOT / "configs" / "coco").glob("*.py"))
CLASSES = tuple(f"class{index}" for index in range(80))
MULTI_SCALE = ((1333, 640), (1333, 800))
SCALES_480 = ((1333, 480), (1333, 800))
EPOCHS = {"1x": (12, [8, 11]), "2x": (24, [16, 22])}
ITERATIONS = {"1x": (90_000, [60_000, 80_000]), "2x": (180_000, [120_000, 160_000])}


def schedule_of(config: RunConfig) -> tuple[int, list[int]]:
    """Length, in epochs or iterations, and milestones in the same unit."""
    train = config.train
    (steps,) = (s for s in train.param_scheduler if s["type"] == "MultiStepLR")
    assert steps["by_epoch"] == (train.max_epochs is not None) and steps["gamma"] == 0.1
    length = train.max_epochs or train.max_iterations
    assert length is not None
    return length, steps["milestones"]


@pytest.fixture(scope="module")
def configs() -> dict[str, RunConfig]:
    return {path.stem: load_config(path) for path in PATHS}


@pytest.fixture(scope="module")
def models(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, dict[str, Any]]]:
    """Stem -> network -> what its detector is built from."""
    return {
        stem: {
            name: resolve_model(name, settings, len(CLASSES))
            for name, settings in config.networks.items()
        }
        for stem, config in configs.items()
    }


def test_every_file_is_valid_and_has_its_model(models: Mapping[str, Any]) -> None:
    """Without a download; every detector has the NMS of the papers and the run's classes."""
    assert models
    for stem, networks in models.items():
        for model in networks.values():
            assert model["test_cfg"]["nms"] == dict(type="nms", iou_threshold=0.6), stem
            assert model["test_cfg"]["score_thr"] == 0.05, stem
            assert model["bbox_head"]["num_classes"] == len(CLASSES)
            assert model["data_preprocessor"]["pad_size_divisor"] == 32
            strides = model["bbox_head"].get("strides") or [8, 16, 32, 64, 128]
            assert model["neck"]["num_outs"] == len(strides)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_settings_are_those_of_the_paper(path: Path, configs: Mapping[str, RunConfig]) -> None:
    config, (method, *_) = configs[path.stem], path.stem.split("_")
    train, kind = config.train, config.train.optimizer
    if "swin-b_x101" in path.stem:  # LAD, sec. 4.4: as Swin transformers are trained
        assert kind == dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05)
        assert (schedule_of(config), train.batch_size) == ((36, [27, 33]), 16)
        assert config.data.train_scales == SCALES_480
        return
    assert kind == dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4)
    assert train.batch_size == (4 if method == "ala" else 16)
    length = re.search(r"_([123]x)", path.stem)
    assert length is not None
    if length[1] == "3x":
        assert schedule_of(config) == (36, [28, 34])
    else:
        lengths = ITERATIONS if method in ("autoassign", "musu") else EPOCHS
        assert schedule_of(config) == lengths[length[1]]
    scales = None if "_ms" not in path.stem else SCALES_480 if method == "dw" else MULTI_SCALE
    if path.stem.endswith("_wide"):
        scales = ((1333, 480), (1333, 960))
    assert (config.data.scale, config.data.train_scales) == ((1333, 800), scales)
    assert config.data.flip == 0.5


def test_roles_are_those_of_the_method(configs: Mapping[str, RunConfig]) -> None:
    for stem, config in configs.items():
        method = stem.split("_")[0]
        frozen = [name for name in config.networks if name not in config.learners]
        criterion = config.switch.criterion
        if method in ("lad", "solad"):
            expected = "std_mean" if "swin-b_x101" in stem else "fixed"
            assert (len(frozen), criterion) == (1, expected), stem
        else:
            assert not frozen and (criterion == "std_mean") == (method == "colad"), stem
        if method == "colad":  # the first one wins ties: the released code's "teacher", the larger
            assert [*config.networks][1] == ("r18" if "r18" in stem else "r50"), stem
        assert (config.soft_labels is not None) == (method == "solad"), stem
        if config.soft_labels is not None:
            assert (config.soft_labels.loss, config.soft_labels.gamma) == ("kl", 0.5)


def test_backbones_are_those_of_the_names(models: Mapping[str, Any]) -> None:
    for stem, networks in models.items():
        deformable: list[bool] = []
        for name, model in networks.items():
            backbone = model["backbone"]
            deformable.append("dcn" in backbone)
            if match := re.fullmatch(r"([rx])(\d+)", name):
                kind = {"r": "ResNet", "x": "ResNeXt"}[match[1]]
                assert (backbone["type"], backbone["depth"]) == (kind, int(match[2])), stem
            else:
                expected = {"swin": "SwinTransformer", "effnet": "EfficientNet"}[name]
                assert backbone["type"] == expected, stem
        assert any(deformable) == ("-dcn" in stem), stem


def full_size(path: Path, folder: Path) -> RunConfig:
    """A file's run with random weights for whatever it wants a file for, in float32."""
    config = load_config(path, ["train.precision=fp32"])
    networks = {
        name: replace(settings, checkpoint=None, pretrained="none")
        if settings.learner
        else settings
        for name, settings in config.networks.items()
    }
    return with_random_teachers(replace(config, networks=networks), folder, len(CLASSES))


def watch_gradients(network: Network) -> set[str]:
    """Names of trainable parameters; each leaves the set when it gets a gradient."""
    waiting = set()
    for name, parameter in network.detector.named_parameters():
        if parameter.requires_grad:
            waiting.add(name)
            parameter.register_post_accumulate_grad_hook(lambda _, name=name: waiting.discard(name))
    return waiting


def digests(network: Network) -> dict[str, float]:
    """One number for each trainable parameter."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: float((p.detach().double() * torch.rand(p.shape, generator=generator)).sum())
        for name, p in network.detector.named_parameters()
        if p.requires_grad
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_trains_in_full_size(path: Path, tmp_path: Path) -> None:
    """Two iterations of two small images: finite losses, every part learns, nothing is unused."""
    config = full_size(path, tmp_path)
    networks = build_networks(config, data=replace(DATA, classes=CLASSES))
    for file in tmp_path.glob("*.pth"):
        file.unlink()  # hundreds of megabytes
    learners = {name: networks[name] for name in config.learners}
    waiting = {name: watch_gradients(network) for name, network in learners.items()}
    before = {name: digests(network) for name, network in learners.items()}
    batches = [noise_batch((2, 1), seed=seed, side=128) for seed in (0, 1)]
    for record in take_steps(networks, batches):
        assert set(record) == set(config.learners)
        for result in record.values():
            assert result.losses and not result.skipped
            assert all(abs(value) < 1e4 for value in result.losses.values()), result.losses
    for name, network in learners.items():
        after = digests(network)
        assert all(value == value for value in after.values())
        moved = {key.split(".")[0] for key, value in after.items() if value != before[name][key]}
        assert moved == {"backbone", "neck", "bbox_head"}
        assert waiting[name] == set()
    del networks, learners
    gc.collect()


def test_every_file_is_documented() -> None:
    """One line each in docs/coco.md, and no line for a file that is not there."""
    page = (ROOT / "docs" / "coco.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `(\S+)\.py` \|", page, flags=re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in PATHS)
