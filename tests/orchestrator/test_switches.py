"""Every switch of the papers' tables is a field of a configuration, which builds and learns.

Names are those of the tables (with the method, where two methods have one name). What is not built
stands in docs/methods.md with its reason, and below in ``NOT_BUILT``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from assigners import build_assigner
from orchestrator.config_file import load_config
from orchestrator.local_run import run_locally
from tests.support.runs import ROOT, SMALL
from tests.support.steps import (
    build_networks,
    noise_batch,
    take_steps,
    tiny_config,
    with_random_teachers,
)

Overrides = tuple[str, ...]
BACKBONE, HEAD = "networks.r18.model.backbone", "networks.r18.model.bbox_head"
R50 = (f"{BACKBONE}.depth=50", "networks.r18.model.neck.in_channels=[32, 64, 128, 256]")
DCN = (  # mmdet has it for bottlenecks, not for the basic blocks of the tiny presets
    *R50,
    f"{BACKBONE}.dcn={{'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}}",
    f"{BACKBONE}.stage_with_dcn=(False, True, True, True)",
)
PAIR = ("networks.teacher.model.bbox_head", "networks.student.model.bbox_head")


def assigner(**fields: Any) -> Overrides:
    return tuple(f"assigner.{name}={value}" for name, value in fields.items())


def each(name: str, *values: Any) -> list[Overrides]:
    return [assigner(**{name: value}) for value in values]


def head(**fields: Any) -> Overrides:
    return tuple(f"{HEAD}.{name}={value}" for name, value in fields.items())


# Numbers: the ends of what the papers try; tests/tune_spaces builds every line of their tables.
# Stem of configs/tiny/*_shapes.py -> name in the tables -> overrides of each setting.
SWITCHES: dict[str, dict[str, list[Overrides]]] = {
    "paa": {
        "assigner": [()],
        "head": [()],  # retina: one anchor per location, with the IoU branch
        "backbone": [(f"{BACKBONE}.depth=34",), R50],
        "dcn": [DCN],
        "aux_iou": [head(aux_iou=kind) for kind in ("none", "train_only", "train_and_test")],
        "aux_cop": [
            head(aux_cop=True, aux_iou=kind) for kind in ("none", "train_only", "train_and_test")
        ],
        "aux_iop": [
            *(
                head(aux_iop=True, aux_iou=kind)
                for kind in ("none", "train_only", "train_and_test")
            ),
            head(aux_iop=True, iop_floor=False),
        ],
        "distill": [()],  # none
    },
    "dw": {
        "assigner": [()],
        "head": [()],  # fcos
        "box_refine": [head(box_refine=value) for value in (True, False)],
        "objectness": [head(objectness=kind) for kind in ("implicit", "none")],
        "candidate_bag": [
            *(assigner(candidate_bag="threshold", radius=r) for r in (1, 2.5)),
            *(assigner(candidate_bag="topk", k=k) for k in (9, 15)),
            assigner(candidate_bag="soft_center_prior"),
        ],
        "beta": each("beta", 3, 7),
        "mu": each("mu", 3, 8),
        "gamma_1": each("gamma_1", 1, 5),
        "gamma_2": each("gamma_2", 1, 3),
        "reg_loss_weight": each("reg_loss_weight", 1, 2, 5),
        "w_neg": each("w_neg", "none", "p_neg", "i_neg", "one_minus_w_pos", "p_neg_times_i_neg"),
        "reading": each("reading", "released", "paper"),
    },
    "dw_tood": {"head": [()]},
    "ala": {
        "assigner": [()],
        "objectness": [head(objectness=kind) for kind in ("ipb", "implicit", "centerness", "none")],
        "confidence": each("confidence", True, False),
        "weight": each("weight", True, False),
        "use_p_cls": each("use_p_cls", True, False),
        "use_p_loc": each("use_p_loc", True, False),
        "combine": each("combine", "mul", "add"),
        "alpha": each("alpha", 0.2, 0.8, 1.4),
        "beta": each("beta", 0, 0.6, 1),
        "beta_applies_to": each("beta_applies_to", "cls", "loc"),
        "loc_likelihood": each("loc_likelihood", "consistent", "literal", "loss"),
        "center_weight": each("center_weight", True, False),
        "property_map": each("property_map", True, False),
        "shape_blur": [head(shape_blur=value) for value in (True, False)],
        "center_prior": [head(center_prior=kind) for kind in ("fixed", "shared", "category")],
        "center_params": [
            head(center_params=kind, center_prior=prior)
            for kind in ("table", "predicted")
            for prior in ("shared", "category")
        ],
        "ps3": each("ps3", True, False),
        "positive_threshold": each("positive_threshold", "adaptive", 0.3, 0.5, 0.7),
        "soft_label": each("soft_label", "adaptive", 0.3, 0.7, 1.0),
        "loss_hard_pos": each("loss_hard_pos", True, False),
        "loss_soft_pos": each("loss_soft_pos", True, False),
        "loss_neg": each("loss_neg", True, False),
        "one_to_one": each("one_to_one", True, False),
    },
    "autoassign": {
        "assigner": [()],
        "objectness": [head(objectness=kind) for kind in ("implicit", "explicit", "none")],
        "center_prior": [
            head(center_prior=kind) for kind in ("none", "fixed", "shared", "category")
        ],
        "center_weighting": each("center_weighting", True, False),
        "confidence_weighting": each("confidence_weighting", True, False),
        "negative_weighting": [
            *each("negative_weighting", True, False),
            assigner(center_weighting=False, confidence_weighting=False, negative_weighting=False),
        ],
        "confidence": each("confidence", "cls", "loc", "joint"),
        "tau": each("tau", 1 / 3, 0.5),
        "lambda": each("lambda_", 5, 1),
        "detach_weights": each("detach_weights", True, False),
        "weights_on": [
            *each("weights_on", "score", "loss"),
            assigner(weights_on="loss", detach_weights=True),
        ],
    },
    "musu": {
        "assigner": [()],
        "num_anchors": [head(num_anchors=count) for count in (1, 2, 3, 4, 5)],
        "dcn_last_head_layer": [head(dcn_on_last_conv=True)],
        "objectness": [head(objectness=kind) for kind in ("implicit", "none")],
        "criterion": each("criterion", "p_both", "q_both", "mutual"),
        "alpha": each("alpha", 1, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 0),
        "b": each("b", 0.2, 0.1, 0.05),
        "theta": each("theta", 4, 2),
        "beta": each("beta", 4, 2),
        "temperature": [
            assigner(temperature="fixed", tau_cls=5.0, tau_reg=2.5),
            assigner(temperature="fixed", tau_cls=10.0, tau_reg=5.0),
            assigner(temperature="sqrt_bag_size"),
        ],
        "tau_ratio": each("tau_ratio", 1, 1.5, 2, 3),
        "targets": each("targets", "soft", "hard"),
    },
    "lad": {
        "distill": [()],
        "teacher": [
            ("networks.teacher.preset=tiny_r18", "networks.student.preset=tiny_r34"),  # smaller
            (f"{PAIR[0]}.aux_cop=True",),
            (f"{PAIR[1]}.aux_cop=True",),
            ("networks.student.model.backbone.depth=34",),
        ],
        "text": [  # LAD, eq. 2 and sec. 3.2 as printed
            (
                *assigner(box_cost="iou", reg_weight=1.0, cut="mean", low_quality=False),
                f"{PAIR[1]}.weigh_taught_boxes=True",
            )
        ],
        "teacher_init": [()],  # a checkpoint; without one: the learner of colad
        "dynamic_switch": [
            ("switch={'_delete_': True, 'criterion': 'std_mean'}",),
            ("switch={'_delete_': True, 'criterion': 'fisher'}",),
        ],
    },
    "colad": {
        "distill": [()],
        "switch_criterion": [
            (f"switch.criterion={criterion}", f"switch.scope={scope}")
            for criterion in ("std_mean", "fisher")
            for scope in ("gt_level", "gt", "image", "iteration")
        ],
        "train_teacher": [
            (),
            ("switch={'_delete_': True, 'criterion': 'fixed', 'teacher': 'r34'}",),
        ],
    },
    "soft_labels": {
        "distill": [()],
        "soft_loss": [(f"soft_labels.loss={kind}",) for kind in ("kl", "l1", "l2")],
        "kl_gamma": [(f"soft_labels.gamma={gamma}",) for gamma in (0, 0.5, 2)],
        "soft_box_iou_thr": [
            ("soft_labels.iou_threshold=0.5", "soft_labels.box_weight=1.3"),
            ("soft_labels.iou_threshold=0.1", "soft_labels.box_weight=2.0"),
        ],
    },
    "solad": {"distill": [()], "soft_loss": [("soft_labels.loss=l2",)]},
    "colad_soft": {"distill": [()]},
}

ELSEWHERE = {
    "schedule": "test_settings_of_a_run",
    "train_scales": "test_settings_of_a_run",
    "nms": "test_settings_of_a_run",
    "seed": "test_settings_of_a_run",
    "warmup_iters": "test_settings_of_a_run",
    "dataset": "test_settings_of_a_run",
    "multi_scale_test": "tests/orchestrator/test_multi_scale.py: an option of colad eval",
    "student_init": "test_a_learner_starts_from_a_checkpoint",
}
"""Switches that need more than a step on noise, and the test that has them."""

NOT_BUILT = {
    "weights": "DW's table 1 lists other authors' weights",
    "soft_label_strategy": "ALA's table XII compares with two other authors",
}
"""With their reasons in docs/methods.md."""

CASES = [
    pytest.param(stem, overrides, id=f"{stem}-{name}-{index}")
    for stem, switches in SWITCHES.items()
    for name, settings in switches.items()
    for index, overrides in enumerate(settings)
]


@pytest.mark.parametrize(("stem", "overrides"), CASES)
def test_a_setting_learns(stem: str, overrides: Overrides, tmp_path: Path) -> None:
    """Built from its configuration; each learner takes a step that moves all its parameters."""
    config = with_random_teachers(tiny_config(stem, overrides), tmp_path)
    networks = build_networks(config)
    before = {
        name: [p.detach().clone() for p in network.detector.parameters()]
        for name, network in networks.items()
    }
    (record,) = take_steps(networks, [noise_batch((2, 0, 1))])
    assert set(record) == set(config.learners)
    for name, result in record.items():
        assert result.losses and all(value == value for value in result.losses.values())
        after = list(networks[name].detector.parameters())
        assert all(bool(parameter.isfinite().all()) for parameter in after)
        assert any(not torch.equal(old, new) for old, new in zip(before[name], after))


def test_settings_reach_the_assigner() -> None:
    """An override that nothing reads would pass above."""
    for stem, switches in SWITCHES.items():
        for overrides in (o for settings in switches.values() for o in settings):
            built = build_assigner(tiny_config(stem, overrides).assigner)
            for item in overrides:
                field, _, text = item.partition("=")
                if field.startswith("assigner."):
                    value = getattr(built, field.removeprefix("assigner."))
                    assert str(value) == text


def test_a_network_that_reads_others_counts_as_taught(tmp_path: Path) -> None:
    """LAD's box loss weighs positives alike; ``weigh_taught_boxes`` is without effect alone."""
    box_loss = {}
    for stem, path, name in (("lad", PAIR[1], "student"), ("paa", HEAD, "r18")):
        for weigh in (False, True):
            config = tiny_config(stem, [f"{path}.weigh_taught_boxes={weigh}"])
            networks = build_networks(with_random_teachers(config, tmp_path))
            (record,) = take_steps(networks, [noise_batch((2, 0, 1))])
            box_loss[stem, weigh] = record[name].losses["loss_bbox"]
    assert box_loss["lad", False] != box_loss["lad", True]
    assert box_loss["paa", False] == box_loss["paa", True]


def test_settings_of_a_run(tmp_path: Path) -> None:
    """Schedule by epochs, long warm-up, several training scales, a seed, own files, no NMS."""
    from orchestrator.data.shapes import make_shapes

    root = make_shapes(tmp_path / "own", train=8, val=4, size=64)
    scales = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
    scales += [dict(type="RandomChoiceResize", scales=[(64, 64), (48, 48)], keep_ratio=True)]
    warm_up = dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=3000)
    steps = dict(type="MultiStepLR", by_epoch=True, begin=0, end=2, milestones=[1], gamma=0.1)
    config = load_config(
        ROOT / "configs/tiny/ala.py",
        [
            *(item for item in SMALL if item.startswith("networks.r18")),
            f"data.root={root}",
            "data.images=images",
            f"data.train_pipeline={[*scales, dict(type='PackDetInputs')]}",
            "train.max_iterations=None",
            "train.max_epochs=2",
            "train.batch_size=4",
            f"train.param_scheduler={[warm_up, steps]}",
            "evaluation.interval=None",
            "assigner.one_to_one=True",
            "networks.r18.model.test_cfg.nms=None",
            "networks.r18.model.test_cfg.score_thr=0.0",
            "seed=3",
        ],
    )
    trainer = run_locally(config, tmp_path / "run")
    assert trainer.iteration == 4 and set(trainer.evaluations) == {"r18"}
    network: Any = trainer.networks[0]
    detector = network.network.detector
    (detections,) = network.predict()
    kept = detections.image_id == detections.image_id[0]
    assert detector.test_cfg.nms is None and kept.sum() == detector.test_cfg.max_per_img


def test_a_learner_starts_from_a_checkpoint(tmp_path: Path) -> None:
    """student_init: any network of a run may, learner or not."""
    frozen = with_random_teachers(tiny_config("lad", ["seed=8"]), tmp_path)
    path = frozen.networks["teacher"].checkpoint
    config = tiny_config("paa", [f"networks.r18.checkpoint={path}"])
    (teacher, student) = (
        build_networks(frozen)["teacher"].detector,
        build_networks(config)["r18"].detector,
    )
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), student.parameters()))


def names_of_the_tables() -> set[str]:
    path = ROOT.parent / "shared" / "papers" / "TABLES.md"
    if not path.is_file():
        pytest.skip("the papers' tables (shared/papers/TABLES.md) are not here")
    text = path.read_text(encoding="utf-8")
    part = text[text.index("# Consolidated switches") : text.index("# Doubts")]
    names = {name for line in part.splitlines() for name in re.findall(r"`([a-z]\w*)`", line)}
    assert {"assigner", "w_neg", "train_teacher"} <= names
    return names


def test_no_switch_of_the_tables_is_left_out() -> None:
    here = {name for switches in SWITCHES.values() for name in switches}
    assert names_of_the_tables() - here - set(ELSEWHERE) - set(NOT_BUILT) == set()


def test_what_is_not_built_is_documented() -> None:
    page = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for name in NOT_BUILT:
        assert f"`{name}`" in page
