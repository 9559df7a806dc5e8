"""What the launcher keeps an eye on while Ray works: resources that are not there, a store that
fills. Both are said; the first ends a run that was not told to wait."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from orchestrator.errors import ConfigError, ResourceError
from orchestrator.placement import PlacementPlan, check_resources

LOOK_S = 2.0
"""Time between two looks at the cluster."""
QUIET_S = 30.0
"""A run that has its resources is started within this time, and nothing is said."""
SAY_S = 60.0
"""Time between two lines that say the same."""
LACK_S = 30.0
"""How long resources may be gone before a run that does not wait is ended: a node that is started
anew is away for some seconds."""
STORE_SHARE = 0.7
"""Ray moves objects to the disk when its store is 80 % full, and then counts them no more."""
STORE = "object_store_memory"

Look = Callable[[], tuple[list[Any], Mapping[str, float]]]
"""Living nodes, and what is free of all their resources."""


def check_wait(seconds: float | None) -> None:
    """Refuse a negative time.

    Raises:
        ConfigError: naming the option.
    """
    if seconds is not None and not seconds >= 0:
        raise ConfigError(f"--wait-for-resources {seconds}: seconds, 0 or more")


def look_at_cluster() -> tuple[list[Any], Mapping[str, float]]:
    """Of the connected cluster."""
    import ray

    from orchestrator.nodes import living_nodes

    return living_nodes(), ray.available_resources()


class ResourceWait:
    """Why nothing runs, and for how long that is borne.

    Args:
        plan: what the run asks for.
        limit_s: seconds to wait. None: without end for what others use, ``LACK_S`` for what the
            cluster does not have.
        say: told a line for the user.
        look: at the cluster.
        clock: seconds.
    """

    def __init__(
        self,
        plan: PlacementPlan,
        limit_s: float | None,
        say: Callable[[str], None],
        *,
        look: Look = look_at_cluster,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan, self.limit_s, self.say = plan, limit_s, say
        self._look, self._clock = look, clock
        self._since: float | None = None
        self._lacking_since: float | None = None
        self._looked = self._said = -1e9

    def begin(self) -> None:
        """From now on nothing runs; that may be known already."""
        if self._since is None:
            self._since, self._lacking_since, self._said = self._clock(), None, -1e9

    def end(self) -> None:
        """Something runs."""
        self._since = None

    def check(self) -> str:
        """Say what there is to say; returns why to give up, or nothing."""
        since, now = self._since, self._clock()
        if since is None or now - self._looked < LOOK_S:
            return ""
        self._looked = now
        nodes, free = self._look()
        lacking = lack(self.plan, nodes)
        if not lacking:
            self._lacking_since = None
        elif self._lacking_since is None:
            self._lacking_since = now
        waited = now - since
        if self._is_over(now, waited):
            return f"{lacking or self._in_use(free)}; waited {waited:.0f} s (--wait-for-resources)"
        if lacking:
            self._tell(f"{lacking}; waiting{self._until(waited)}", now)
        elif waited >= QUIET_S:
            self._tell(f"{self._in_use(free)}; waiting{self._until(waited)}", now)
        return ""

    def _is_over(self, now: float, waited: float) -> bool:
        lacking = self._lacking_since
        if self.limit_s is not None:  # a start takes some seconds, too
            return waited >= (self.limit_s if lacking is not None else max(self.limit_s, QUIET_S))
        return lacking is not None and now - lacking >= LACK_S

    def _until(self, waited: float) -> str:
        if self.limit_s is None or self.limit_s == float("inf"):
            return f" ({waited:.0f} s so far)"
        return f" ({waited:.0f} of {self.limit_s:.0f} s)"

    def _tell(self, text: str, now: float) -> None:
        if now - self._said >= SAY_S:
            self._said = now
            self.say(text)

    def _in_use(self, free: Mapping[str, float]) -> str:
        asked = self.plan.total()
        what = ", ".join(f"{asked[name]:g} {name}" for name in asked)
        left = ", ".join(f"{free.get(name, 0.0):g} {name}" for name in asked)
        return f"not started: the run asks for {what}, and {left} of the cluster are free"


def lack(plan: PlacementPlan, nodes: list[Any]) -> str:
    """What the cluster does not have, in words; empty if it has everything."""
    try:
        check_resources(plan, nodes)
    except ResourceError as error:
        return str(error)
    return ""


class StoreWatch:
    """Warns once when an object store fills, before batches go by the disk.

    Args:
        say: told a line for the user.
        look: resources in total and free, of all nodes together.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        look: Callable[[], tuple[Mapping[str, float], Mapping[str, float]]] | None = None,
    ) -> None:
        self.say, self._look = say, look or _stores
        self._looked = -1e9
        self._told = False

    def check(self, now: float) -> None:
        """Look every ``LOOK_S``, until there was something to say."""
        if self._told or now - self._looked < LOOK_S:
            return
        self._looked = now
        total, free = self._look()
        size = total.get(STORE, 0.0)
        used = size - free.get(STORE, 0.0)
        if size > 0 and used >= STORE_SHARE * size:
            self._told = True
            self.say(
                f"warning: Ray's object store is {used / size:.0%} full ({used / 2**20:.0f} of "
                f"{size / 2**20:.0f} MB): what does not fit goes by the disk, which is slow, and "
                "fails when that is full. Enlarge it (ray start --object-store-memory; docker run "
                "--shm-size), or lower feed.prefetch, lookahead or train.batch_size"
            )


def _stores() -> tuple[Mapping[str, float], Mapping[str, float]]:
    import ray

    return ray.cluster_resources(), ray.available_resources()
