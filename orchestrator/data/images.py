"""Image files as training will read them: readable, complete, of the size the annotations say.

Training reads with mmcv's default, OpenCV's 3-channel decoder. Grey, palette, 1-bit, 16-bit, CMYK
and alpha images are fine there (they become 8-bit BGR, alpha is dropped); float and 32-bit integer
images are not. OpenCV turns images by their EXIF orientation, so sizes are compared after turning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from orchestrator.data.text import counted, first_few, shown
from orchestrator.errors import DataError

READABLE_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000")
"""Formats that both Pillow (for the check) and OpenCV (for the training) read."""

_END_MARKERS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND"}
_ORIENTATION_TAG = 0x0112
_TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What the training will see of an image file."""

    width: int
    """Pixels, after turning by the EXIF orientation."""
    height: int
    orientation: int
    """EXIF orientation 1-8; 1 is upright."""


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """Result of a check that found nothing wrong."""

    checked: int
    """Files whose header and end were read."""
    decoded: int
    """Files that were decoded in full."""
    oriented: tuple[str, ...]
    """Names of files with an EXIF orientation other than upright."""


def examine_image(path: Path, *, decode: bool) -> ImageFacts:
    """Read the header of an image and make sure that the file is complete.

    Args:
        path: the image file.
        decode: decode all of it; otherwise only where its end marker is missing, or where its
            format has none (all but JPEG and PNG).

    Raises:
        DataError: with the reason only; the caller names the file.
    """
    try:
        if not path.is_file():
            raise DataError("not a file")
        if path.stat().st_size == 0:
            raise DataError("empty, 0 bytes")
        with Image.open(path, formats=READABLE_FORMATS) as image:
            kind, mode = image.format or "", image.mode
            if mode == "F" or (mode == "I" and kind == "TIFF"):
                raise DataError("32-bit pixels, which OpenCV does not read; convert to 8 or 16 bit")
            facts = _facts(image, kind)
            if decode or not _has_end(path, kind):
                if kind in ("JPEG", "MPO"):
                    image.draft(None, (1, 1))  # reads every byte at an eighth of the resolution
                image.load()
            return facts
    except DataError:
        raise
    except Image.UnidentifiedImageError:
        formats = ", ".join(READABLE_FORMATS)
        raise DataError(f"not an image that training can read ({formats})") from None
    except Exception as error:  # decoders raise anything on damaged bytes
        raise DataError(f"{type(error).__name__}: {shown(str(error))}") from error


def _facts(image: Image.Image, kind: str) -> ImageFacts:
    width, height = image.size
    orientation: object = 1
    if kind in ("JPEG", "MPO") or (kind == "PNG" and "exif" in image.info):
        try:
            orientation = image.getexif().get(_ORIENTATION_TAG, 1)
        except Exception:  # damaged EXIF data: OpenCV ignores it as well
            orientation = 1
    elif kind == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        width, height = int(tags[256]), int(tags[257])  # as stored: Pillow's size may be turned
        orientation = tags.get(_ORIENTATION_TAG, 1)
    if orientation not in range(1, 9):
        orientation = 1
    assert isinstance(orientation, int)
    if orientation in _TURNED:
        width, height = height, width
    return ImageFacts(width=width, height=height, orientation=orientation)


def _has_end(path: Path, kind: str) -> bool:
    """Whether the file ends as its format says; cameras and tools may append a few bytes."""
    marker = _END_MARKERS.get(kind)
    if marker is None:
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 1024))
        return marker in file.read()


def check_images(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    root: Path,
    *,
    source: Path,
    full_decode_limit: int = 1000,
    threads: int = 8,
) -> ImageReport:
    """Check every image file of an annotation file.

    Args:
        names: file names relative to ``root``.
        sizes: (width, height) that the annotations state.
        root: the image folder.
        source: the annotation file, for messages.
        full_decode_limit: with at most so many images, each is decoded in full.
        threads: files read at once.

    Raises:
        DataError: files are missing, cannot be read, or have another size; with their number and
            the first of them.
    """
    missing = [name for name in names if not os.path.isfile(root / name)]
    if missing:
        backslash = any("\\" in name for name in missing)
        raise DataError(
            f"{shown(str(source))}: {len(missing):,} of {counted(len(names), 'image file')} not "
            f"found under {shown(str(root))}: {first_few([shown(n) for n in missing], limit=5)}"
            + (". Names hold backslashes: write them with '/'" if backslash else "")
            + ". Set data.images (or data.train_images, data.val_images) to the folder that "
            "file_name is relative to"
        )
    decode = len(names) <= full_decode_limit

    def examine(name: str) -> ImageFacts | str:
        try:
            return examine_image(root / name, decode=decode)
        except DataError as error:
            return str(error)

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")  # Pillow's on large images and odd metadata
        results = list(pool.map(examine, names))
    _require_readable(names, results, root, source)
    facts = [result for result in results if isinstance(result, ImageFacts)]
    _require_sizes(names, sizes, facts, source)
    return ImageReport(
        checked=len(names),
        decoded=len(names) if decode else 0,
        oriented=tuple(name for name, fact in zip(names, facts) if fact.orientation != 1),
    )


def _require_readable(
    names: Sequence[str], results: Sequence[ImageFacts | str], root: Path, source: Path
) -> None:
    bad = [f"{shown(n)}: {r}" for n, r in zip(names, results) if isinstance(r, str)]
    if bad:
        raise DataError(
            f"{shown(str(source))}: {len(bad):,} of {counted(len(names), 'image')} under "
            f"{shown(str(root))} cannot be read: {first_few(bad, limit=5)}. Replace these files, "
            "or remove their records from the annotation file"
        )


def _require_sizes(
    names: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    facts: Sequence[ImageFacts],
    source: Path,
) -> None:
    wrong, turned = [], 0
    for name, (width, height), fact in zip(names, sizes, facts):
        if (fact.width, fact.height) != (width, height):
            wrong.append(
                f"{shown(name)}: annotations say {width} x {height}, "
                f"the image is {fact.width} x {fact.height}"
            )
            turned += fact.orientation in _TURNED and (fact.height, fact.width) == (width, height)
    if wrong:
        raise DataError(
            f"{shown(str(source))}: {counted(len(wrong), 'image has', 'images have')} another size "
            f"than the annotations state (width x height): {first_few(wrong)}. "
            + (
                f"{turned:,} of them only because training turns images by their EXIF orientation: "
                "strip that tag from the files if boxes were drawn on the unturned pixels. "
                if turned
                else ""
            )
            + "Boxes belong to pixels: annotate these very files, or correct width and height"
        )
