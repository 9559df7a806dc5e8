import dataclasses

import pytest

from assigners import PAAAssigner, build_assigner


def test_builds_with_hyper_parameters() -> None:
    assert build_assigner(dict(type="PAA", topk=5)) == PAAAssigner(topk=5)


def test_assigners_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAAAssigner().topk = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(topk=9), "'type' is missing"),
        (dict(type="paa"), "unknown type 'paa'.*did you mean 'PAA'.*known: PAA"),
        (dict(type="PAA", top_k=9), "unknown field 'top_k'.*did you mean 'topk'.*iou_threshold"),
        (dict(type="PAA", assignment_kind="soft"), "unknown field 'assignment_kind'"),
        (dict(type="PAA", topk=0), "topk must be an integer >= 1, got 0"),
        (dict(type="PAA", topk=2.5), "topk must be an integer"),
        (dict(type="PAA", iou_threshold=0), "iou_threshold must be in"),
        (dict(type="PAA", reg_weight=-1), "reg_weight must be finite"),
        (dict(type="PAA", alpha=2), "alpha must be in"),
        (dict(type="PAA", gamma=float("inf")), "gamma must be finite"),
        (dict(type="PAA", single_candidate="maybe"), "single_candidate must be one of"),
    ],
)
def test_rejects_bad_configurations(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(config)
