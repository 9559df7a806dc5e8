"""The ablation tables of MuSu (Mutual Supervision): settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space, assigner, figures, head

TABLES: tuple[Space, ...] = (
    Space(
        id="musu-table1",
        paper="musu",
        title="criterion values for the two heads",
        base="musu",
        fields={"criterion": "assigner.criterion", "alpha_value": "assigner.alpha", "assigner": ""},
        rows=(
            Row(
                paper=figures(36.5, 55.7, 38.3, 21.2, 40.3, 48.1),
                skip="FCOS is not a method of this project",
            ),
            Row(
                paper=figures(38.6, 57.2, 41.7, 22.4, 42.4, 50.2),
                skip="FCOS is not a method of this project",
            ),
            Row(
                set=assigner(criterion="p_both"), paper=figures(38.3, 60.0, 40.5, 22.8, 41.5, 49.3)
            ),
            Row(
                set=assigner(criterion="q_both"), paper=figures(31.8, 49.9, 33.7, 15.0, 34.9, 45.2)
            ),
            Row(
                set=assigner(criterion="mutual", alpha=1.0),
                paper=figures(40.4, 59.6, 43.9, 23.5, 43.5, 53.7),
            ),
            Row(
                set=assigner(criterion="mutual", alpha=0.5),
                paper=figures(40.3, 59.1, 43.8, 23.1, 43.7, 53.5),
            ),
            Row(
                set=assigner(criterion="mutual", alpha=0.333333),
                paper=figures(40.6, 58.9, 44.3, 23.0, 44.0, 54.2),
            ),
            Row(
                set=assigner(criterion="mutual", alpha=0.25),
                paper=figures(40.5, 58.9, 43.8, 23.4, 44.2, 53.6),
            ),
            Row(
                set=assigner(criterion="mutual", alpha=0.166667),
                paper=figures(40.4, 59.0, 43.6, 22.5, 44.2, 53.9),
            ),
            Row(
                set=assigner(criterion="mutual", alpha=0.0),
                paper=figures(38.5, 57.5, 41.4, 20.9, 42.9, 52.4),
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
            Row(set=assigner(b=0.2), paper=figures(40.3, 58.8, 43.7, 22.8, 43.4, 53.4)),
            Row(set=assigner(b=0.1), paper=figures(40.6, 58.9, 44.3, 23.0, 44.0, 54.2)),
            Row(set=assigner(b=0.05), paper=figures(40.4, 58.9, 43.7, 23.5, 43.8, 54.0)),
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
                set=assigner(temperature="fixed", tau_cls=10.0, tau_reg=5.0),
                paper=figures(40.1, 58.5, 43.3, 22.2, 43.4, 53.7),
            ),
            Row(
                set=assigner(temperature="fixed", tau_cls=5.0, tau_reg=2.5),
                paper=figures(39.9, 58.5, 43.4, 22.1, 43.5, 53.2),
            ),
            Row(
                set=assigner(temperature="sqrt_bag_size"),
                paper=figures(40.6, 58.9, 44.3, 23.0, 44.0, 54.2),
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
            Row(set=assigner(tau_ratio=1.0), paper=figures(40.4, 58.6, 44.0)),
            Row(set=assigner(tau_ratio=1.5), paper=figures(40.6, 58.9, 44.1)),
            Row(set=assigner(tau_ratio=2.0), paper=figures(40.6, 58.9, 44.3)),
            Row(set=assigner(tau_ratio=3.0), paper=figures(40.2, 59.0, 43.7)),
        ),
    ),
    Space(
        id="musu-table5",
        paper="musu",
        title="number of anchors per location",
        base="musu",
        fields={
            "alpha_value": "assigner.alpha",
            "num_anchors": "networks.*.model.bbox_head.num_anchors",
        },
        rows=(
            Row(
                set=assigner(alpha=1.0) | head(num_anchors=1),
                paper=figures(40.4, 59.6, 43.9, 23.5, 43.5, 53.7),
            ),
            Row(
                set=assigner(alpha=1.0) | head(num_anchors=2),
                paper=figures(40.4, 59.6, 44.1, 23.7, 43.4, 53.6),
            ),
            Row(
                set=assigner(alpha=1.0) | head(num_anchors=3),
                paper=figures(39.9, 59.4, 43.3, 23.9, 43.2, 51.9),
            ),
            Row(
                set=assigner(alpha=0.333333) | head(num_anchors=1),
                paper=figures(40.6, 58.9, 44.3, 23.0, 44.0, 54.2),
            ),
            Row(
                set=assigner(alpha=0.333333) | head(num_anchors=2),
                paper=figures(40.6, 58.8, 44.4, 23.1, 44.0, 54.3),
            ),
            Row(
                set=assigner(alpha=0.333333) | head(num_anchors=3),
                paper=figures(40.9, 59.0, 44.3, 23.3, 44.3, 54.2),
            ),
            Row(
                set=assigner(alpha=0.333333) | head(num_anchors=4),
                paper=figures(40.8, 58.9, 44.6, 23.6, 44.5, 54.4),
            ),
            Row(
                set=assigner(alpha=0.333333) | head(num_anchors=5),
                paper=figures(40.3, 58.6, 44.3, 22.8, 43.9, 53.0),
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
            Row(set=assigner(targets="soft"), paper=figures(40.6)),
            Row(set=assigner(targets="hard"), paper=figures(40.0)),
        ),
    ),
)
