"""The records of a COCO annotation file: their types, ids and boxes, checked one by one.

What is wrong in kind (a missing key, an unknown id) is an error. What is wrong in a box is counted
and mended: mmdet would leave such boxes out of training without a word.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.data.text import counted, first_few, shown, unsafe_name
from orchestrator.errors import DataError

OUTSIDE_TOLERANCE = 1.0
"""Pixels by which a box may leave its image untouched: rounding, as in COCO's own files."""

_LARGEST_ID = 2**63

Record = dict[str, Any]


@dataclass
class BoxProblems:
    """Boxes that were dropped or mended, with up to three examples of each kind."""

    counts: Counter[str] = field(default_factory=Counter)
    """``not finite``, ``without area``, ``outside the image`` (dropped), ``clipped``, and kept as
    they are but unseen by mmdet in training: ``thinner than 1 pixel``."""
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, describe: Callable[[], str]) -> None:
        """Count one box; describe it while there are few of its kind."""
        self.counts[kind] += 1
        known = self.examples.setdefault(kind, [])
        if len(known) < 3:
            known.append(describe())

    @property
    def dropped(self) -> int:
        """Boxes left out."""
        return sum(self.counts[kind] for kind in DROPPED)

    @property
    def clipped(self) -> int:
        """Boxes cut at the border of their image."""
        return self.counts["clipped"]


DROPPED = ("not finite", "without area", "outside the image")


def read_coco(path: Path) -> tuple[Record, bool]:
    """Read an annotation file.

    Returns:
        Its content, and whether other COCO tools can read the file (plain UTF-8 without a mark).

    Raises:
        DataError: no such file, no JSON, or JSON that is not COCO.
    """
    where = shown(str(path))
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{where}: no such annotation file; set data.root, data.train and data.val"
        ) from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
    try:
        content = json.loads(raw)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{where}: not JSON (line {error.lineno}, column {error.colno}: {error.msg}); expected "
            "a COCO annotation file" + (", the file is empty" if not raw.strip() else "")
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not readable JSON: {shown(str(error))}") from None
    _require_coco(content, where)
    return content, json.detect_encoding(raw) == "utf-8"


def _require_coco(content: Any, where: str) -> None:
    expected = "expected COCO: an object with the lists 'images', 'annotations' and 'categories'"
    if isinstance(content, list):
        results = content and isinstance(content[0], dict) and "score" in content[0]
        what = "a list of detection results" if results else "a list"
        raise DataError(f"{where}: not a COCO annotation file, it holds {what}; {expected}")
    if not isinstance(content, dict):
        raise DataError(
            f"{where}: not a COCO annotation file, it holds {shown(content)}; {expected}"
        )
    for key in ("images", "annotations", "categories"):
        if key not in content:
            keys = first_few([shown(k, 40) for k in content], limit=6) or "none"
            raise DataError(
                f"{where}: not a COCO annotation file, {key!r} is missing (keys: {keys}); "
                f"{expected}"
            )
        if not isinstance(content[key], list):
            raise DataError(f"{where}: {key!r} is {shown(content[key], 60)}; {expected}")
    if not content["images"]:
        raise DataError(f"{where}: no images; a split needs at least one")


def _get(record: Any, key: str, wanted: str, valid: Callable[[Any], bool], where: str) -> Any:
    """A field of a record, or an error that names both."""
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected an object, got {shown(record, 60)}")
    if key not in record:
        raise DataError(f"{where}: {key!r} is missing: {shown(record, 160)}")
    value = record[key]
    if not valid(value):
        raise DataError(f"{where}: {key!r} must be {wanted}, got {shown(value, 60)}")
    return value


def is_id(value: Any) -> bool:
    """Whether a value can be an id."""
    return type(value) is int and abs(value) < _LARGEST_ID


def _is_length(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 2**31 and value == int(value)


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and {*map(type, value)} <= {int, float}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _refuse_duplicates(values: Sequence[Any], what: str, path: Path, mend: str) -> None:
    double = [value for value, number in Counter(values).items() if number > 1]
    if double:
        raise DataError(
            f"{shown(str(path))}: {what} must be unique, {counted(len(double), 'is', 'are')} used "
            f"more than once: {first_few([shown(v) for v in double])}; {mend}"
        )


def parse_images(content: Record, path: Path) -> tuple[list[Record], bool]:
    """Check the image records.

    Returns:
        The records with whole-number sizes, and whether any differs from the file's.
    """
    images, changed = [], False
    for index, record in enumerate(content["images"]):
        where = f"{shown(str(path))}: images[{index}]"
        _get(record, "id", "an integer", is_id, where)
        name = _get(record, "file_name", "a text", _is_text, where)
        reason = unsafe_name(name)
        if reason is not None:
            raise DataError(
                f"{where}: file_name {shown(name)} {reason}: refused; give names relative to the "
                "image folder (data.images)"
            )
        sizes = {}
        for key in ("width", "height"):
            value = _get(record, key, "a positive whole number of pixels", _is_length, where)
            sizes[key] = int(value)
            changed |= type(value) is not int
        images.append({**record, **sizes})
    _refuse_duplicates([r["id"] for r in images], "image ids", path, "renumber them")
    return images, changed


def parse_categories(content: Record, path: Path) -> list[Record]:
    """Check the categories: integer ids and distinct names."""
    for index, record in enumerate(content["categories"]):
        where = f"{shown(str(path))}: categories[{index}]"
        _get(record, "id", "an integer", is_id, where)
        _get(record, "name", "a text", _is_text, where)
    categories: list[Record] = content["categories"]
    if not categories:
        raise DataError(f"{shown(str(path))}: no categories; detectors need at least one class")
    _refuse_duplicates([c["id"] for c in categories], "category ids", path, "renumber them")
    _refuse_duplicates([c["name"] for c in categories], "category names", path, "rename them")
    return categories


def parse_annotations(
    content: Record,
    images: Sequence[Record],
    categories: Sequence[Record],
    path: Path,
    *,
    chosen: set[int],
) -> tuple[list[Record], BoxProblems, bool]:
    """Check all annotations and mend the boxes of the chosen category ids.

    Returns:
        Their annotations with only the fields of detection, boxes inside their images; what was
        dropped or mended; whether any number differs from the file's.
    """
    by_id = {record["id"]: record for record in images}
    category_ids = {category["id"] for category in categories}
    annotations: list[Record] = []
    problems, changed = BoxProblems(), False
    for index, record in enumerate(content["annotations"]):
        _check_annotation(record, index, path)
        image = by_id.get(record["image_id"])
        if image is None or record["category_id"] not in chosen:
            continue  # an unknown image or category is reported below
        box, area = _mend(record, image, problems)
        if box is None:
            continue
        crowd = int(record.get("iscrowd", 0))
        mended = {key: record[key] for key in ("id", "image_id", "category_id")}
        mended |= {"bbox": box, "area": area, "iscrowd": crowd}
        if "ignore" in record:
            mended["ignore"] = record["ignore"]
        changed |= area != record.get("area") or type(record.get("iscrowd")) is not int
        annotations.append(mended)
    _require_known(content["annotations"], by_id, category_ids, path)
    ids = [record["id"] for record in content["annotations"]]
    _refuse_duplicates(ids, "annotation ids", path, "renumber the annotations")
    if 0 in ids:  # pycocotools takes a ground truth of id 0 for "not matched"
        for annotation in annotations:
            annotation["id"] = annotation["id"] or max(ids) + 1
        changed = True
    return annotations, problems, changed or problems.dropped + problems.clipped > 0


def _check_annotation(record: Any, index: int, path: Path) -> None:
    """Types only. The fast path for hundreds of thousands of records that are as they should be."""
    try:
        if (
            is_id(record["id"])
            and is_id(record["image_id"])
            and is_id(record["category_id"])
            and _is_box(record["bbox"])
            and record.get("iscrowd", 0) in (0, 1)
        ):
            return
    except (KeyError, TypeError, AttributeError):
        pass
    where = f"{shown(str(path))}: annotations[{index}]"
    for key in ("id", "image_id", "category_id"):
        _get(record, key, "an integer", is_id, where)
    _get(record, "bbox", "a list of four numbers [x, y, width, height]", _is_box, where)
    _get(record, "iscrowd", "0 or 1", lambda value: value in (0, 1), where)


def _require_known(
    records: Sequence[Record], images: Mapping[int, Record], categories: set[int], path: Path
) -> None:
    """Every annotation belongs to an image and a category of the file."""
    for key, known, what in (
        ("image_id", images.keys(), "'images'"),
        ("category_id", categories, "'categories'"),
    ):
        unknown = [record for record in records if record[key] not in known]
        if unknown:
            examples = [f"annotation {r['id']} has {key} {r[key]}" for r in unknown[:3]]
            have = f" (ids there: {first_few([str(k) for k in sorted(known)], limit=10)})"
            raise DataError(
                f"{shown(str(path))}: {counted(len(unknown), 'annotation')} of "
                f"{len(records):,} whose {key} is not in {what}"
                f"{have if key == 'category_id' else ''}: "
                f"{first_few(examples, total=len(unknown))}; add the missing records to {what} or "
                "remove these annotations"
            )


def _mend(
    record: Record, image: Record, problems: BoxProblems
) -> tuple[list[float] | None, float | None]:
    """The box to train on (None: dropped) and its area, which mmdet needs to be positive."""
    box = record["bbox"]

    def describe() -> str:
        return f"annotation {record['id']} of {shown(image['file_name'], 60)}, bbox {shown(box)}"

    kind, mended = clean_box(box, image["width"], image["height"])
    if kind is not None:
        problems.add(kind, describe)
    if mended is None:
        return None, None
    if min(mended[2:]) < 1:
        problems.add("thinner than 1 pixel", describe)
    area: Any = record.get("area")
    if type(area) not in (int, float) or not 0 < area < math.inf:
        return mended, mended[2] * mended[3]
    return mended, min(area, mended[2] * mended[3]) if kind == "clipped" else area


def clean_box(
    bbox: Sequence[float], width: int, height: int
) -> tuple[str | None, list[float] | None]:
    """Judge one box against its image.

    Args:
        bbox: x, y, width, height in pixels.
        width: of the image, pixels.
        height: of the image, pixels.

    Returns:
        What is wrong (None: nothing) and the box to use (None: it must be dropped).
    """
    try:
        finite = all(math.isfinite(value) for value in bbox)
    except OverflowError:  # an integer beyond the floats
        finite = False
    if not finite:
        return "not finite", None
    x, y, w, h = bbox
    if w <= 0 or h <= 0:
        return "without area", None
    x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    if x2 <= x1 or y2 <= y1:
        return "outside the image", None
    if max(-x, -y, x + w - width, y + h - height) > OUTSIDE_TOLERANCE:
        return "clipped", [x1, y1, x2 - x1, y2 - y1]
    return None, list(bbox)
