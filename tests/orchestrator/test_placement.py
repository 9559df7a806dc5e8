"""What a run asks for, and the refusal of what can never be."""

from __future__ import annotations

import pytest

from orchestrator.config import RunConfig, from_mapping
from orchestrator.errors import ResourceError
from orchestrator.placement import check_resources, count_fitting, plan_placement, resolve_gpus


def config(**resources: object) -> RunConfig:
    return from_mapping(
        RunConfig,
        dict(
            networks=dict(a=dict(preset="x"), b=dict(preset="x")),
            data=dict(root="r"),
            train=dict(max_iterations=1),
            switch=dict(criterion="std_mean"),
            resources=resources,
        ),
    )


def test_bundles_by_purpose() -> None:
    plan = plan_placement(config(ranks=2, gpus_per_network=1))
    assert plan.feeders == [1, 2]
    assert plan.networks == {"a": [3, 4], "b": [5, 6]}
    assert plan.total() == pytest.approx({"CPU": 0.25 + 2 * 0.25 + 4 * 0.5, "GPU": 4})
    assert all(plan.bundles[i]["GPU"] == 1 for i in range(3, 7))


def test_gpus_follow_the_cluster() -> None:
    assert resolve_gpus(config(), {"CPU": 2}).resources.gpus_per_network == 0
    assert resolve_gpus(config(), {"GPU": 8}).resources.gpus_per_network == 1
    assert resolve_gpus(config(gpus_per_network=0.5), {}).resources.gpus_per_network == 0.5


def test_two_tiny_networks_fit_two_cores() -> None:
    check_resources(plan_placement(config(gpus_per_network=0)), [{"CPU": 2.0}])


def test_too_little_says_what_is_asked_and_what_there_is() -> None:
    plan = plan_placement(config(gpus_per_network=1))
    with pytest.raises(ResourceError, match=r"asks for 1.5 CPU, 2 GPU .*has 8 CPU, 1 GPU.*GPU"):
        check_resources(plan, [{"CPU": 8.0, "GPU": 1.0}])


def test_enough_in_total_but_on_no_single_node() -> None:
    plan = plan_placement(config(cpus_per_network=2.0, gpus_per_network=0))
    with pytest.raises(ResourceError, match="a single node"):
        check_resources(plan, [{"CPU": 1.5}] * 4)


def test_feeders_in_the_bundles_of_networks() -> None:
    base = config(gpus_per_network=0)
    per_node = from_mapping(RunConfig, {**base.to_dict(), "feed": dict(placement="per_node")})
    plan = plan_placement(per_node)
    assert plan.feeders == []
    assert [bundle["CPU"] for bundle in plan.bundles] == pytest.approx([0.25, 0.75, 0.75])


def test_how_many_fit_at_once() -> None:
    half = plan_placement(config(gpus_per_network=0.5))
    assert count_fitting(half, [{"CPU": 16, "GPU": 2}], limit=9) == 2
    assert count_fitting(half, [{"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1}], limit=9) == 2
    assert count_fitting(half, [{"CPU": 3, "GPU": 8}], limit=9) == 2  # 1.5 CPUs each
    assert count_fitting(half, [{"CPU": 64, "GPU": 64}], limit=9) == 9
    whole = plan_placement(config(gpus_per_network=1))
    assert count_fitting(whole, [{"CPU": 8, "GPU": 1}], limit=9) == 0
    # 0.75 of a GPU twice leaves two quarters that nobody can use
    large = plan_placement(config(gpus_per_network=0.75))
    assert count_fitting(large, [{"CPU": 8, "GPU": 1}] * 3, limit=9) == 1
