"""What the launcher of a sweep does while Tune runs it: tell how trials end, turn Ctrl-C into
checkpoints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from orchestrator.errors import NetworkLostError
from orchestrator.retries import RetryBudget
from orchestrator.run_watch import POLL_S, STOP_GRACE_S, beside_the_loop
from orchestrator.sweep.layout import Layout
from orchestrator.sweep.plan import Trial
from orchestrator.sweep.status import (
    FAILED,
    FINISHED,
    STOPPED,
    TrialStatus,
    read_status,
    write_status,
)
from orchestrator.waiting import ResourceWait, StoreWatch


class Watcher:
    """Notes how trials end, counts their losses, and turns Ctrl-C into checkpoints.

    Args:
        layout: the sweep.
        size: how many trials there will be.
        say: told a line for the user.
        wait: for resources, while no trial runs.
    """

    def __init__(
        self, layout: Layout, size: int, say: Callable[[str], None], wait: ResourceWait
    ) -> None:
        self.layout, self.size, self.say, self.wait = layout, size, say, wait
        self.trials: dict[str, Trial] = {}
        """Filled as trials become known."""
        self.signal: int | None = None
        """The first that came."""
        self.given_up = ""
        """Why, where the sweep was ended for lack of resources."""
        self._budgets: dict[str, RetryBudget] = {}
        self._running: set[str] = set()
        self._store = StoreWatch(say)
        self._told: set[str] = set()
        self._done = threading.Event()

    # -- what Tune tells (``retries.Watched``) --------------------------------------------------

    def run_dir_of(self, trial: str) -> Path:
        return self.layout.trial_dir(trial)

    def started(self, trial: str, controller: Any) -> None:
        self._running.add(trial)
        self.wait.end()

    def lost(self, trial: str, cause: BaseException) -> bool:
        self._rests(trial)
        if not isinstance(cause, NetworkLostError):
            return False
        budget = self._budgets.setdefault(trial, RetryBudget(self.trials[trial].config.resources))
        if budget.spend(cause):
            self.say(f"{trial}: {budget.going_on(cause)}")
            return True
        reason = budget.given_up(cause)
        write_status(self.run_dir_of(trial), TrialStatus(outcome=FAILED, reason=reason))
        return False

    def ended(self, trial: str, *, error: bool) -> None:
        self._rests(trial)
        if trial in self._told or self.signal is not None:
            return
        self._told.add(trial)
        run_dir = self.layout.trial_dir(trial)
        status = read_status(run_dir)
        if status is None:
            status = TrialStatus(
                outcome=FAILED if error else STOPPED,
                reason="it could not be started" if error else "by the scheduler",
            )
            write_status(run_dir, status)
        last = "" if status.outcome == FINISHED else f": {status.reason.strip().splitlines()[-1]}"
        params = self.trials[trial].params
        what = ", ".join(f"{field}={value}" for field, value in params.items()) or "as it is"
        self.say(
            f"{len(self._told)}/{self.size}  {trial}  {status.outcome}  "
            f"({what}, seed {self.trials[trial].seed}){last}"
        )

    def _rests(self, trial: str) -> None:
        self._running.discard(trial)
        if not self._running:
            self.wait.begin()

    # -- while it runs --------------------------------------------------------------------------

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trap signals while the body runs."""
        self.wait.begin()
        with beside_the_loop(self._watch, self._on_signal, self._done):
            yield

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice: do not wait for checkpoints
            os.kill(os.getpid(), signal.SIGUSR1)
            return
        self.signal = number

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            self._store.check(time.monotonic())
            self.given_up = self.wait.check()
            if self.signal is not None:
                self.say("stopping: the running trials write their checkpoints first")
                self._stop_trials()
            if self.signal is not None or self.given_up:
                os.kill(os.getpid(), signal.SIGUSR1)  # Tune ends its loop
                return

    def _stop_trials(self) -> None:
        import ray

        from orchestrator.monitor import find_monitor

        boards = []
        for trial in list(self.trials):
            try:
                boards.append(find_monitor(str(self.layout.trial_dir(trial))))
            except ValueError:  # not running
                continue
        for board in boards:
            board.request_stop.remote()
        until = time.monotonic() + STOP_GRACE_S
        while boards and time.monotonic() < until and not self._done.wait(POLL_S):
            running = []
            for board in boards:
                try:
                    if not ray.get(board.read.remote(), timeout=30).outcome:
                        running.append(board)
                except ray.exceptions.RayError:  # its trial has ended
                    continue
            boards = running
