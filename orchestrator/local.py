"""Networks and feed in this process, without Ray: the same interface, the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from assigners.types import Step
from orchestrator.batch import Batch
from orchestrator.errors import ConfigError
from orchestrator.evaluation import Detections
from orchestrator.exchange import PackedTable
from orchestrator.feed import Feeder
from orchestrator.grid import GridDescription
from orchestrator.network import Network
from orchestrator.step import NetworkSpec, StepResult
from orchestrator.weights import deserialise, serialise


class LocalNetwork:
    """One network of one rank in this process."""

    def __init__(self, spec: NetworkSpec) -> None:
        if spec.config.resources.ranks != 1:
            raise ConfigError(
                f"resources.ranks = {spec.config.resources.ranks}: a run without Ray has one rank"
            )
        self.network = Network(spec)
        self.name, self.learner = spec.name, self.network.learner
        self.readable = spec.name in spec.config.readable
        self.num_ranks = 1

    def begin_step(self, batches: Sequence[Batch], step: Step) -> list[PackedTable | None]:
        return [self.network.begin_step(batches[0], step)]

    def finish_step(
        self, tables: Mapping[str, Sequence[PackedTable]], *, want_sample: bool = False
    ) -> list[StepResult]:
        others = [handles[0] for handles in tables.values()]
        return [self.network.finish_step(others, want_sample=want_sample)]

    def describe(self) -> list[GridDescription]:
        return [self.network.describe()]

    def predict(self) -> list[Detections]:
        return [self.network.predict()]

    def save(self) -> list[bytes]:
        return [serialise(self.network.state())]

    def load(self, parts: Sequence[bytes]) -> list[None]:
        state = deserialise(parts[0])
        self.network.load_state(state, state)
        return [None]


class LocalFeed:
    """Feeders in this process."""

    def __init__(self, feeders: Sequence[Feeder]) -> None:
        self.feeders = feeders

    def batches(self, position: int) -> list[Batch]:
        return [feeder.batch(position) for feeder in self.feeders]


def resolve(handles: Sequence[Any]) -> list[Any]:
    """Handles of local networks are the values themselves."""
    return list(handles)
