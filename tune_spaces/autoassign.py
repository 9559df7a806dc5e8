"""The ablation tables of AutoAssign: settings, and the paper's figures."""

from __future__ import annotations

from tune_spaces.space import Row, Space, assigner, figures, head

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
                set=assigner(
                    center_weighting=False, confidence_weighting=False, negative_weighting=False
                ),
                paper=figures(17.7, 30.9, 18.1, 15.7, 24.2, 23.3),
            ),
            Row(
                set=assigner(center_weighting=False, confidence_weighting=True),
                paper=figures(21.5, 35.8, 22.6, 16.6, 28.9, 36.0),
            ),
            Row(
                set=assigner(center_weighting=True, confidence_weighting=False),
                paper=figures(37.7, 57.4, 40.6, 20.3, 41.4, 52.0),
            ),
            Row(
                set=assigner(center_weighting=True, confidence_weighting=True),
                paper=figures(40.5, 59.8, 43.9, 23.1, 44.7, 52.9),
            ),
        ),
    ),
    Space(
        id="autoassign-table3",
        paper="autoassign",
        title="kinds of centre prior, whole set and five categories",
        base="autoassign",
        fields={"center_prior": "networks.*.model.bbox_head.center_prior"},
        rows=(
            Row(set=head(center_prior="none"), paper=figures(21.5)),
            Row(set=head(center_prior="fixed"), paper=figures(40.3)),
            Row(set=head(center_prior="shared"), paper=figures(40.2)),
            Row(set=head(center_prior="category"), paper=figures(40.5)),
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
                set=assigner(confidence="cls") | head(objectness="implicit"),
                paper=figures(38.7, 59.9, 41.6, 22.9, 42.0, 49.5),
            ),
            Row(
                set=assigner(confidence="loc") | head(objectness="implicit"),
                paper=figures(39.7, 58.4, 43.1, 22.4, 43.6, 51.6),
                note="the branch stays in the score; the weighting cannot see it",
            ),
            Row(
                set=assigner(confidence="joint") | head(objectness="none"),
                paper=figures(39.4, 58.7, 42.5, 22.4, 43.5, 50.7),
            ),
            Row(
                set=assigner(confidence="joint") | head(objectness="explicit"),
                paper=figures(39.5, 58.8, 42.3, 21.6, 43.4, 52.2),
            ),
            Row(
                set=assigner(confidence="joint") | head(objectness="implicit"),
                paper=figures(40.5, 59.8, 43.9, 23.1, 44.7, 52.9),
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
            Row(paper=figures(35.9, 55.9, 38.2), skip="RetinaNet: another author's detector"),
            Row(paper=figures(36.1, 56.3, 38.8), skip="RetinaNet: another author's detector"),
            Row(paper=figures(38.8, 57.6, 42.2), skip="FCOS: another author's detector"),
            Row(paper=figures(39.0, 58.2, 42.3), skip="FCOS: another author's detector"),
            Row(paper=figures(38.3, 57.1, 41.2), skip="FreeAnchor: another author's detector"),
            Row(paper=figures(38.5, 57.6, 41.5), skip="FreeAnchor: another author's detector"),
            Row(paper=figures(39.3, 57.8, 42.6), skip="ATSS: another author's detector"),
            Row(paper=figures(39.7, 58.4, 42.9), skip="ATSS: another author's detector"),
            Row(set=head(objectness="none"), paper=figures(39.4, 58.7, 42.5)),
            Row(set=head(objectness="implicit"), paper=figures(40.5, 59.8, 43.9)),
        ),
    ),
)
