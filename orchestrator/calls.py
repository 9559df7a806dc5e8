"""Calls to actors under way: waited for, within a limit, and what goes wrong in our words.

The controller keeps every call until its answer has come, together with the answers that the call
itself needs. So when nothing comes it tells those who do not answer from those who wait for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import exceptions
from ray.actor import ActorHandle

from orchestrator.errors import CoTrainError, HungError, NetworkLostError, ResourceError

LOSSES = (
    exceptions.RayActorError,
    exceptions.ObjectLostError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
    exceptions.LocalRayletDiedError,
    exceptions.OutOfMemoryError,
    exceptions.RaySystemError,
    exceptions.RpcError,
    exceptions.ActorPlacementGroupRemoved,
    exceptions.TaskPlacementGroupRemoved,
)
"""Ray's errors after which a new start can help; the others would come again."""
FULL = (exceptions.ObjectStoreFullError, exceptions.OutOfDiskError)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One call of an actor that has not been answered, as far as is known."""

    who: str
    what: str
    answer: Any
    needs: tuple[Any, ...] = ()
    """Answers that must be there before the call can begin."""
    patience: float = 1.0
    """How many times the usual limit it may take."""


class Calls:
    """All calls of the controller. Called by: the controller alone, in one thread.

    Args:
        hang_timeout: seconds to wait for an answer; None waits for ever.
    """

    def __init__(self, hang_timeout: float | None = None) -> None:
        self.hang_timeout = hang_timeout
        self._open: dict[Any, Call] = {}
        """By answer, in the order in which they were made."""
        self._actors: dict[str, ActorHandle] = {}
        self._names: dict[str, str] = {}
        self._nodes: dict[str, str] = {}

    def add(self, who: str, actor: ActorHandle) -> None:
        """Make an actor known by the words that messages have for it."""
        self._actors[who] = actor
        self._names[actor._actor_id.hex()] = who

    def place(self, who: str, node_id: str) -> None:
        """Note the node of an actor."""
        self._nodes[who] = node_id

    def made(
        self, who: str, what: str, answer: Any, needs: Iterable[Any] = (), *, patience: float = 1.0
    ) -> Any:
        """Note a call; returns its answer's reference."""
        self._open[answer] = Call(
            who=who, what=what, answer=answer, needs=tuple(needs), patience=patience
        )
        return answer

    def forget(self, answers: Iterable[Any]) -> None:
        """These came or are of no more use, and with them everything that they needed."""
        left = list(answers)
        while left:
            call = self._open.pop(left.pop(), None)
            if call is not None:
                left.extend(call.needs)

    def wait(self, answers: Sequence[Any]) -> list[Any]:
        """The values of answers.

        Raises:
            HungError: they did not come in time; all actors have been killed.
            NetworkLostError: an actor behind them died, or what it made is gone with it.
            ResourceError: an object store is full, and so is the disk behind it.
            CoTrainError: as raised in the actor.
        """
        try:
            values = ray.get(list(answers), timeout=self._limit(answers))
        except CoTrainError as error:  # Ray's wrapper is an instance of the cause's class, too
            raise getattr(error, "cause", error) from None
        except exceptions.GetTimeoutError:
            raise self._hung(self._limit(answers) or 0.0) from None
        except exceptions.RayError as error:
            raise self._explained(error) or error from error
        self.forget(answers)
        return values

    def _limit(self, answers: Sequence[Any]) -> float | None:
        if self.hang_timeout is None:
            return None
        known = [self._open[answer].patience for answer in answers if answer in self._open]
        return self.hang_timeout * max(known, default=1.0)

    # -- nobody answers -------------------------------------------------------------------------

    def _hung(self, seconds: float) -> HungError:
        """Kill everybody, after finding out who is to blame."""
        open_ = list(self._open)
        answered: list[Any] = []
        if open_:
            answered, _ = ray.wait(open_, num_returns=len(open_), timeout=0, fetch_local=False)
        came = set(answered)
        error = blame([call for call in self._open.values() if call.answer not in came], seconds)
        for actor in self._actors.values():
            ray.kill(actor)
        return error

    # -- somebody is gone -----------------------------------------------------------------------

    def _explained(self, error: exceptions.RayError) -> CoTrainError | None:
        """The loss behind a Ray error, or None if it is a failure that would come again."""
        cause: BaseException = getattr(error, "cause", None) or error
        if isinstance(cause, FULL):
            return ResourceError(
                f"an object store is full, and so is the disk behind it: {_first_line(cause)}. "
                "Enlarge it (ray start --object-store-memory; docker run --shm-size), make room "
                "on the disk, or lower feed.prefetch, lookahead or train.batch_size"
            )
        if not isinstance(cause, LOSSES) or getattr(cause, "actor_init_failed", False):
            return None
        actor_id = getattr(cause, "actor_id", None)
        who = self._names.get(str(actor_id), "an actor")
        return NetworkLostError(who, describe(cause), node=is_node(cause, self._nodes.get(who)))


def blame(calls: Iterable[Call], seconds: float) -> HungError:
    """Who does not answer, and who only waits for them.

    Args:
        calls: unanswered ones, in the order in which they were made. An actor takes its calls in
            that order, so its first one holds back its others.
        seconds: how long was waited.
    """
    first: dict[str, Call] = {}
    missing = set()
    for call in calls:
        first.setdefault(call.who, call)
        missing.add(call.answer)
    stuck = [call for call in first.values() if missing.isdisjoint(call.needs)]
    waiting = [f"{c.who} (for {c.what})" for c in first.values() if c not in stuck]
    if not stuck:
        return HungError("Ray", f"all calls are answered, but no answer came in {seconds:g} s")
    whats = list(dict.fromkeys(call.what for call in stuck))
    text = f"{', '.join(whats)}, for {seconds:g} s"
    if waiting:
        text += f"; waiting for that: {', '.join(waiting)}"
    return HungError(" and ".join(call.who for call in stuck), text)


def is_node(cause: BaseException, node_id: str | None) -> bool:
    """Whether a loss is that of a whole node rather than of a process.

    Args:
        cause: Ray's error. A process that dies is reported by its node; where nobody reports
            (``ActorUnavailableError``) the node is gone, too.
        node_id: the process's node, where it is known.
    """
    if isinstance(cause, (exceptions.ActorUnavailableError, exceptions.NodeDiedError)):
        return True
    if isinstance(cause, exceptions.ObjectLostError) or getattr(cause, "preempted", False):
        return True
    if node_id is None:
        return False
    return node_id not in {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def describe(cause: BaseException) -> str:
    """One line of a Ray error: its own words rather than the table in front of them."""
    if isinstance(cause, exceptions.ActorDiedError):
        lines = [line for line in str(cause).splitlines()[1:] if not line.startswith("\t")]
        said = " ".join(lines).strip()
        if said:
            return said.split(". ")[0][:300]
    return _first_line(cause)


def _first_line(cause: BaseException) -> str:
    lines = str(cause).strip().splitlines()
    return lines[0][:300] if lines else type(cause).__name__
