"""The ablation tables of Dual Weighting: settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space, assigner, figures, head

TABLES: tuple[Space, ...] = (
    Space(
        id="dw-table2",
        paper="dw",
        title="exponents of the positive weight",
        base="dw",
        fields={"beta": "assigner.beta", "mu": ""},
        rows=(
            Row(set=assigner(beta=5, mu=3), paper=figures(40.8, 59.1, 43.9)),
            Row(set=assigner(beta=5, mu=4), paper=figures(41.2, 59.7, 44.2)),
            Row(set=assigner(beta=5, mu=5), paper=figures(41.5, 59.8, 45.0)),
            Row(set=assigner(beta=5, mu=6), paper=figures(41.5, 60.1, 44.6)),
            Row(set=assigner(beta=5, mu=7), paper=figures(41.4, 59.8, 45.1)),
            Row(set=assigner(beta=5, mu=8), paper=figures(41.2, 59.6, 44.5)),
            Row(
                set=assigner(beta=3, mu=4),
                paper=figures(40.8, 59.9, 43.6),
                note="the header of this column is damaged",
            ),
            Row(
                set=assigner(beta=3, mu=5),
                paper=figures(40.8, 59.9, 43.6),
                note="other reading: mu = 5",
            ),
            Row(
                set=assigner(beta=4, mu=4),
                paper=figures(41.3, 59.9, 44.5),
                note="the header of this column is damaged",
            ),
            Row(
                set=assigner(beta=4, mu=5),
                paper=figures(41.3, 59.9, 44.5),
                note="other reading: mu = 5",
            ),
            Row(set=assigner(beta=6, mu=5), paper=figures(41.4, 59.6, 44.9)),
            Row(set=assigner(beta=7, mu=5), paper=figures(41.0, 59.0, 44.4)),
        ),
    ),
    Space(
        id="dw-table3",
        paper="dw",
        title="exponents of the negative weight",
        base="dw",
        fields={"gamma_1": "assigner.gamma_1", "gamma_2": "assigner.gamma_2"},
        rows=(
            Row(set=assigner(gamma_1=1, gamma_2=1), paper=figures(41.0, 59.2, 44.1)),
            Row(set=assigner(gamma_1=1, gamma_2=2), paper=figures(41.3, 59.7, 44.6)),
            Row(set=assigner(gamma_1=2, gamma_2=2), paper=figures(41.5, 59.8, 45.0)),
            Row(set=assigner(gamma_1=3, gamma_2=2), paper=figures(41.3, 59.7, 44.4)),
            Row(set=assigner(gamma_1=4, gamma_2=2), paper=figures(41.2, 59.4, 44.4)),
            Row(set=assigner(gamma_1=5, gamma_2=2), paper=figures(41.1, 59.5, 44.5)),
            Row(set=assigner(gamma_1=2, gamma_2=3), paper=figures(41.3, 59.6, 44.5)),
        ),
    ),
    Space(
        id="dw-table4",
        paper="dw",
        title="ways to build the candidate bag",
        base="dw",
        fields={
            "candidate_bag": "assigner.candidate_bag",
            "radius": "assigner.radius",
            "k": "assigner.k",
        },
        rows=(
            Row(
                set=assigner(candidate_bag="threshold", radius=1.0), paper=figures(41.2, 59.7, 44.7)
            ),
            Row(
                set=assigner(candidate_bag="threshold", radius=1.3), paper=figures(41.3, 59.6, 44.4)
            ),
            Row(
                set=assigner(candidate_bag="threshold", radius=1.7), paper=figures(41.4, 59.5, 44.6)
            ),
            Row(
                set=assigner(candidate_bag="threshold", radius=2.0), paper=figures(41.3, 59.6, 44.4)
            ),
            Row(
                set=assigner(candidate_bag="threshold", radius=2.5), paper=figures(41.1, 59.1, 44.3)
            ),
            Row(set=assigner(candidate_bag="topk", k=9), paper=figures(41.2, 59.4, 44.3)),
            Row(set=assigner(candidate_bag="topk", k=12), paper=figures(41.2, 59.4, 44.6)),
            Row(set=assigner(candidate_bag="topk", k=15), paper=figures(41.2, 59.6, 44.4)),
            Row(set=assigner(candidate_bag="soft_center_prior"), paper=figures(41.5, 59.8, 45.0)),
        ),
    ),
    Space(
        id="dw-table5",
        paper="dw",
        title="variants of the negative weight",
        base="dw",
        fields={"w_neg": "assigner.w_neg"},
        rows=(
            Row(set=assigner(w_neg="none"), paper=figures(39.5, 58.6, 42.9)),
            Row(set=assigner(w_neg="p_neg"), paper=figures(40.5, 58.7, 43.9)),
            Row(set=assigner(w_neg="i_neg"), paper=figures(40.0, 58.5, 42.9)),
            Row(set=assigner(w_neg="one_minus_w_pos"), paper=figures(40.7, 59.5, 44.1)),
            Row(set=assigner(w_neg="p_neg_times_i_neg"), paper=figures(41.5, 59.8, 45.0)),
        ),
    ),
    Space(
        id="dw-table6",
        paper="dw",
        title="weighting strategies compared",
        base="dw",
        fields={"method": ""},
        rows=(
            Row(paper=figures(36.4, 55.8, 38.8), skip="FoveaBox: another author's detector"),
            Row(paper=figures(38.6, 57.4, 41.4), skip="FCOS: another author's detector"),
            Row(paper=figures(39.2, 57.4, 42.2), skip="ATSS: another author's detector"),
            Row(paper=figures(40.4, 58.4, 43.9), base="paa"),
            Row(paper=figures(40.7, 58.4, 44.3), skip="OTA: another author's detector"),
            Row(paper=figures(40.4, 59.6, 43.7), base="autoassign"),
            Row(
                set=assigner(detach_weights=True),
                paper=figures(39.8, 59.6, 42.8),
                base="autoassign",
            ),
            Row(
                set=assigner(detach_weights=True, weights_on="loss"),
                paper=figures(36.6, 56.2, 39.1),
                base="autoassign",
            ),
            Row(paper=figures(38.0, 56.9, 40.6), skip="NoisyAnchor: another author's detector"),
            Row(paper=figures(39.2, 58.0, 42.3), skip="MAL: another author's detector"),
            Row(paper=figures(39.9, 58.5, 43.0), skip="GFL: another author's detector"),
            Row(paper=figures(40.2, 58.2, 44.0), skip="VFL: another author's detector"),
            Row(paper=figures(40.6, 58.2, 43.9), skip="FCOS+GFLv2: another author's detector"),
            Row(paper=figures(41.1, 58.8, 44.9), skip="ATSS+GFLv2: another author's detector"),
            Row(paper=figures(40.6, 58.9, 44.3), base="musu"),
            Row(paper=figures(40.3, 58.5, 43.8), skip="TOOD: another author's detector"),
            Row(set=head(box_refine=False), paper=figures(41.5, 59.8, 45.0), base="dw"),
            Row(set=head(box_refine=True), paper=figures(42.2, 60.4, 45.3), base="dw"),
        ),
    ),
)
