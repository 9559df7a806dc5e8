"""Every method on two ranks, of which one has no GT in its batch.

``python -m tests.orchestrator.rank_cases RANK ADDRESS FOLDER CASE...`` is one of the two ranks: it
trains the networks of each case and leaves ``FOLDER/CASE.RANK.json``.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from assigners.types import Step
from orchestrator.network import Network
from orchestrator.ranks import RankGroup
from tests.support.steps import (
    build_networks,
    noise_batch,
    take_steps,
    tiny_config,
    with_random_teachers,
)

HEADS = ("networks.r18.model.bbox_head.", "networks.r34.model.bbox_head.")

VARIANTS: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    # name: (config alone, config of two learners, fields of the head, fields of the assigner);
    # all that add or leave out a parameter, or a way by which the loss reaches one
    "paa": ("paa", "colad", {}, {}),
    "paa-no-iou": ("paa", "colad", {"aux_iou": "none"}, {}),
    "paa-cop": ("paa", "colad", {"aux_cop": True}, {}),
    "paa-cop-no-iou": ("paa", "colad", {"aux_cop": True, "aux_iou": "none"}, {}),
    "paa-iop": ("paa", "colad", {"aux_iop": True}, {}),
    "paa-iop-iou-in-training": ("paa", "colad", {"aux_iop": True, "aux_iou": "train_only"}, {}),
    "dw": ("dw", "dw_colad", {}, {}),
    "dw-refine": ("dw", "dw_colad", {"box_refine": True}, {}),
    "dw-deformable": ("dw", "dw_colad", {"dcn_on_last_conv": True}, {}),
    "dw-paper": ("dw", "dw_colad", {"objectness": "none"}, {"reading": "paper", "w_neg": "none"}),
    "dw-tood": ("dw_tood", "dw_colad", {}, {}),
    "autoassign": ("autoassign", "autoassign_colad", {}, {}),
    "autoassign-shared": ("autoassign", "autoassign_colad", {"center_prior": "shared"}, {}),
    "autoassign-fixed": ("autoassign", "autoassign_colad", {"center_prior": "fixed"}, {}),
    "autoassign-explicit": (
        "autoassign",
        "autoassign_colad",
        {"center_prior": "none", "objectness": "explicit"},
        {},
    ),
    "autoassign-no-objectness": ("autoassign", "autoassign_colad", {"objectness": "none"}, {}),
    "autoassign-no-weights": (
        "autoassign",
        "autoassign_colad",
        {},
        {"center_weighting": False, "confidence_weighting": False, "negative_weighting": False},
    ),
    "autoassign-detached": (
        "autoassign",
        "autoassign_colad",
        {},
        {"detach_weights": True, "weights_on": "loss"},
    ),
    "autoassign-no-center-loss": (
        "autoassign",
        "autoassign_colad",
        {},
        {"center_loss_weight": 0.0},
    ),
    "ala": ("ala", "ala_colad", {}, {}),
    "ala-printed": (
        "ala",
        "ala_colad",
        {},
        {"negative_map": "background", "normalizer": "split", "loc_likelihood": "literal"},
    ),
    "ala-implicit": ("ala", "ala_colad", {"objectness": "implicit", "center_params": "table"}, {}),
    "ala-centerness": (
        "ala",
        "ala_colad",
        {"objectness": "centerness", "center_prior": "shared"},
        {},
    ),
    "ala-no-objectness": ("ala", "ala_colad", {"objectness": "none", "center_prior": "fixed"}, {}),
    "ala-no-weight": ("ala", "ala_colad", {}, {"weight": False}),
    "ala-no-confidence": ("ala", "ala_colad", {"shape_blur": False}, {"confidence": False}),
    "ala-no-box": ("ala", "ala_colad", {}, {"use_p_loc": False, "center_weight": False}),
    "ala-no-class": ("ala", "ala_colad", {}, {"use_p_cls": False, "property_map": False}),
    "ala-one-to-one": ("ala", "ala_colad", {}, {"one_to_one": True, "loss_hard_pos": False}),
    "ala-hard-alone": ("ala", "ala_colad", {}, {"loss_soft_pos": False, "loss_neg": False}),
    "musu": ("musu", "musu_colad", {}, {}),
    "musu-three-anchors": ("musu", "musu_colad", {"num_anchors": 3}, {}),
    "musu-plain": ("musu", "musu_colad", {"objectness": "none"}, {"normaliser": "image"}),
}

IN_PAIRS = (
    "paa",
    "paa-no-iou",
    "paa-cop",
    "paa-iop",
    "dw",
    "dw-refine",
    "dw-tood",
    "autoassign",
    "autoassign-explicit",
    "autoassign-detached",
    "ala",
    "ala-implicit",
    "ala-centerness",
    "ala-no-objectness",
    "musu",
    "musu-three-anchors",
)
"""Variants that two learners of one run train as well, each taught by the other."""

TAUGHT: dict[str, tuple[str, list[str]]] = {
    "lad": ("lad", []),
    "lad-cop": ("lad_cop", []),
    "lad-switch": ("lad_switch", []),
    "lad-dw": ("dw_lad", []),
    "lad-autoassign": ("autoassign_lad", []),
    "lad-ala": ("ala_lad", []),
    "lad-musu": ("musu_lad", []),
    "soft-labels": ("soft_labels", []),
    "solad": ("solad", []),
    "solad-cop": ("solad", ["networks.student.model.bbox_head.aux_cop=True"]),
    "solad-dw": ("dw_lad", ["soft_labels.gamma=0.5"]),
    "soft-labels-ala": ("ala_lad", ["soft_labels.hard_labels=False", "soft_labels.iou_weight=0"]),
    "soft-labels-dw": (
        "dw_lad",
        ["soft_labels.hard_labels=False", "networks.student.model.bbox_head.box_refine=True"],
    ),
    "soft-labels-autoassign": ("autoassign_lad", ["soft_labels.hard_labels=False"]),
    "soft-labels-autoassign-explicit": (
        "autoassign_lad",
        [
            "soft_labels.hard_labels=False",
            "soft_labels.iou_weight=0",
            "networks.student.model.bbox_head.objectness=explicit",
        ],
    ),
    "soft-labels-ala-centerness": (
        "ala_lad",
        [
            "soft_labels.hard_labels=False",
            "soft_labels.iou_weight=0",
            "networks.student.model.bbox_head.objectness=centerness",
        ],
    ),
    "soft-labels-musu": ("musu_lad", ["soft_labels.hard_labels=False"]),
    "colad-soft": ("colad_soft", []),
    "colad-soft-autoassign": ("autoassign_colad", ["soft_labels.loss=l1"]),
    "colad-heads": ("dw_colad", ["networks.r34.preset=tiny_dw_tood_r18"]),
}


def cases() -> dict[str, tuple[str, list[str]]]:
    """Name -> configuration and overrides: variants alone, some in two learners, and the rest."""
    made: dict[str, tuple[str, list[str]]] = dict(TAUGHT)
    for name, (alone, pair, head, assigner) in VARIANTS.items():
        common = [f"assigner.{field}={value}" for field, value in assigner.items()]
        fields = [[f"{at}{field}={value}" for field, value in head.items()] for at in HEADS]
        made[f"{name}, alone"] = (alone, [*common, *fields[0]])
        presets = [f"networks.{n}.preset=tiny_dw_tood_r18" for n in ("r18", "r34")]
        tood = presets if name == "dw-tood" else []
        if name in IN_PAIRS:
            made[f"{name}, two learners"] = (pair, [*common, *fields[0], *fields[1], *tood])
    return made


def run_case(name: str, rank: int, group: RankGroup, folder: Path) -> dict[str, Any]:
    """Losses and digests of the weights, after a step with GTs on one rank and one without any."""
    stem, overrides = cases()[name]
    config = tiny_config(stem, [*overrides, "resources.ranks=2"])
    config = with_random_teachers(config, folder)
    networks = build_networks(config, group, rank)
    before = {name: digest(network) for name, network in networks.items()}
    full, empty = noise_batch((2, 0), seed=1), noise_batch((0, 0), seed=2)
    records = take_steps(networks, [full if rank == 0 else empty, empty])
    for network in networks.values():  # here DDP reports parameters that the step before left out
        network.begin_step(full, Step(iteration=2, max_iterations=3))
    return dict(
        losses=[{n: sum(r.losses.values()) for n, r in step.items()} for step in records],
        finite=[
            name
            for name, network in networks.items()
            if all(bool(p.isfinite().all()) for p in network.detector.parameters())
        ],
        moved=[name for name, network in networks.items() if digest(network) != before[name]],
        weights={name: digest(network) for name, network in networks.items()},
        learners=[name for name, network in networks.items() if network.learner],
        networks=list(networks),
    )


def digest(network: Network) -> str:
    """Of all parameters, bit for bit."""
    total = hashlib.sha256()
    for parameter in network.detector.parameters():
        total.update(parameter.detach().numpy().tobytes())
    return total.hexdigest()


def main(rank: int, address: str, folder: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    group = RankGroup(rank, 2, address, torch.device("cpu"))
    (folder / str(rank)).mkdir(exist_ok=True)
    for name in names:
        try:
            result = run_case(name, rank, group, folder / str(rank))
        except Exception as error:  # the other rank may wait for this one: it is ended from outside
            result = dict(error=f"{type(error).__name__}: {error}")
        temporary = folder / f"{rank}.tmp"
        temporary.write_text(json.dumps(result))
        temporary.rename(folder / f"{name}.{rank}.json")
        if "error" in result:
            sys.exit(1)
    group.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
