"""Whether a run starts again after a loss, and what Tune tells of losses.

Tune alone would count every failure alike. Here a lost process, a lost node and an error of the
code are three things: the first two have a budget each, the third ends the run at once.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any, Protocol

from ray import exceptions

from orchestrator.calls import describe, is_node
from orchestrator.config import ResourceConfig
from orchestrator.errors import NetworkLostError

WITHOUT_END = -1
"""Tune's own limit of failures: it restarts whatever happens, and is told when to stop."""


class RetryBudget:
    """How often one run may still start again, in one launch.

    Args:
        resources: ``max_retries`` and ``max_preemptions``.
    """

    def __init__(self, resources: ResourceConfig) -> None:
        self.limits = {False: resources.max_retries, True: resources.max_preemptions}
        self.spent = {False: 0, True: 0}
        """Restarts so far, of lost processes and of lost nodes."""

    @property
    def restarts(self) -> int:
        """Of both kinds."""
        return sum(self.spent.values())

    def spend(self, loss: NetworkLostError) -> bool:
        """Count a loss; returns whether the run may start again."""
        if self.spent[loss.node] >= self.limits[loss.node]:
            return False
        self.spent[loss.node] += 1
        return True

    def going_on(self, loss: NetworkLostError) -> str:
        """For the user, after a loss that was counted."""
        kind = "lost nodes" if loss.node else "lost processes"
        done, limit = self.spent[loss.node], self.limits[loss.node]
        return f"{loss}; going on from the last checkpoint (restart {done} of {limit} for {kind})"

    def given_up(self, loss: NetworkLostError) -> str:
        """For the user, after a loss too many."""
        field = "max_preemptions" if loss.node else "max_retries"
        return (
            f"given up after {self.restarts} restart(s): {loss}; "
            f"resources.{field} = {self.limits[loss.node]}"
        )


def cause_of(trial: Any, node_id: str | None) -> BaseException:
    """What ended a Tune trial's last attempt: a ``NetworkLostError``, or an error of the code.

    Args:
        trial: Tune's, just after it failed.
        node_id: where its controller ran, if that is known.
    """
    error: Any = None
    if trial.pickled_error_file:
        path = Path(trial.pickled_error_file)
        if path.is_file():
            error = pickle.loads(path.read_bytes())  # written by Tune in this process
    cause = getattr(error, "cause", None) or error or RuntimeError("Tune names no error")
    if isinstance(cause, exceptions.RayActorError) and not cause.actor_init_failed:
        return NetworkLostError("the controller", describe(cause), node=is_node(cause, node_id))
    assert isinstance(cause, BaseException)
    return cause


def controller_node(run_dir: Path) -> str | None:
    """Where a run's controller said that it runs; None before it did."""
    try:
        places = json.loads((run_dir / "processes.json").read_text(encoding="utf-8"))
        return str(places["controller"]["node_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Watched(Protocol):
    """Who is told of the trials of an experiment."""

    def run_dir_of(self, trial: str) -> Path:
        """A trial's run directory."""
        ...

    def started(self, trial: str, controller: Any) -> None:
        """A trial has its place, and runs in this actor."""
        ...

    def lost(self, trial: str, cause: BaseException) -> bool:
        """An attempt ended; returns whether there shall be another."""
        ...

    def ended(self, trial: str, *, error: bool) -> None:
        """A trial is over: it returned, was given up, or its scheduler stopped it."""
        ...


def trial_events(watched: Watched) -> Any:
    """Tune's callback that tells ``watched``; of an experiment with ``WITHOUT_END``."""
    from ray import tune

    class Events(tune.Callback):
        """Passes on what Tune does. Called by: Tune's loop, in the launcher's main thread."""

        def on_trial_start(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            watched.started(str(trial), trial.temporary_state.ray_actor)

        def on_trial_recover(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            name = str(trial)
            cause = cause_of(trial, controller_node(watched.run_dir_of(name)))
            if not watched.lost(name, cause):
                trial.max_failures = 0  # the attempt that Tune has begun to prepare is the last

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            watched.ended(str(trial), error=False)

        def on_trial_error(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            watched.ended(str(trial), error=True)

        def __reduce__(self) -> Any:
            return (tune.Callback, ())  # Tune stores the experiment; we are no part of it

    return Events()
