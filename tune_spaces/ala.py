"""The ablation tables of ALA (Automatic Label Assignment): settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space

HEAD = "networks.*.model.bbox_head"

TABLES: tuple[Space, ...] = (
    Space(
        id="ala-table1",
        paper="ala",
        title="I: kind of objectness branch",
        base="ala",
        fields={"branch": ""},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={f"{HEAD}.objectness": "centerness"},
                paper={"AP": 39.8, "AP50": 60.4, "AP75": 43.2},
            ),
            Row(
                set={f"{HEAD}.objectness": "implicit"},
                paper={"AP": 40.1, "AP50": 60.5, "AP75": 43.8},
            ),
            Row(set={f"{HEAD}.objectness": "none"}, paper={"AP": 39.5, "AP50": 59.9, "AP75": 43.5}),
            Row(set={f"{HEAD}.objectness": "ipb"}, paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6}),
        ),
    ),
    Space(
        id="ala-table3",
        paper="ala",
        title="III: confidence and weight mechanisms",
        base="ala",
        fields={"confidence": "assigner.confidence", "weight": "assigner.weight"},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={"assigner.confidence": True, "assigner.weight": False},
                paper={"AP": 38.9, "AP50": 57.9, "AP75": 41.8},
            ),
            Row(
                set={"assigner.confidence": False, "assigner.weight": True},
                paper={"AP": 10.5, "AP50": 28.4, "AP75": 19.7},
            ),
            Row(
                set={"assigner.confidence": True, "assigner.weight": True},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table4",
        paper="ala",
        title="IV: classification / localization term in the confidence",
        base="ala",
        fields={"use_p_cls": "assigner.use_p_cls", "use_p_loc": "assigner.use_p_loc"},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={"assigner.use_p_cls": True, "assigner.use_p_loc": False},
                paper={"AP": 27.5, "AP50": 44.8, "AP75": 30.1},
            ),
            Row(
                set={"assigner.use_p_cls": False, "assigner.use_p_loc": True},
                paper={"AP": 30.4, "AP50": 47.5, "AP75": 33.6},
            ),
            Row(
                set={"assigner.use_p_cls": True, "assigner.use_p_loc": True},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table5",
        paper="ala",
        title="V: exponents alpha and beta, product vs sum",
        base="ala",
        fields={"combine": "assigner.combine", "beta": "assigner.beta", "alpha": "assigner.alpha"},
        rows=(
            Row(paper={"AP": 37.0}, skip="FCOS is not a method of this project"),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 0.2},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 0.4},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 0.6},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 0.8},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 1.0},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 1.2},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.0, "assigner.alpha": 1.4},
                paper={"AP": 10.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 0.2},
                paper={"AP": 38.9},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 0.4},
                paper={"AP": 39.4},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 0.6},
                paper={"AP": 39.6},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 0.8},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 1.0},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 1.2},
                paper={"AP": 39.9},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.2, "assigner.alpha": 1.4},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 0.2},
                paper={"AP": 39.9},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 0.4},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 0.6},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 0.8},
                paper={"AP": 40.4},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 1.0},
                paper={"AP": 40.4},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 1.2},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.4, "assigner.alpha": 1.4},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 0.2},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 0.4},
                paper={"AP": 40.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 0.6},
                paper={"AP": 40.6},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 0.8},
                paper={"AP": 40.9},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 1.0},
                paper={"AP": 40.8},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 1.2},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.6, "assigner.alpha": 1.4},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 0.2},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 0.4},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 0.6},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 0.8},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 1.0},
                paper={"AP": 40.3},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 1.2},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 0.8, "assigner.alpha": 1.4},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 0.2},
                paper={"AP": 38.9},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 0.4},
                paper={"AP": 39.0},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 0.6},
                paper={"AP": 39.4},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 0.8},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 1.0},
                paper={"AP": 39.1},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 1.2},
                paper={"AP": 38.8},
            ),
            Row(
                set={"assigner.combine": "mul", "assigner.beta": 1.0, "assigner.alpha": 1.4},
                paper={"AP": 38.7},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 0.2},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 0.4},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 0.6},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 0.8},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 1.0},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 1.2},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.0, "assigner.alpha": 1.4},
                paper={"AP": 9.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 0.2},
                paper={"AP": 38.5},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 0.4},
                paper={"AP": 39.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 0.6},
                paper={"AP": 39.9},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 0.8},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 1.0},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 1.2},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.2, "assigner.alpha": 1.4},
                paper={"AP": 39.4},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 0.2},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 0.4},
                paper={"AP": 39.9},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 0.6},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 0.8},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 1.0},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 1.2},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.4, "assigner.alpha": 1.4},
                paper={"AP": 39.7},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 0.2},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 0.4},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 0.6},
                paper={"AP": 40.5},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 0.8},
                paper={"AP": 40.5},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 1.0},
                paper={"AP": 40.6},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 1.2},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.6, "assigner.alpha": 1.4},
                paper={"AP": 39.9},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 0.2},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 0.4},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 0.6},
                paper={"AP": 40.3},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 0.8},
                paper={"AP": 40.4},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 1.0},
                paper={"AP": 40.4},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 1.2},
                paper={"AP": 40.3},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 0.8, "assigner.alpha": 1.4},
                paper={"AP": 40.0},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 0.2},
                paper={"AP": 39.5},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 0.4},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 0.6},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 0.8},
                paper={"AP": 40.2},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 1.0},
                paper={"AP": 40.1},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 1.2},
                paper={"AP": 39.8},
            ),
            Row(
                set={"assigner.combine": "add", "assigner.beta": 1.0, "assigner.alpha": 1.4},
                paper={"AP": 39.5},
            ),
        ),
        note=(
            "The text reads as if beta were the exponent of the box: --set "
            "assigner.beta_applies_to=loc."
        ),
    ),
    Space(
        id="ala-table6",
        paper="ala",
        title="VI: centre and shape weighting",
        base="ala",
        fields={"center_weight": "assigner.center_weight", "shape_weight": f"{HEAD}.shape_blur"},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={"assigner.center_weight": False, f"{HEAD}.shape_blur": False},
                paper={"AP": 39.5, "AP50": 59.8, "AP75": 43.0},
            ),
            Row(
                set={"assigner.center_weight": True, f"{HEAD}.shape_blur": False},
                paper={"AP": 40.3, "AP50": 60.8, "AP75": 44.0},
            ),
            Row(
                set={"assigner.center_weight": False, f"{HEAD}.shape_blur": True},
                paper={"AP": 40.0, "AP50": 60.3, "AP75": 43.6},
            ),
            Row(
                set={"assigner.center_weight": True, f"{HEAD}.shape_blur": True},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
        note=(
            "The paper's shape weight is the blur of the property map; whether the map "
            "stays without it is not said: assigner.property_map."
        ),
    ),
    Space(
        id="ala-table7",
        paper="ala",
        title="VII: how the centre-weight mean and spread are set",
        base="ala",
        fields={"center_prior": ""},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={f"{HEAD}.center_prior": "fixed"},
                paper={"AP": 40.5, "AP50": 60.8, "AP75": 44.0},
            ),
            Row(
                set={f"{HEAD}.center_prior": "shared"},
                paper={"AP": 40.6, "AP50": 61.0, "AP75": 44.1},
            ),
            Row(
                set={f"{HEAD}.center_prior": "category"},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table8",
        paper="ala",
        title="VIII: positive sample selection strategy on/off",
        base="ala",
        fields={"ps3": "assigner.ps3"},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(set={"assigner.ps3": False}, paper={"AP": 39.9, "AP50": 59.9, "AP75": 43.8}),
            Row(set={"assigner.ps3": True}, paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6}),
        ),
    ),
    Space(
        id="ala-table9",
        paper="ala",
        title="IX: fixed vs adaptive positive threshold",
        base="ala",
        fields={"positive_threshold": "", "value": ""},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={"assigner.positive_threshold": 0.3},
                paper={"AP": 40.0, "AP50": 60.2, "AP75": None},
            ),
            Row(
                set={"assigner.positive_threshold": 0.4},
                paper={"AP": 40.2, "AP50": 60.5, "AP75": None},
            ),
            Row(
                set={"assigner.positive_threshold": 0.5},
                paper={"AP": 40.3, "AP50": 60.7, "AP75": None},
            ),
            Row(
                set={"assigner.positive_threshold": 0.6},
                paper={"AP": 40.5, "AP50": 61.0, "AP75": None},
            ),
            Row(
                set={"assigner.positive_threshold": 0.7},
                paper={"AP": 40.2, "AP50": 60.4, "AP75": None},
            ),
            Row(
                set={"assigner.positive_threshold": "adaptive"},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table10",
        paper="ala",
        title="X: fixed vs adaptive soft label",
        base="ala",
        fields={"soft_label": "", "value": ""},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(set={"assigner.soft_label": 0.3}, paper={"AP": 38.9, "AP50": 58.0, "AP75": None}),
            Row(set={"assigner.soft_label": 0.4}, paper={"AP": 39.5, "AP50": 59.9, "AP75": None}),
            Row(set={"assigner.soft_label": 0.5}, paper={"AP": 39.9, "AP50": 60.5, "AP75": None}),
            Row(set={"assigner.soft_label": 0.6}, paper={"AP": 40.4, "AP50": 60.9, "AP75": None}),
            Row(set={"assigner.soft_label": 0.7}, paper={"AP": 40.5, "AP50": 61.1, "AP75": None}),
            Row(set={"assigner.soft_label": 0.8}, paper={"AP": 40.1, "AP50": 60.3, "AP75": None}),
            Row(set={"assigner.soft_label": 0.9}, paper={"AP": 40.0, "AP50": 60.3, "AP75": None}),
            Row(set={"assigner.soft_label": 1.0}, paper={"AP": 39.7, "AP50": 60.1, "AP75": None}),
            Row(
                set={"assigner.soft_label": "adaptive"},
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table11",
        paper="ala",
        title="XI: which of the three losses are used",
        base="ala",
        fields={
            "loss_hard_pos": "assigner.loss_hard_pos",
            "loss_soft_pos": "assigner.loss_soft_pos",
            "loss_neg": "assigner.loss_neg",
        },
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                set={
                    "assigner.loss_hard_pos": True,
                    "assigner.loss_soft_pos": True,
                    "assigner.loss_neg": False,
                },
                paper={"AP": 23.5, "AP50": 39.7, "AP75": 25.5},
            ),
            Row(
                set={
                    "assigner.loss_hard_pos": True,
                    "assigner.loss_soft_pos": False,
                    "assigner.loss_neg": True,
                },
                paper={"AP": 39.9, "AP50": 59.9, "AP75": 39.7},
            ),
            Row(
                set={
                    "assigner.loss_hard_pos": False,
                    "assigner.loss_soft_pos": True,
                    "assigner.loss_neg": True,
                },
                paper={"AP": 18.7, "AP50": 33.8, "AP75": 19.8},
            ),
            Row(
                set={
                    "assigner.loss_hard_pos": True,
                    "assigner.loss_soft_pos": True,
                    "assigner.loss_neg": True,
                },
                paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6},
            ),
        ),
    ),
    Space(
        id="ala-table12",
        paper="ala",
        title="XII: other soft-label strategies in place of PS3",
        base="ala",
        fields={"soft_label_strategy": ""},
        rows=(
            Row(
                paper={"AP": 37.0, "AP50": 55.8, "AP75": 39.7},
                skip="FCOS is not a method of this project",
            ),
            Row(
                paper={"AP": 40.2, "AP50": 60.5, "AP75": 43.8},
                skip="PNLP is another author's method, only sketched here",
            ),
            Row(
                paper={"AP": 40.4, "AP50": 60.8, "AP75": 43.9},
                skip="another author's method, only sketched here",
            ),
            Row(set={"assigner.ps3": True}, paper={"AP": 40.9, "AP50": 61.3, "AP75": 44.6}),
        ),
    ),
)
