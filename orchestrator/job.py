"""What the scripts in ``jobs/`` call: a ``colad`` command on the cluster that the script runs in.

``ray submit`` copies one script to the head and runs it in the home directory, ``ray job submit``
runs it in an uploaded working directory. In both, the cluster is the one at hand, and a
configuration that is not in the working directory may be one of the project's own.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[1]


def run_on_cluster(command: str, arguments: Sequence[str] | None = None) -> None:
    """Run ``colad COMMAND ARGUMENTS`` against the cluster of this machine; never returns.

    Args:
        command: ``train``, ``tune`` or ``eval``.
        arguments: as on the command line; None takes this process's.

    Raises:
        SystemExit: with the command's exit code.
    """
    from orchestrator.cli import main

    given = list(sys.argv[1:] if arguments is None else arguments)
    told = "--address" in given or "RAY_ADDRESS" in os.environ  # `ray job submit` sets it
    asks_only = "--help" in given or "--list" in given
    try:
        given = [_found(argument) for argument in given]
        if command != "eval" and not told and not asks_only:  # evaluation needs no cluster
            os.environ["RAY_ADDRESS"] = _cluster_here()
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    main([command, *given])


def _cluster_here() -> str:
    """Address of the cluster that `ray start` has made this machine a node of.

    Raises:
        ConfigError: none; whether it still lives, the launcher finds out.
    """
    noted = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    try:
        return noted.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(
            f"{os.uname().nodename} belongs to no Ray cluster (no {noted}): submit this script to "
            "one, or give --address HOST:PORT"
        ) from error


def _found(argument: str) -> str:
    """A configuration here, or the project's of that name; other arguments stay as they are.

    Raises:
        ConfigError: there is none.
    """
    path = Path(argument)
    if path.suffix != ".py" or argument.startswith("-") or "=" in argument or path.exists():
        return argument
    if not path.is_absolute() and (PROJECT / path).is_file():
        return str(PROJECT / path)
    raise ConfigError(
        f"{argument}: no such configuration on {os.uname().nodename}, neither in {Path.cwd()} nor "
        f"in {PROJECT}; a job's files must be on the head: file_mounts of the cluster file for "
        "`ray submit`, --working-dir for `ray job submit`"
    )
