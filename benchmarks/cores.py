"""Who uses the cores: CPU time of the processes of this machine, by kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

KINDS = {"ray::NetworkPro": "networks", "ray::FeederProc": "feeder"}
"""First 15 letters of a process's name, as Linux keeps them; all others are ``"rest"``."""


def cpu_ms() -> dict[tuple[int, str], float]:
    """Milliseconds of CPU so far by process id and kind."""
    tick = 1e3 / os.sysconf("SC_CLK_TCK")
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text()
        except OSError:  # ended meanwhile
            continue
        name = text[text.index("(") + 1 : text.rindex(")")]
        fields = text.rpartition(")")[2].split()
        kind = KINDS.get(name, "rest")
        found[int(entry), kind] = tick * (int(fields[11]) + int(fields[12]))
    return found


class CoreUse:
    """Sums what the calls of one runner use, per iteration."""

    def __init__(self, run: Callable[[int], list[float]]) -> None:
        self._run = run
        self.used: dict[str, float] = {}
        self.wall_ms, self.iterations = 0.0, 0

    def __call__(self, iterations: int) -> list[float]:
        before = cpu_ms()
        seconds = self._run(iterations)
        for key, now in cpu_ms().items():
            kind = key[1]
            self.used[kind] = self.used.get(kind, 0.0) + now - before.get(key, 0.0)
        self.wall_ms += 1e3 * sum(seconds)
        self.iterations += iterations
        return seconds

    def each(self, kind: str) -> float:
        """Core milliseconds per iteration."""
        return self.used.get(kind, 0.0) / self.iterations

    def __str__(self) -> str:
        """Core milliseconds per iteration, by kind, and how busy the cores were."""
        parts = (f"{kind} {self.each(kind):.0f}" for kind in (*KINDS.values(), "rest"))
        busy = sum(self.used.values()) / (self.wall_ms * len(os.sched_getaffinity(0)))
        return f"{', '.join(parts)} ms of a core, cores {busy:.0%} busy"
