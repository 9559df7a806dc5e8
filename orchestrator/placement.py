"""What a run asks Ray for, and whether the cluster has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.config import RunConfig
from orchestrator.errors import ResourceError

Bundle = dict[str, float]

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """The bundles of a trial's placement group, by purpose."""

    bundles: list[Bundle]
    """Bundle 0 is the controller's."""
    feeders: list[int]
    """Bundle of each shard's feeder; empty where every node has one, in a network's bundle."""
    cpus_per_feeder: float
    networks: dict[str, list[int]]
    """Bundle of each rank of each network."""
    strategy: str

    def total(self) -> Bundle:
        """Sum over bundles."""
        names = {name for bundle in self.bundles for name in bundle}
        return {n: sum(bundle.get(n, 0.0) for bundle in self.bundles) for n in sorted(names)}


def resolve_gpus(config: RunConfig, cluster: Mapping[str, float]) -> RunConfig:
    """``gpus_per_network = "auto"`` as a number: 1 where the cluster has a GPU, else 0."""
    if config.resources.gpus_per_network != "auto":
        return config
    gpus = 1.0 if cluster.get("GPU", 0) > 0 else 0.0
    resources = dataclasses.replace(config.resources, gpus_per_network=gpus)
    return dataclasses.replace(config, resources=resources)


def plan_placement(config: RunConfig) -> PlacementPlan:
    """Bundles for controller, feeders and every rank of every network."""
    resources = config.resources
    gpus = resources.gpus_per_network
    assert not isinstance(gpus, str), "resolve_gpus comes first"
    bundles: list[Bundle] = [{"CPU": resources.cpus_controller}]
    feeder_cpus = max(resources.cpus_per_feeder, float(config.feed.workers))
    network_cpus = resources.cpus_per_network
    feeders = []
    if config.feed.placement == "shared":
        feeders = list(range(1, 1 + resources.ranks))
        bundles += [{"CPU": feeder_cpus} for _ in feeders]
    else:  # any network may turn out to be the one whose bundle hosts its node's feeder
        network_cpus += feeder_cpus
    networks: dict[str, list[int]] = {}
    for name in config.networks:
        networks[name] = list(range(len(bundles), len(bundles) + resources.ranks))
        for _ in range(resources.ranks):
            bundle = {"CPU": network_cpus}
            bundles.append({**bundle, "GPU": gpus} if gpus > 0 else bundle)
    return PlacementPlan(
        bundles=bundles,
        feeders=feeders,
        cpus_per_feeder=feeder_cpus,
        networks=networks,
        strategy="SPREAD" if resources.placement == "spread" else "PACK",
    )


def check_resources(plan: PlacementPlan, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse a plan that the cluster can never hold, instead of waiting for ever.

    Args:
        plan: what is asked.
        nodes: total resources of every living node.

    Raises:
        ResourceError: what is asked, what there is, and what to change.
    """
    asked = plan.total()
    there = {name: sum(node.get(name, 0.0) for node in nodes) for name in asked}
    short = [name for name in asked if asked[name] > there[name] + EPSILON]
    if not short and _fits(plan.bundles, nodes):
        return
    what = ", ".join(f"{asked[name]:g} {name}" for name in asked)
    has = ", ".join(f"{there[name]:g} {name}" for name in asked)
    where = short[0] if short else "a single node"
    field = "gpus_per_network" if "GPU" in short else "cpus_per_network"
    raise ResourceError(
        f"the run asks for {what} (controller, {len(plan.feeders)} feeder(s), "
        f"{sum(map(len, plan.networks.values()))} network actor(s)) but Ray has {has}: too little "
        f"{where}. Lower resources.{field} or resources.ranks, or start Ray with more"
    )


def count_fitting(plan: PlacementPlan, nodes: Sequence[Mapping[str, float]], *, limit: int) -> int:
    """How many runs of this plan the nodes hold side by side, ``limit`` at most."""
    count = 0
    while count < limit and _fits(plan.bundles * (count + 1), nodes):
        count += 1
    return count


def _fits(bundles: Sequence[Bundle], nodes: Sequence[Mapping[str, float]]) -> bool:
    """First-fit of the largest bundles first; exact enough to tell "never"."""
    free = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda b: (-b.get("GPU", 0.0), -b.get("CPU", 0.0))):
        for node in free:
            if all(node.get(name, 0.0) + EPSILON >= amount for name, amount in bundle.items()):
                for name, amount in bundle.items():
                    node[name] = node.get(name, 0.0) - amount
                break
        else:
            return False
    return True
