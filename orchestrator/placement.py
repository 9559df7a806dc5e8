"""What a run asks Ray for, on which nodes, and whether the cluster has it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.config import RunConfig
from orchestrator.errors import ResourceError

Bundle = dict[str, float]

EPSILON = 1e-6
_SELECTOR = re.compile(r"(!?)(?:in\((.*)\)|(.*))")


@dataclass(frozen=True, kw_only=True)
class Node:
    """One living node of a cluster."""

    id: str = ""
    address: str = ""
    resources: Mapping[str, float]
    """In total, whoever uses them now."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PlacementPlan:
    """The bundles of a trial's placement group, by purpose. A bundle lies on one node."""

    bundles: list[Bundle]
    """Bundle 0 is the controller's."""
    labels: list[dict[str, str]]
    """For each bundle, the labels that its node must have."""
    feeders: list[int]
    """Bundle of each shard's feeder: where the first network reads; empty where every node has
    feeders of its own, in the bundle of a network there."""
    cpus_per_feeder: float
    networks: dict[str, list[int]]
    """Bundle of each rank of each network; ranks that are kept together share one."""
    ranks: dict[str, Bundle]
    """What one rank of each network takes of its bundle."""
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


def resolve_ranks(config: RunConfig, nodes: Sequence[Node]) -> RunConfig:
    """``ranks_per_node = "auto"`` as a number: the most with which the run fits the nodes.

    Where it fits with none, it stays ``"auto"`` (all ranks together) for ``check_resources``.
    """
    ranks = config.resources.ranks
    if config.resources.ranks_per_node != "auto":
        return config
    for together in (n for n in range(ranks, 0, -1) if ranks % n == 0):
        resources = dataclasses.replace(config.resources, ranks_per_node=together)
        resolved = dataclasses.replace(config, resources=resources)
        if _fits(plan_placement(resolved), nodes, copies=1):
            return resolved
    return config


def plan_placement(config: RunConfig) -> PlacementPlan:
    """Bundles for the controller and for every network's ranks, feeders beside their readers."""
    resources = config.resources
    together = resources.ranks_per_node
    together = resources.ranks if isinstance(together, str) else together
    feeder_cpus = max(resources.cpus_per_feeder, float(config.feed.workers))
    shared = config.feed.placement == "shared"
    bundles: list[Bundle] = [{"CPU": resources.cpus_controller}]
    labels: list[dict[str, str]] = [{}]
    ranks: dict[str, Bundle] = {}
    networks: dict[str, list[int]] = {}
    for name, network in config.networks.items():
        gpus = config.gpus_of(name)
        assert not isinstance(gpus, str), "resolve_gpus comes first"
        ranks[name] = {"CPU": resources.cpus_per_network, **network.resources}
        if gpus > 0:
            ranks[name]["GPU"] = gpus
        # Shared feeders lie with the first network. With one per node, any network may turn out
        # to be the one whose bundle hosts it.
        room = 0.0 if shared and networks else feeder_cpus
        networks[name] = []
        for _ in range(resources.ranks // together):
            bundle = {key: together * amount for key, amount in ranks[name].items()}
            bundle["CPU"] += together * room
            networks[name] += [len(bundles)] * together
            bundles.append(bundle)
            labels.append(dict(network.labels))
    return PlacementPlan(
        bundles=bundles,
        labels=labels,
        feeders=list(next(iter(networks.values()))) if shared else [],
        cpus_per_feeder=feeder_cpus,
        networks=networks,
        ranks=ranks,
        strategy="SPREAD" if resources.placement == "spread" else "PACK",
    )


def check_resources(plan: PlacementPlan, nodes: Sequence[Node]) -> None:
    """Refuse a plan that the cluster can never hold, instead of waiting for ever.

    Args:
        plan: what is asked.
        nodes: every living node.

    Raises:
        ResourceError: what is asked, what there is, and what to change.
    """
    _check_labels(plan, nodes)
    asked = plan.total()
    there = {name: sum(node.resources.get(name, 0.0) for node in nodes) for name in asked}
    short = [name for name in asked if asked[name] > there[name] + EPSILON]
    if not short and _fits(plan, nodes, copies=1):
        return
    what = ", ".join(f"{asked[name]:g} {name}" for name in asked)
    has = ", ".join(f"{there[name]:g} {name}" for name in asked)
    where = short[0] if short else "a single node"
    fields = {"GPU": "resources.gpus_per_network", "CPU": "resources.cpus_per_network"}
    mend = next((fields[name] for name in short if name in fields), "resources.cpus_per_network")
    own = [name for name in short if name not in fields]
    mend = f"networks.NAME.resources.{own[0]}" if own else mend
    raise ResourceError(
        f"the run asks for {what} (controller, {len(plan.feeders)} feeder(s), "
        f"{sum(map(len, plan.networks.values()))} network actor(s)) but Ray has {has}: too little "
        f"{where}. Lower {mend} or resources.ranks, or start Ray with more"
    )


def _check_labels(plan: PlacementPlan, nodes: Sequence[Node]) -> None:
    for name, bundles in plan.networks.items():
        wanted = plan.labels[bundles[0]]
        if not any(_has_labels(node, wanted) for node in nodes):
            known = sorted({f"{k}={v}" for node in nodes for k, v in node.labels.items()})
            shown = [label for label in known if not label.startswith("ray.io/node-")]
            raise ResourceError(
                f"networks.{name}.labels = {wanted}: no node of the cluster has them; there are "
                f"{', '.join(shown[:12]) or 'no labels'}. Correct them, or start nodes with "
                "`ray start --labels`"
            )


def possible_hosts(plan: PlacementPlan, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that at least one bundle of the plan could lie on."""
    return [
        node
        for node in nodes
        if any(_holds(node.resources, b) and _has_labels(node, w) for b, w in _pairs(plan))
    ]


def count_fitting(plan: PlacementPlan, nodes: Sequence[Node], *, limit: int) -> int:
    """How many runs of this plan the nodes hold side by side, ``limit`` at most."""
    count = 0
    while count < limit and _fits(plan, nodes, copies=count + 1):
        count += 1
    return count


def _pairs(plan: PlacementPlan) -> list[tuple[Bundle, dict[str, str]]]:
    return list(zip(plan.bundles, plan.labels))


def _fits(plan: PlacementPlan, nodes: Sequence[Node], *, copies: int) -> bool:
    """First-fit of pinned bundles, then of the largest; exact enough to tell "never"."""
    free = [(node, dict(node.resources)) for node in nodes]
    pairs = sorted(
        _pairs(plan) * copies,
        key=lambda p: (not p[1], -p[0].get("GPU", 0.0), -p[0].get("CPU", 0.0)),
    )
    for bundle, wanted in pairs:
        for node, left in free:
            if _has_labels(node, wanted) and _holds(left, bundle):
                for name, amount in bundle.items():
                    left[name] = left.get(name, 0.0) - amount
                break
        else:
            return False
    return True


def _holds(resources: Mapping[str, float], bundle: Bundle) -> bool:
    return all(resources.get(name, 0.0) + EPSILON >= amount for name, amount in bundle.items())


def _has_labels(node: Node, wanted: Mapping[str, str]) -> bool:
    """Ray's label selectors: ``x``, ``!x``, ``in(x, y)``, ``!in(x, y)``."""
    for key, selector in wanted.items():
        match = _SELECTOR.fullmatch(selector)
        assert match is not None, "the last alternative takes any text"
        no, several, one = match.groups()
        allowed = [one] if several is None else [part.strip() for part in several.split(",")]
        if (node.labels.get(key) in allowed) == bool(no):
            return False
    return True
