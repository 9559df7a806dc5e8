"""A copy of a run beyond its machines: in S3, or whatever else pyarrow can write to by a URI.

It holds what going on needs: configuration, logs, checkpoints. Parts of a checkpoint go first and
``state.json`` last, so that there, too, a checkpoint is whole or none. Copies are made by a thread
beside the training; the next checkpoint waits for the one before to have gone.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, urlsplit

import pyarrow as pa
from pyarrow import fs

from orchestrator.checkpoints import STATE_FILE
from orchestrator.errors import CheckpointError, ConfigError

CHECKPOINTS = "checkpoints"
LEFT_OUT = ("report", "processes.json", "progress.json")
"""What can be made again, or speaks of processes."""
GOOGLE_LIMIT_S = 20
_BLOCK = 4 << 20


def open_uri(uri: str, field: str) -> tuple[fs.FileSystem, str]:
    """The file system of a URI and the path in it.

    Args:
        uri: ``s3://bucket/folder``, ``gs://...``, ``file:///...``.
        field: what names it, for messages.

    Raises:
        ConfigError: no such thing, or one that holds a password.
    """
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise ConfigError(f"{field} = {uri!r}: {error}") from error
    if parts.username or parts.password:
        raise ConfigError(
            f"{field} = '{parts.scheme}://***@{parts.hostname or ''}...': an address with a key in "
            "it would be written to every run directory; give keys by the environment "
            "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or by the machine's role"
        )
    try:
        if not parts.scheme:
            raise ValueError("not a URI, such as s3://bucket/folder")
        filesystem, path = fs.FileSystem.from_uri(_with_limit(uri, parts))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ConfigError(f"{field} = {uri!r}: {_first_line(error)}") from error
    return filesystem, path.rstrip("/")


def _with_limit(uri: str, parts: SplitResult) -> str:
    """Where Google does not answer its client asks on for minutes, without a word."""
    if parts.scheme not in ("gs", "gcs") or "retry_limit_seconds" in parts.query:
        return uri
    return f"{uri}{'&' if parts.query else '?'}retry_limit_seconds={GOOGLE_LIMIT_S}"


def check_uri(uri: str, field: str) -> None:
    """Write something there and take it away again.

    Raises:
        ConfigError: that fails.
    """
    filesystem, root = open_uri(uri, field)
    path = f"{root}/.colad-was-here"
    try:
        _make_folder(filesystem, root)
        with filesystem.open_output_stream(path) as stream:
            stream.write(b"colad check\n")
        filesystem.delete_file(path)
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"{field} = {uri!r}: cannot be written: {_first_line(error)}. Does the bucket exist, "
            "and do this machine's keys open it?"
        ) from error


class Mirror:
    """Keeps the copy of one run.

    Args:
        uri: where to; becomes the run directory's likeness.
        run_dir: of the run.
    """

    def __init__(self, uri: str, run_dir: Path) -> None:
        self.uri, self.run_dir = uri, run_dir
        self._filesystem, self._root = open_uri(uri, "checkpoint.upload")
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="colad-upload")
        self._running: Future[None] | None = None
        self._sent: dict[str, tuple[int, int]] = {}
        """Size and time of what has been copied, by path."""

    def wait(self) -> None:
        """Wait for the copy under way.

        Raises:
            CheckpointError: it failed; the run directory itself is untouched.
        """
        running, self._running = self._running, None
        if running is None:
            return
        try:
            running.result()
        except (pa.ArrowException, OSError) as error:
            raise CheckpointError(
                f"checkpoint.upload = {self.uri!r}: {_first_line(error)}; {self.run_dir} itself is "
                "whole, and what is missing there is copied with the next checkpoint"
            ) from error

    def push(self) -> None:
        """Begin to copy what has changed. ``wait`` comes first."""
        assert self._running is None, "one at a time"
        self._running = self._thread.submit(self._copy)

    def close(self) -> None:
        """Copy the rest and wait for it.

        Raises:
            CheckpointError: see ``wait``.
        """
        try:
            self.wait()
        finally:
            self.push()
            try:
                self.wait()
            finally:
                self._thread.shutdown()

    def _copy(self) -> None:
        wanted = list(_files(self.run_dir))
        states = [name for name in wanted if name.name == STATE_FILE]
        for name in [name for name in wanted if name.name != STATE_FILE] + states:
            self._send(name)
        self._remove_others({str(name) for name in wanted})

    def _send(self, name: PurePosixPath) -> None:
        local, key = self.run_dir / name, str(name)
        try:
            facts = local.stat()
            mark = (facts.st_size, facts.st_mtime_ns)
            if self._sent.get(key) == mark:
                return
            with local.open("rb") as source:
                _make_folder(self._filesystem, f"{self._root}/{name.parent}")
                with self._filesystem.open_output_stream(f"{self._root}/{key}") as target:
                    shutil.copyfileobj(source, target, _BLOCK)
        except FileNotFoundError:
            if local.exists():
                raise  # what is missing is the bucket
            return  # a part of the log that was replaced meanwhile
        self._sent[key] = mark

    def _remove_others(self, wanted: set[str]) -> None:
        """Old checkpoints and log parts that the run has dropped; a state goes first."""
        there = list(_remote_files(self._filesystem, self._root))
        others = [key for key in there if key not in wanted]
        for key in sorted(others, key=lambda key: PurePosixPath(key).name != STATE_FILE):
            self._filesystem.delete_file(f"{self._root}/{key}")
            self._sent.pop(key, None)


def fetch(uri: str, run_dir: Path) -> int:
    """Bring a copied run back, for ``--resume`` or for looking at it.

    Args:
        uri: what ``checkpoint.upload`` was.
        run_dir: new.

    Returns:
        How many files it has.

    Raises:
        ConfigError: no run there, or ``run_dir`` holds something.
        CheckpointError: it cannot be read, or written here.
    """
    filesystem, root = open_uri(uri, "URI")
    if run_dir.exists() and not run_dir.is_dir():
        raise ConfigError(f"{run_dir} is a file: fetch into a new folder")
    if run_dir.exists() and any(run_dir.iterdir()):
        raise ConfigError(f"{run_dir} is not empty: fetch into a new folder")
    try:
        names = list(_remote_files(filesystem, root))
        if "config.py" not in names:
            raise ConfigError(f"{uri}: holds no run (no config.py)")
        for name in names:
            target = run_dir / _inside(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with filesystem.open_input_stream(f"{root}/{name}") as source:
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
    except (pa.ArrowException, OSError) as error:
        raise CheckpointError(f"{uri}: {_first_line(error)}") from error
    return len(names)


def _inside(name: str) -> PurePosixPath:
    """A key of a store is any text; as a path it must stay in the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"the store holds {name!r}, which leads out of the run directory")
    return path


def _files(run_dir: Path) -> Iterator[PurePosixPath]:
    """What is copied: neither hidden nor unfinished."""
    for path in sorted(run_dir.rglob("*")):
        name = path.relative_to(run_dir)
        hidden = any(part.startswith(".") for part in name.parts)
        tune = name.parts[0] == CHECKPOINTS and not _of_checkpoint(name.parts)
        if hidden or tune or name.parts[0] in LEFT_OUT or path.suffix == ".tmp":
            continue
        if path.is_file():
            yield PurePosixPath(*name.parts)


def _of_checkpoint(parts: Sequence[str]) -> bool:
    """Beside checkpoints, Tune keeps its own state there, which speaks of one launch only."""
    return any(part.startswith("checkpoint_") for part in parts)


def _remote_files(filesystem: fs.FileSystem, root: str) -> Iterator[str]:
    selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
    for info in filesystem.get_file_info(selector):
        if info.type == fs.FileType.File:
            yield info.path.removeprefix(root).lstrip("/")


def _make_folder(filesystem: fs.FileSystem, path: str) -> None:
    if filesystem.type_name == "local":  # an object store has none
        filesystem.create_dir(path, recursive=True)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{lines[0]:.300}" if lines else type(error).__name__
