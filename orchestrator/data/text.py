"""Wording of messages about data: text out of files is shown, never printed as it is."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePosixPath


def shown(value: object, limit: int = 120) -> str:
    """``repr`` of a value of a file, shortened: control characters cannot reach a terminal."""
    text = repr(value[: 4 * limit] if isinstance(value, str) else value)
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-16:]}"


def inert(text: str) -> str:
    """Text for a terminal that may hold names out of files: control characters as escapes."""
    return "".join(
        repr(c)[1:-1] if c != "\n" and unicodedata.category(c).startswith("C") else c for c in text
    )


def brief(text: str, lines: int = 18, columns: int = 100) -> str:
    """A message that fits on a screen: the middle of what is longer is left out.

    Args:
        text: of any length.
        lines: at most so many, and as many of a screen of ``columns`` where lines are wrapped.
    """
    kept = text.splitlines()
    if sum(-(-len(line) // columns) or 1 for line in kept) <= lines:
        return text
    if len(kept) > lines:
        kept = [*kept[: lines - 2], f"... {len(kept) - lines + 1} lines more ...", kept[-1]]
    room = lines * columns // len(kept) - 5
    return "\n".join(
        line if len(line) <= room else f"{line[: room * 2 // 3]} ... {line[-(room // 3) :]}"
        for line in kept
    )


def first_few(items: Sequence[str], *, total: int | None = None, limit: int = 3) -> str:
    """The first items, and how many more there are (``total`` in all, where items is a sample)."""
    more = (len(items) if total is None else total) - min(limit, len(items))
    return "; ".join(items[:limit]) + (f"; and {more} more" if more > 0 else "")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``1 box``, ``3 boxes``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def unsafe_name(name: str) -> str | None:
    """Why a file name out of an annotation file must not be opened beneath a root; None if it may.

    Purely lexical: links that a user has put inside the root are theirs to follow.
    """
    if not name.strip() or "\0" in name:
        return "is empty or holds a null character"
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return "is not valid Unicode"
    if PurePosixPath(name).is_absolute() or re.match(r"[A-Za-z]:[\\/]|\\", name):
        return "is an absolute path"
    if ".." in PurePosixPath(os.path.normpath(name)).parts or ".." in re.split(r"\\", name):
        return "leads out of the image folder"
    if os.path.normpath(name) == ".":
        return "names no file"
    return None
