"""Whole small runs in this process: every way to combine networks that a configuration offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from orchestrator.config_file import load_config
from orchestrator.errors import CheckpointError, ConfigError, ModelError
from orchestrator.local_run import run_locally
from orchestrator.trainer import CoTrainer
from tests.support.runs import ROOT, SMALL, assert_equal_weights, final_weights

TINY = ROOT / "configs" / "tiny"
SHORT = "train.max_iterations=3"

Run = Callable[..., CoTrainer]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    def go(config: str, *overrides: str, name: str = "run", resume: bool = False) -> CoTrainer:
        small = [item for item in SMALL if not item.startswith("networks.")]
        loaded = load_config(
            TINY / config, [f"data.root={root}", *small, *_narrow(config), SHORT, *overrides]
        )
        return run_locally(loaded, tmp_path / name, resume=resume)

    return go


def _narrow(config: str) -> Sequence[str]:
    """Eight channels instead of sixteen in every network of a configuration."""
    names = dict(
        paa=("r18",), lad=("teacher", "student"), colad=("r18", "r34"), three=("wide", "r18", "r34")
    )
    key = "three" if "three" in config else config.split("_")[0].removesuffix(".py")
    return [
        item
        for name in names[key]
        for item in (
            f"networks.{name}.model.backbone.base_channels=8",
            f"networks.{name}.model.neck.in_channels=[8, 16, 32, 64]",
            f"networks.{name}.model.backbone.depth=18",
        )
    ]


@pytest.fixture
def teacher(run: Run, tmp_path: Path) -> tuple[Path, Path]:
    """A trained network as plain mmdet config and .pth."""
    from orchestrator.export import export_network

    run("paa_shapes.py", name="teacher")
    return export_network(tmp_path / "teacher", "r18", tmp_path / "exported")


def losses(trainer: CoTrainer, run_dir: Path) -> pd.DataFrame:
    from orchestrator.runlog import read_log

    return read_log(run_dir, "iterations")


def test_plain_paa(run: Run, tmp_path: Path) -> None:
    trainer = run("paa_shapes.py", "train.max_iterations=12")
    log = losses(trainer, tmp_path / "run")
    assert list(log["iteration"]) == list(range(12))
    assert log["loss_total"].iloc[-3:].mean() < log["loss_total"].iloc[:3].mean()
    assert set(trainer.evaluations) == {"r18"}


def test_lad_with_a_plain_mmdet_teacher(
    run: Run, teacher: tuple[Path, Path], tmp_path: Path
) -> None:
    config, weights = teacher
    trainer = run(
        "lad_shapes.py",
        f"networks.teacher={{'_delete_': True, 'config': '{config}', 'checkpoint': '{weights}', "
        "'learner': False}",
    )
    frozen, student = trainer.networks
    assert (frozen.learner, student.learner) == (False, True)
    saved = torch.load(weights, weights_only=True)["state_dict"]
    state: Any = frozen
    for key, value in state.network.detector.state_dict().items():
        assert torch.equal(value, saved[key]), f"the frozen teacher changed: {key}"
    log = losses(trainer, tmp_path / "run")
    assert set(log["network"]) == {"student"} and (log["taught_teacher"] == 1).all()


def test_lad_with_dynamic_switch(run: Run, teacher: tuple[Path, Path], tmp_path: Path) -> None:
    trainer = run("lad_switch_shapes.py", f"networks.teacher.checkpoint={teacher[1]}")
    log = losses(trainer, tmp_path / "run")
    assert set(log["network"]) == {"student"}
    shares = log["taught_teacher"] + log["taught_student"]
    assert shares.to_numpy() == pytest.approx(1.0)
    assert 0 < log["taught_student"].mean() < 1


def test_colad_with_one_pretrained_network(run: Run, teacher: tuple[Path, Path]) -> None:
    trainer = run(
        "colad_pretrained_shapes.py",
        f"networks.r34.checkpoint={teacher[1]}",
        "train.optimizer.lr=0.0",
        "train.optimizer.weight_decay=0.0",
        "train.param_scheduler=[]",
    )
    saved = torch.load(teacher[1], weights_only=True)["state_dict"]
    loaded: Any = trainer.networks[1]
    weights = loaded.network.detector.state_dict()
    assert all(torch.equal(v, saved[k]) for k, v in weights.items() if k.endswith("weight"))


def test_three_networks(run: Run, tmp_path: Path) -> None:
    trainer = run("colad_three_shapes.py")
    log = losses(trainer, tmp_path / "run")
    assert set(log["network"]) == {"r18", "r34", "wide"}
    shares = log["taught_r18"] + log["taught_r34"] + log["taught_wide"]
    assert shares.to_numpy() == pytest.approx(1.0)


@pytest.mark.parametrize("criterion", ["std_mean", "fisher"])
@pytest.mark.parametrize("scope", ["gt_level", "gt", "image", "iteration"])
def test_every_rule_runs(run: Run, criterion: str, scope: str) -> None:
    trainer = run(
        "colad_shapes.py",
        f"switch.criterion={criterion}",
        f"switch.scope={scope}",
        "train.max_iterations=1",
    )
    assert trainer.iteration == 1


def test_accumulated_micro_batches_equal_one_batch(run: Run, tmp_path: Path) -> None:
    """k micro-batches under one optimizer step; equal where normalisers are equal."""
    trainer = run("colad_shapes.py", "train.accumulate=2", "train.batch_size=2")
    assert trainer.plan.iterations_per_epoch == 8
    log = losses(trainer, tmp_path / "run")
    assert list(log[log["network"] == "r18"]["num_images"]) == [4, 4, 4]


def test_bfloat16_autocast(run: Run, tmp_path: Path) -> None:
    run("colad_shapes.py", name="fp32")
    run("colad_shapes.py", "train.precision=bf16", name="bf16")
    run("colad_shapes.py", "train.precision=bf16", name="again")
    assert_equal_weights(final_weights(tmp_path / "bf16"), final_weights(tmp_path / "again"))
    full = losses(None, tmp_path / "fp32")["loss_total"]  # type: ignore[arg-type]
    half = losses(None, tmp_path / "bf16")["loss_total"]  # type: ignore[arg-type]
    assert not full.equals(half)
    assert half.to_numpy() == pytest.approx(full.to_numpy(), rel=0.1)


def test_resume_is_exact(run: Run, tmp_path: Path) -> None:
    run("colad_shapes.py", "checkpoint.interval=2", "train.max_iterations=6", name="whole")
    first = run("colad_shapes.py", "checkpoint.interval=2", "train.max_iterations=6", name="parts")
    newest = sorted((tmp_path / "parts" / "checkpoints").iterdir())[-1]
    for path in newest.iterdir():
        path.unlink()
    newest.rmdir()
    again = run(
        "colad_shapes.py",
        "checkpoint.interval=2",
        "train.max_iterations=6",
        name="parts",
        resume=True,
    )
    assert first.iteration == again.iteration == 6
    assert_equal_weights(final_weights(tmp_path / "parts"), final_weights(tmp_path / "whole"))
    log = losses(again, tmp_path / "parts")
    assert sorted(log["iteration"]) == sorted([*range(6), *range(6)])


def test_teacher_with_other_strides(run: Run, teacher: tuple[Path, Path]) -> None:
    with pytest.raises(ModelError, match="strides"):
        run(
            "colad_shapes.py",
            "networks.r34.model.bbox_head.anchor_generator.strides=[4, 8, 16, 32, 64]",
        )


def test_teacher_with_other_classes(run: Run, teacher: tuple[Path, Path], root: Path) -> None:
    with pytest.raises(CheckpointError, match=r"networks.teacher.checkpoint.*classes"):
        run(
            "lad_shapes.py",
            f"networks.teacher.checkpoint={teacher[1]}",
            "data.classes=['circle', 'square']",
        )


def test_checkpoint_of_another_architecture(run: Run, teacher: tuple[Path, Path]) -> None:
    with pytest.raises(CheckpointError, match="networks.teacher.checkpoint"):
        run(
            "lad_shapes.py",
            f"networks.teacher.checkpoint={teacher[1]}",
            "networks.teacher.model.backbone.depth=34",
        )


def test_class_count_that_contradicts_the_data(run: Run) -> None:
    with pytest.raises(ConfigError, match=r"num_classes = 7 but the data has 4 classes"):
        run("paa_shapes.py", "networks.r18.model.bbox_head.num_classes=7")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("networks.r18.preset=tiny_r19", "preset = 'tiny_r19'"),
        ("networks.r18.model.bbox_head.topkk=3", "networks.r18.model does not build.*topkk"),
        ("assigner.topkk=3", "assigner.*topkk"),
        ("assigner.type=PPA", "assigner.*PPA"),
        ("train.optimizer.type=Adamm", "optimizer of networks.r18.*Adamm"),
        ("train.param_scheduler=[{'type': 'Cosinus'}]", "param_scheduler.0..type"),
        ("networks.r18.pretrained=absent.pth", "networks.r18.pretrained.*no such file"),
        (
            "networks.r18.model.backbone.init_cfg="
            "{'type': 'Pretrained', 'checkpoint': 'torchvision://resnet18'}",
            "torchvision://resnet18.*networks.r18.pretrained",
        ),
        ("networks.r18.model.data_preprocessor.batch_augments=[1]", "batch_augments"),
        ("networks.r18.model.bbox_head.anchor_generator.ratios=[0.5, 1.0]", "per location|anchor"),
    ],
)
def test_networks_that_cannot_be_built(run: Run, override: str, message: str) -> None:
    with pytest.raises((ConfigError, ModelError, CheckpointError), match=f"(?s){message}"):
        run("paa_shapes.py", override)


def test_non_finite_loss_stops_before_the_step(run: Run, root: Path, tmp_path: Path) -> None:
    from orchestrator.errors import NonFiniteCostError, NonFiniteLossError

    with pytest.raises((NonFiniteLossError, NonFiniteCostError), match="network 'r18'.*image"):
        run(
            "paa_shapes.py",
            "train.optimizer={'_delete_': True, 'type': 'SGD', 'lr': 1e12}",
            "train.param_scheduler=[]",
            "train.clip_grad=None",
            "train.max_iterations=20",
        )


def test_stop_before_the_end_makes_up_for_the_evaluation(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked to stop when only the last iteration is left: resuming still evaluates."""
    asked: list[int] = []

    def report(self: CoTrainer) -> None:
        asked.append(self.iteration)
        self._stop = self.iteration >= 5

    with monkeypatch.context() as patch:
        original = CoTrainer._between

        def between(self: CoTrainer, *, drained: bool) -> None:
            original(self, drained=False)
            report(self)

        patch.setattr(CoTrainer, "_between", between)
        stopped = run("paa_shapes.py", "train.max_iterations=6")
    assert asked and stopped.iteration == 6 and not stopped.evaluations
    resumed = run("paa_shapes.py", "train.max_iterations=6", resume=True)
    assert set(resumed.evaluations) == {"r18"}
    from orchestrator.runlog import read_log

    assert list(read_log(tmp_path / "run", "evaluations")["iteration"]) == [6]


def test_logged_learning_rate_is_the_one_used(run: Run, tmp_path: Path) -> None:
    steps = "train.param_scheduler=[{'type': 'MultiStepLR', 'milestones': [2], 'by_epoch': False}]"
    for accumulate in (1, 2):
        run("paa_shapes.py", steps, f"train.accumulate={accumulate}", name=f"by{accumulate}")
        log = losses(None, tmp_path / f"by{accumulate}")  # type: ignore[arg-type]
        assert list(log["lr"]) == pytest.approx([2e-3, 2e-3, 2e-4])


def test_cosine_by_epoch_ends_with_the_run(run: Run, tmp_path: Path) -> None:
    run(
        "paa_shapes.py",
        "train.param_scheduler=[{'type': 'CosineAnnealingLR', 'by_epoch': True}]",
        "data.shapes={'train': 32, 'val': 8, 'size': 64}",
        "train.batch_size=8",
        "train.max_iterations=8",
    )
    rates = list(losses(None, tmp_path / "run")["lr"])  # type: ignore[arg-type]
    assert rates[0] == pytest.approx(2e-3) and rates[-1] < 2e-4
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.test_pipeline=[{'type': 'Resise'}]", "data.test_pipeline.*Resise"),
        ("data.test_pipeline=[{'type': 'LoadImageFromFile'}]", "must end in PackDetInputs"),
        ("data.train_pipeline=[{'type': 'LoadImageFromFile'}]", "must end in PackDetInputs"),
        (
            "data.train_pipeline=[{'type': 'LoadImageFromFile'}, {'type': 'PackDetInputs', "
            "'meta_keys': ('img_id', 'img_path', 'ori_shape', 'img_shape')}]",
            "needs LoadAnnotations",
        ),
        ("data.min_size=1000", "no image is left"),
    ],
)
def test_pipelines_that_cannot_serve(run: Run, override: str, message: str) -> None:
    from orchestrator.errors import DataError

    with pytest.raises((ConfigError, DataError), match=f"(?s){message}"):
        run("paa_shapes.py", override)
