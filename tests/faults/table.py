"""The table of outcomes that the fault matrix writes."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.support.runs import ROOT

FOLDER = Path(os.environ.get("FAULTS_DIR", ROOT / "runs" / "faults"))
"""Where it goes: ``outcomes.jsonl``, a line per moment, and ``outcomes.md``."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fault at one moment."""

    fault: str
    outcome: str
    seconds: float | None
    """From the fault until the networks train again, ``--resume`` included where it is needed; None
    where the next fault struck before."""
    equal: bool
    """Whether the final weights are those of the undisturbed run, bit for bit."""


def write(rows: list[Row]) -> None:
    """All rows, and the table of them."""
    if not rows:
        return
    FOLDER.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(row)) for row in rows]
    (FOLDER / "outcomes.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (FOLDER / "outcomes.md").write_text(render(rows), encoding="utf-8")


def render(rows: list[Row]) -> str:
    """A line per fault and outcome."""
    heads = ("fault", "moments", "outcome", "seconds to recovery", "weights equal")
    text = f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|\n"
    for fault, outcome in dict.fromkeys((row.fault, row.outcome) for row in rows):
        same = [row for row in rows if (row.fault, row.outcome) == (fault, outcome)]
        times = [row.seconds for row in same if row.seconds is not None]
        low, high = min(times, default=0.0), max(times, default=0.0)
        took = f"{low:.0f} to {high:.0f}" if len(times) > 1 else f"{low:.0f}" if times else "-"
        equal = sum(row.equal for row in same)
        text += f"| {fault} | {len(same)} | {outcome} | {took} | {equal} of {len(same)} |\n"
    return text + f"\n{platform.machine()}, {os.cpu_count()} cores\n"
