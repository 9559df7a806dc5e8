"""A detection dataset of drawn shapes: no download, any size, the same for the same seed.

Meant for demonstrations, tests and benchmarks on machines without data or GPU. Shapes differ in
class, size, rotation, colour and fill, overlap each other, may be cut by the border, and lie on
noisy textures with unlabelled clutter. Every image has a random stream of its own, seeded by
(seed, split, index), so a smaller dataset is a prefix of a larger one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from orchestrator.data.text import shown
from orchestrator.errors import DataError

FORMAT_VERSION = 2
"""Raised whenever the same parameters would give other images or boxes."""

Array = npt.NDArray[Any]


def _triangle(x: Array, y: Array) -> Array:
    """An equilateral triangle, one corner up, whose corners lie on the unit circle."""
    root3 = 3**0.5
    return (y <= 0.5) & (-y <= 1 - root3 * x) & (-y <= 1 + root3 * x)


def _star(x: Array, y: Array) -> Array:
    """A five-pointed star, one point up, whose outer corners lie on the unit circle."""
    sector = 2 * np.pi / 5
    angle = np.abs(np.mod(np.arctan2(x, -y) + sector / 2, sector) - sector / 2)
    radius = np.hypot(x, y)
    # The edge runs from the outer corner (radius 1, angle 0) to the inner one (0.42, sector / 2).
    inner_x, inner_y = 0.42 * np.sin(sector / 2), 0.42 * np.cos(sector / 2)
    px, py = radius * np.sin(angle), radius * np.cos(angle)
    return (1 - py) * inner_x >= px * (1 - inner_y)


def _cross(x: Array, y: Array) -> Array:
    ax, ay = np.abs(x), np.abs(y)
    return (np.minimum(ax, ay) <= 0.3) & (np.maximum(ax, ay) <= 0.95)


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.7,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}
"""Membership tests in a shape's own coordinates (y downwards), about the unit circle in size."""

DEFAULT_CLASSES = ("circle", "square", "triangle", "star")


@dataclass(frozen=True, kw_only=True)
class ShapesParameters:
    """All that the dataset is a function of; stored in its ``meta.json``."""

    train: int
    """Training images."""
    val: int
    """Validation images."""
    size: int
    """Side of the square images, pixels."""
    seed: int
    classes: tuple[str, ...]
    """A selection of ``SHAPES``; its order gives the category ids 1, 2, ..."""
    max_objects: int
    """An image holds 2 (1 if this is 1) to this many shapes, fewer where no room is left."""

    def __post_init__(self) -> None:
        minima = {"train": 1, "val": 1, "size": 32, "seed": 0, "max_objects": 1}
        for name, least in minima.items():
            got = getattr(self, name)
            if isinstance(got, bool) or not isinstance(got, int) or got < least:
                raise DataError(f"shapes: {name} must be an integer >= {least}, got {got!r}")
        unknown = [c for c in self.classes if c not in SHAPES]
        if unknown or not self.classes or len(set(self.classes)) != len(self.classes):
            raise DataError(
                f"shapes: classes must be distinct names out of {list(SHAPES)}, "
                f"got {list(self.classes)}"
            )


def make_shapes(
    root: Path | str,
    *,
    train: int = 512,
    val: int = 100,
    size: int = 128,
    seed: int = 0,
    classes: Sequence[str] = DEFAULT_CLASSES,
    max_objects: int = 8,
) -> Path:
    """Make the dataset under ``root``, or find it there complete; return ``root``.

    The folder holds ``images/``, ``train.json`` and ``val.json`` (COCO format, ``file_name``
    relative to ``images/``) and ``meta.json``. Boxes are exact: the extent of the drawn pixels
    of a shape, before later shapes cover parts of it.

    Side effects: writes into a folder beside ``root`` and renames it, so ``root`` is complete
    whenever it exists; of several processes that make it at once, one wins and all return it.

    Raises:
        DataError: a parameter is out of range, ``root`` holds anything else (other parameters,
            other files, an incomplete copy; nothing is overwritten), or it cannot be written.
    """
    root = Path(root)
    parameters = ShapesParameters(
        train=train,
        val=val,
        size=size,
        seed=seed,
        classes=tuple(classes),
        max_objects=max_objects,
    )
    if _holds_something(root):
        _require_same(root, parameters)
        return root
    partial = root.with_name(f".{root.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        _write_dataset(partial, parameters)
        try:
            os.rename(partial, root)  # replaces an empty folder, fails on any other
        except OSError:
            if not _holds_something(root):
                raise
            _require_same(root, parameters)  # another process was first
    except OSError as error:
        raise DataError(
            f"shapes: cannot write the dataset to {str(root)!r}: {error.strerror or error}; "
            "choose a folder that can be written"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


def _holds_something(root: Path) -> bool:
    """Whether ``root`` is there and is anything but an empty folder."""
    try:
        return next(root.iterdir(), None) is not None
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return os.path.lexists(root)
    except OSError as error:
        raise DataError(
            f"shapes: cannot read the folder {str(root)!r}: {error.strerror or error}"
        ) from error


def _require_same(root: Path, wanted: ShapesParameters) -> None:
    """Raise unless ``root`` holds the complete dataset of the wanted parameters."""
    instead = "delete it or choose another folder; it is not overwritten"
    try:
        meta = json.loads((root / "meta.json").read_text())
        found = dict(meta["colad_shapes"])
    except (OSError, ValueError, TypeError, KeyError):
        raise DataError(
            f"shapes: {str(root)!r} exists and is no dataset of drawn shapes "
            f"(it has no meta.json of one): {instead}"
        ) from None
    expected = _meta(wanted)["colad_shapes"]
    if found != expected:
        changed = [
            f"{key}: there {shown(found.get(key))}, wanted {expected[key]!r}"
            for key in expected
            if found.get(key) != expected[key]
        ] or ["unknown fields"]
        raise DataError(
            f"shapes: {str(root)!r} holds drawn shapes of other parameters "
            f"({'; '.join(changed)}): {instead}"
        )
    images = root / "images"
    there = sum(1 for _ in images.iterdir()) if images.is_dir() else 0
    missing = [n for n in ("train.json", "val.json") if not (root / n).is_file()]
    if missing or there < wanted.train + wanted.val:
        raise DataError(
            f"shapes: {str(root)!r} is incomplete ({there} of {wanted.train + wanted.val} images, "
            f"missing annotation files: {missing}): {instead}"
        )


def _meta(parameters: ShapesParameters) -> dict[str, Any]:
    described = asdict(parameters) | {"classes": list(parameters.classes)}
    return {"colad_shapes": {"version": FORMAT_VERSION, **described}}


def _write_dataset(folder: Path, parameters: ShapesParameters) -> None:
    (folder / "images").mkdir()
    first_id = 1
    for split, count in enumerate((parameters.train, parameters.val)):
        name = ("train", "val")[split]
        content = _draw_split(folder / "images", name, split, count, first_id, parameters)
        (folder / f"{name}.json").write_text(json.dumps(content))
        first_id += count  # image ids are unique over both splits
    (folder / "meta.json").write_text(json.dumps(_meta(parameters), indent=1) + "\n")


def _draw_split(
    images: Path, name: str, split: int, count: int, first_id: int, parameters: ShapesParameters
) -> dict[str, Any]:
    """Draw and save the images of one split; return its COCO content."""
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    size = parameters.size
    for index in range(count):
        rng = np.random.default_rng([parameters.seed, split, index])
        pixels, labels, boxes_xywh = draw_image(
            rng, size=size, classes=parameters.classes, max_objects=parameters.max_objects
        )
        file_name = f"{name}_{index:05d}.jpg"
        Image.fromarray(pixels).save(images / file_name, quality=95, subsampling=0)
        image_id = first_id + index
        records.append({"id": image_id, "file_name": file_name, "width": size, "height": size})
        for label, (x, y, w, h) in zip(labels, boxes_xywh):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": c} for i, c in enumerate(parameters.classes)]
    return {"images": records, "annotations": annotations, "categories": categories}


def draw_image(
    rng: np.random.Generator, *, size: int, classes: Sequence[str], max_objects: int
) -> tuple[Array, list[int], list[tuple[int, int, int, int]]]:
    """Draw one image.

    Returns:
        Pixels (size, size, 3) uint8 RGB; class indices; boxes xywh in whole pixels.
    """
    base = rng.uniform(70, 130) + rng.uniform(-12, 12, 3)
    canvas = _background(rng, size, base)
    _draw_clutter(rng, canvas)
    owner = np.full((size, size), -1)  # index of the topmost shape of a pixel
    areas: list[int] = []
    labels: list[int] = []
    boxes: list[tuple[int, int, int, int]] = []
    for _ in range(int(rng.integers(min(2, max_objects), max_objects + 1))):
        label = int(rng.integers(len(classes)))
        placed = _place(rng, SHAPES[classes[label]], owner, areas)
        if placed is None:
            continue
        rows, cols = placed
        canvas[rows, cols] = _fill(rng, base, rows, cols)
        owner[rows, cols] = len(areas)
        areas.append(len(rows))
        labels.append(label)
        x, y = int(cols.min()), int(rows.min())
        boxes.append((x, y, int(cols.max()) + 1 - x, int(rows.max()) + 1 - y))
    canvas += rng.normal(0, rng.uniform(2, 5), canvas.shape)
    return np.clip(canvas, 0, 255).astype(np.uint8), labels, boxes


def _place(
    rng: np.random.Generator,
    inside: Callable[[Array, Array], Array],
    owner: Array,
    areas: Sequence[int],
) -> tuple[Array, Array] | None:
    """Choose size, rotation and place of a shape; return its pixels' rows and columns.

    At least 90 % of every earlier shape stays visible; None when eight tries find no such place.
    """
    size = len(owner)
    visible = np.bincount(owner[owner >= 0], minlength=len(areas)) if areas else np.zeros(0)
    for _ in range(8):
        radius = size * float(np.exp(rng.uniform(np.log(0.14), np.log(0.29))))
        cx, cy = rng.uniform(0.7 * radius, size - 0.7 * radius, 2)
        turn = rng.uniform(-0.15, 0.15)
        x0, x1 = max(0, int(cx - radius)), min(size, int(cx + radius) + 1)
        y0, y1 = max(0, int(cy - radius)), min(size, int(cy + radius) + 1)
        dx = (np.arange(x0, x1) + 0.5 - cx)[None, :] / radius
        dy = (np.arange(y0, y1) + 0.5 - cy)[:, None] / radius
        cos, sin = np.cos(turn), np.sin(turn)
        rows, cols = np.nonzero(inside(cos * dx + sin * dy, cos * dy - sin * dx))
        if len(rows) == 0:
            continue
        rows, cols = rows + y0, cols + x0
        covered = owner[rows, cols]
        hidden = np.bincount(covered[covered >= 0], minlength=len(areas))
        if all(visible - hidden >= 0.9 * np.asarray(areas)):
            return rows, cols
    return None


def _background(rng: np.random.Generator, size: int, base: Array) -> Array:
    """Smooth coloured texture of two scales around a base colour, (size, size, 3) float."""
    canvas = np.broadcast_to(base, (size, size, 3)).astype(np.float64)
    for cells, strength in ((3, 7.0), (12, 3.0)):
        coarse = rng.normal(0, strength, (cells, cells, 3))
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel].astype(np.float32))
            canvas[..., channel] += np.asarray(layer.resize((size, size), Image.Resampling.BICUBIC))
    return canvas


def _draw_clutter(rng: np.random.Generator, canvas: Array) -> None:
    """Thin lines of random colours that belong to no class."""
    size = len(canvas)
    grid = np.arange(size) + 0.5
    for _ in range(int(rng.integers(0, 3))):
        angle = rng.uniform(0, np.pi)
        through = rng.uniform(0, size, 2)
        across = (grid[None, :] - through[0]) * np.sin(angle) - (
            grid[:, None] - through[1]
        ) * np.cos(angle)
        canvas[np.abs(across) <= size * rng.uniform(0.004, 0.012)] = rng.uniform(50, 180)


def _fill(rng: np.random.Generator, base: Array, rows: Array, cols: Array) -> Array:
    """Colours (pixels, 3): distinct from the background, plain or shaded from side to side."""
    colour = rng.uniform(0, 255, 3)
    while np.abs(colour - base).max() < 110:
        colour = rng.uniform(0, 255, 3)
    angle = rng.uniform(0, 2 * np.pi)
    along = cols * np.cos(angle) + rows * np.sin(angle)
    shade = (along - along.min()) / max(float(np.ptp(along)), 1.0) - 0.5
    return colour + (50 * shade[:, None] if rng.random() < 0.4 else 0)
