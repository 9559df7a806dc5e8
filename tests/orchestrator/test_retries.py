"""Two budgets and none for errors of the code; waiting for resources that are not there."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from ray import exceptions

from orchestrator.config import ResourceConfig, RunConfig
from orchestrator.config_file import from_mapping
from orchestrator.errors import ConfigError, HungError, NetworkLostError
from orchestrator.placement import Node, plan_placement
from orchestrator.retries import RetryBudget, cause_of
from orchestrator.waiting import LACK_S, QUIET_S, STORE, ResourceWait, StoreWatch, check_wait


def test_budgets_are_apart() -> None:
    budget = RetryBudget(ResourceConfig(max_retries=1, max_preemptions=2))
    process, node = HungError("a", "x"), NetworkLostError("a", "x", node=True)
    assert budget.spend(process) and not budget.spend(process)
    assert budget.spend(node) and budget.spend(node) and not budget.spend(node)
    assert budget.restarts == 3
    assert "restart 1 of 1 for lost processes" in budget.going_on(process)
    assert "restart 2 of 2 for lost nodes" in budget.going_on(node)
    assert budget.given_up(process).endswith("resources.max_retries = 1")
    assert budget.given_up(node).endswith("resources.max_preemptions = 2")


def test_budgets_must_not_be_negative() -> None:
    with pytest.raises(ConfigError, match="resources.max_preemptions = -1"):
        ResourceConfig(max_preemptions=-1)
    with pytest.raises(ConfigError, match="resources.hang_timeout = 0"):
        ResourceConfig(hang_timeout=0)


def failed_trial(tmp_path: Any, error: BaseException) -> Any:
    path = tmp_path / "error.pkl"
    path.write_bytes(cloudpickle.dumps(error))
    return SimpleNamespace(pickled_error_file=str(path))


def test_what_ended_an_attempt(tmp_path: Any) -> None:
    loss = NetworkLostError("network 'a'", "killed", node=True)
    task = exceptions.RayTaskError("train", "traceback", loss).as_instanceof_cause()
    found = cause_of(failed_trial(tmp_path, task), None)
    assert isinstance(found, NetworkLostError) and found.node and found.who == "network 'a'"
    found = cause_of(failed_trial(tmp_path, exceptions.ActorDiedError()), None)
    assert isinstance(found, NetworkLostError) and found.who == "the controller"
    bug = exceptions.RayTaskError("train", "traceback", ValueError("x")).as_instanceof_cause()
    assert isinstance(cause_of(failed_trial(tmp_path, bug), None), ValueError)
    assert "names no error" in str(cause_of(SimpleNamespace(pickled_error_file=None), None))


# -- waiting --------------------------------------------------------------------------------------


class Cluster:
    """A clock and what a cluster has."""

    def __init__(self, cpus: float, free: float) -> None:
        self.cpus, self.free, self.now = cpus, free, 0.0

    def look(self) -> tuple[list[Any], Mapping[str, float]]:
        return [Node(resources={"CPU": self.cpus})], {"CPU": self.free}


def waiting(cluster: Cluster, limit_s: float | None) -> tuple[ResourceWait, list[str]]:
    plan = plan_placement(
        from_mapping(
            RunConfig,
            dict(
                networks=dict(a=dict(preset="x")),
                data=dict(root="r"),
                train=dict(max_iterations=1),
                resources=dict(gpus_per_network=0),
            ),
        )
    )
    said: list[str] = []
    wait = ResourceWait(plan, limit_s, said.append, look=cluster.look, clock=lambda: cluster.now)
    wait.begin()
    return wait, said


def pass_time(cluster: Cluster, wait: ResourceWait, seconds: float) -> str:
    end = cluster.now + seconds
    while cluster.now < end:
        cluster.now += 5
        if over := wait.check():
            return over
    return ""


def test_missing_resources_end_a_run_that_does_not_wait() -> None:
    cluster = Cluster(cpus=0.5, free=0.5)
    wait, said = waiting(cluster, None)
    over = pass_time(cluster, wait, 1000)
    assert LACK_S <= cluster.now <= LACK_S + 10
    assert "asks for 1 CPU" in over and "has 0.5 CPU" in over
    assert len(said) == 1 and "asks for 1 CPU" in said[0]


def test_missing_resources_are_waited_for_as_long_as_asked() -> None:
    cluster = Cluster(cpus=0.5, free=0.5)
    wait, said = waiting(cluster, 300)
    assert not pass_time(cluster, wait, 290)
    assert len(said) == 5 and "of 300 s" in said[-1]
    assert "waited 300 s" in pass_time(cluster, wait, 20)
    without_end, _ = waiting(cluster, float("inf"))
    assert not pass_time(cluster, without_end, 10_000)


def test_resources_in_use_are_waited_for_and_named() -> None:
    cluster = Cluster(cpus=4, free=0.25)
    wait, said = waiting(cluster, None)
    assert not pass_time(cluster, wait, QUIET_S - 5) and not said
    assert not pass_time(cluster, wait, 1000)
    assert "asks for 1 CPU, and 0.25 CPU of the cluster are free" in said[0]
    short, _ = waiting(cluster, 100)
    assert "waited 100 s" in pass_time(cluster, short, 200)


def test_nothing_is_said_while_something_runs() -> None:
    cluster = Cluster(cpus=0.5, free=0.5)
    wait, said = waiting(cluster, None)
    wait.end()
    assert not pass_time(cluster, wait, 1000) and not said
    wait.begin()
    assert pass_time(cluster, wait, 1000)


def test_resources_that_come_back_begin_the_time_anew() -> None:
    cluster = Cluster(cpus=0.5, free=0.5)
    wait, _ = waiting(cluster, None)
    assert not pass_time(cluster, wait, 20)
    cluster.cpus = cluster.free = 4
    assert not pass_time(cluster, wait, 20)
    cluster.cpus = 0.5
    assert not pass_time(cluster, wait, 20)
    assert pass_time(cluster, wait, 20)


def test_negative_wait_is_refused() -> None:
    with pytest.raises(ConfigError, match="--wait-for-resources -1"):
        check_wait(-1)
    check_wait(None)


def test_filling_store_is_said_once() -> None:
    said: list[str] = []
    free = {STORE: 60e6}
    watch = StoreWatch(said.append, look=lambda: ({STORE: 100e6}, free))
    watch.check(0)
    assert not said
    free[STORE] = 10e6
    watch.check(1)  # too early to look
    watch.check(5)
    watch.check(10)
    assert len(said) == 1 and "90% full" in said[0]
