import dataclasses

import pytest

from assigners import PAAAssigner, build_assigner


def test_builds_with_hyper_parameters() -> None:
    assert build_assigner(dict(type="PAA", topk=5)) == PAAAssigner(topk=5)


def test_assigners_are_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAAAssigner().topk = 3  # type: ignore[misc]


# What the papers and their released code have; tests against reference outputs set their own.
DEFAULTS = {
    "PAA": dict(
        topk=9,
        iou_threshold=0.1,
        low_quality=True,
        cls_weight=1.0,
        reg_weight=1.3,
        box_cost="giou",
        alpha=0.25,
        gamma=2.0,
        single_candidate="drop",
        cut="mode",
    ),
    "DW": dict(
        reading="released",
        beta=5.0,
        mu=5.0,
        mu_norm=None,
        gamma_1=2.0,
        gamma_2=2.0,
        reg_loss_weight=None,
        w_neg="p_neg_times_i_neg",
        candidate_bag="soft_center_prior",
        center_prior="soft",
        center_sigma=None,
        hard_prior_threshold=0.3,
        cost="neg_log",
    ),
    "AutoAssign": dict(
        tau=1 / 3,
        lambda_=5.0,
        center_weighting=True,
        confidence_weighting=True,
        negative_weighting=True,
        confidence="joint",
        detach_weights=False,
        weights_on="score",
        pos_loss_weight=0.25,
        neg_loss_weight=0.75,
        center_loss_weight=0.75,
        cost="neg_log",
    ),
    "ALA": dict(
        confidence=True,
        weight=True,
        use_p_cls=True,
        use_p_loc=True,
        combine="mul",
        alpha=0.8,
        beta=0.6,
        beta_applies_to="cls",
        loc_likelihood="consistent",
        lambda_=5.0,
        center_weight=True,
        property_map=True,
        negative_map="background",
        ps3=True,
        positive_threshold="adaptive",
        soft_label="adaptive",
        loss_hard_pos=True,
        loss_soft_pos=True,
        loss_neg=True,
        one_to_one=False,
        normalizer="split",
        center_loss_weight=0.0,
        cost="neg_log",
    ),
    "MuSu": dict(
        b=0.1,
        theta=4.0,
        criterion="mutual",
        alpha=1 / 3,
        temperature="sqrt_bag_size",
        tau_cls=None,
        tau_reg=None,
        tau_ratio=2.0,
        targets="soft",
        beta=4.0,
        normaliser="batch",
        owner_rule="all",
        cost="neg_log",
    ),
}
OUR_OWN = {"DW": {"radius", "k"}}  # of bags for which the paper tries several


@pytest.mark.parametrize("method", DEFAULTS)
def test_defaults_are_the_published_ones(method: str) -> None:
    found = dataclasses.asdict(build_assigner(dict(type=method)))
    assert set(found) == set(DEFAULTS[method]) | OUR_OWN.get(method, set())
    assert {name: found[name] for name in DEFAULTS[method]} == DEFAULTS[method]


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
        (dict(type="PAA", cut="median"), r"cut must be one of \('mode', 'mean'\), got 'median'"),
        (dict(type="PAA", box_cost="diou"), "box_cost must be one of"),
    ],
)
def test_rejects_bad_configurations(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_assigner(config)
