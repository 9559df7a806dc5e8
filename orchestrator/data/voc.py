"""Pascal VOC folders to COCO JSON.

Corner coordinates are taken as they are: x = xmin, y = ymin, width = xmax - xmin, height =
ymax - ymin (no shift by the one pixel of VOC's 1-based inclusive corners, as annotation tools that
write VOC files do not know it).
"""

from __future__ import annotations

import re
import warnings
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orchestrator.data.coco import write_json
from orchestrator.data.images import examine_image
from orchestrator.data.text import counted, first_few, shown, unsafe_name
from orchestrator.errors import DataError

Difficult = Literal["ignore", "keep", "drop"]

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG", ".bmp", ".tif", ".tiff")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")


@dataclass(frozen=True, kw_only=True)
class DroppedBox:
    """A box without area, left out of the conversion."""

    file: str
    """Name of the XML file."""
    object_index: int
    """Position of the ``<object>`` in the file, from 0."""
    name: str
    box_xyxy: tuple[float, float, float, float]


@dataclass(frozen=True, kw_only=True)
class ConversionReport:
    """What a conversion wrote and what it left out."""

    out: Path
    images: int
    boxes: int
    categories: tuple[str, ...]
    """In the order of their ids 1, 2, ..."""
    boxes_per_category: dict[str, int]
    dropped: tuple[DroppedBox, ...]
    difficult: int
    """Boxes marked difficult, whatever became of them."""
    other_classes: int
    """Boxes of classes that were not asked for."""
    unverified_images: tuple[str, ...]
    """Images whose size could not be compared, since they are missing or unreadable."""
    renamed: tuple[str, ...]
    """XML files whose ``<filename>`` is not the image of their own name that was used."""

    def __str__(self) -> str:
        """What a person wants to know, texts of files escaped; every dropped box has a line."""
        each = [f"{shown(name, 40)} {n:,}" for name, n in self.boxes_per_category.items()]
        lines = [
            f"{shown(str(self.out))}: {counted(self.images, 'image')}, "
            f"{counted(self.boxes, 'box', 'boxes')}",
            f"categories: {', '.join(each)}",
            f"dropped, without area: {counted(len(self.dropped), 'box', 'boxes')}",
        ]
        for box in self.dropped:
            corners = ", ".join(f"{value:g}" for value in box.box_xyxy)
            lines.append(
                f"  {shown(box.file)}, object[{box.object_index}] {shown(box.name, 40)}: "
                f"({corners})"
            )
        if self.difficult:
            lines.append(f"marked difficult: {counted(self.difficult, 'box', 'boxes')}")
        if self.other_classes:
            lines.append(f"of other classes: {counted(self.other_classes, 'box', 'boxes')}")
        for names, what in (
            (self.unverified_images, "size not compared, image missing or unreadable"),
            (self.renamed, "<filename> is another image; that of the XML file's own name is used"),
        ):
            if names:
                lines.append(f"{what}: {first_few([shown(name) for name in names])}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Object:
    index: int
    name: str
    box_xyxy: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class _Page:
    """One XML file."""

    path: Path
    file_name: str | None
    size: tuple[int, int] | None
    objects: list[_Object]


def convert_voc(
    root: Path | str,
    *,
    split: str | None,
    out: Path | str,
    annotations: str = "Annotations",
    images: str = "JPEGImages",
    sets: str = "ImageSets/Main",
    classes: Sequence[str] | None = None,
    difficult: Difficult = "ignore",
    overwrite: bool = False,
) -> ConversionReport:
    """Write one split of a VOC folder as a COCO annotation file.

    Image ids are positions (from 1) in the sorted list of all XML files, so they are unique over
    the splits. Categories: ``classes`` in that order, else all classes of all XML files, the most
    frequent first (ties by name), so that every split gets the same ids.

    Args:
        root: the VOC folder.
        split: name of a list in ``sets`` (``train`` for ``train.txt``); None takes every XML file.
        out: the JSON file to write.
        annotations: folder of the XML files, relative to ``root``.
        images: folder of the images, relative to ``root``; ``file_name`` is relative to it.
        sets: folder of the split lists, relative to ``root``.
        classes: names to convert, in the order of their ids; boxes of others are counted and left
            out.
        difficult: boxes marked difficult are written with ``iscrowd`` 1 (``ignore``: as VOC's
            protocol and mmdet do, neither object nor background), as other boxes (``keep``), or
            not at all (``drop``). Those written carry ``difficult: 1``.
        overwrite: replace ``out`` where it exists.

    Raises:
        DataError: anything missing, malformed, contradictory or unsafe, naming file and element.
    """
    root, out = Path(root), Path(out)
    if out.exists() and not overwrite:
        raise DataError(f"{shown(str(out))} exists: give another file, or ask to overwrite it")
    if difficult not in ("ignore", "keep", "drop"):
        raise DataError(f"difficult = {shown(difficult)}: expected ignore, keep or drop")
    _refuse_escapes(annotations=annotations, images=images, sets=sets, split=split or "all")
    stems = _all_stems(root / annotations)
    wanted = stems if split is None else _read_set(root / sets / f"{split}.txt", root / annotations)
    everything = stems if classes is None else wanted
    pages = {stem: _read_page(root / annotations / f"{stem}.xml") for stem in everything}
    categories = _categories(pages.values()) if classes is None else _checked(classes)
    writer = _Writer(root / images, categories, difficult)
    image_ids = {stem: index + 1 for index, stem in enumerate(stems)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's on odd metadata of images
        for stem in wanted:
            writer.add(stem, pages[stem], image_ids[stem])
    return writer.finish(out)


def _refuse_escapes(**names: str) -> None:
    for key, name in names.items():
        reason = unsafe_name(name)
        if reason is not None:
            raise DataError(
                f"{key} = {shown(name)} {reason}; give a name relative to the VOC folder"
            )


def _all_stems(folder: Path) -> list[str]:
    try:
        stems = sorted(path.stem for path in folder.iterdir() if path.suffix == ".xml")
    except OSError as error:
        raise DataError(
            f"{shown(str(folder))}: cannot list the XML files: {error.strerror or error}; name "
            "the folder of annotations"
        ) from error
    if not stems:
        raise DataError(f"{shown(str(folder))}: holds no .xml file; name the folder of annotations")
    return stems


def _read_set(path: Path, annotations: Path) -> list[str]:
    """The entries of a split list, each with an XML file, none twice."""
    where = shown(str(path))
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        there = sorted(shown(p.stem, 40) for p in path.parent.glob("*.txt"))
        raise DataError(
            f"{where}: no such split list; there are: {first_few(there, limit=10) or 'none'}. "
            "Without a split all images are converted; `colad data split` then parts them"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{where}: cannot be read: {shown(str(error))}") from error
    entries = [line.strip() for line in lines if line.strip()]
    if not entries:
        raise DataError(f"{where}: the split list is empty; expected one image name per line")
    for entry in entries:
        reason = unsafe_name(entry)
        if reason is not None:
            raise DataError(f"{where}: entry {shown(entry)} {reason}: refused")
    double = [shown(entry) for entry, number in Counter(entries).items() if number > 1]
    if double:
        raise DataError(
            f"{where}: {counted(len(double), 'entry', 'entries')} listed twice: "
            f"{first_few(double)}; image ids must be unique: keep one of each"
        )
    missing = [shown(entry) for entry in entries if not (annotations / f"{entry}.xml").is_file()]
    if missing:
        raise DataError(
            f"{where}: {len(missing):,} of {counted(len(entries), 'entry', 'entries')} without a "
            f".xml file in {shown(str(annotations))}: {first_few(missing)}; expected one name per "
            "line, without a suffix"
        )
    return entries


class _NoDoctype(ET.TreeBuilder):
    """Refuses document types: with them come entities, which no VOC file needs."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise DataError("declares a DOCTYPE; refused, as entities could be hidden in it")


def _read_page(path: Path) -> _Page:
    """Parse one XML file into numbers, or say which element is wrong."""
    where = shown(str(path))
    try:
        top = ET.fromstring(path.read_bytes(), parser=ET.XMLParser(target=_NoDoctype()))
    except ET.ParseError as error:
        raise DataError(f"{where}: malformed XML: {shown(str(error))}") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    except (OSError, ValueError, LookupError) as error:  # unreadable, or an unknown encoding
        raise DataError(f"{where}: cannot be read: {shown(str(error))}") from error
    if top.tag != "annotation":
        raise DataError(f"{where}: <{shown(top.tag, 40)}> at the top; expected <annotation>")
    file_name = (top.findtext("filename") or "").strip() or None
    if file_name is not None and (reason := unsafe_name(file_name)) is not None:
        raise DataError(f"{where}: <filename> {shown(file_name)} {reason}: refused")
    size = None
    if top.find("size") is not None:
        width, height = (_number(top, f"size/{key}", where) for key in ("width", "height"))
        if min(width, height) < 1 or width != int(width) or height != int(height):
            raise DataError(
                f"{where}: <size> is {width:g} x {height:g}; expected whole numbers of pixels > 0"
            )
        size = (int(width), int(height))
    objects = [_read_object(o, i, where) for i, o in enumerate(top.findall("object"))]
    return _Page(path, file_name, size, objects)


def _read_object(element: ET.Element, index: int, where: str) -> _Object:
    where = f"{where}: object[{index}]"
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{where}: <name> is missing or empty; expected the class of the object")
    x1, y1, x2, y2 = (
        _number(element, f"bndbox/{key}", where) for key in ("xmin", "ymin", "xmax", "ymax")
    )
    mark = (element.findtext("difficult") or "0").strip()
    if mark not in ("0", "1"):
        raise DataError(f"{where}: <difficult> is {shown(mark)}; expected 0 or 1")
    return _Object(index, name, (x1, y1, x2, y2), mark == "1")


def _number(element: ET.Element, path: str, where: str) -> float:
    text = element.findtext(path)
    if text is None:
        raise DataError(f"{where}: <{path}> is missing; expected a number")
    if not _NUMBER.fullmatch(text.strip()) or float(text) in (float("inf"), float("-inf")):
        raise DataError(f"{where}: <{path}> is {shown(text)}; expected a number")
    return float(text)


def _categories(pages: Any) -> list[str]:
    """All class names, the most frequent first."""
    numbers = Counter(o.name for page in pages for o in page.objects)
    if not numbers:
        raise DataError("no <object> in any XML file: nothing to convert")
    return sorted(numbers, key=lambda name: (-numbers[name], name))


def _checked(classes: Sequence[str]) -> list[str]:
    if not classes or len(set(classes)) != len(classes) or not all(classes):
        raise DataError(f"classes = {shown(list(classes))}: expected distinct names, at least one")
    return list(classes)


class _Writer:
    """Gathers the records of a split."""

    def __init__(self, images: Path, categories: Sequence[str], difficult: Difficult) -> None:
        self._folder = images
        self._ids = {name: index + 1 for index, name in enumerate(categories)}
        self._difficult = difficult
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._dropped: list[DroppedBox] = []
        self._used: dict[str, str] = {}
        self._unverified: list[str] = []
        self._renamed: list[str] = []
        self._marked = 0
        self._others = 0

    def add(self, stem: str, page: _Page, image_id: int) -> None:
        """One image and its boxes."""
        file_name = self._image_of(stem, page)
        if file_name in self._used:
            raise DataError(
                f"{shown(str(page.path))}: its image {shown(file_name)} is also that of "
                f"{shown(self._used[file_name])}; each image needs one XML file"
            )
        self._used[file_name] = page.path.name
        width, height = self._size_of(file_name, page)
        self._images.append(
            {"id": image_id, "file_name": file_name, "width": width, "height": height}
        )
        for item in page.objects:
            self._add_box(item, page, image_id)

    def _image_of(self, stem: str, page: _Page) -> str:
        """The image that bears the XML file's name; else the one that ``<filename>`` names."""
        own = [stem + s for s in IMAGE_SUFFIXES if (self._folder / (stem + s)).is_file()]
        if page.file_name in own or (not own and page.file_name is not None):
            return str(page.file_name)
        if not own:
            raise DataError(
                f"{shown(str(page.path))}: <filename> is missing, and {shown(str(self._folder))} "
                f"holds no image {shown(stem)} ({', '.join(IMAGE_SUFFIXES[:3])}, ...)"
            )
        if page.file_name is not None:
            self._renamed.append(page.path.name)
        return own[0]

    def _size_of(self, file_name: str, page: _Page) -> tuple[int, int]:
        """Width and height of the XML file, compared with the image where it can be read."""
        try:
            facts = examine_image(self._folder / file_name, decode=False)
        except DataError as error:
            if page.size is None:
                raise DataError(
                    f"{shown(str(page.path))}: <size> is missing and the image {shown(file_name)} "
                    f"cannot tell it: {error}"
                ) from None
            self._unverified.append(file_name)
            return page.size
        real = (facts.width, facts.height)
        if page.size is not None and page.size != real:
            raise DataError(
                f"{shown(str(page.path))}: <size> is {page.size[0]} x {page.size[1]}, the image "
                f"{shown(file_name)} is {real[0]} x {real[1]} (turned by its EXIF orientation, "
                "where it has one): annotate this very file, or correct <size>"
            )
        return real

    def _add_box(self, item: _Object, page: _Page, image_id: int) -> None:
        if item.name not in self._ids:
            self._others += 1
            return
        self._marked += item.difficult
        x1, y1, x2, y2 = item.box_xyxy
        if x2 <= x1 or y2 <= y1:
            self._dropped.append(
                DroppedBox(
                    file=page.path.name,
                    object_index=item.index,
                    name=item.name,
                    box_xyxy=item.box_xyxy,
                )
            )
            return
        if item.difficult and self._difficult == "drop":
            return
        record = {
            "id": len(self._annotations) + 1,
            "image_id": image_id,
            "category_id": self._ids[item.name],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(item.difficult and self._difficult == "ignore"),
        }
        if item.difficult:
            record["difficult"] = 1
        self._annotations.append(record)

    def finish(self, out: Path) -> ConversionReport:
        """Write the file."""
        categories = [{"id": index, "name": name} for name, index in self._ids.items()]
        content = {
            "images": self._images,
            "annotations": self._annotations,
            "categories": categories,
        }
        write_json(content, out)
        numbers = Counter(record["category_id"] for record in self._annotations)
        return ConversionReport(
            out=out,
            images=len(self._images),
            boxes=len(self._annotations),
            categories=tuple(self._ids),
            boxes_per_category={name: numbers[index] for name, index in self._ids.items()},
            dropped=tuple(self._dropped),
            difficult=self._marked,
            other_classes=self._others,
            unverified_images=tuple(self._unverified),
            renamed=tuple(self._renamed),
        )
