"""A continuous search around the defaults of every method."""

from __future__ import annotations

from tune_spaces.space import Choice, Range, SearchSpace

SEARCHES: tuple[SearchSpace, ...] = (
    SearchSpace(
        id="paa-search",
        title="PAA: bags and cost",
        base="paa",
        domains={
            "assigner.topk": Choice(values=(5, 7, 9, 12, 15)),
            "assigner.iou_threshold": Range(low=0.05, high=0.3),
            "assigner.reg_weight": Range(low=0.5, high=3.0, log=True),
        },
    ),
    SearchSpace(
        id="colad-search",
        title="CoLAD: who decides, and on what",
        base="colad",
        domains={
            "switch.criterion": Choice(values=("std_mean", "fisher")),
            "assigner.topk": Choice(values=(5, 7, 9, 12, 15)),
            "assigner.reg_weight": Range(low=0.5, high=3.0, log=True),
        },
    ),
    SearchSpace(
        id="solad-search",
        title="SoLAD: the soft labels' loss",
        base="solad",
        domains={
            "soft_labels.gamma": Range(low=0.0, high=2.0),
            "soft_labels.cls_weight": Range(low=0.3, high=10.0, log=True),
        },
    ),
    SearchSpace(
        id="dw-search",
        title="DW: exponents of both weights",
        base="dw",
        domains={
            "assigner.beta": Range(low=3.0, high=7.0),
            "assigner.mu": Range(low=3.0, high=8.0),
            "assigner.gamma_1": Range(low=1.0, high=5.0),
            "assigner.gamma_2": Range(low=1.0, high=3.0),
        },
    ),
    SearchSpace(
        id="autoassign-search",
        title="AutoAssign: temperature and balance",
        base="autoassign",
        domains={
            "assigner.tau": Range(low=0.2, high=1.0, log=True),
            "assigner.lambda_": Range(low=2.0, high=8.0),
            "assigner.pos_loss_weight": Range(low=0.1, high=0.5),
        },
    ),
    SearchSpace(
        id="ala-search",
        title="ALA: exponents of the confidence",
        base="ala",
        domains={
            "assigner.alpha": Range(low=0.2, high=1.4),
            "assigner.beta": Range(low=0.2, high=0.8),
        },
    ),
    SearchSpace(
        id="musu-search",
        title="MuSu: bag, ranking and temperatures",
        base="musu",
        domains={
            "assigner.b": Range(low=0.02, high=0.3, log=True),
            "assigner.alpha": Range(low=0.0, high=1.0),
            "assigner.tau_ratio": Range(low=1.0, high=3.0),
            "assigner.theta": Range(low=2.0, high=6.0),
        },
    ),
)
