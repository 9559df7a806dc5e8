"""What mmengine does not look after when it reads configuration files."""

from __future__ import annotations

import ast
import traceback
from pathlib import Path

from orchestrator.errors import ConfigError


def refuse_cycles(path: Path) -> None:
    """Follow ``_base_`` from file to file; mmengine would until Python's stack ends.

    What is not a plain path in quotes is left to mmengine.

    Raises:
        ConfigError: a file is its own base, at whatever distance.
    """
    _follow(path.resolve(), ())


def _follow(path: Path, above: tuple[Path, ...]) -> None:
    if path in above:
        circle = " -> ".join(file.name for file in (*above[above.index(path) :], path))
        raise ConfigError(f"config file {str(above[0])!r}: _base_ leads back to itself: {circle}")
    for base in _bases(path):
        if base.suffix == ".py" and base.is_file():
            _follow(base.resolve(), (*above, path))


def _bases(path: Path) -> list[Path]:
    """The literal bases of a Python configuration."""
    try:
        statements = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return []  # mmengine says what is wrong with it
    for statement in statements:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "_base_":
            try:
                named = ast.literal_eval(statement.value)
            except ValueError:
                return []
            listed = named if isinstance(named, (list, tuple)) else [named]
            return [path.parent / base for base in listed if isinstance(base, str)]
    return []


def close_leftovers(error: BaseException) -> None:
    """Close the temporary copies that mmengine leaves open where reading a file fails."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        left = frame.f_locals.get("temp_config_file")
        if left is not None:
            left.close()
