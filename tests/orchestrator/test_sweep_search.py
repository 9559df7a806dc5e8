"""Searches: what may be drawn, and what is refused before time is spent."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.errors import ConfigError
from orchestrator.sweep.draws import base_values, clip, grid_draws
from orchestrator.sweep.plan import SweepOptions, SweepPlan, plan_sweep
from orchestrator.sweep.trackers import Trackers
from orchestrator.sweep.tuner import check_scheduler
from tests.support.steps import tiny_config
from tests.support.sweeps import add_search, add_space
from tune_spaces import SEARCH_SPACES
from tune_spaces.space import Choice, Range, Row

DOMAINS: Mapping[str, Any] = {
    "assigner.mu": Range(low=3, high=9),
    "assigner.beta": Range(low=1, high=4, log=True),
    "assigner.w_neg": Choice(values=("p_neg", "i_neg")),
}


def plan(monkeypatch: pytest.MonkeyPatch, **options: Any) -> SweepPlan:
    add_search(monkeypatch, {"assigner.mu": Range(low=3, high=8)})
    return plan_sweep("search", SweepOptions(**options))


def test_a_grid_has_as_many_steps_as_allowed() -> None:
    draws = grid_draws(DOMAINS, 20)
    assert len(draws) == 18
    assert sorted({draw["assigner.mu"] for draw in draws}) == [3, 6, 9]
    assert sorted({draw["assigner.beta"] for draw in draws}) == [1, 2, 4]
    assert len(grid_draws({"a": Choice(values=(1, 2, 3))}, 100)) == 3
    with pytest.raises(ConfigError, match="--samples 7.*are 8 settings"):
        grid_draws(DOMAINS, 7)


def test_values_stay_in_their_range() -> None:
    domain = Range(low=3, high=9)
    assert [clip(domain, value) for value in (1, 4.5, 12)] == [3, 4.5, 9]


@pytest.mark.parametrize("name", SEARCH_SPACES)
def test_every_search_starts_at_its_base(name: str) -> None:
    space = SEARCH_SPACES[name]
    config = tiny_config(
        space.base, ["networks.teacher.checkpoint=x.pth"] * (name == "solad-search")
    )
    values = base_values(config, space.domains)
    assert set(values) == set(space.domains)
    with pytest.raises(ConfigError, match="no such field"):
        base_values(config, {"assigner.nothing": Range(low=0, high=1)})


def test_a_base_outside_its_domain_moves_to_the_nearest() -> None:
    config = tiny_config("dw", ["assigner.mu=20"])
    assert base_values(config, {"assigner.mu": Range(low=3, high=8)}) == {"assigner.mu": 8}


def test_a_population_knows_all_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    found = plan(monkeypatch, population=True, samples=3)
    assert [set(trial.params) for trial in found.trials] == [{"assigner.mu"}] * 3
    assert all(trial.config.checkpoint.interval is None for trial in found.trials)


def test_optuna_draws_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="pip install 'colad[optuna]'")
    found = plan(monkeypatch, search="optuna", samples=5)
    assert not found.trials and found.size == 5
    trial = found.draw(3, {"assigner.mu": 4.5})
    assert trial.id.startswith("0003-") and trial.config.assigner["mu"] == 4.5


def test_a_table_can_be_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = tuple(Row(set={"assigner.mu": mu}, paper={}) for mu in range(1, 9))
    add_space(monkeypatch, rows)
    found = plan_sweep("test", SweepOptions(search="random", samples=3))
    values = [trial.params["assigner.mu"] for trial in found.trials]
    assert len(values) == 3 and values == sorted(values)


def test_missing_optuna_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"colad\[optuna\]"):
        plan(monkeypatch, search="optuna")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "bayes"}, "--search bayes: expected one of grid, random, optuna"),
        ({"search": "optuna", "seeds": 2}, "--seeds 2 with --search optuna"),
        ({"population": True, "seeds": 2}, "--seeds 2 with --scheduler pbt"),
        ({"population": True, "search": "optuna"}, "leave out one of the two"),
        ({"search": "grid", "samples": 1}, "--samples 1"),
    ],
)
def test_refused(monkeypatch: pytest.MonkeyPatch, options: Any, message: str) -> None:
    pytest.importorskip("optuna", reason="pip install 'colad[optuna]'")
    with pytest.raises(ConfigError, match=message):
        plan(monkeypatch, **options)


@pytest.mark.parametrize("options", [{"search": "optuna"}, {"population": True}])
def test_a_table_is_no_range(monkeypatch: pytest.MonkeyPatch, options: Any) -> None:
    add_space(monkeypatch, (Row(set={"assigner.mu": 3}, paper={}),))
    with pytest.raises(ConfigError, match="take a search space"):
        plan_sweep("test", SweepOptions(**options))


def test_domains_are_checked_before_the_first_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="pip install 'colad[optuna]'")
    add_search(monkeypatch, {"assigner.mu": Range(low=-1.0, high=8.0)})
    with pytest.raises(ConfigError, match="mu = -1.0: DW: mu must be in"):
        plan_sweep("search", SweepOptions(search="optuna"))


@pytest.mark.parametrize(
    ("overrides", "samples", "concurrency", "message"),
    [
        (["evaluation.interval=5"], 1, None, "a population of 1"),
        (["evaluation.interval=5"], 4, 2, "take turns"),
        (["evaluation.interval=None"], 4, None, "evaluation.interval = None must be set"),
        (["evaluation.interval=10"], 4, None, "lower than train.max_iterations = 10"),
    ],
)
def test_populations_that_cannot_work(
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    samples: int,
    concurrency: int | None,
    message: str,
) -> None:
    found = plan(
        monkeypatch, population=True, samples=samples, overrides=overrides, max_iterations=10
    )
    configs = [trial.config for trial in found.trials]
    with pytest.raises(ConfigError, match=message):
        check_scheduler("pbt", found, configs, concurrency)


def test_trackers_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    Trackers().check()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--mlflow.*colad\[mlflow\]"):
        Trackers(mlflow="sqlite:///x.db").check()
    with pytest.raises(ConfigError, match=r"--wandb.*colad\[wandb\]"):
        Trackers(wandb="p").check()
    with pytest.raises(ConfigError, match="tracking URI"):
        Trackers(mlflow=" ").check()


def test_nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match="WANDB_MODE=offline"):
        Trackers(wandb="p").check()
    monkeypatch.setenv("WANDB_MODE", "offline")
    Trackers(wandb="p").check()
