"""The run directory of a launcher: new or resumed, writable, and its own."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.errors import CheckpointError, ConfigError, CoTrainError

ROOM_BYTES = 2**20
"""What a run directory must hold before anything starts: configuration, logs, places."""


def check_run_dir(run_dir: Path, config: RunConfig, *, resume: bool) -> None:
    """Refuse a directory that holds another run, or none to resume.

    Raises:
        ConfigError: naming the directory and the option that helps.
        CheckpointError: the run to resume has another configuration.
    """
    saved = run_dir / "config.py"
    if not resume:
        if saved.exists():
            raise ConfigError(
                f"{run_dir} holds a run: --resume goes on with it, or use another --work-dir"
            )
        return
    if not saved.is_file():
        raise ConfigError(f"--resume: {run_dir} holds no run (no config.py)")
    before = load_config(saved)
    if before.digest() != config.digest():
        changed = _differences(before.to_dict(), config.to_dict())
        raise CheckpointError(
            f"--resume: {run_dir} was started with another configuration; changed: "
            f"{', '.join(changed[:8])}. Undo that, or start a new run with another --work-dir"
        )


def _differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Dotted names of the fields in which two plain configurations differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        keys = [*left, *(key for key in right if key not in left)]
        found = []
        for key in keys:
            found += _differences(left.get(key), right.get(key), f"{path}.{key}" if path else key)
        return found
    same = left == right or (isinstance(left, (list, tuple)) and list(left) == list(right or ()))
    return [] if same else [f"{path} ({left!r} -> {right!r})"]


@contextmanager
def making_run_dir(run_dir: Path, *, keep: bool) -> Iterator[None]:
    """Make the directory and lock it; take it away again if nothing was started in it.

    Raises:
        ConfigError: it cannot be written, or another launcher has it.
    """
    made = make_writable(run_dir)
    with locked(run_dir):
        config = run_dir / "config.py"
        keep = keep or config.exists()
        try:
            yield
        except (CoTrainError, OSError, KeyboardInterrupt, SystemExit):
            started = any((run_dir / part).exists() for part in ("checkpoints/trial", "tune"))
            if not (started or keep) and made:
                shutil.rmtree(run_dir, ignore_errors=True)
            elif not (started or keep):
                config.unlink(missing_ok=True)
            raise


def make_writable(run_dir: Path) -> bool:
    """Make the directory and try to write there; returns whether it is new.

    Raises:
        ConfigError: it cannot be written.
    """
    made = not run_dir.exists()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run_dir) as file:
            file.write(bytes(ROOM_BYTES))
            file.flush()
    except OSError as error:
        if made:
            with suppress(OSError):
                run_dir.rmdir()
        raise ConfigError(f"--work-dir {run_dir}: cannot write there ({error.strerror})") from error
    return made


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keep other launchers out of a run directory while this one drives it.

    The lock is the operating system's and goes with the process, however it ends.

    Raises:
        ConfigError: another launcher holds it.
    """
    with open(run_dir / ".lock", "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"{run_dir} is being trained by another launcher: wait for it, or use another "
                "--work-dir"
            ) from error
        yield
