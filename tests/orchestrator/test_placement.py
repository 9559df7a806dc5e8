"""What a run asks for, where it may lie, and the refusal of what can never be."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.config import RunConfig
from orchestrator.config_file import from_mapping
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.placement import (
    Node,
    check_resources,
    count_fitting,
    plan_placement,
    possible_hosts,
    resolve_gpus,
    resolve_ranks,
)


def config(a: Any = None, b: Any = None, feed: Any = None, **resources: object) -> RunConfig:
    return from_mapping(
        RunConfig,
        dict(
            networks=dict(a=dict(preset="x", **(a or {})), b=dict(preset="x", **(b or {}))),
            data=dict(root="r"),
            train=dict(max_iterations=1),
            switch=dict(criterion="std_mean"),
            feed=feed or {},
            resources=resources,
        ),
    )


def node(labels: dict[str, str] | None = None, **resources: float) -> Node:
    return Node(resources=resources, labels=labels or {})


def test_bundles_by_purpose() -> None:
    """Ranks of a network share a bundle; the feeders lie with the first network."""
    plan = plan_placement(config(ranks=2, gpus_per_network=1))
    assert plan.networks == {"a": [1, 1], "b": [2, 2]}
    assert plan.feeders == [1, 1]
    assert plan.bundles == [
        {"CPU": 0.25},
        {"CPU": 2 * (0.5 + 0.25), "GPU": 2},
        {"CPU": 2 * 0.5, "GPU": 2},
    ]
    assert plan.ranks == {"a": {"CPU": 0.5, "GPU": 1}, "b": {"CPU": 0.5, "GPU": 1}}
    assert plan.total() == pytest.approx({"CPU": 0.25 + 2 * 0.25 + 4 * 0.5, "GPU": 4})


def test_every_rank_fits_its_bundle() -> None:
    """What the actors in a bundle take is what the bundle holds."""
    for feed in (dict(workers=2), dict(placement="per_node", workers=3)):
        for together in (1, 2, 4):
            run = config(
                a=dict(gpus=2.0, resources={"big": 0.5}),
                feed=feed,
                ranks=4,
                ranks_per_node=together,
                gpus_per_network=1,
            )
            plan = plan_placement(run)
            left = [dict(bundle) for bundle in plan.bundles]
            for name, bundles in plan.networks.items():
                for index in bundles:
                    for resource, amount in plan.ranks[name].items():
                        left[index][resource] -= amount
            for index in plan.feeders or [i for g in plan.networks.values() for i in g]:
                left[index]["CPU"] -= plan.cpus_per_feeder
            left[0]["CPU"] -= run.resources.cpus_controller
            assert all(abs(rest) < 1e-9 for bundle in left for rest in bundle.values()), left


def test_ranks_are_kept_together_as_far_as_nodes_allow() -> None:
    def together(ranks: int, nodes: list[Node], **resources: Any) -> int | str:
        asked = config(ranks=ranks, gpus_per_network=1, **resources)
        return resolve_ranks(asked, nodes).resources.ranks_per_node

    eight, four, one = (node(CPU=64, GPU=gpus) for gpus in (8, 4, 1))
    assert together(4, [eight]) == 4
    assert together(8, [eight, eight]) == 8
    assert together(8, [four] * 4) == 4
    assert together(2, [one] * 4) == 1
    assert together(4, [four, one, one, one, one]) == 1  # the second network's lie apart
    assert together(4, [eight], ranks_per_node=2) == 2  # as said
    assert together(4, [one]) == "auto"  # check_resources says what is missing
    with pytest.raises(ConfigError, match=r"ranks_per_node = 3 does not divide .*ranks = 4"):
        config(ranks=4, ranks_per_node=3)


def test_strategy() -> None:
    assert plan_placement(config(gpus_per_network=0)).strategy == "PACK"
    assert plan_placement(config(gpus_per_network=0, placement="spread")).strategy == "SPREAD"


def test_gpus_follow_the_cluster() -> None:
    assert resolve_gpus(config(), {"CPU": 2}).resources.gpus_per_network == 0
    assert resolve_gpus(config(), {"GPU": 8}).resources.gpus_per_network == 1
    assert resolve_gpus(config(gpus_per_network=0.5), {}).resources.gpus_per_network == 0.5


def test_a_teacher_on_a_share_of_a_smaller_card() -> None:
    """Heterogeneous GPUs: each network where its labels say, with the share that it needs."""
    small, large = {"ray.io/accelerator-type": "T4"}, {"ray.io/accelerator-type": "A100"}
    run = config(
        a=dict(gpus=0.5, labels=small), b=dict(labels={"ray.io/accelerator-type": "in(A100, H100)"})
    )
    run = resolve_gpus(run, {"GPU": 2})
    plan = plan_placement(run)
    assert [bundle.get("GPU") for bundle in plan.bundles] == [None, 0.5, 1]
    assert plan.labels == [{}, small, {"ray.io/accelerator-type": "in(A100, H100)"}]
    nodes = [node(small, CPU=4, GPU=1), node(large, CPU=4, GPU=1)]
    check_resources(plan, nodes)
    assert count_fitting(plan, nodes, limit=5) == 1  # the A100 is the limit
    with pytest.raises(ResourceError, match=r"networks.b.labels = .*no node .* has them.*type=T4"):
        check_resources(plan, [nodes[0], nodes[0]])
    assert resolve_gpus(config(a=dict(gpus=0.0)), {"GPU": 1}).gpus_of("a") == 0.0


@pytest.mark.parametrize(
    ("selector", "matching"),
    [
        ("x", {"x"}),
        ("!x", {"y", "z", None}),
        ("in(x, y)", {"x", "y"}),
        ("!in(x,y)", {"z", None}),
    ],
)
def test_label_selectors_as_ray_reads_them(selector: str, matching: set[str | None]) -> None:
    plan = plan_placement(config(a=dict(labels={"k": selector}), gpus_per_network=0))
    for value in ("x", "y", "z", None):
        there = node({} if value is None else {"k": value}, CPU=9)
        if value in matching:
            check_resources(plan, [there])
        else:
            with pytest.raises(ResourceError, match="labels"):
                check_resources(plan, [there])


def test_own_resources_pin_a_network() -> None:
    plan = plan_placement(config(a=dict(resources={"big": 1.0}), gpus_per_network=0))
    check_resources(plan, [node(CPU=1), node(CPU=1, big=1)])
    with pytest.raises(ResourceError, match=r"1 big.*Lower networks.NAME.resources.big"):
        check_resources(plan, [node(CPU=4)])
    with pytest.raises(ConfigError, match=r"networks.a: resources.GPU = 1"):
        config(a=dict(resources={"GPU": 1.0}))


def test_where_parts_of_a_run_may_lie() -> None:
    plan = plan_placement(config(a=dict(labels={"k": "x"}), gpus_per_network=1))
    head, plain, pinned = node(CPU=0), node(CPU=8, GPU=1), node({"k": "x"}, CPU=8, GPU=1)
    assert possible_hosts(plan, [head, plain, pinned]) == [plain, pinned]


def test_two_tiny_networks_fit_two_cores() -> None:
    check_resources(plan_placement(config(gpus_per_network=0)), [node(CPU=2.0)])


def test_too_little_says_what_is_asked_and_what_there_is() -> None:
    plan = plan_placement(config(gpus_per_network=1))
    with pytest.raises(ResourceError, match=r"asks for 1.5 CPU, 2 GPU .*has 8 CPU, 1 GPU.*GPU"):
        check_resources(plan, [node(CPU=8.0, GPU=1.0)])


def test_enough_in_total_but_on_no_single_node() -> None:
    plan = plan_placement(config(cpus_per_network=2.0, gpus_per_network=0))
    with pytest.raises(ResourceError, match="a single node"):
        check_resources(plan, [node(CPU=1.5)] * 4)


def test_feeders_in_the_bundles_of_networks() -> None:
    plan = plan_placement(config(gpus_per_network=0, feed=dict(placement="per_node")))
    assert plan.feeders == []
    assert [bundle["CPU"] for bundle in plan.bundles] == pytest.approx([0.25, 0.75, 0.75])


def test_shares_and_ranks_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"networks.b.gpus = 0.5 with resources.ranks = 2"):
        config(b=dict(gpus=0.5), ranks=2)


def test_where_a_run_lies_decides_no_weights() -> None:
    """Resuming elsewhere is resuming."""
    pinned = config(a=dict(gpus=0.5, labels={"k": "x"}, resources={"big": 1.0}), ranks_per_node=1)
    assert pinned.digest() == config().digest()


def test_how_many_fit_at_once() -> None:
    half = plan_placement(config(gpus_per_network=0.5))
    assert count_fitting(half, [node(CPU=16, GPU=2)], limit=9) == 2
    assert count_fitting(half, [node(CPU=16, GPU=1), node(CPU=16, GPU=1)], limit=9) == 2
    assert count_fitting(half, [node(CPU=3, GPU=8)], limit=9) == 2  # 1.5 CPUs each
    assert count_fitting(half, [node(CPU=64, GPU=64)], limit=9) == 9
    whole = plan_placement(config(gpus_per_network=1))
    assert count_fitting(whole, [node(CPU=8, GPU=1)], limit=9) == 0
    # 0.75 of a GPU twice leaves two quarters that nobody can use
    large = plan_placement(config(gpus_per_network=0.75))
    assert count_fitting(large, [node(CPU=8, GPU=1)] * 3, limit=9) == 1
