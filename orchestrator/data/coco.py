"""COCO-format datasets: loaded and checked before a training starts, cleaned where need be.

An error names the file, the record and what to change. What a training can live with (a box
without area, a category that no box uses) is counted and becomes a warning.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.data.images import check_images
from orchestrator.data.records import (
    DROPPED,
    BoxProblems,
    Record,
    parse_annotations,
    parse_categories,
    parse_images,
    read_coco,
)
from orchestrator.data.text import counted, first_few, shown
from orchestrator.errors import DataError


@dataclass(frozen=True, kw_only=True)
class CocoSet:
    """One split whose records are sound; its image files are yet unseen (``check_coco``)."""

    annotation_file: Path
    image_root: Path | None
    """Folder that ``file_name`` is relative to; None where only annotations are looked at."""
    images: list[Record]
    annotations: list[Record]
    """Of the chosen classes, cleaned: each box has an area and lies in its image."""
    categories: list[Record]
    """The chosen classes in label order: label i is ``categories[i]``."""
    problems: BoxProblems
    """What was dropped and mended of the chosen classes."""
    num_records: int
    """Annotations in the file, those of other classes and dropped ones included."""
    num_other_classes: int
    """Annotations left out because their class was not chosen."""
    rewrite: bool
    """Whether training needs the cleaned file of ``write_clean``."""

    @property
    def class_names(self) -> list[str]:
        """Names in label order."""
        return [category["name"] for category in self.categories]


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found that did not stop it."""

    warnings: tuple[str, ...]
    """Complete sentences, one per kind of finding; texts out of files are escaped."""
    images_checked: int
    """Files that were opened (0 without an image folder)."""
    images_decoded: int
    """Files that were decoded in full."""
    images_without_boxes: int
    """Images that teach only background."""
    boxes: int
    crowd_boxes: int
    boxes_dropped: int
    boxes_clipped: int


def load_coco(
    annotation_file: Path | str,
    image_root: Path | str | None,
    *,
    classes: Sequence[str] | None = None,
) -> CocoSet:
    """Read an annotation file, check its records, and clean its boxes.

    Dropped: boxes with NaN or infinity, without area, or wholly outside their image. Clipped:
    boxes more than a pixel over the border. Filled in: missing or useless ``area`` and ``iscrowd``.

    Args:
        annotation_file: COCO JSON.
        image_root: the folder of the images (``resolve_image_root``), or None.
        classes: category names to use, in label order; None uses all in the order of the file.

    Raises:
        DataError: the file cannot be used; see ``orchestrator.data.records``.
    """
    path = Path(annotation_file)
    content, plain = read_coco(path)
    everything = parse_categories(content, path)
    categories = _choose(everything, classes, path)
    images, images_changed = parse_images(content, path)
    chosen = {category["id"] for category in categories}
    annotations, problems, changed = parse_annotations(
        content, images, everything, path, chosen=chosen
    )
    if not annotations:
        raise DataError(
            f"{shown(str(path))}: no usable box of the classes "
            f"{first_few([shown(c['name'], 40) for c in categories], limit=8)} "
            f"({counted(len(content['annotations']), 'annotation')}, "
            f"{problems.dropped:,} dropped: {_summary(problems) or 'none'}); "
            "nothing can be learned or measured on this split"
        )
    others = sum(record["category_id"] not in chosen for record in content["annotations"])
    return CocoSet(
        annotation_file=path,
        image_root=None if image_root is None else Path(image_root),
        images=images,
        annotations=annotations,
        categories=categories,
        problems=problems,
        num_records=len(content["annotations"]),
        num_other_classes=others,
        rewrite=not plain or images_changed or changed or categories != everything,
    )


def _choose(
    categories: Sequence[Record], classes: Sequence[str] | None, path: Path
) -> list[Record]:
    """The categories of the wanted classes, in the wanted order."""
    if classes is None:
        return list(categories)
    by_name = {category["name"]: category for category in categories}
    unknown = [name for name in classes if name not in by_name]
    if unknown or not classes or len(set(classes)) != len(classes):
        wrong = (
            f"names {first_few([shown(n) for n in unknown])}, which the file lacks"
            if unknown
            else f"= {shown(list(classes))} must hold at least one name, each once"
        )
        raise DataError(
            f"{shown(str(path))}: data.classes {wrong}; its categories are "
            f"{first_few([shown(n, 40) for n in by_name], limit=20)}"
        )
    return [by_name[name] for name in classes]


def check_coco(
    coco_set: CocoSet, *, full_decode_limit: int = 1000, threads: int = 8
) -> CheckReport:
    """Check the image files of a split and gather its warnings.

    Every file is opened: its header must be readable, its size as annotated, its end there. With
    at most ``full_decode_limit`` images each is decoded in full.

    Raises:
        DataError: image files are missing, damaged, no images, or of another size.
    """
    warnings = [_box_warning(coco_set), _thin_warning(coco_set), _unused_warning(coco_set)]
    names = [record["file_name"] for record in coco_set.images]
    shared = [name for name, number in Counter(names).items() if number > 1]
    if shared:
        warnings.append(
            f"{counted(len(shared), 'image file')} listed under several image ids: "
            f"{first_few([shown(name) for name in shared])}"
        )
    checked = decoded = 0
    if coco_set.image_root is not None:
        report = check_images(
            names,
            [(record["width"], record["height"]) for record in coco_set.images],
            coco_set.image_root,
            source=coco_set.annotation_file,
            full_decode_limit=full_decode_limit,
            threads=threads,
        )
        checked, decoded = report.checked, report.decoded
        if report.oriented:
            warnings.append(
                f"{counted(len(report.oriented), 'image')} with an EXIF orientation: training "
                "turns the pixels by it and leaves the boxes as they are; make sure that boxes "
                "were drawn on turned images, or strip the tag: "
                f"{first_few([shown(name) for name in report.oriented])}"
            )
    with_boxes = {annotation["image_id"] for annotation in coco_set.annotations}
    return CheckReport(
        warnings=tuple(warning for warning in warnings if warning),
        images_checked=checked,
        images_decoded=decoded,
        images_without_boxes=len(coco_set.images) - len(with_boxes),
        boxes=len(coco_set.annotations),
        crowd_boxes=sum(annotation["iscrowd"] for annotation in coco_set.annotations),
        boxes_dropped=coco_set.problems.dropped,
        boxes_clipped=coco_set.problems.clipped,
    )


def _summary(problems: BoxProblems) -> str:
    return ", ".join(
        f"{problems.counts[kind]:,} {kind}"
        for kind in (*DROPPED, "clipped")
        if problems.counts[kind]
    )


def _box_warning(coco_set: CocoSet) -> str:
    problems = coco_set.problems
    if not problems.dropped + problems.clipped:
        return ""
    examples = [
        f"{example} ({kind})"
        for kind in (*DROPPED, "clipped")
        for example in problems.examples.get(kind, [])[:1]
    ]
    return (
        f"{shown(str(coco_set.annotation_file))}: of "
        f"{counted(coco_set.num_records, 'box', 'boxes')} "
        f"{problems.dropped:,} dropped, {problems.clipped:,} clipped at the image border "
        f"({_summary(problems)}); first: {'; '.join(examples)}"
    )


def _thin_warning(coco_set: CocoSet) -> str:
    kind = "thinner than 1 pixel"
    number = coco_set.problems.counts[kind]
    if not number:
        return ""
    return (
        f"{shown(str(coco_set.annotation_file))}: {counted(number, 'box', 'boxes')} {kind}: mmdet "
        f"leaves them out of training, evaluation counts them; first: "
        f"{coco_set.problems.examples[kind][0]}"
    )


def _unused_warning(coco_set: CocoSet) -> str:
    used = {annotation["category_id"] for annotation in coco_set.annotations}
    unused = [c["name"] for c in coco_set.categories if c["id"] not in used]
    if not unused:
        return ""
    return (
        f"{shown(str(coco_set.annotation_file))}: {len(unused)} of "
        f"{counted(len(coco_set.categories), 'category', 'categories')} without a box: "
        f"{first_few([shown(name, 40) for name in unused], limit=8)}; they are never learned and "
        "have no AP here. List the others in data.classes to leave them out"
    )


def write_clean(coco_set: CocoSet, path: Path | str) -> Path | None:
    """Write the annotation file that mmdet and pycocotools can use, where the original is not it.

    It holds boxes only (no segmentations), and the chosen categories in label order: mmdet takes
    labels from the order in the file, whatever order its ``classes`` have.

    Returns:
        ``path``, or None where the original can be used as it is and nothing was written.

    Raises:
        DataError: the file cannot be written.
    """
    if not coco_set.rewrite:
        return None
    content = {
        "info": {"description": "cleaned by colad"},
        "images": coco_set.images,
        "annotations": coco_set.annotations,
        "categories": coco_set.categories,
    }
    return write_json(content, Path(path))


def write_json(content: Record, path: Path) -> Path:
    """Write JSON whole or not at all.

    Raises:
        DataError: the folder cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(json.dumps(content, allow_nan=False), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{shown(str(path))}: cannot be written: {error.strerror or error}; choose a folder "
            "that can be"
        ) from error
    return path


def require_same_classes(train: Sequence[str], val: Sequence[str]) -> None:
    """Refuse splits whose label i means different things.

    Names and their order decide, since labels are positions; category ids may differ.

    Raises:
        DataError: naming the difference.
    """
    train, val = list(train), list(val)
    if train == val:
        return
    only_train = [shown(name, 40) for name in train if name not in val]
    only_val = [shown(name, 40) for name in val if name not in train]
    if only_train or only_val:
        what = (
            f"only in train: {first_few(only_train, limit=8) or 'none'}; "
            f"only in val: {first_few(only_val, limit=8) or 'none'}"
        )
        mend = "list those that both have in data.classes, or correct one file"
    else:
        what = f"the same names in another order: train {shown(train)}, val {shown(val)}"
        mend = "set data.classes to the order to use"
    raise DataError(
        f"categories of train ({len(train)}) and val ({len(val)}) differ: {what}; {mend}"
    )


def resolve_image_root(
    root: Path | str, annotation_file: Path | str, images: str | Path | None = None
) -> Path:
    """Find the folder that the ``file_name`` of an annotation file is relative to.

    Args:
        root: the dataset folder.
        annotation_file: COCO JSON, relative to the working directory or absolute.
        images: the folder, relative to ``root`` or absolute; None looks in the usual places for
            the first five images.

    Raises:
        DataError: the given folder is none; no usual place or several hold the images.
    """
    root, annotation_file = Path(root), Path(annotation_file)
    if images is not None:
        folder = root / images
        if not folder.is_dir():
            raise DataError(
                f"data.images = {shown(str(images))}: no such folder ({shown(str(folder))}); it is "
                "relative to data.root"
            )
        return folder
    content, _ = read_coco(annotation_file)
    records, _ = parse_images({"images": content["images"][:5]}, annotation_file)
    names = [record["file_name"] for record in records]
    found: dict[Path, int] = {}
    tried: list[str] = []
    seen: set[str] = set()
    for folder in _usual_folders(root, annotation_file):
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        tried.append(shown(str(folder)))
        number = sum(os.path.isfile(folder / name) for name in names)
        if number:
            found[folder] = number
    best = [folder for folder, number in found.items() if number == max(found.values())]
    if len(best) == 1:
        return best[0]
    looked = f"{first_few([shown(name) for name in names])} of {shown(str(annotation_file))}"
    if not best:
        raise DataError(
            f"no image folder found: looked for {looked} in {', '.join(tried)}; set data.images "
            "(of `colad data stats`: --images) to the folder that file_name is relative to"
        )
    raise DataError(
        f"several folders hold images of these names: {', '.join(shown(str(b)) for b in best)} "
        f"(looked for {looked}); set data.images to the one to use"
    )


def _usual_folders(root: Path, annotation_file: Path) -> list[Path]:
    """Where datasets keep their images: COCO's, VOC's and exporters' layouts."""
    stem = annotation_file.stem
    stems = dict.fromkeys([stem, re.sub(r"^instances_", "", stem)])
    roots = [root]
    if annotation_file.parent.name == "annotations":
        roots.append(annotation_file.parent.parent)
    folders = [annotation_file.parent]
    for base in roots:
        folders += [base, base / "images", base / "JPEGImages"]
        for name in stems:
            for folder in (base, base / "images"):
                folders += [folder / name, folder / f"{name}2017"]
    return folders
