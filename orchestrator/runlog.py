"""The run log: what happened in every iteration, for people, pandas and TensorBoard.

Each log is a folder of Parquet parts, ``pandas.read_parquet(run / "iterations.parquet")`` reads it
whole. A part is written once, under a hidden name first, so a reader never meets half of one, and
memory does not grow with the run. ``iteration`` is the 0-based index of the iteration done.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from orchestrator.errors import CheckpointError
from orchestrator.evaluation import METRIC_NAMES, Detections

LOGS = ("iterations", "evaluations", "assignments", "changes")
CHANGES = "changes"
"""Of a run whose values changed while it trained; other runs have no such log."""
_INTEGERS = ("iteration", "epoch")
_NEEDED = {
    "iterations": ("iteration", "network"),
    "evaluations": ("iteration", "network", "AP"),
    "assignments": ("iteration",),
    "changes": ("iteration", "source", "params"),
}
"""Columns that every log of the kind has."""
_TEXTS = ("network", "split", "learner", "teacher", "source", "before", "params", "source_params")
_WHOLE = ("iteration", "epoch", "gt", "prior", "level", "image_id", "category")
_NUMBERS = re.compile(
    r"(loss|seconds|cost|taught|num)_.*|AP.*|AR_.*|seconds|lr|gt_area|(pos|neg)_weight|score|[xy][12]"
)
_PART = re.compile(r"part-(\d{9,})-(\d+)\.parquet")
_LOGIN = re.compile(r"://[^/\s@]+@")
_CORNERS = ("x1", "y1", "x2", "y2")
_ITERATION_KEY = "colad.iteration"
_DISTRIBUTIONS = (
    "colad",
    "torch",
    "torchvision",
    "ray",
    "mmdet",
    "onedl-mmdetection",
    "mmcv",
    "mmcv-lite",
    "onedl-mmcv",
    "mmengine",
    "onedl-mmengine",
    "numpy",
    "pandas",
    "pyarrow",
    "pycocotools",
    "faster-coco-eval",
)


class _PartFolder:
    """One log on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        parts = self.parts()
        self._sequence = max((int(p.stem.rpartition("-")[2]) + 1 for p in parts), default=0)
        self.text_columns: set[str] = set()
        """Columns that hold strings: an all-empty one must not turn into numbers."""
        for part in parts:
            try:
                schema = pq.read_schema(part)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(part, error) from error
            self.text_columns |= {f.name for f in schema if pa.types.is_string(f.type)}

    def parts(self) -> list[Path]:
        """Finished parts by first iteration."""
        return sorted(p for p in self.folder.glob("part-*.parquet") if _PART.fullmatch(p.name))

    def append(self, table: pa.Table) -> None:
        """Write one more part.

        Raises:
            CheckpointError: the disk refuses; nothing has changed.
        """
        first = pc.min(table["iteration"]).as_py()
        self._write(table, self.folder / f"part-{first:09d}-{self._sequence:06d}.parquet")
        self._sequence += 1

    def truncate(self, iteration: int) -> None:
        """Drop every row of ``iteration`` and later ones."""
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink()
        for part in self.parts():
            try:
                table = pq.read_table(part)
                kept = table.filter(pc.less(table["iteration"], iteration))
            except (pa.ArrowException, OSError, KeyError) as error:
                raise _damaged(part, error) from error
            if kept.num_rows == 0:
                part.unlink()
            elif kept.num_rows < table.num_rows:
                self._write(kept, part)

    def _write(self, table: pa.Table, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise CheckpointError(
                f"run log {path.parent}: cannot be written: {error}. Make room there, then go on "
                "with --resume"
            ) from error


def _damaged(part: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{part}: cannot be read ({error}); remove the damaged part of the log")


class RunLog:
    """Collects rows and writes them every ``flush_every`` iterations.

    Args:
        run_dir: the run's folder; an earlier log in it is continued.
        flush_every: iterations between two parts, unless ``flush`` is called sooner.
    """

    def __init__(self, run_dir: Path, flush_every: int = 200) -> None:
        self.run_dir = Path(run_dir)
        self.flush_every = flush_every
        self._folders = {
            name: _PartFolder(self.run_dir / f"{name}.parquet")
            for name in LOGS
            if name != CHANGES or (self.run_dir / f"{name}.parquet").is_dir()
        }
        self._rows: dict[str, list[Mapping[str, Any]]] = {"iterations": [], "evaluations": []}
        self._tables: list[pa.Table] = []
        self._first_unwritten: int | None = None
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def log_iteration(self, row: Mapping[str, Any]) -> None:
        """One network's numbers in one iteration.

        Args:
            row: ``iteration``, ``epoch``, ``network``, ``lr``, losses ``loss_*`` and any others.
        """
        iteration = int(row["iteration"])
        if self._first_unwritten is None:
            self._first_unwritten = iteration
        if iteration - self._first_unwritten >= self.flush_every:
            self.flush()
            self._first_unwritten = iteration
        self._rows["iterations"].append(dict(row))
        self._write_events(row, _is_charted)

    def log_evaluation(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """The COCO numbers of networks after ``iteration``; one row per network and split."""
        for row in rows:
            self._rows["evaluations"].append(dict(row))
            self._write_events(row, METRIC_NAMES.__contains__)

    def log_hyper_parameters(self, values: Mapping[str, Any], networks: Sequence[str]) -> None:
        """Name the run's settings to TensorBoard, which shows them beside the networks' AP.

        Args:
            values: field to value; other types than numbers, booleans and strings as text.
            networks: the learners.
        """
        plain = (bool, int, float, str)
        shown = {name: v if isinstance(v, plain) else str(v) for name, v in values.items()}
        metrics = {f"AP/{network}": 0.0 for network in networks}  # names only
        writer = self._open_writer().file_writer
        for summary in hparams(shown, metrics):
            writer.add_summary(summary)

    def log_change(self, row: Mapping[str, Any]) -> None:
        """From ``iteration`` on the run trains with other values; written at once.

        Args:
            row: ``iteration``, and numbers or strings about the change.
        """
        if CHANGES not in self._folders:
            self._folders[CHANGES] = _PartFolder(self.run_dir / f"{CHANGES}.parquet")
        folder = self._folders[CHANGES]
        folder.append(_rows_to_table([row], folder.text_columns))
        text = "\n".join(f"{name}: {value}  " for name, value in row.items())
        self._open_writer().add_text("change", text, int(row["iteration"]))

    def log_assignments(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Sampled cost tables: columns of equal length, ``iteration`` among them."""
        arrays = {name: _as_array(np.asarray(values)) for name, values in columns.items()}
        table = pa.table(arrays)
        if table.num_rows:
            self._tables.append(table)

    def flush(self, iteration: int | None = None) -> None:
        """Make the rows of the iterations before ``iteration`` (default: all) durable."""
        for name, rows in self._rows.items():
            ready = [row for row in rows if _is_before(row, iteration)]
            if ready:
                self._folders[name].append(_rows_to_table(ready, self._folders[name].text_columns))
                self._rows[name] = [r for r in rows if not _is_before(r, iteration)]
        if self._tables:
            table = pa.concat_tables(self._tables, promote_options="permissive")
            later = table.slice(0, 0)
            if iteration is not None:
                later = table.filter(pc.greater_equal(table["iteration"], iteration))
                table = table.filter(pc.less(table["iteration"], iteration))
            if table.num_rows:
                self._folders["assignments"].append(table)
            self._tables = [later] if later.num_rows else []
        if self._writer is not None:
            self._writer.flush()
        self._first_unwritten = min(
            (int(row["iteration"]) for row in self._rows["iterations"]), default=None
        )

    def truncate(self, iteration: int) -> None:
        """Forget every row of ``iteration`` and later: training goes on from there."""
        for name in self._rows:
            self._rows[name] = [r for r in self._rows[name] if _is_before(r, iteration)]
        self._tables = [t.filter(pc.less(t["iteration"], iteration)) for t in self._tables]
        self._tables = [table for table in self._tables if table.num_rows]
        for name, folder in self._folders.items():
            # a change after iteration 9 is in force from iteration 10, where training goes on
            folder.truncate(iteration + 1 if name == CHANGES else iteration)
        self._close_writer()
        self._purge_step = iteration  # TensorBoard then hides what earlier files say beyond it

    def close(self) -> None:
        """Write what is left."""
        self.flush()
        self._close_writer()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _open_writer(self) -> SummaryWriter:
        if self._writer is None:
            folder = str(self.run_dir / "tensorboard")
            self._writer = SummaryWriter(folder, purge_step=self._purge_step)
        return self._writer

    def _write_events(self, row: Mapping[str, Any], wanted: Callable[[str], bool]) -> None:
        """TensorBoard scalars: one chart per quantity, the networks as its curves."""
        network = row.get("network", "run")
        values = [
            Summary.Value(tag=f"{key}/{network}", simple_value=float(value))
            for key, value in row.items()
            if wanted(key) and isinstance(value, (int, float, np.number)) and math.isfinite(value)
        ]
        # One event for all values; add_scalar would write one for each and double the cost.
        self._open_writer().file_writer.add_summary(Summary(value=values), int(row["iteration"]))


def _is_before(row: Mapping[str, Any], iteration: int | None) -> bool:
    return iteration is None or bool(row["iteration"] < iteration)


def _is_charted(key: str) -> bool:
    return key.startswith(("loss", "taught_")) or key in ("lr", "seconds")


def _rows_to_table(rows: Sequence[Mapping[str, Any]], text_columns: set[str]) -> pa.Table:
    """Columns of all rows. Numbers are float64, so that a column's type never depends on values.

    Side effects: adds the columns that hold strings to ``text_columns``.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    text_columns |= {name for row in rows for name, value in row.items() if isinstance(value, str)}
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in _INTEGERS:
            arrays[name] = pa.array([None if v is None else int(v) for v in values], pa.int64())
        elif name in text_columns:
            arrays[name] = pa.array([None if v is None else str(v) for v in values], pa.string())
        else:
            numbers = [None if v is None else float(v) for v in values]
            arrays[name] = pa.array(numbers, pa.float64())
    return pa.table(arrays)


def _as_array(values: NDArray[Any]) -> pa.Array:
    if values.dtype.kind in "iu":
        return pa.array(values.astype(np.int64))
    if values.dtype.kind == "f":
        return pa.array(values.astype(np.float64))
    if values.dtype.kind == "b":
        return pa.array(values)
    return pa.array([str(value) for value in values], pa.string())


def read_log(run_dir: Path, name: str, needed: Sequence[str] = ()) -> pd.DataFrame:
    """One of ``LOGS`` as a frame sorted by iteration; empty where nothing was logged yet.

    Columns that appear in the course of a run are missing (NaN) before.

    Args:
        run_dir: of the run.
        name: of the log.
        needed: columns that the caller cannot do without, beside those of every such log.

    Raises:
        CheckpointError: a part of it is damaged, or what is there is no such log.
    """
    if name not in LOGS:
        raise ValueError(f"log {name!r}: expected one of {LOGS}")
    folder = Path(run_dir) / f"{name}.parquet"
    parts = sorted(p for p in folder.glob("part-*.parquet") if _PART.fullmatch(p.name))
    if not parts:
        return pd.DataFrame({"iteration": np.zeros(0, np.int64)})
    try:
        tables = [pq.read_table(part) for part in parts]
        table = pa.concat_tables(tables, promote_options="permissive")
        _check_columns(table, [*_NEEDED[name], *needed])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(folder, error) from error
    frame = table.to_pandas()
    return frame.sort_values("iteration", kind="stable", ignore_index=True)


def _check_columns(table: pa.Table, needed: Sequence[str]) -> None:
    """Raise ValueError unless the columns are there and hold what their names say."""
    lacking = [name for name in needed if name not in table.column_names]
    if lacking:
        raise ValueError(f"it has no column {lacking[0]!r}")
    for column in table.schema:
        if column.name in _TEXTS:
            wanted, fits = "text", _is_text(column.type)
        elif column.name in _WHOLE:
            wanted, fits = "whole numbers", pa.types.is_integer(column.type)
        elif _NUMBERS.fullmatch(column.name):
            kind = column.type
            wanted, fits = "numbers", pa.types.is_floating(kind) or pa.types.is_integer(kind)
        else:
            continue
        if not fits and not pa.types.is_null(column.type):
            raise ValueError(f"column {column.name!r} holds {column.type}, expected {wanted}")
    if "iteration" in needed and table["iteration"].null_count:
        raise ValueError("column 'iteration' has gaps")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def write_detections(run_dir: Path, network: str, detections: Detections, iteration: int) -> Path:
    """Keep what a network found at its newest evaluation, for the report; earlier ones go."""
    columns: dict[str, Any] = {
        "image_id": detections.image_id,
        "category": detections.category.astype(np.int32),
        "score": detections.score.astype(np.float32),
    }
    for index, name in enumerate(_CORNERS):
        columns[name] = detections.boxes[:, index].astype(np.float32)
    table = pa.table(columns).replace_schema_metadata({_ITERATION_KEY: str(iteration)})
    path = Path(run_dir) / "detections" / f"{network}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)
    return path


def read_detections(run_dir: Path, network: str) -> tuple[Detections, int] | None:
    """Detections of the newest evaluation and its iteration; None where a run kept none."""
    path = Path(run_dir) / "detections" / f"{network}.parquet"
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        _check_columns(table, ["image_id", "category", "score", *_CORNERS])
        iteration = int((table.schema.metadata or {})[_ITERATION_KEY.encode()])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    column = {name: table[name].to_numpy() for name in table.column_names}
    detections = Detections(
        image_id=column["image_id"].astype(np.int64),
        category=column["category"].astype(np.int64),
        score=column["score"],
        boxes=np.stack([column[name] for name in _CORNERS], axis=1),
    )
    return detections, iteration


def write_environment(run_dir: Path, command: Sequence[str] | None = None) -> dict[str, Any]:
    """Write ``environment.json``: what is needed to run this again, and nothing about the user.

    Args:
        command: the command line, default this process's; the home folder in it becomes ``~``, and
            user and password in an address ``***``.
    """
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    environment: dict[str, Any] = {
        "python": platform.python_version(),
        "versions": versions,
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "gpus": _gpu_names(),
        "git": _git_state(),
        "command": _anonymous(sys.argv if command is None else command),
    }
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    path = Path(run_dir) / "environment.json"
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return environment


def _output_of(*command: str) -> str | None:
    """What a program prints, or None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _gpu_names() -> list[str]:
    """All GPUs of this machine, asked of the driver: torch would open a context on one."""
    names = _output_of("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    return names.splitlines() if names else []


def _git_state() -> dict[str, Any] | None:
    """Commit of the checkout this package runs from, or None where it is installed."""
    root = Path(__file__).resolve().parents[1]
    top = _output_of("git", "-C", str(root), "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != root:
        return None
    commit = _output_of("git", "-C", str(root), "rev-parse", "HEAD")
    changed = _output_of("git", "-C", str(root), "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "modified": bool(changed)} if commit else None


def _anonymous(command: Sequence[str]) -> list[str]:
    if not command:
        return []
    home = str(Path.home())
    rest = [_LOGIN.sub("://***@", argument) for argument in command[1:]]
    if home != "/":
        rest = [re.sub(rf"{re.escape(home)}(?=/|$)", "~", argument) for argument in rest]
    return [Path(command[0]).name, *rest]
