"""Actors that answer like networks and feeders and only sleep, light enough for hundreds of them.

They run in processes without torch, so nothing here may import it, and the one type of the project
that the trainer wants back comes and goes pickled.
"""

from __future__ import annotations

import pickle
import sys
import time
from typing import Any


class Sealed:
    """A value pickled elsewhere; whoever unpickles this gets it, and only there is it built."""

    def __init__(self, pickled: bytes) -> None:
        self.pickled = pickled

    def __reduce__(self) -> tuple[Any, ...]:
        return pickle.loads, (self.pickled,)


class SleepingNetwork:
    """The calls of ``NetworkProcess`` that an iteration makes.

    Args:
        phases: seconds that ``begin_step`` and ``finish_step`` sleep.
        table_bytes: size of the costs that others read.
        result: a pickled ``StepResult``.
    """

    def __init__(self, phases: tuple[float, float], table_bytes: int, result: bytes) -> None:
        self.phases, self.table, self.result = phases, bytes(table_bytes), Sealed(result)
        assert "torch" not in sys.modules

    def begin_step(self, batch: Any, step: dict[str, int]) -> Any:
        time.sleep(self.phases[0])
        return pickle.PickleBuffer(self.table)  # read without a copy, as arrays are

    def finish_step(self, want_sample: bool, *tables: Any) -> Sealed:
        time.sleep(self.phases[1])
        return self.result

    def save(self) -> bytes:
        return b""


class SleepingFeeder:
    """A shard's batches, of ``batch_bytes`` each."""

    def __init__(self, batch_bytes: int) -> None:
        self.content = bytes(batch_bytes)

    def batch(self, position: int) -> Any:
        return pickle.PickleBuffer(self.content)
