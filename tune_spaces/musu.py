"""The ablation tables of MuSu (Mutual Supervision): settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space

HEAD = "networks.*.model.bbox_head"

TABLES: tuple[Space, ...] = (
    Space(
        id="musu-table1",
        paper="musu",
        title="criterion values for the two heads",
        base="musu",
        fields={"criterion": "assigner.criterion", "alpha_value": "assigner.alpha", "assigner": ""},
        rows=(
            Row(
                paper={
                    "AP": 36.5,
                    "AP50": 55.7,
                    "AP75": 38.3,
                    "AP_S": 21.2,
                    "AP_M": 40.3,
                    "AP_L": 48.1,
                },
                skip="FCOS is not a method of this project",
            ),
            Row(
                paper={
                    "AP": 38.6,
                    "AP50": 57.2,
                    "AP75": 41.7,
                    "AP_S": 22.4,
                    "AP_M": 42.4,
                    "AP_L": 50.2,
                },
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={"assigner.criterion": "p_both"},
                paper={
                    "AP": 38.3,
                    "AP50": 60.0,
                    "AP75": 40.5,
                    "AP_S": 22.8,
                    "AP_M": 41.5,
                    "AP_L": 49.3,
                },
            ),
            Row(
                set={"assigner.criterion": "q_both"},
                paper={
                    "AP": 31.8,
                    "AP50": 49.9,
                    "AP75": 33.7,
                    "AP_S": 15.0,
                    "AP_M": 34.9,
                    "AP_L": 45.2,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 1.0},
                paper={
                    "AP": 40.4,
                    "AP50": 59.6,
                    "AP75": 43.9,
                    "AP_S": 23.5,
                    "AP_M": 43.5,
                    "AP_L": 53.7,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 0.5},
                paper={
                    "AP": 40.3,
                    "AP50": 59.1,
                    "AP75": 43.8,
                    "AP_S": 23.1,
                    "AP_M": 43.7,
                    "AP_L": 53.5,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 0.333333},
                paper={
                    "AP": 40.6,
                    "AP50": 58.9,
                    "AP75": 44.3,
                    "AP_S": 23.0,
                    "AP_M": 44.0,
                    "AP_L": 54.2,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 0.25},
                paper={
                    "AP": 40.5,
                    "AP50": 58.9,
                    "AP75": 43.8,
                    "AP_S": 23.4,
                    "AP_M": 44.2,
                    "AP_L": 53.6,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 0.166667},
                paper={
                    "AP": 40.4,
                    "AP50": 59.0,
                    "AP75": 43.6,
                    "AP_S": 22.5,
                    "AP_M": 44.2,
                    "AP_L": 53.9,
                },
            ),
            Row(
                set={"assigner.criterion": "mutual", "assigner.alpha": 0.0},
                paper={
                    "AP": 38.5,
                    "AP50": 57.5,
                    "AP75": 41.4,
                    "AP_S": 20.9,
                    "AP_M": 42.9,
                    "AP_L": 52.4,
                },
            ),
        ),
    ),
    Space(
        id="musu-table2",
        paper="musu",
        title="bag threshold coefficient",
        base="musu",
        fields={"b": "assigner.b"},
        rows=(
            Row(
                set={"assigner.b": 0.2},
                paper={
                    "AP": 40.3,
                    "AP50": 58.8,
                    "AP75": 43.7,
                    "AP_S": 22.8,
                    "AP_M": 43.4,
                    "AP_L": 53.4,
                },
            ),
            Row(
                set={"assigner.b": 0.1},
                paper={
                    "AP": 40.6,
                    "AP50": 58.9,
                    "AP75": 44.3,
                    "AP_S": 23.0,
                    "AP_M": 44.0,
                    "AP_L": 54.2,
                },
            ),
            Row(
                set={"assigner.b": 0.05},
                paper={
                    "AP": 40.4,
                    "AP50": 58.9,
                    "AP75": 43.7,
                    "AP_S": 23.5,
                    "AP_M": 43.8,
                    "AP_L": 54.0,
                },
            ),
        ),
    ),
    Space(
        id="musu-table3",
        paper="musu",
        title="fixed vs adaptive temperature",
        base="musu",
        fields={
            "temperature": "assigner.temperature",
            "tau_cls": "assigner.tau_cls",
            "tau_reg": "assigner.tau_reg",
        },
        rows=(
            Row(
                set={
                    "assigner.temperature": "fixed",
                    "assigner.tau_cls": 10.0,
                    "assigner.tau_reg": 5.0,
                },
                paper={
                    "AP": 40.1,
                    "AP50": 58.5,
                    "AP75": 43.3,
                    "AP_S": 22.2,
                    "AP_M": 43.4,
                    "AP_L": 53.7,
                },
            ),
            Row(
                set={
                    "assigner.temperature": "fixed",
                    "assigner.tau_cls": 5.0,
                    "assigner.tau_reg": 2.5,
                },
                paper={
                    "AP": 39.9,
                    "AP50": 58.5,
                    "AP75": 43.4,
                    "AP_S": 22.1,
                    "AP_M": 43.5,
                    "AP_L": 53.2,
                },
            ),
            Row(
                set={"assigner.temperature": "sqrt_bag_size"},
                paper={
                    "AP": 40.6,
                    "AP50": 58.9,
                    "AP75": 44.3,
                    "AP_S": 23.0,
                    "AP_M": 44.0,
                    "AP_L": 54.2,
                },
            ),
        ),
    ),
    Space(
        id="musu-table4",
        paper="musu",
        title="ratio of the two temperatures",
        base="musu",
        fields={"tau_cls_over_tau_reg": "assigner.tau_ratio"},
        rows=(
            Row(set={"assigner.tau_ratio": 1.0}, paper={"AP": 40.4, "AP50": 58.6, "AP75": 44.0}),
            Row(set={"assigner.tau_ratio": 1.5}, paper={"AP": 40.6, "AP50": 58.9, "AP75": 44.1}),
            Row(set={"assigner.tau_ratio": 2.0}, paper={"AP": 40.6, "AP50": 58.9, "AP75": 44.3}),
            Row(set={"assigner.tau_ratio": 3.0}, paper={"AP": 40.2, "AP50": 59.0, "AP75": 43.7}),
        ),
    ),
    Space(
        id="musu-table5",
        paper="musu",
        title="number of anchors per location",
        base="musu",
        fields={"alpha_value": "assigner.alpha", "num_anchors": f"{HEAD}.num_anchors"},
        rows=(
            Row(
                set={"assigner.alpha": 1.0, f"{HEAD}.num_anchors": 1},
                paper={
                    "AP": 40.4,
                    "AP50": 59.6,
                    "AP75": 43.9,
                    "AP_S": 23.5,
                    "AP_M": 43.5,
                    "AP_L": 53.7,
                },
            ),
            Row(
                set={"assigner.alpha": 1.0, f"{HEAD}.num_anchors": 2},
                paper={
                    "AP": 40.4,
                    "AP50": 59.6,
                    "AP75": 44.1,
                    "AP_S": 23.7,
                    "AP_M": 43.4,
                    "AP_L": 53.6,
                },
            ),
            Row(
                set={"assigner.alpha": 1.0, f"{HEAD}.num_anchors": 3},
                paper={
                    "AP": 39.9,
                    "AP50": 59.4,
                    "AP75": 43.3,
                    "AP_S": 23.9,
                    "AP_M": 43.2,
                    "AP_L": 51.9,
                },
            ),
            Row(
                set={"assigner.alpha": 0.333333, f"{HEAD}.num_anchors": 1},
                paper={
                    "AP": 40.6,
                    "AP50": 58.9,
                    "AP75": 44.3,
                    "AP_S": 23.0,
                    "AP_M": 44.0,
                    "AP_L": 54.2,
                },
            ),
            Row(
                set={"assigner.alpha": 0.333333, f"{HEAD}.num_anchors": 2},
                paper={
                    "AP": 40.6,
                    "AP50": 58.8,
                    "AP75": 44.4,
                    "AP_S": 23.1,
                    "AP_M": 44.0,
                    "AP_L": 54.3,
                },
            ),
            Row(
                set={"assigner.alpha": 0.333333, f"{HEAD}.num_anchors": 3},
                paper={
                    "AP": 40.9,
                    "AP50": 59.0,
                    "AP75": 44.3,
                    "AP_S": 23.3,
                    "AP_M": 44.3,
                    "AP_L": 54.2,
                },
            ),
            Row(
                set={"assigner.alpha": 0.333333, f"{HEAD}.num_anchors": 4},
                paper={
                    "AP": 40.8,
                    "AP50": 58.9,
                    "AP75": 44.6,
                    "AP_S": 23.6,
                    "AP_M": 44.5,
                    "AP_L": 54.4,
                },
            ),
            Row(
                set={"assigner.alpha": 0.333333, f"{HEAD}.num_anchors": 5},
                paper={
                    "AP": 40.3,
                    "AP50": 58.6,
                    "AP75": 44.3,
                    "AP_S": 22.8,
                    "AP_M": 43.9,
                    "AP_L": 53.0,
                },
            ),
        ),
    ),
    Space(
        id="musu-text-soft-hard",
        paper="musu",
        title="soft vs hard targets, quoted in the text of 4.2",
        base="musu",
        fields={"targets": "assigner.targets"},
        rows=(
            Row(set={"assigner.targets": "soft"}, paper={"AP": 40.6}),
            Row(set={"assigner.targets": "hard"}, paper={"AP": 40.0}),
        ),
    ),
)
