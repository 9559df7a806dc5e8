"""Whole small runs of the point-based methods: alone, under LAD, with switch, under CoLAD."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from orchestrator.config_file import load_config
from orchestrator.errors import ModelError
from orchestrator.local_run import run_locally
from orchestrator.runlog import read_log
from tests.support.runs import ROOT, SMALL

TINY = ROOT / "configs" / "tiny"
METHODS = ("dw", "autoassign", "musu", "ala")
"""Stems of ``configs/tiny/{method}[_lad|_colad]_shapes.py``; presets ``tiny_{method}_r18``."""

Run = Callable[..., pd.DataFrame]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    def go(config: str, *overrides: str, names: tuple[str, ...], folder: str = "run"):
        small = [item for item in SMALL if not item.startswith("networks.")]
        narrow = [
            item
            for name in names
            for item in (
                f"networks.{name}.model.backbone.base_channels=8",
                f"networks.{name}.model.neck.in_channels=[8, 16, 32, 64]",
                f"networks.{name}.model.backbone.depth=18",
            )
        ]
        fields = [f"data.root={root}", *small, *narrow, "train.max_iterations=4", *overrides]
        run_locally(load_config(TINY / config, fields), tmp_path / folder)
        return read_log(tmp_path / folder, "iterations")

    return go


@pytest.fixture
def teacher(run: Run, tmp_path: Path, method: str) -> Path:
    """Weights of a network that trained alone."""
    run(f"{method}_shapes.py", "train.max_iterations=2", names=("r18",), folder="teacher")
    (weights,) = (tmp_path / "teacher").rglob("r18-rank0.pt")
    return weights


@pytest.mark.parametrize("method", METHODS)
def test_alone(run: Run, method: str) -> None:
    log = run(f"{method}_shapes.py", names=("r18",))
    assert len(log) == 4 and log["loss_total"].notna().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("switch", [False, True])
def test_taught_by_a_frozen_network(run: Run, teacher: Path, method: str, switch: bool) -> None:
    switching = ["switch={'_delete_': True, 'criterion': 'std_mean'}"] if switch else []
    log = run(
        f"{method}_lad_shapes.py",
        f"networks.teacher.checkpoint={teacher}",
        *switching,
        names=("teacher", "student"),
    )
    assert set(log["network"]) == {"student"} and log["loss_total"].notna().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("criterion", ["std_mean", "fisher"])
def test_two_learners(run: Run, method: str, criterion: str) -> None:
    log = run(f"{method}_colad_shapes.py", f"switch.criterion={criterion}", names=("r18", "r34"))
    assert set(log["network"]) == {"r18", "r34"} and log["loss_total"].notna().all()


def test_heads_of_two_kinds_teach_each_other(run: Run) -> None:
    log = run("dw_colad_shapes.py", "networks.r34.preset=tiny_dw_tood_r18", names=("r18", "r34"))
    assert set(log["network"]) == {"r18", "r34"}


def test_box_refinement_is_a_field_of_the_head(run: Run) -> None:
    log = run("dw_shapes.py", "networks.r18.model.bbox_head.box_refine=True", names=("r18",))
    assert log["loss_total"].notna().all()


# -- several priors per location ------------------------------------------------------------------

THREE = ("networks.{}.model.bbox_head.num_anchors=3", "networks.{}.model.bbox_head.anchor_seed={}")


def test_three_priors_per_location_start_from_the_runs_seed(run: Run, tmp_path: Path) -> None:
    log = run("musu_three_anchors_shapes.py", "seed=5", names=("r18", "r34"))
    assert set(log["network"]) == {"r18", "r34"} and log["loss_total"].notna().all()
    for name in ("r18", "r34"):
        (weights,) = (tmp_path / "run").rglob(f"{name}-rank0.pt")
        model = torch.load(weights, weights_only=True)["model"]
        assert int(model["bbox_head._anchor_seed"]) == 5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            [THREE[0].format("r18"), THREE[0].format("r34"), THREE[1].format("r34", 9)],
            "networks.r34 and networks.r18.*anchor_seed is 9 and 0.*bbox_head.anchor_seed of",
        ),
        (
            [THREE[0].format("r34")],
            r"priors_per_location is 3 and 1.*networks\.r34\.model\.bbox_head\.num_anchors",
        ),
        (
            [THREE[0].format("r18"), THREE[0].format("r34"), "networks.r34.preset=tiny_dw_r34"],
            "anchor_seed is None and 0",
        ),
    ],
)
def test_priors_that_mean_different_things_are_refused(
    run: Run, overrides: list[str], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        run("musu_colad_shapes.py", *overrides, names=("r18", "r34"))


def test_priors_that_nothing_tells_apart_are_refused(run: Run) -> None:
    three = [THREE[0].format(name) for name in ("r18", "r34")]
    with pytest.raises(ModelError, match="nothing tells their 3 priors per location apart"):
        run("dw_colad_shapes.py", *three, names=("r18", "r34"))


def test_a_teacher_of_three_priors_keeps_the_seed_of_its_run(run: Run, tmp_path: Path) -> None:
    """The student of another run takes it by name; with its own seed it would be refused."""
    run("musu_shapes.py", "seed=5", THREE[0].format("r18"), names=("r18",), folder="teacher")
    (weights,) = (tmp_path / "teacher").rglob("r18-rank0.pt")
    fields = [
        f"networks.teacher.checkpoint={weights}",
        THREE[0].format("teacher"),
        THREE[0].format("student"),
    ]
    names = ("teacher", "student")
    with pytest.raises(ModelError, match="anchor_seed is 5 and 0"):
        run("musu_lad_shapes.py", *fields, names=names, folder="refused")
    log = run("musu_lad_shapes.py", *fields, THREE[1].format("student", 5), names=names)
    assert set(log["network"]) == {"student"} and log["loss_total"].notna().all()


def test_alas_soft_labels_follow_the_run(run: Run) -> None:
    """xi is 0 at the end, so soft positives then learn as negatives do; a constant label is not."""
    fields = ("train.max_iterations=6", "train.optimizer.lr=0.0", "train.param_scheduler=[]")
    kept = run("ala_shapes.py", *fields, "assigner.soft_label=1.0", names=("r18",), folder="kept")
    falling = run("ala_shapes.py", *fields, names=("r18",), folder="falling")
    ratio = (falling["loss_soft"] / kept["loss_soft"]).to_numpy()
    assert (ratio[1:] < ratio[:-1]).all() and ratio[-1] < 0.2 * ratio[0]
