"""The ablation tables of Dual Weighting: settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space

HEAD = "networks.*.model.bbox_head"

TABLES: tuple[Space, ...] = (
    Space(
        id="dw-table2",
        paper="dw",
        title="exponents of the positive weight",
        base="dw",
        fields={"beta": "assigner.beta", "mu": ""},
        rows=(
            Row(
                set={"assigner.beta": 5, "assigner.mu": 3},
                paper={"AP": 40.8, "AP50": 59.1, "AP75": 43.9},
            ),
            Row(
                set={"assigner.beta": 5, "assigner.mu": 4},
                paper={"AP": 41.2, "AP50": 59.7, "AP75": 44.2},
            ),
            Row(
                set={"assigner.beta": 5, "assigner.mu": 5},
                paper={"AP": 41.5, "AP50": 59.8, "AP75": 45.0},
            ),
            Row(
                set={"assigner.beta": 5, "assigner.mu": 6},
                paper={"AP": 41.5, "AP50": 60.1, "AP75": 44.6},
            ),
            Row(
                set={"assigner.beta": 5, "assigner.mu": 7},
                paper={"AP": 41.4, "AP50": 59.8, "AP75": 45.1},
            ),
            Row(
                set={"assigner.beta": 5, "assigner.mu": 8},
                paper={"AP": 41.2, "AP50": 59.6, "AP75": 44.5},
            ),
            Row(
                set={"assigner.beta": 3, "assigner.mu": 4},
                paper={"AP": 40.8, "AP50": 59.9, "AP75": 43.6},
                note="the header of this column is damaged",
            ),
            Row(
                set={"assigner.beta": 3, "assigner.mu": 5},
                paper={"AP": 40.8, "AP50": 59.9, "AP75": 43.6},
                note="other reading: mu = 5",
            ),
            Row(
                set={"assigner.beta": 4, "assigner.mu": 4},
                paper={"AP": 41.3, "AP50": 59.9, "AP75": 44.5},
                note="the header of this column is damaged",
            ),
            Row(
                set={"assigner.beta": 4, "assigner.mu": 5},
                paper={"AP": 41.3, "AP50": 59.9, "AP75": 44.5},
                note="other reading: mu = 5",
            ),
            Row(
                set={"assigner.beta": 6, "assigner.mu": 5},
                paper={"AP": 41.4, "AP50": 59.6, "AP75": 44.9},
            ),
            Row(
                set={"assigner.beta": 7, "assigner.mu": 5},
                paper={"AP": 41.0, "AP50": 59.0, "AP75": 44.4},
            ),
        ),
    ),
    Space(
        id="dw-table3",
        paper="dw",
        title="exponents of the negative weight",
        base="dw",
        fields={"gamma_1": "assigner.gamma_1", "gamma_2": "assigner.gamma_2"},
        rows=(
            Row(
                set={"assigner.gamma_1": 1, "assigner.gamma_2": 1},
                paper={"AP": 41.0, "AP50": 59.2, "AP75": 44.1},
            ),
            Row(
                set={"assigner.gamma_1": 1, "assigner.gamma_2": 2},
                paper={"AP": 41.3, "AP50": 59.7, "AP75": 44.6},
            ),
            Row(
                set={"assigner.gamma_1": 2, "assigner.gamma_2": 2},
                paper={"AP": 41.5, "AP50": 59.8, "AP75": 45.0},
            ),
            Row(
                set={"assigner.gamma_1": 3, "assigner.gamma_2": 2},
                paper={"AP": 41.3, "AP50": 59.7, "AP75": 44.4},
            ),
            Row(
                set={"assigner.gamma_1": 4, "assigner.gamma_2": 2},
                paper={"AP": 41.2, "AP50": 59.4, "AP75": 44.4},
            ),
            Row(
                set={"assigner.gamma_1": 5, "assigner.gamma_2": 2},
                paper={"AP": 41.1, "AP50": 59.5, "AP75": 44.5},
            ),
            Row(
                set={"assigner.gamma_1": 2, "assigner.gamma_2": 3},
                paper={"AP": 41.3, "AP50": 59.6, "AP75": 44.5},
            ),
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
                set={"assigner.candidate_bag": "threshold", "assigner.radius": 1.0},
                paper={"AP": 41.2, "AP50": 59.7, "AP75": 44.7},
            ),
            Row(
                set={"assigner.candidate_bag": "threshold", "assigner.radius": 1.3},
                paper={"AP": 41.3, "AP50": 59.6, "AP75": 44.4},
            ),
            Row(
                set={"assigner.candidate_bag": "threshold", "assigner.radius": 1.7},
                paper={"AP": 41.4, "AP50": 59.5, "AP75": 44.6},
            ),
            Row(
                set={"assigner.candidate_bag": "threshold", "assigner.radius": 2.0},
                paper={"AP": 41.3, "AP50": 59.6, "AP75": 44.4},
            ),
            Row(
                set={"assigner.candidate_bag": "threshold", "assigner.radius": 2.5},
                paper={"AP": 41.1, "AP50": 59.1, "AP75": 44.3},
            ),
            Row(
                set={"assigner.candidate_bag": "topk", "assigner.k": 9},
                paper={"AP": 41.2, "AP50": 59.4, "AP75": 44.3},
            ),
            Row(
                set={"assigner.candidate_bag": "topk", "assigner.k": 12},
                paper={"AP": 41.2, "AP50": 59.4, "AP75": 44.6},
            ),
            Row(
                set={"assigner.candidate_bag": "topk", "assigner.k": 15},
                paper={"AP": 41.2, "AP50": 59.6, "AP75": 44.4},
            ),
            Row(
                set={"assigner.candidate_bag": "soft_center_prior"},
                paper={"AP": 41.5, "AP50": 59.8, "AP75": 45.0},
            ),
        ),
    ),
    Space(
        id="dw-table5",
        paper="dw",
        title="variants of the negative weight",
        base="dw",
        fields={"w_neg": "assigner.w_neg"},
        rows=(
            Row(set={"assigner.w_neg": "none"}, paper={"AP": 39.5, "AP50": 58.6, "AP75": 42.9}),
            Row(set={"assigner.w_neg": "p_neg"}, paper={"AP": 40.5, "AP50": 58.7, "AP75": 43.9}),
            Row(set={"assigner.w_neg": "i_neg"}, paper={"AP": 40.0, "AP50": 58.5, "AP75": 42.9}),
            Row(
                set={"assigner.w_neg": "one_minus_w_pos"},
                paper={"AP": 40.7, "AP50": 59.5, "AP75": 44.1},
            ),
            Row(
                set={"assigner.w_neg": "p_neg_times_i_neg"},
                paper={"AP": 41.5, "AP50": 59.8, "AP75": 45.0},
            ),
        ),
    ),
    Space(
        id="dw-table6",
        paper="dw",
        title="weighting strategies compared",
        base="dw",
        fields={"method": ""},
        rows=(
            Row(
                paper={"AP": 36.4, "AP50": 55.8, "AP75": 38.8},
                skip="FoveaBox: another author's detector",
            ),
            Row(
                paper={"AP": 38.6, "AP50": 57.4, "AP75": 41.4},
                skip="FCOS: another author's detector",
            ),
            Row(
                paper={"AP": 39.2, "AP50": 57.4, "AP75": 42.2},
                skip="ATSS: another author's detector",
            ),
            Row(paper={"AP": 40.4, "AP50": 58.4, "AP75": 43.9}, base="paa"),
            Row(
                paper={"AP": 40.7, "AP50": 58.4, "AP75": 44.3},
                skip="OTA: another author's detector",
            ),
            Row(paper={"AP": 40.4, "AP50": 59.6, "AP75": 43.7}, base="autoassign"),
            Row(
                set={"assigner.detach_weights": True},
                paper={"AP": 39.8, "AP50": 59.6, "AP75": 42.8},
                base="autoassign",
            ),
            Row(
                set={"assigner.detach_weights": True, "assigner.weights_on": "loss"},
                paper={"AP": 36.6, "AP50": 56.2, "AP75": 39.1},
                base="autoassign",
            ),
            Row(
                paper={"AP": 38.0, "AP50": 56.9, "AP75": 40.6},
                skip="NoisyAnchor: another author's detector",
            ),
            Row(
                paper={"AP": 39.2, "AP50": 58.0, "AP75": 42.3},
                skip="MAL: another author's detector",
            ),
            Row(
                paper={"AP": 39.9, "AP50": 58.5, "AP75": 43.0},
                skip="GFL: another author's detector",
            ),
            Row(
                paper={"AP": 40.2, "AP50": 58.2, "AP75": 44.0},
                skip="VFL: another author's detector",
            ),
            Row(
                paper={"AP": 40.6, "AP50": 58.2, "AP75": 43.9},
                skip="FCOS+GFLv2: another author's detector",
            ),
            Row(
                paper={"AP": 41.1, "AP50": 58.8, "AP75": 44.9},
                skip="ATSS+GFLv2: another author's detector",
            ),
            Row(paper={"AP": 40.6, "AP50": 58.9, "AP75": 44.3}, base="musu"),
            Row(
                paper={"AP": 40.3, "AP50": 58.5, "AP75": 43.8},
                skip="TOOD: another author's detector",
            ),
            Row(
                set={f"{HEAD}.box_refine": False},
                paper={"AP": 41.5, "AP50": 59.8, "AP75": 45.0},
                base="dw",
            ),
            Row(
                set={f"{HEAD}.box_refine": True},
                paper={"AP": 42.2, "AP50": 60.4, "AP75": 45.3},
                base="dw",
            ),
        ),
    ),
)
