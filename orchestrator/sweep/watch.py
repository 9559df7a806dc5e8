"""What the launcher of a sweep does while Tune runs it: tell how trials end, turn Ctrl-C into
checkpoints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.launcher import STOP_GRACE_S
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

POLL_S = 0.25


class Watcher:
    """Notes how trials end, and turns Ctrl-C into checkpoints of the running ones."""

    def __init__(self, layout: Layout, size: int, say: Callable[[str], None]) -> None:
        self.layout, self.size, self.say = layout, size, say
        self.trials: dict[str, Trial] = {}
        """Filled as trials become known."""
        self.signalled = False
        self._told: set[str] = set()
        self._done = threading.Event()

    def ended(self, trial: str, *, error: bool) -> None:
        """Tune let the trial go: it returned, failed too often, or the scheduler stopped it."""
        if trial in self._told or self.signalled:
            return
        self._told.add(trial)
        run_dir = self.layout.trial_dir(trial)
        status = read_status(run_dir)
        if status is None:
            retries = self.trials[trial].config.resources.max_retries
            status = TrialStatus(
                outcome=FAILED if error else STOPPED,
                reason=f"given up after {retries} restart(s)" if error else "by the scheduler",
            )
            write_status(run_dir, status)
        last = "" if status.outcome == FINISHED else f": {status.reason.strip().splitlines()[-1]}"
        params = self.trials[trial].params
        what = ", ".join(f"{field}={value}" for field, value in params.items()) or "as it is"
        self.say(
            f"{len(self._told)}/{self.size}  {trial}  {status.outcome}  "
            f"({what}, seed {self.trials[trial].seed}){last}"
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Trap signals while the body runs."""
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        thread = threading.Thread(target=self._watch, name="colad-sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join(timeout=10)
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.signalled:  # asked twice: do not wait for checkpoints
            os.kill(os.getpid(), signal.SIGUSR1)
        self.signalled = True

    def _watch(self) -> None:
        while not self._done.wait(POLL_S):
            if self.signalled:
                self.say("stopping: the running trials write their checkpoints first")
                self._stop_trials()
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
