"""Population-based training: a trial takes over another's checkpoint and new values.

The takeover is written down before it begins and is finished by whoever finds it begun, so a
process that dies at any moment loses nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.checkpoints import STATE_FILE, find_checkpoints, read_state, verify
from orchestrator.config import RunConfig
from orchestrator.config_file import from_mapping, load_config, save_config
from orchestrator.errors import CheckpointError
from orchestrator.json_files import damaged_as, read_object
from orchestrator.sweep.plan import expand

T = TypeVar("T")

PARAMS_FILE = "params.json"
OFFER_FILE = "offer.json"
CHANGE_FILE = "change.json"
BEGUN_FILE = "change_begun.json"
_ADVICE = "remove the trial's directory, and it starts anew with --resume"
ATTEMPTS = 5
"""Tries to copy a checkpoint that its owner may be replacing."""


@dataclass(frozen=True, kw_only=True)
class Handover:
    """What a trial offers to others at an evaluation."""

    trial: str
    iteration: int
    """Of its checkpoint."""
    token: str
    """Different for every offer."""
    params: Mapping[str, Any]
    """The values that it was trained with."""
    reported_s: float
    """When, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A trial went on from another's checkpoint with new values."""

    source: str
    """Trial whose checkpoint it is."""
    token: str
    iteration: int
    """Of that checkpoint: the first iteration with the new values."""
    before: Mapping[str, Any]
    """The trial's own values until then."""
    params: Mapping[str, Any]
    """The new ones."""
    source_params: Mapping[str, Any]
    """Those that the checkpoint was trained with."""


def has_changed(run_dir: Path) -> bool:
    """Whether the trial's configuration is no longer that of the plan."""
    return (run_dir / CHANGE_FILE).is_file() or (run_dir / BEGUN_FILE).is_file()


def last_change(run_dir: Path) -> Change | None:
    """The change that the trial's present values come from."""
    path = run_dir / CHANGE_FILE
    return _read(path, Change) if path.is_file() else None


def write_params(run_dir: Path, params: Mapping[str, Any]) -> None:
    """Note the values that a trial starts with."""
    _write_json(run_dir / PARAMS_FILE, params)


def current_params(run_dir: Path) -> dict[str, Any]:
    """The values that a trial trains with now, or will once its begun change is finished."""
    for name in (BEGUN_FILE, CHANGE_FILE):
        if (run_dir / name).is_file():
            return dict(_read(run_dir / name, Change).params)
    with damaged_as(CheckpointError, run_dir / PARAMS_FILE, _ADVICE):
        return read_object(run_dir / PARAMS_FILE)


def make_offer(run_dir: Path, iteration: int) -> Handover:
    """What a trial offers after an evaluation; kept in its directory, too."""
    offer = Handover(
        trial=run_dir.name,
        iteration=iteration,
        token=uuid.uuid4().hex,
        params=current_params(run_dir),
        reported_s=time.time(),
    )
    _write_json(run_dir / OFFER_FILE, asdict(offer))
    return offer


def read_offer(folder: Path) -> Handover | None:
    """The offer in a trial's directory, or in a folder that Tune carries about."""
    path = folder / OFFER_FILE
    return _read(path, Handover) if path.is_file() else None


def take_over(run_dir: Path, offer: Handover, params: Mapping[str, Any]) -> Change | None:
    """Let a trial go on from another's checkpoint, with ``params``.

    Args:
        run_dir: of the trial.
        offer: the other trial's; its newest checkpoint serves if the offered one is gone.
        params: the new values.

    Returns:
        The change; None if it was made before.

    Raises:
        CheckpointError: the other trial has no whole checkpoint.
    """
    done = last_change(run_dir)
    if done is not None and done.token == offer.token:
        return None
    begun = Change(
        source=offer.trial,
        token=offer.token,
        iteration=offer.iteration,
        before=current_params(run_dir),
        params=params,
        source_params=offer.params,
    )
    _write_json(run_dir / BEGUN_FILE, asdict(begun))
    return finish_begun(run_dir)


def finish_begun(run_dir: Path) -> Change | None:
    """Carry out a change that is written down; None if there is none.

    Raises:
        CheckpointError: the other trial has no whole checkpoint.
    """
    path = run_dir / BEGUN_FILE
    if not path.is_file():
        return None
    begun = _read(path, Change)
    config = load_config(run_dir / "config.py")
    items = [
        f"{name}={value!r}"
        for field, value in begun.params.items()
        for name in expand(field, config.learners)
    ]
    config = load_config(run_dir / "config.py", items)
    incoming = run_dir / "incoming"
    iteration = _copy_checkpoint(run_dir.parent / begun.source, begun.iteration, incoming)
    _rewrite_digest(incoming, config)
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)  # they are of the old values
    save_config(config, run_dir / "config.py")
    (run_dir / "checkpoints").mkdir()
    incoming.rename(run_dir / "checkpoints" / f"checkpoint_{iteration:09d}")
    change = replace(begun, iteration=iteration)
    _write_json(run_dir / CHANGE_FILE, asdict(change))
    path.unlink()
    return change


def _copy_checkpoint(source_dir: Path, iteration: int, target: Path) -> int:
    """Copy the checkpoint of an iteration, else the newest; returns its iteration."""
    for _ in range(ATTEMPTS):
        found = {read_state(path).iteration: path for path in _whole(source_dir)}
        if not found:
            break
        chosen = iteration if iteration in found else max(found)
        shutil.rmtree(target, ignore_errors=True)
        with suppress(OSError, CheckpointError):  # its owner replaced it meanwhile
            shutil.copytree(found[chosen], target, copy_function=_link_or_copy)
            verify(target)
            return chosen
    raise CheckpointError(f"{source_dir}: no whole checkpoint to go on from")


def _whole(source_dir: Path) -> list[Path]:
    return [path for path in find_checkpoints(source_dir / "checkpoints") if path.is_dir()]


def _link_or_copy(source: str, target: str) -> None:
    """A second name for the same bytes where the file system has that."""
    if Path(source).name == STATE_FILE:  # is changed afterwards
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copy2(source, target)


def _rewrite_digest(checkpoint: Path, config: RunConfig) -> None:
    """Make the checkpoint one of ``config``, on purpose."""
    path = checkpoint / STATE_FILE
    raw = json.loads(path.read_text(encoding="utf-8"))
    raw["config_digest"] = config.digest()
    _write_json(path, raw)


def _read(path: Path, kind: type[T]) -> T:
    """What a trial has written down.

    Raises:
        CheckpointError: the file is damaged.
    """
    with damaged_as(CheckpointError, path, _ADVICE):
        return from_mapping(kind, read_object(path))


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    temporary.replace(path)
