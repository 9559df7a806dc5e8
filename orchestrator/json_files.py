"""JSON files of runs and sweeps, read back: another hand, or half a disk, may have changed them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from orchestrator.errors import CoTrainError


@contextlib.contextmanager
def damaged_as(kind: type[CoTrainError], path: Path, advice: str) -> Iterator[None]:
    """Whatever reading a file and taking it apart stumbles over becomes an error that names it.

    Args:
        kind: of the error.
        path: the file.
        advice: what to do.
    """
    try:
        yield
    except CoTrainError as error:  # of a field
        raise kind(f"{path}: cannot be read, damaged: {error}; {advice}") from error
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = f"{type(error).__name__}: {error}"
        raise kind(f"{path}: cannot be read, damaged: {reason:.200}; {advice}") from error


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object; raises what ``damaged_as`` knows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"it holds a {type(content).__name__}, not an object")
    return content
