"""One consistent moment of a run on disk: a folder of binary parts and a ``state.json``.

``state.json`` lists every part with its size and SHA-256 and is what makes a folder a checkpoint.
A checkpoint is built in a hidden folder beside its place and renamed into it when everything has
reached the disk, so a process that dies at any moment leaves a whole checkpoint or none.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import CheckpointError
from orchestrator.json_files import damaged_as

FORMAT = "colad-checkpoint"
FORMAT_VERSION = 1
STATE_FILE = "state.json"
_UNFINISHED = ".unfinished"
_PART_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_BLOCK_BYTES = 1 << 22
_LARGEST_COUNT = 1 << 63
ADVICE = "bring it back from a copy, or take another checkpoint"


@dataclass(frozen=True, kw_only=True)
class PartInfo:
    """What a part must look like on disk."""

    size: int
    """Bytes."""
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CheckpointState:
    """The readable half of a checkpoint."""

    iteration: int
    """Optimizer steps done; training goes on with the iteration of this index."""
    config_digest: str
    """Digest of the resolved configuration that made it."""
    networks: tuple[str, ...]
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Small values that JSON can hold."""
    files: Mapping[str, PartInfo] = field(default_factory=dict)
    """Filled in by ``write_checkpoint``."""
    format_version: int = FORMAT_VERSION


def write_checkpoint(
    directory: Path, parts: Mapping[str, bytes | memoryview], state: CheckpointState
) -> CheckpointState:
    """Write a checkpoint, whole or not at all; one that is already there is replaced.

    Args:
        directory: the checkpoint's folder; its parent is made if missing.
        parts: file name to contents.
        state: its ``files`` are ignored.

    Returns:
        The state as written, with sizes and checksums.

    Raises:
        CheckpointError: a part's name cannot be a file name, or the disk refuses.
    """
    directory = Path(directory)
    for name in parts:
        if not _PART_NAME.fullmatch(name) or name == STATE_FILE:
            raise CheckpointError(f"checkpoint part {name!r}: not a usable file name")
    files = {name: PartInfo(size=_size(data), sha256=_digest(data)) for name, data in parts.items()}
    state = replace(state, files=files, format_version=FORMAT_VERSION)
    text = json.dumps({"format": FORMAT, **asdict(state)}, indent=1)
    try:
        _write_folder(directory, parts, text)
    except OSError as error:
        raise CheckpointError(
            f"checkpoint {directory}: cannot be written: {error}; those before it are untouched. "
            "Make room there, then go on with --resume"
        ) from error
    return state


def _write_folder(directory: Path, parts: Mapping[str, bytes | memoryview], text: str) -> None:
    parent = directory.parent
    parent.mkdir(parents=True, exist_ok=True)
    for leftover in parent.glob(f".{glob.escape(directory.name)}.*{_UNFINISHED}"):
        shutil.rmtree(leftover, ignore_errors=True)  # of a process that died while writing
    building = parent / f".{directory.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}"
    replaced = parent / f".{directory.name}.{uuid.uuid4().hex[:8]}{_UNFINISHED}"
    building.mkdir()
    try:
        for name, data in parts.items():
            _write_durably(building / name, data)
        _write_durably(building / STATE_FILE, text.encode())
        _sync_folder(building)
        if directory.exists():
            os.replace(directory, replaced)
        os.replace(building, directory)
        _sync_folder(parent)
    except BaseException:
        if replaced.exists() and not directory.exists():
            replaced.rename(directory)
        shutil.rmtree(building, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _size(data: bytes | memoryview) -> int:
    return data.nbytes if isinstance(data, memoryview) else len(data)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_durably(path: Path, data: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable; some network file systems cannot, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_state(directory: Path) -> CheckpointState:
    """Read ``state.json``.

    Raises:
        CheckpointError: there is none, it is damaged, or a newer version wrote it.
    """
    path = Path(directory) / STATE_FILE
    if not path.exists():
        raise CheckpointError(f"no checkpoint in {directory}: {STATE_FILE} is missing")
    with damaged_as(CheckpointError, path, ADVICE):
        raw = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not the state of a {FORMAT}")
    if raw.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {raw.get('format_version')!r}, this program reads "
            f"{FORMAT_VERSION}; use the version of colad that wrote it"
        )
    with damaged_as(CheckpointError, path, ADVICE):
        unusable = [name for name in raw["files"] if not _PART_NAME.fullmatch(name)]
        if unusable:  # a path that leads out of the folder, for example
            raise ValueError(f"{unusable[0]!r:.80} is no name of a part")
        return CheckpointState(
            iteration=_count(raw["iteration"]),
            config_digest=str(raw["config_digest"]),
            networks=tuple(raw["networks"]),
            extra=dict(raw["extra"]),
            files={
                str(name): PartInfo(size=_count(info["size"]), sha256=str(info["sha256"]))
                for name, info in raw["files"].items()
            },
        )


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LARGEST_COUNT:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def read_part(directory: Path, name: str) -> bytes:
    """One part's contents, checked against ``state.json``.

    Raises:
        CheckpointError: the checkpoint has no such part, or the part is missing or damaged.
    """
    info = read_state(directory).files.get(name)
    if info is None:
        raise CheckpointError(f"checkpoint {directory}: has no part {name!r}")
    path = Path(directory) / name
    _check_size(path, info)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if _digest(data) != info.sha256:
        raise CheckpointError(_checksum_message(path))
    return data


def verify(directory: Path) -> None:
    """Read every part and compare it with ``state.json``.

    Raises:
        CheckpointError: names the first file at fault and the reason.
    """
    for name, info in read_state(directory).files.items():
        path = Path(directory) / name
        _check_size(path, info)
        digest = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    digest.update(block)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read: {error}") from error
        if digest.hexdigest() != info.sha256:
            raise CheckpointError(_checksum_message(path))


def _check_size(path: Path, info: PartInfo) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path}: missing ({error.strerror})") from error
    if size != info.size:
        kind = "truncated" if size < info.size else "too long"
        raise CheckpointError(f"{path}: {kind}, {size} bytes instead of {info.size}")


def _checksum_message(path: Path) -> str:
    return f"{path}: checksum differs from {STATE_FILE}; the contents are damaged"


def find_checkpoints(root: Path) -> list[Path]:
    """Every folder below ``root`` (itself included) with a readable state, by iteration.

    Only ``state.json`` is read; ``verify`` looks at the parts. Of equal iterations the one
    written last comes last.
    """
    found = []
    for directory in _candidates(root):
        with suppress(CheckpointError):
            found.append(_sort_key(directory))
    return [directory for *_, directory in sorted(found)]


def latest_valid(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The intact checkpoint of the highest iteration below ``root``; None if there never was one.

    Args:
        warn: told about every damaged checkpoint that was passed over.

    Raises:
        CheckpointError: there are checkpoints, and all are damaged: to begin anew would hide it.
    """
    readable, damaged = [], [f"{path}: {STATE_FILE} is missing" for path in _stateless(root)]
    for directory in _candidates(root):
        try:
            readable.append(_sort_key(directory))
        except CheckpointError as error:
            damaged.append(str(error))
    for *_, directory in sorted(readable, reverse=True):
        try:
            verify(directory)
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            for problem in damaged:
                warn(f"passing over a damaged checkpoint: {problem}")
            return directory
    if damaged:
        raise CheckpointError(
            f"{root}: no intact checkpoint, {len(damaged)} damaged: {'; '.join(damaged[:3])}. "
            "Bring one back from a copy, or start again in another --work-dir"
        )
    return None


def _stateless(root: Path) -> list[Path]:
    """Folders with parts of a checkpoint and no state."""
    folders = {path.parent for path in Path(root).rglob("*.pt")}
    return sorted(p for p in folders if not (p / STATE_FILE).exists() and not _unfinished(p, root))


def _unfinished(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return any(part.startswith(".") and part.endswith(_UNFINISHED) for part in parts)


def _candidates(root: Path) -> Iterator[Path]:
    """Folders with a ``state.json``, those left unfinished excepted."""
    for path in sorted(Path(root).rglob(STATE_FILE)):
        if not _unfinished(path, root):
            yield path.parent


def _sort_key(directory: Path) -> tuple[int, int, Path]:
    state = read_state(directory)
    return (state.iteration, (directory / STATE_FILE).stat().st_mtime_ns, directory)
