"""Who is imitated where, what crosses, and whole small runs with soft labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from assigners.types import Candidates, CostTable, DensePredictions, GroundTruths
from orchestrator import exchange
from orchestrator.config import RunConfig, SoftLabelConfig
from orchestrator.config_file import from_mapping, load_config
from orchestrator.errors import ConfigError, ModelError, NonFiniteCostError
from orchestrator.local_run import run_locally
from orchestrator.runlog import read_log
from orchestrator.soft_labels import SoftTeaching
from orchestrator.trainer import CoTrainer
from tests.support.runs import ROOT, SMALL, final_weights

TINY = ROOT / "configs" / "tiny"
SOFT_LOSSES = {"loss_soft_cls", "loss_soft_bbox", "loss_soft_iou"}


# -- what crosses ---------------------------------------------------------------------------------


def predictions(**fields: Any) -> DensePredictions:
    random = torch.Generator().manual_seed(0)
    given: dict[str, Any] = dict(
        cls=torch.randn(3, 5, 2, generator=random, requires_grad=True),
        boxes=100 * torch.rand(3, 5, 4, generator=random),
        quality=torch.randn(3, 5, generator=random),
        quality_kind="iou",
    )
    return DensePredictions(**{**given, **fields})


def pack(soft: DensePredictions | None) -> exchange.PackedTable:
    table = CostTable(cost=torch.rand(4))
    return exchange.pack(table, network="a", batch_id="0.0.0", digest="d", soft=soft)


def test_classes_and_quality_cross_as_float16_boxes_as_float32() -> None:
    sent = predictions()
    packed = pack(sent).soft
    assert packed is not None and packed.finite
    got = exchange.unpack_soft(packed, [0, 1, 2], torch.device("cpu"))
    assert torch.equal(got.cls, sent.cls.detach().half().float())
    assert torch.equal(got.quality, sent.quality.half().float())
    assert torch.equal(got.boxes, sent.boxes)
    assert not got.cls.requires_grad and (got.cls_is_prob, got.quality_kind) == (False, "iou")


def test_some_images_cross_in_the_order_asked_for() -> None:
    sent = predictions(cls_is_prob=True, quality=None, quality_kind="none")
    packed = pack(sent).soft
    assert packed is not None
    got = exchange.unpack_soft(packed, [2, 0], torch.device("cpu"))
    assert torch.equal(got.boxes, sent.boxes[[2, 0]]) and got.cls_is_prob and got.quality is None


def test_read_only_arrays_of_the_object_store() -> None:
    packed = pack(predictions()).soft
    assert packed is not None
    for array in (packed.cls, packed.boxes, packed.quality):
        assert array is not None
        array.setflags(write=False)
    exchange.unpack_soft(packed, [0, 1, 2], torch.device("cpu"))


def test_payload_counts_soft_labels() -> None:
    assert pack(None).payload_bytes == 16
    assert pack(predictions()).payload_bytes == 16 + 3 * 5 * (2 * 2 + 4 * 4 + 2)


@pytest.mark.parametrize("part", ["cls", "boxes", "quality"])
def test_non_finite_soft_labels_are_refused(part: str) -> None:
    sent = predictions()
    values = getattr(sent, part).detach().clone()
    values.view(-1)[3] = float("nan")
    packed = pack(replace(sent, **{part: values}))
    with pytest.raises(NonFiniteCostError, match=r"'a': a class score.*batch 0.0.0 \(images \[7"):
        exchange.check(packed, reader="b", batch_id="0.0.0", digest="d", image_ids=[7, 8])


# -- who is imitated ------------------------------------------------------------------------------


def config(**changes: Any) -> RunConfig:
    fields: dict[str, Any] = dict(
        networks=dict(a=dict(preset="tiny_r18"), b=dict(preset="tiny_r34")),
        data=dict(root="somewhere"),
        train=dict(max_iterations=3),
        switch=dict(criterion="std_mean"),
        soft_labels=dict(),
    )
    return from_mapping(RunConfig, {**fields, **changes})


def scene() -> tuple[dict[str, CostTable], Candidates, GroundTruths]:
    """Image 0 has two GTs, image 1 none, image 2 one; b spreads more in image 0, a in image 2."""
    gt = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    candidates = Candidates(
        image=torch.tensor([0, 0, 0, 0, 0, 2, 2, 2]),
        gt=gt,
        prior=torch.arange(8),
        level=torch.zeros(8, dtype=torch.int64),
    )
    gts = GroundTruths.from_lists(
        [torch.zeros(n, 4) for n in (2, 0, 1)], [torch.zeros(n) for n in (2, 0, 1)], [(9, 9)] * 3
    )
    even, spread = torch.ones(8), torch.tensor([1.0, 2, 3, 1, 3, 1, 1, 4])
    tables = {
        "a": CostTable(cost=torch.where(gt == 2, spread, even)),
        "b": CostTable(cost=torch.where(gt == 2, even, spread)),
    }
    return tables, candidates, gts


@pytest.mark.parametrize("criterion", ["std_mean", "fisher"])
def test_the_best_network_of_an_image_is_imitated(criterion: str) -> None:
    run = config(switch=dict(criterion=criterion))
    assert SoftTeaching("a", run).images_by_teacher(*scene()) == {"b": [0]}
    assert SoftTeaching("b", run).images_by_teacher(*scene()) == {"a": [2]}


def test_a_third_network_imitates_both() -> None:
    tables, candidates, gts = scene()
    tables["c"] = CostTable(cost=torch.ones(8))
    networks = {name: dict(preset="tiny_r18") for name in "abc"}
    found = SoftTeaching("c", config(networks=networks)).images_by_teacher(tables, candidates, gts)
    assert found == {"a": [2], "b": [0]}


def test_a_fixed_teacher_is_imitated_in_every_image() -> None:
    run = config(switch=dict(criterion="fixed", teacher="b"))
    assert SoftTeaching("a", run).images_by_teacher(*scene()) == {"b": [0, 1, 2]}


# -- configuration --------------------------------------------------------------------------------


def test_defaults_are_solads() -> None:
    assert config().soft_labels == SoftLabelConfig(
        loss="kl",
        gamma=0.5,
        cls_weight=2.0,
        iou_weight=10.0,
        box_weight=1.3,
        iou_threshold=0.5,
        selection="teacher_box",
        hard_labels=True,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(soft_labels=dict(loss="mse")), "soft_labels.loss = 'mse'"),
        (dict(soft_labels=dict(gama=2.0)), "did you mean soft_labels.gamma"),
        (dict(soft_labels=dict(gamma=-1.0)), "soft_labels.gamma = -1.0"),
        (dict(soft_labels=dict(iou_threshold=1.0)), "soft_labels.iou_threshold = 1.0"),
        (dict(soft_labels=dict(selection="gt")), "soft_labels.selection = 'gt'"),
        (dict(soft_labels=dict(hard_labels=False)), "name a frozen network"),
        (
            dict(soft_labels=dict(hard_labels=False), switch=dict(criterion="fixed", teacher="b")),
            "name a frozen network",
        ),
        (dict(switch=dict(criterion="self")), "soft_labels with switch.criterion = 'self'"),
    ],
)
def test_contradictions_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(**changes)


def test_soft_labels_are_part_of_the_digest() -> None:
    assert config().digest() != config(soft_labels=None).digest()
    assert config().digest() != config(soft_labels=dict(gamma=2.0)).digest()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("loss", ["kl", "l1", "l2"])
def test_switches_of_table_2_are_fields(loss: str, gamma: float) -> None:
    """Alone (soft label) and with LAD (SoLAD)."""
    for file in ("soft_labels_shapes.py", "solad_shapes.py"):
        found = load_config(
            TINY / file, [f"soft_labels.loss={loss}", f"soft_labels.gamma={gamma}"]
        ).soft_labels
        assert found is not None and (found.loss, found.gamma) == (loss, gamma)
        assert found.hard_labels == (file == "solad_shapes.py")


# -- whole runs -----------------------------------------------------------------------------------

Run = Callable[..., CoTrainer]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture
def run(root: Path, tmp_path: Path) -> Run:
    def go(config: str, networks: str, *overrides: str, name: str = "run") -> CoTrainer:
        small = [item for item in SMALL if not item.startswith("networks.")]
        narrow = [
            f"networks.{network}.model.{field}"
            for network in networks.split()
            for field in (
                "backbone.base_channels=8",
                "backbone.depth=18",
                "neck.in_channels=[8, 16, 32, 64]",
            )
        ]
        loaded = load_config(
            TINY / config,
            [f"data.root={root}", *small, *narrow, "train.max_iterations=3", *overrides],
        )
        return run_locally(loaded, tmp_path / name)

    return go


@pytest.fixture
def teacher(run: Run, tmp_path: Path) -> str:
    """Override that names a checkpoint for the network ``teacher``."""
    from orchestrator.export import export_network

    run("paa_shapes.py", "r18", name="teacher")
    _, weights = export_network(tmp_path / "teacher", "r18", tmp_path / "exported")
    return f"networks.teacher.checkpoint={weights}"


def log_of(path: Path) -> Any:
    return read_log(path, "iterations")


def losses_in(log: Any) -> set[str]:
    return {name for name in log.columns if name.startswith("loss_") and log[name].notna().any()}


def test_solad_adds_three_losses(run: Run, teacher: str, tmp_path: Path) -> None:
    run("solad_shapes.py", "teacher student", teacher)
    log = log_of(tmp_path / "run")
    assert {"loss_cls", "loss_bbox", "loss_iou"} | SOFT_LOSSES <= losses_in(log)
    assert set(log["network"]) == {"student"} and (log["taught_teacher"] == 1).all()
    assert (log[list(SOFT_LOSSES)] > 0).all().all()


def test_soft_labels_alone_have_no_hard_loss(run: Run, teacher: str, tmp_path: Path) -> None:
    run("soft_labels_shapes.py", "teacher student", teacher, "log.assignments_interval=1")
    log = log_of(tmp_path / "run")
    assert losses_in(log) - {"loss_total"} == SOFT_LOSSES
    assert (log["num_pos"] == 0).all()


@pytest.mark.parametrize("loss", ["l1", "l2"])
def test_other_losses_train(run: Run, teacher: str, tmp_path: Path, loss: str) -> None:
    run("solad_shapes.py", "teacher student", teacher, f"soft_labels.loss={loss}")
    assert np.isfinite(log_of(tmp_path / "run")["loss_total"]).all()


def test_colad_with_soft_labels(run: Run, tmp_path: Path) -> None:
    run("colad_soft_shapes.py", "r18 r34", "log.assignments_interval=1")
    log = log_of(tmp_path / "run")
    assert SOFT_LOSSES <= losses_in(log)
    # Each image has one best network, which the other one imitates.
    images = log.groupby("iteration")["soft_images"].sum()
    assert ((0 < images) & (images <= 4)).all()


def test_lad_switch_with_soft_labels(run: Run, teacher: str, tmp_path: Path) -> None:
    run("lad_switch_shapes.py", "teacher student", teacher, "soft_labels.gamma=0.5")
    log = log_of(tmp_path / "run")
    assert SOFT_LOSSES <= losses_in(log) and (log["soft_images"] <= 4).all()


def test_a_teacher_that_learns_imitates_nobody(run: Run, tmp_path: Path) -> None:
    run(
        "colad_shapes.py",
        "r18 r34",
        "switch={'_delete_': True, 'criterion': 'fixed', 'teacher': 'r34'}",
        "soft_labels.gamma=0.5",
    )
    log = log_of(tmp_path / "run")
    by_network = {name: rows for name, rows in log.groupby("network")}
    assert by_network["r34"]["loss_soft_cls"].isna().all()
    assert (by_network["r18"]["loss_soft_cls"] > 0).all()


def test_a_cop_network_teaches_and_learns(run: Run, tmp_path: Path) -> None:
    """Probabilities on one side, logits on the other; soft labels cross both ways."""
    run("colad_cop_shapes.py", "r18 r34", "soft_labels.gamma=0.5")
    log = log_of(tmp_path / "run")
    assert SOFT_LOSSES <= losses_in(log) and np.isfinite(log["loss_total"]).all()


def test_quality_of_another_kind_is_refused(run: Run, tmp_path: Path) -> None:
    fields = ("soft_labels.gamma=0.5", "networks.r34.model.bbox_head.aux_iou=none")
    with pytest.raises(ConfigError, match=r"imitates 'r\d\d': .* set soft_labels.iou_weight=0"):
        run("colad_cop_shapes.py", "r18 r34", *fields, "train.max_iterations=10")
    run("colad_cop_shapes.py", "r18 r34", *fields, "soft_labels.iou_weight=0.0", name="without")


# -- export of COP --------------------------------------------------------------------------------


def test_a_cop_network_is_not_exported_to_mmdet(run: Run, tmp_path: Path) -> None:
    from orchestrator.export import export_network

    run("paa_cop_shapes.py", "r18", name="first")
    with pytest.raises(ModelError, match="'r18' cannot be exported .*cop.*r18-rank0.pt"):
        export_network(tmp_path / "first", "r18", tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


def test_a_cop_network_starts_another_run_from_its_checkpoint(run: Run, tmp_path: Path) -> None:
    run("paa_cop_shapes.py", "r18", name="first")
    (part,) = (tmp_path / "first" / "checkpoints").glob("*/r18-rank0.pt")
    trainer: Any = run(
        "lad_cop_shapes.py",
        "teacher student",
        f"networks.teacher.checkpoint={part}",
        "networks.teacher.model.bbox_head.aux_cop=True",
    )
    saved = final_weights(tmp_path / "first")["r18"]
    loaded = trainer.networks[0].network.detector.state_dict()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)
