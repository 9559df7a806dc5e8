"""The notice board between launcher and controller: progress one way, the stop flag the other.

A Ray actor without resources of its own, found by a name made of the run directory: a second
launcher of the same run on the same cluster finds the name taken and is refused.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

from orchestrator.live_view import Progress

NAMESPACE = "colad"


@dataclass(kw_only=True)
class Notice:
    """Everything on the board."""

    progress: Progress | None = None
    outcome: str = ""
    """Empty while running; then finished, stopped or failed."""
    error: str = ""
    """For ``failed``: the message, one screen at most."""
    messages: list[str] = field(default_factory=list)
    """Lines for the user, oldest first; the launcher takes them away."""


class RunMonitor:
    """The board. Called by: launcher and controller, never waiting for each other."""

    def __init__(self) -> None:
        self._notice = Notice()
        self._stop = False

    def publish(self, progress: Progress) -> bool:
        """Put the newest progress up; returns whether the run shall stop."""
        self._notice.progress = progress
        return self._stop

    def message(self, text: str) -> None:
        self._notice.messages.append(text)

    def conclude(self, outcome: str, error: str = "") -> None:
        self._notice.outcome, self._notice.error = outcome, error

    def request_stop(self) -> None:
        self._stop = True

    def read(self) -> Notice:
        """The board, with the messages since the last reading."""
        notice, self._notice = self._notice, Notice(**{**vars(self._notice), "messages": []})
        return notice


def monitor_name(run_dir: str) -> str:
    """Name of the board of a run directory."""
    return f"monitor-{hashlib.sha256(run_dir.encode()).hexdigest()[:16]}"


def create_monitor(run_dir: str) -> Any:
    """Create the board, on the node of this process: another one may go away.

    Raises:
        ValueError: the name is taken: the run is being driven by another launcher.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    actor = ray.remote(
        num_cpus=0,
        max_concurrency=4,
        enable_task_events=False,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=here, soft=False),
    )(RunMonitor)
    return actor.options(name=monitor_name(run_dir), namespace=NAMESPACE).remote()


def find_monitor(run_dir: str) -> Any:
    """The board of a run directory."""
    import ray

    return ray.get_actor(monitor_name(run_dir), namespace=NAMESPACE)
