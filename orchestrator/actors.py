"""Networks and feeders as Ray actors, and the handles the trainer drives them with."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import ray
from ray.actor import ActorHandle

from assigners.types import Step
from orchestrator.building import import_custom
from orchestrator.calls import Calls
from orchestrator.config import RunConfig, patience
from orchestrator.datasets import PreparedData, build_dataset, check_test_pipeline
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
    """All ranks of one network; every method returns references at once.

    Args:
        spec: of rank 0; the others differ in their rank.
        actors: one per rank.
        places: where each is, as ``locate`` says.
        calls: told of every call.
    """

    def __init__(
        self,
        spec: NetworkSpec,
        actors: Sequence[ActorHandle],
        places: Sequence[Mapping[str, Any]],
        calls: Calls,
    ) -> None:
        self.spec, self.actors, self.places = spec, actors, places
        self.name = spec.name
        self.learner = spec.config.networks[spec.name].learner
        self.readable = spec.name in spec.config.readable
        self.num_ranks = len(actors)
        self.nodes = [str(place["node_id"]) for place in places]
        self._calls, self._names = calls, rank_names(spec.name, self.num_ranks)
        self._begun: list[Any] = []
        self._step = ""

    def begin_step(self, batches: Sequence[ShardBatch], step: Step) -> list[Any]:
        fields = asdict(step)
        self._step = f"iteration {step.iteration}"
        if step.accumulate > 1:
            self._step += f", micro-batch {step.micro_batch}"
        what = f"begin_step of {self._step}"
        self._begun = []
        for who, actor, node, batch in zip(self._names, self.actors, self.nodes, batches):
            needed = batch.on(node)
            answer = actor.begin_step.remote(needed, fields)
            self._begun.append(self._calls.made(who, what, answer, (needed,)))
        return self._begun

    def finish_step(
        self, tables: Mapping[str, Sequence[Any]], *, want_sample: bool = False
    ) -> list[Any]:
        what, answers = f"finish_step of {self._step}", []
        for rank, (who, actor) in enumerate(zip(self._names, self.actors)):
            needed = [table[rank] for table in tables.values()]
            answer = actor.finish_step.remote(want_sample and rank == 0, *needed)
            answers.append(self._calls.made(who, what, answer, (*needed, self._begun[rank])))
        return answers

    def build(self) -> list[Any]:
        """Build every rank; rank 0's node hosts their rendezvous."""
        gpus = self.spec.config.gpus_of(self.name)
        references = []
        for rank, (actor, place) in enumerate(zip(self.actors, self.places)):
            wanted = len(place["gpu_ids"]) if gpus == "auto" else float(gpus)
            spec = replace(self.spec, rank=rank)
            references.append(actor.build.remote(spec, self.places[0]["address"], wanted))
        return self._made("build", references)

    def describe(self) -> list[Any]:
        return self._made("describe", [actor.describe.remote() for actor in self.actors])

    def predict(self) -> list[Any]:
        """Predict the validation images; given more time the more they are."""
        answers = [actor.predict.remote(self.num_ranks) for actor in self.actors]
        share = self.spec.data.val.num_images / self.num_ranks
        return self._made("predict", answers, patience=patience(share))

    def save(self) -> list[Any]:
        return self._made("save", [actor.save.remote() for actor in self.actors])

    def load(self, parts: Sequence[bytes]) -> list[Any]:
        shared = ray.put(parts[0])
        answers = [actor.load.remote(shared, own) for actor, own in zip(self.actors, parts)]
        return self._made("load", answers)

    def _made(self, what: str, answers: list[Any], *, patience: float = 1.0) -> list[Any]:
        for who, answer in zip(self._names, answers):
            self._calls.made(who, what, answer, patience=patience)
        return answers


def rank_names(network: str, ranks: int) -> list[str]:
    """Words for messages, one per rank."""
    many = ranks > 1
    return [f"network {network!r}" + (f", rank {rank}" if many else "") for rank in range(ranks)]


def locate(network: str, actors: Sequence[ActorHandle], calls: Calls) -> list[dict[str, Any]]:
    """Process, node and GPUs of every rank of a network, which ``calls`` knows from now on."""
    names = rank_names(network, len(actors))
    for who, actor in zip(names, actors):
        calls.add(who, actor)
    return _places(names, actors, calls)


def _places(
    names: Sequence[str], actors: Sequence[ActorHandle], calls: Calls
) -> list[dict[str, Any]]:
    asked = [calls.made(who, "start", actor.where.remote()) for who, actor in zip(names, actors)]
    places = calls.wait(asked)
    for who, place in zip(names, places):
        calls.place(who, place["node_id"])
    return places


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
        calls: told of every call.
    """

    def __init__(
        self, shards: Sequence[Mapping[str, ActorHandle]], prefetch: int, calls: Calls
    ) -> None:
        self.shards, self.prefetch, self._calls = shards, prefetch, calls
        self.feeders = [feeder for shard in shards for feeder in shard.values()]
        self._asked: dict[int, list[ShardBatch]] = {}
        self._names = {feeder: f"feeder {i}" for i, feeder in enumerate(self.feeders)}
        for feeder, who in self._names.items():
            calls.add(who, feeder)

    def build(self, config: RunConfig, data: PreparedData) -> dict[str, Any]:
        """Open the data in every feeder; number of images and their aspect flags.

        Raises:
            CoTrainError: the data cannot be used, or a feeder is lost.
        """
        building = [
            self._calls.made(self._names[feeder], "build", feeder.build.remote(config, data, shard))
            for shard, feeders in enumerate(self.shards)
            for feeder in feeders.values()
        ]
        opened: dict[str, Any] = self._calls.wait(building)[0]
        return opened

    def batches(self, position: int) -> list[ShardBatch]:
        """References of batch ``position``, per shard; the next ones are decoded meanwhile."""
        if self._asked and position not in self._asked:
            self._forget()
        for ahead in range(position, position + self.prefetch + 1):
            if ahead not in self._asked:
                self._asked[ahead] = [self._ask(shard, ahead) for shard in self.shards]
        return self._asked.pop(position)

    def _ask(self, shard: Mapping[str, ActorHandle], position: int) -> ShardBatch:
        what = f"batch {position}"
        return ShardBatch(
            {
                node: self._calls.made(self._names[feeder], what, feeder.batch.remote(position))
                for node, feeder in shard.items()
            }
        )

    def _forget(self) -> None:
        for batches in self._asked.values():
            for batch in batches:
                self._calls.forget(batch.by_node.values())
        self._asked.clear()

    def places(self) -> list[dict[str, Any]]:
        """Process and node of every feeder."""
        return _places(list(self._names.values()), self.feeders, self._calls)
