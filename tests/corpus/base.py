"""What every case of the corpus starts from, and small tools to spoil it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.local_run import run_locally
from tests.support.runs import ROOT, SMALL

SEED = 20260
PAA = ROOT / "configs" / "tiny" / "paa.py"
LAD = ROOT / "configs" / "tiny" / "lad.py"
SETTINGS = tuple(s for s in SMALL if not s.startswith(("networks.r34", "data.shapes")))


@dataclass(frozen=True)
class Base:
    """Sound inputs that cases copy."""

    data: Path
    """A COCO folder: train.json, val.json, images/."""
    run: Path
    """A finished run on it, with checkpoints after iterations 1 and 2."""
    weights: Path
    """The run's network as a plain mmdet config.py and weights.pth."""


def make_base(folder: Path) -> Base:
    """Draw the data, train two iterations, export the network."""
    from orchestrator.export import export_network

    data = make_shapes(folder / "data", train=4, val=2, size=64, seed=SEED)
    more = ["train.max_iterations=2", "train.batch_size=2", "checkpoint.interval=1"]
    config = load_config(PAA, [f"data.root={data}", *SETTINGS, *more])
    run_locally(config, folder / "run")
    export_network(folder / "run", "r18", folder / "weights")
    return Base(data, folder / "run", folder / "weights")


@dataclass(frozen=True)
class Case:
    """One malformed input.

    ``make`` writes it into an empty folder and returns the command line that meets it.
    """

    name: str
    make: Callable[[Base, Path], list[str]]
    says: tuple[str, ...]
    """What the message must name: the file, the field."""


def copy_data(base: Base, folder: Path) -> Path:
    return Path(shutil.copytree(base.data, folder / "data"))


def edit_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Change the content in place, or replace it by what ``change`` returns."""
    content = json.loads(path.read_text())
    result = change(content)
    path.write_text(json.dumps(content if result is None else result))


def check(config: Path, root: Path, folder: Path, *more: str) -> list[str]:
    """The command that looks at everything, for a small network."""
    settings = [f"data.root={root}", *SETTINGS, *more]
    return ["check", str(config), "--work-dir", str(folder / "work"), "--set", *settings]


def flip_bit(path: Path, position: float) -> None:
    """Flip a bit at a share of the file's length."""
    data = bytearray(path.read_bytes())
    data[int(position * (len(data) - 1))] ^= 4
    path.write_bytes(bytes(data))


def cut(path: Path, share: float) -> None:
    """Keep the first share of a file."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
