"""Networks and feeders as Ray actors, and the handles the trainer drives them with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError

from assigners.types import Step
from orchestrator.building import import_custom
from orchestrator.config import RunConfig
from orchestrator.datasets import PreparedData, build_dataset, check_test_pipeline
from orchestrator.errors import CoTrainError, NetworkLostError
from orchestrator.evaluation import Detections
from orchestrator.exchange import PackedTable
from orchestrator.feed import Feeder, batch_order
from orchestrator.grid import GridDescription
from orchestrator.network import Network
from orchestrator.ranks import RankGroup, free_address
from orchestrator.step import NetworkSpec, StepResult
from orchestrator.torch_state import resolve_device
from orchestrator.weights import deserialise, serialise

ACTOR_OPTIONS: dict[str, Any] = dict(max_restarts=0, enable_task_events=False)
"""Of every network and feeder: Tune restarts a run whole, and a record in Ray's task table of every
call would cost some percent of a large run and fill its control store."""


class NetworkProcess:
    """One rank of one network in a Ray actor.

    Called by: ``ActorNetwork``. Calls run one after the other in the order of submission; a call
    whose table is not there yet holds back those behind it.
    """

    def __init__(self) -> None:
        self.network: Network | None = None

    def prepare(self, custom_imports: Sequence[str]) -> None:
        """Import what ``build`` needs; slow, so it is asked for early."""
        import_custom(custom_imports)

    def where(self) -> dict[str, Any]:
        """Process id, node and GPU ids; also a rendezvous address for the ranks."""
        context = ray.get_runtime_context()
        return dict(
            pid=os.getpid(),
            node_id=context.get_node_id(),
            gpu_ids=[str(g) for g in ray.get_gpu_ids()],
            address=free_address(ray.util.get_node_ip_address()),
        )

    def build(self, spec: NetworkSpec, address: str, gpus: float) -> None:
        """Build this rank. Waits for: the other ranks of the network, if it has any."""
        import torch

        spec = replace(spec, device=resolve_device(gpus))
        group = None
        ranks = spec.config.resources.ranks
        if ranks > 1 and spec.config.networks[spec.name].learner:
            group = RankGroup(spec.rank, ranks, address, torch.device(spec.device))
        self.network = Network(spec, group)

    def describe(self) -> GridDescription:
        return self._network().describe()

    def _network(self) -> Network:
        assert self.network is not None, "build comes first"
        return self.network

    def begin_step(self, batch: Any, step: dict[str, int]) -> PackedTable | None:
        """See ``Network.begin_step``.

        A table above Ray's 100 kB lies in the object store and is read from there. A smaller one
        rides, still packed, in the messages to and from the controller: half the work of an object
        of its own, whose owner, borrowers and store would have to be told of its end.

        Args:
            step: the fields of ``Step``; plain numbers need no pickling.
        """
        return self._network().begin_step(batch, Step(**step))

    def finish_step(self, want_sample: bool, *tables: PackedTable) -> StepResult:
        """See ``Network.finish_step``. Waits for: every other network's ``begin_step``."""
        return self._network().finish_step(tables, want_sample=want_sample)

    def predict(self, num_shards: int) -> Detections:
        return self._network().predict(num_shards=num_shards)

    def save(self) -> bytes:
        return serialise(self._network().state())

    def load(self, shared: bytes, own: bytes) -> None:
        self._network().load_state(deserialise(shared), deserialise(own))


class FeederProcess:
    """One shard's feeder in a Ray actor."""

    def __init__(self) -> None:
        self.feeder: Feeder | None = None

    def where(self) -> dict[str, Any]:
        return dict(pid=os.getpid(), node_id=ray.get_runtime_context().get_node_id())

    def build(self, config: RunConfig, data: PreparedData, shard: int) -> dict[str, Any]:
        """Open the training split; returns its number of images and their aspect flags."""
        import torch

        torch.set_num_threads(1)
        import_custom(config.custom_imports)
        if shard == 0:
            check_test_pipeline(config.data, data)
        dataset = build_dataset(config.data, data.train, data.classes, train=True)
        order = batch_order(config, dataset)
        self.feeder = Feeder(
            dataset,
            order,
            seed=config.seed,
            shard=shard,
            num_shards=config.resources.ranks,
            workers=config.feed.workers,
        )
        return dict(num_images=order.num_images, wide=order.wide)

    def batch(self, position: int) -> Any:
        assert self.feeder is not None, "build comes first"
        return self.feeder.batch(position)


class ActorNetwork:
    """All ranks of one network; every method returns references at once."""

    def __init__(
        self,
        spec: NetworkSpec,
        actors: Sequence[ActorHandle],
        places: Sequence[Mapping[str, Any]],
    ) -> None:
        self.spec, self.actors, self.places = spec, actors, places
        self.name = spec.name
        self.learner = spec.config.networks[spec.name].learner
        self.readable = spec.name in spec.config.readable
        self.num_ranks = len(actors)
        self.nodes = [str(place["node_id"]) for place in places]

    def begin_step(self, batches: Sequence[ShardBatch], step: Step) -> list[Any]:
        fields = asdict(step)
        return [
            actor.begin_step.remote(batch.on(node), fields)
            for actor, node, batch in zip(self.actors, self.nodes, batches)
        ]

    def finish_step(
        self, tables: Mapping[str, Sequence[Any]], *, want_sample: bool = False
    ) -> list[Any]:
        return [
            actor.finish_step.remote(want_sample and rank == 0, *(t[rank] for t in tables.values()))
            for rank, actor in enumerate(self.actors)
        ]

    def build(self) -> list[Any]:
        """Build every rank; rank 0's node hosts their rendezvous."""
        gpus = self.spec.config.gpus_of(self.name)
        references = []
        for rank, (actor, place) in enumerate(zip(self.actors, self.places)):
            wanted = len(place["gpu_ids"]) if gpus == "auto" else float(gpus)
            spec = replace(self.spec, rank=rank)
            references.append(actor.build.remote(spec, self.places[0]["address"], wanted))
        return references

    def describe(self) -> list[Any]:
        return [actor.describe.remote() for actor in self.actors]

    def predict(self) -> list[Any]:
        return [actor.predict.remote(self.num_ranks) for actor in self.actors]

    def save(self) -> list[Any]:
        return [actor.save.remote() for actor in self.actors]

    def load(self, parts: Sequence[bytes]) -> list[Any]:
        shared = ray.put(parts[0])
        return [actor.load.remote(shared, own) for actor, own in zip(self.actors, parts)]

    def owners(self) -> dict[str, str]:
        """Actor id -> words for messages."""
        return name_ranks(self.name, self.actors)


def name_ranks(network: str, actors: Sequence[ActorHandle]) -> dict[str, str]:
    """Actor id -> words for messages."""
    many = len(actors) > 1
    return {
        actor._actor_id.hex(): f"network {network!r}" + (f", rank {rank}" if many else "")
        for rank, actor in enumerate(actors)
    }


def locate(network: str, actors: Sequence[ActorHandle]) -> list[dict[str, Any]]:
    """Process, node and GPUs of every rank of a network."""
    return get_all([actor.where.remote() for actor in actors], name_ranks(network, actors))


class ShardBatch:
    """One shard's batch: the same arrays from the feeder of each node, or from the only one."""

    def __init__(self, by_node: Mapping[str, Any]) -> None:
        self.by_node = by_node

    def on(self, node: str) -> Any:
        """Reference of the batch for a reader on ``node``."""
        if len(self.by_node) == 1:
            return next(iter(self.by_node.values()))
        return self.by_node[node]


class ActorFeed:
    """All feeders; asks them for batches ahead of their use.

    Args:
        shards: per shard, its feeders by the node whose readers they serve. A single feeder serves
            all nodes.
        prefetch: batches asked for ahead.
    """

    def __init__(self, shards: Sequence[Mapping[str, ActorHandle]], prefetch: int) -> None:
        self.shards, self.prefetch = shards, prefetch
        self.feeders = [feeder for shard in shards for feeder in shard.values()]
        self._asked: dict[int, list[ShardBatch]] = {}

    def batches(self, position: int) -> list[ShardBatch]:
        """References of batch ``position``, per shard; the next ones are decoded meanwhile."""
        if self._asked and position not in self._asked:
            self._asked.clear()
        for ahead in range(position, position + self.prefetch + 1):
            if ahead not in self._asked:
                self._asked[ahead] = [
                    ShardBatch({n: feeder.batch.remote(ahead) for n, feeder in shard.items()})
                    for shard in self.shards
                ]
        return self._asked.pop(position)

    def places(self) -> list[dict[str, Any]]:
        """Process and node of every feeder."""
        return get_all([feeder.where.remote() for feeder in self.feeders], self.owners())

    def owners(self) -> dict[str, str]:
        """Actor id -> words for messages."""
        return {f._actor_id.hex(): f"feeder {i}" for i, f in enumerate(self.feeders)}


def get_all(references: Sequence[Any], owners: Mapping[str, str]) -> list[Any]:
    """``ray.get`` that raises our errors.

    Raises:
        NetworkLostError: an actor behind the references died, or what it made is gone with it.
        CoTrainError: as raised in the actor.
    """
    try:
        return ray.get(list(references))
    except CoTrainError as error:  # Ray's wrapper is an instance of the cause's class, too
        raise getattr(error, "cause", error) from None
    except RayError as error:
        raise _lost(error, owners) or error from error


def _lost(error: RayError, owners: Mapping[str, str]) -> NetworkLostError | None:
    """The loss behind a Ray error, or None if it is a failure of the code in an actor."""
    cause: BaseException = getattr(error, "cause", None) or error
    if not isinstance(cause, RayError) or type(cause) is ray.exceptions.RayTaskError:
        return None
    actor_id = getattr(cause, "actor_id", None) if isinstance(cause, RayActorError) else None
    who = owners.get(str(actor_id), "an actor")
    return NetworkLostError(who, str(cause).strip().splitlines()[0])
