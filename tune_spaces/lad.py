"""The ablation tables of LAD, CoLAD, SoLAD, COP and IOP: settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space, figures, head

SMALLER_TEACHER = {"networks.teacher.preset": "tiny_r18", "networks.student.preset": "tiny_r34"}

TABLES: tuple[Space, ...] = (
    Space(
        id="lad-table2",
        paper="lad",
        title="soft label vs LAD vs both (teacher PAA-R101, student PAA-R50)",
        base="paa",
        fields={"soft_loss": "soft_labels.loss", "gamma": "", "distill": "", "long_warmup": ""},
        rows=(
            Row(paper=figures(40.4), base="paa"),
            Row(
                set={"soft_labels.loss": "kl", "soft_labels.gamma": 0},
                paper=figures(39.8),
                base="soft_labels",
                note="the paper warms up for 3000 iterations here",
            ),
            Row(
                set={"soft_labels.loss": "kl", "soft_labels.gamma": 0.5},
                paper=figures(41.3),
                base="soft_labels",
                note="the paper warms up for 3000 iterations here",
            ),
            Row(
                set={"soft_labels.loss": "kl", "soft_labels.gamma": 2.0},
                paper=figures(39.6),
                base="soft_labels",
            ),
            Row(
                set={"soft_labels.loss": "l1"},
                paper=figures(40.4),
                base="soft_labels",
                note="the paper warms up for 3000 iterations here",
            ),
            Row(set={"soft_labels.loss": "l2"}, paper=figures(41.0), base="soft_labels"),
            Row(paper=figures(41.6), base="lad"),
            Row(
                set={"soft_labels.loss": "kl", "soft_labels.gamma": 0.5},
                paper=figures(42.4),
                base="solad",
            ),
        ),
        note=(
            "The student is the base's; the teacher is a checkpoint: networks.teacher.checkpoint."
        ),
    ),
    Space(
        id="lad-table3",
        paper="lad",
        title="smaller teacher for a larger student",
        base="paa",
        fields={"distill": "", "teacher": "", "schedule": ""},
        rows=(
            Row(set={"networks.r18.preset": "tiny_r34"}, paper=figures(42.6), base="paa"),
            Row(
                set={"networks.r18.preset": "tiny_r34"}, paper=figures(43.5), base="paa", schedule=2
            ),
            Row(set=SMALLER_TEACHER, paper=figures(40.4), base="soft_labels"),
            Row(set=SMALLER_TEACHER, paper=figures(43.3), base="lad"),
        ),
        note=(
            "The smaller network (the paper's R50) is the preset tiny_r18 and the larger "
            "one (R101) tiny_r34."
        ),
    ),
    Space(
        id="lad-table4",
        paper="lad",
        title="criterion for switching teacher and student",
        base="paa",
        fields={"distill": "", "switch_criterion": "switch.criterion", "schedule": ""},
        rows=(
            Row(set={"networks.r18.preset": "tiny_r34"}, paper=figures(42.6), base="paa"),
            Row(set=SMALLER_TEACHER, paper=figures(43.3), base="lad"),
            Row(
                set=SMALLER_TEACHER | {"switch.criterion": "std_mean"},
                paper=figures(43.3),
                base="lad_switch",
            ),
            Row(
                set=SMALLER_TEACHER | {"switch.criterion": "fisher"},
                paper=figures(43.4),
                base="lad_switch",
            ),
            Row(
                set={"networks.r18.preset": "tiny_r34"}, paper=figures(43.5), base="paa", schedule=2
            ),
            Row(
                set=SMALLER_TEACHER | {"switch.criterion": "std_mean"},
                paper=figures(43.9),
                base="lad_switch",
                schedule=2,
            ),
            Row(
                set=SMALLER_TEACHER | {"switch.criterion": "fisher"},
                paper=figures(43.9),
                base="lad_switch",
                schedule=2,
            ),
        ),
        note=(
            "The smaller network (the paper's R50) is the preset tiny_r18 and the larger "
            "one (R101) tiny_r34. The lines with a criterion are LAD with dynamic switch;"
            " the teacher stays frozen."
        ),
    ),
    Space(
        id="lad-table5",
        paper="lad",
        title="co-learning from different starting weights",
        base="paa",
        fields={"distill": "", "network": "", "init": "", "partner_init": "", "schedule": ""},
        rows=(
            Row(paper=figures(40.4), base="paa"),
            Row(paper=figures(41.6), base="paa", schedule=2),
            Row(set={"networks.r18.preset": "tiny_r34"}, paper=figures(42.6), base="paa"),
            Row(
                set={"networks.r18.preset": "tiny_r34"}, paper=figures(43.5), base="paa", schedule=2
            ),
            Row(paper=figures(41.3), base="colad", network="r18"),
            Row(paper=figures(43.1), base="colad", network="r34"),
            Row(paper=figures(41.6), base="colad_pretrained", network="r18"),
            Row(paper=figures(44.1), base="colad_pretrained", network="r34"),
            Row(paper=figures(42.6), base="colad_pretrained_r18", network="r18"),
            Row(paper=figures(43.3), base="colad_pretrained_r18", network="r34"),
            Row(paper=figures(42.4), base="colad", network="r18", schedule=2),
            Row(paper=figures(44.1), base="colad", network="r34", schedule=2),
        ),
        note=(
            "The paper's R50 is the preset tiny_r18 and its R101 tiny_r34. Trained "
            "starting weights are files of yours, work/r34.pth and work/r18.pth."
        ),
    ),
    Space(
        id="lad-table6",
        paper="lad",
        title="teacher size for a small student",
        base="paa",
        fields={"teacher": "", "teacher_init": "", "distill": ""},
        rows=(
            Row(paper=figures(35.8), base="paa"),
            Row(paper=figures(36.9), base="lad"),
            Row(paper=figures(36.5), base="colad"),
            Row(paper=figures(36.8), skip="the tiny presets have one larger network only"),
            Row(paper=figures(36.6), skip="the tiny presets have one larger network only"),
        ),
        note="The paper's R18 is the preset tiny_r18 and its R50 tiny_r34.",
    ),
    Space(
        id="lad-table10",
        paper="lad",
        title=(
            "auxiliary predictions of the PAA head (IoU / implicit objectness / "
            "conditional objectness)"
        ),
        base="paa",
        fields={
            "aux_iou": "networks.*.model.bbox_head.aux_iou",
            "aux_iop": "networks.*.model.bbox_head.aux_iop",
            "aux_cop": "networks.*.model.bbox_head.aux_cop",
            "backbone": "",
        },
        rows=(
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=False),
                paper=figures(32.4),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=False),
                paper=figures(34.0),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=False),
                paper=figures(35.8),
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=False),
                paper=figures(40.4),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=True, aux_cop=False),
                paper=figures(33.4),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=True, aux_cop=False),
                paper=figures(34.7),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=True, aux_cop=False), paper=figures(36.7)
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=True, aux_cop=False),
                paper=figures(41.6),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=True),
                paper=figures(33.5),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=True),
                paper=figures(34.8),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=True), paper=figures(36.9)
            ),
            Row(
                set=head(aux_iou="train_and_test", aux_iop=False, aux_cop=True),
                paper=figures(41.6),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="train_only", aux_iop=True, aux_cop=False),
                paper=figures(33.4),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="train_only", aux_iop=True, aux_cop=False),
                paper=figures(34.8),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(set=head(aux_iou="train_only", aux_iop=True, aux_cop=False), paper=figures(36.7)),
            Row(
                set=head(aux_iou="train_only", aux_iop=True, aux_cop=False),
                paper=figures(41.5),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="train_only", aux_iop=False, aux_cop=True),
                paper=figures(33.5),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="train_only", aux_iop=False, aux_cop=True),
                paper=figures(34.8),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(set=head(aux_iou="train_only", aux_iop=False, aux_cop=True), paper=figures(36.9)),
            Row(
                set=head(aux_iou="train_only", aux_iop=False, aux_cop=True),
                paper=figures(41.6),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="none", aux_iop=True, aux_cop=False),
                paper=figures(33.3),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="none", aux_iop=True, aux_cop=False),
                paper=figures(34.8),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(set=head(aux_iou="none", aux_iop=True, aux_cop=False), paper=figures(36.6)),
            Row(
                set=head(aux_iou="none", aux_iop=True, aux_cop=False),
                paper=figures(41.1),
                skip="the same with ResNet-50: --config",
            ),
            Row(
                set=head(aux_iou="none", aux_iop=False, aux_cop=True),
                paper=figures(33.4),
                skip="the same with EfficientNet-B0: --config",
            ),
            Row(
                set=head(aux_iou="none", aux_iop=False, aux_cop=True),
                paper=figures(34.7),
                skip="the same with RepVGG-A0: --config",
            ),
            Row(set=head(aux_iou="none", aux_iop=False, aux_cop=True), paper=figures(36.9)),
            Row(
                set=head(aux_iou="none", aux_iop=False, aux_cop=True),
                paper=figures(41.2),
                skip="the same with ResNet-50: --config",
            ),
        ),
    ),
)
