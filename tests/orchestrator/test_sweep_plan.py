"""Which runs a sweep is made of."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.plan import SweepOptions, expand, find_space, plan_sweep, tiny_config
from tests.support.sweeps import add_search, add_space
from tune_spaces.space import Choice, Range, Row

LINES = (
    Row(set={"assigner.mu": 3}, paper={"AP": 40.8}),
    Row(set={"assigner.mu": 5}, paper={"AP": 41.5}),
    Row(paper={"AP": 37.0}, skip="FCOS"),
    Row(set={"assigner.mu": 5}, paper={"AP": 41.4}, note="other reading: the same"),
    Row(set={"assigner.mu": 5}, paper={"AP": 42.0}, schedule=2),
)


def test_equal_lines_share_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    add_space(monkeypatch, LINES)
    plan = plan_sweep("test", SweepOptions(seeds=2, max_iterations=10))
    assert [(t.params, t.seed, t.rows) for t in plan.trials[:4]] == [
        ({"assigner.mu": 3}, 0, (0,)),
        ({"assigner.mu": 3}, 1, (0,)),
        ({"assigner.mu": 5}, 0, (1, 3)),
        ({"assigner.mu": 5}, 1, (1, 3)),
    ]
    assert len(plan.trials) == 6
    assert [t.config.train.max_iterations for t in plan.trials[-2:]] == [20, 20]
    assert plan.trials[2].config.assigner["mu"] == 5 and plan.trials[3].config.seed == 1
    assert len({t.id for t in plan.trials}) == 6


def test_a_plan_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    domains = {"assigner.mu": Range(low=3, high=8), "assigner.w_neg": Choice(values=("p_neg",))}
    add_search(monkeypatch, domains)
    options = SweepOptions(samples=5)
    plan = plan_sweep("search", options)
    assert plan.to_dict() == plan_sweep("search", options).to_dict()
    assert plan.trials[0].params == {}  # the defaults are measured, too
    drawn = [t.params["assigner.mu"] for t in plan.trials[1:]]
    assert all(3 <= mu <= 8 for mu in drawn) and len(set(drawn)) == 4


def test_log_ranges_are_even_in_the_logarithm(monkeypatch: pytest.MonkeyPatch) -> None:
    add_search(monkeypatch, {"assigner.mu": Range(low=0.01, high=10, log=True)})
    drawn = [
        t.params["assigner.mu"] for t in plan_sweep("search", SweepOptions(samples=60)).trials[1:]
    ]
    assert 0.25 < sum(mu < 0.316 for mu in drawn) / len(drawn) < 0.75


def test_every_learner() -> None:
    assert list(expand("networks.*.preset", ("a", "b"))) == [
        "networks.a.preset",
        "networks.b.preset",
    ]
    assert list(expand("assigner.mu", ("a", "b"))) == ["assigner.mu"]


def test_unknown_spaces_are_refused_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    add_space(monkeypatch, LINES)
    with pytest.raises(ConfigError, match="did you mean test"):
        find_space("tests")


def test_bad_values_are_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    add_space(monkeypatch, (Row(set={"train.batch_sizes": 3}, paper={"AP": 1.0}),))
    with pytest.raises(ConfigError, match=r"train.batch_sizes=3.*did you mean train.batch_size"):
        plan_sweep("test", SweepOptions())


def test_one_configuration_for_lines_of_several_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    add_space(monkeypatch, (Row(base="paa", paper={"AP": 40.4}), Row(paper={"AP": 1.0})))
    plan_sweep("test", SweepOptions())
    with pytest.raises(ConfigError, match="--config"):
        plan_sweep("test", SweepOptions(config=Path("configs/tiny/dw_shapes.py")))


def test_a_configuration_of_another_method_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ALA and MuSu both have an alpha; a sweep over it would run and mean something else."""
    other = Path("configs/tiny/musu_shapes.py")
    message = r"musu_shapes.py: its assigner is 'MuSu', but {} sets fields of '{}'"
    with pytest.raises(ConfigError, match=message.format("ala-search", "ALA")):
        plan_sweep("ala-search", SweepOptions(config=other, samples=2))
    add_space(monkeypatch, LINES)
    with pytest.raises(ConfigError, match=message.format("test", "DW")):
        plan_sweep("test", SweepOptions(config=other))
    plan_sweep("test", SweepOptions(config=Path("configs/tiny/dw_lad_shapes.py")))


def test_own_data_takes_the_configuration_without_shapes() -> None:
    assert tiny_config("dw", []).name == "dw_shapes.py"
    assert tiny_config("dw", ["data.root=/somewhere"]).name == "dw.py"
    with pytest.raises(ConfigError, match="--config"):
        tiny_config("nothing", [])


@pytest.mark.parametrize(("field", "value"), [("seeds", 0), ("samples", 0)])
def test_counts(monkeypatch: pytest.MonkeyPatch, field: str, value: int) -> None:
    add_search(monkeypatch, {"assigner.mu": Range(low=3, high=8)})
    with pytest.raises(ConfigError, match=f"--{field} 0"):
        plan_sweep("search", SweepOptions(**{field: value}))
