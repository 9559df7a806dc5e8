"""The ablation tables of AutoAssign: settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space

HEAD = "networks.*.model.bbox_head"

TABLES: tuple[Space, ...] = (
    Space(
        id="autoassign-table2",
        paper="autoassign",
        title="centre and confidence weighting on/off",
        base="autoassign",
        fields={
            "center_weighting": "assigner.center_weighting",
            "confidence_weighting": "assigner.confidence_weighting",
        },
        rows=(
            Row(
                set={
                    "assigner.center_weighting": False,
                    "assigner.confidence_weighting": False,
                    "assigner.negative_weighting": False,
                },
                paper={
                    "AP": 17.7,
                    "AP50": 30.9,
                    "AP75": 18.1,
                    "AP_S": 15.7,
                    "AP_M": 24.2,
                    "AP_L": 23.3,
                },
            ),
            Row(
                set={"assigner.center_weighting": False, "assigner.confidence_weighting": True},
                paper={
                    "AP": 21.5,
                    "AP50": 35.8,
                    "AP75": 22.6,
                    "AP_S": 16.6,
                    "AP_M": 28.9,
                    "AP_L": 36.0,
                },
            ),
            Row(
                set={"assigner.center_weighting": True, "assigner.confidence_weighting": False},
                paper={
                    "AP": 37.7,
                    "AP50": 57.4,
                    "AP75": 40.6,
                    "AP_S": 20.3,
                    "AP_M": 41.4,
                    "AP_L": 52.0,
                },
            ),
            Row(
                set={"assigner.center_weighting": True, "assigner.confidence_weighting": True},
                paper={
                    "AP": 40.5,
                    "AP50": 59.8,
                    "AP75": 43.9,
                    "AP_S": 23.1,
                    "AP_M": 44.7,
                    "AP_L": 52.9,
                },
            ),
        ),
    ),
    Space(
        id="autoassign-table3",
        paper="autoassign",
        title="kinds of centre prior, whole set and five categories",
        base="autoassign",
        fields={"center_prior": f"{HEAD}.center_prior"},
        rows=(
            Row(set={f"{HEAD}.center_prior": "none"}, paper={"AP": 21.5}),
            Row(set={f"{HEAD}.center_prior": "fixed"}, paper={"AP": 40.3}),
            Row(set={f"{HEAD}.center_prior": "shared"}, paper={"AP": 40.2}),
            Row(set={f"{HEAD}.center_prior": "category"}, paper={"AP": 40.5}),
        ),
    ),
    Space(
        id="autoassign-table4",
        paper="autoassign",
        title="variants of confidence weighting",
        base="autoassign",
        fields={"confidence": "assigner.confidence", "objectness": ""},
        rows=(
            Row(
                set={"assigner.confidence": "cls", f"{HEAD}.objectness": "implicit"},
                paper={
                    "AP": 38.7,
                    "AP50": 59.9,
                    "AP75": 41.6,
                    "AP_S": 22.9,
                    "AP_M": 42.0,
                    "AP_L": 49.5,
                },
            ),
            Row(
                set={"assigner.confidence": "loc", f"{HEAD}.objectness": "implicit"},
                paper={
                    "AP": 39.7,
                    "AP50": 58.4,
                    "AP75": 43.1,
                    "AP_S": 22.4,
                    "AP_M": 43.6,
                    "AP_L": 51.6,
                },
                note="the branch stays in the score; the weighting cannot see it",
            ),
            Row(
                set={"assigner.confidence": "joint", f"{HEAD}.objectness": "none"},
                paper={
                    "AP": 39.4,
                    "AP50": 58.7,
                    "AP75": 42.5,
                    "AP_S": 22.4,
                    "AP_M": 43.5,
                    "AP_L": 50.7,
                },
            ),
            Row(
                set={"assigner.confidence": "joint", f"{HEAD}.objectness": "explicit"},
                paper={
                    "AP": 39.5,
                    "AP50": 58.8,
                    "AP75": 42.3,
                    "AP_S": 21.6,
                    "AP_M": 43.4,
                    "AP_L": 52.2,
                },
            ),
            Row(
                set={"assigner.confidence": "joint", f"{HEAD}.objectness": "implicit"},
                paper={
                    "AP": 40.5,
                    "AP50": 59.8,
                    "AP75": 43.9,
                    "AP_S": 23.1,
                    "AP_M": 44.7,
                    "AP_L": 52.9,
                },
            ),
        ),
    ),
    Space(
        id="autoassign-table5",
        paper="autoassign",
        title="ImpObj added to other detectors",
        base="autoassign",
        fields={"imp_obj": "", "method": ""},
        rows=(
            Row(
                paper={"AP": 35.9, "AP50": 55.9, "AP75": 38.2},
                skip="RetinaNet: another author's detector",
            ),
            Row(
                paper={"AP": 36.1, "AP50": 56.3, "AP75": 38.8},
                skip="RetinaNet: another author's detector",
            ),
            Row(
                paper={"AP": 38.8, "AP50": 57.6, "AP75": 42.2},
                skip="FCOS: another author's detector",
            ),
            Row(
                paper={"AP": 39.0, "AP50": 58.2, "AP75": 42.3},
                skip="FCOS: another author's detector",
            ),
            Row(
                paper={"AP": 38.3, "AP50": 57.1, "AP75": 41.2},
                skip="FreeAnchor: another author's detector",
            ),
            Row(
                paper={"AP": 38.5, "AP50": 57.6, "AP75": 41.5},
                skip="FreeAnchor: another author's detector",
            ),
            Row(
                paper={"AP": 39.3, "AP50": 57.8, "AP75": 42.6},
                skip="ATSS: another author's detector",
            ),
            Row(
                paper={"AP": 39.7, "AP50": 58.4, "AP75": 42.9},
                skip="ATSS: another author's detector",
            ),
            Row(set={f"{HEAD}.objectness": "none"}, paper={"AP": 39.4, "AP50": 58.7, "AP75": 42.5}),
            Row(
                set={f"{HEAD}.objectness": "implicit"},
                paper={"AP": 40.5, "AP50": 59.8, "AP75": 43.9},
            ),
        ),
    ),
)
