"""The training step.

```
cotrain_iteration(batches, networks, step)
 1 network.begin_step(batches, step)    all networks at once, each in its actor
     images, gts = unpack(batch) -> this network's own preprocessor -> detector forward
     -> DensePredictions -> assigner.candidates -> assigner.costs -> exchange.pack
     predictions and autograd graph stay in the actor
 2 network.finish_step(*tables)         learners only, at once; tables go actor to actor
     exchange.check -> switching.choose -> assigner.assign -> loss -> backward -> optimizer step
```

Here nothing waits: with actors, every call returns references, and an actor's queue keeps the
order. So a frozen teacher, which has no phase 2, runs ahead of its students, and a LAD step costs
max(teacher, student). With two learners, phase 2 needs the other's phase 1: the natural barrier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from assigners.types import Step
from orchestrator.step import StepResult

Handle = Any
"""A value (``LocalNetwork``) or a Ray ObjectRef of it (``ActorNetwork``), one per rank."""


class CoTrainNetwork(Protocol):
    """What the step needs of a network: all its ranks, here or in actors."""

    name: str
    learner: bool
    readable: bool
    """Whether other networks look at its costs."""

    def begin_step(self, batches: Sequence[Handle], step: Step) -> list[Handle]:
        """Forward and costs on every rank; returns each rank's table."""
        ...

    def finish_step(
        self, tables: Mapping[str, Sequence[Handle]], *, want_sample: bool
    ) -> list[Handle]:
        """Choose, assign, learn on every rank; returns each rank's ``StepResult``."""
        ...


@dataclass(kw_only=True)
class IterationRecord:
    """One micro-batch under way, or done once ``results`` are resolved."""

    step: Step
    handles: dict[str, list[Handle]]
    """Per learner, one handle per rank."""
    results: dict[str, list[StepResult]] = field(default_factory=dict)
    submitted_s: float = 0.0
    """When the iteration was issued (``time.perf_counter``)."""


def cotrain_iteration(
    batches: Sequence[Handle],
    networks: Sequence[CoTrainNetwork],
    step: Step,
    *,
    want_sample: bool = False,
) -> IterationRecord:
    """Issue one co-training step.

    Args:
        batches: one per rank: rank r of every network reads ``batches[r]``.
        networks: in the order of the configuration, which breaks ties of the switch.
        step: where training stands.
        want_sample: ask the learners for sampled cost tables.
    """
    tables = {network.name: network.begin_step(batches, step) for network in networks}
    readable = {network.name: tables[network.name] for network in networks if network.readable}
    return IterationRecord(
        step=step,
        handles={
            learner.name: learner.finish_step(
                {name: handles for name, handles in readable.items() if name != learner.name},
                want_sample=want_sample,
            )
            for learner in networks
            if learner.learner
        },
    )
