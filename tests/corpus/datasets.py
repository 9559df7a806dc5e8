"""Malformed annotation files and images."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from tests.corpus.base import PAA, SEED, Base, Case, check, copy_data, cut, edit_json

JUNK: tuple[Any, ...] = (None, True, -1, 1.5, "", "x", [], {}, [None], 10**400, float("nan"))
"""Values that somebody's converter has written somewhere."""


def _edited(name: str, change: Callable[[Any], Any], *says: str, split: str = "train") -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        data = copy_data(base, folder)
        edit_json(data / f"{split}.json", change)
        return check(PAA, data, folder)

    return Case(name, make, (f"{split}.json", *says))


def _raw(name: str, content: bytes, *says: str) -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        data = copy_data(base, folder)
        (data / "train.json").write_bytes(content)
        return check(PAA, data, folder)

    return Case(name, make, ("train.json", *says))


def _field(section: str, field: str, value: Any) -> Case:
    def change(content: Any) -> None:
        content[section][0][field] = value

    return _edited(f"{section}.{field}={value!r:.20}", change, f"{section}[0]", field)


def _absent(section: str, field: str) -> Case:
    def change(content: Any) -> None:
        del content[section][0][field]

    return _edited(f"{section} without {field}", change, f"{section}[0]", field)


def _image(name: str, spoil: Callable[[Path], None]) -> Case:
    """The first training image, spoilt; the message must name it."""

    def make(base: Base, folder: Path) -> list[str]:
        data = copy_data(base, folder)
        spoil(sorted((data / "images").glob("*train*"))[0])
        return check(PAA, data, folder)

    return Case(name, make, ("train",))


def _set_all(section: str, field: str, value: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for record in content[section]:
            record[field] = value

    return change


FIXED = [
    _raw("empty file", b"", "empty"),
    _raw("not JSON", b"no json at all", "not JSON", "line 1"),
    _raw("binary", bytes(range(256)) * 8, "JSON"),
    _raw("deep nesting", b"[" * 200_000, "JSON"),
    _raw("a number", b"3", "not a COCO"),
    _raw("a list", b"[1, 2]", "not a COCO"),
    _raw("results file", b'[{"image_id": 1, "score": 0.5}]', "detection results"),
    _raw("other keys", b'{"pictures": []}', "images"),
    _raw("UTF-16 rubbish", b"\xff\xfe\x00\xd8", "train.json"),
    *(_absent("images", f) for f in ("id", "file_name", "width", "height")),
    *(_absent("annotations", f) for f in ("id", "image_id", "category_id", "bbox")),
    *(_absent("categories", f) for f in ("id", "name")),
    _edited("no images", lambda c: c.update(images=[]), "images"),
    _edited("no categories", lambda c: c.update(categories=[]), "categories"),
    _edited("images as a dict", lambda c: c.update(images={}), "images"),
    _edited("image as text", lambda c: c["images"].insert(0, "x"), "images[0]"),
    _edited("doubled image id", lambda c: c["images"].append(c["images"][0]), "image ids"),
    _edited("doubled category", lambda c: c["categories"].append(c["categories"][0]), "category"),
    _edited("doubled box id", lambda c: c["annotations"].append(c["annotations"][0]), "annotation"),
    _edited("unknown image", lambda c: c["annotations"][0].update(image_id=99), "image_id 99"),
    _edited("unknown class", lambda c: c["annotations"][0].update(category_id=99), "99"),
    _edited("all boxes are crowds", _set_all("annotations", "iscrowd", 1), "crowd"),
    _edited("no boxes at all", lambda c: c.update(annotations=[]), "box"),
    _edited("all boxes flat", _set_all("annotations", "bbox", [1, 1, 0, 5]), "box"),
    _edited(
        "other classes in val", lambda c: c["categories"][0].update(name="?"), "?", split="val"
    ),
    *(
        _edited(f"file name {name!r:.24}", lambda c, n=name: c["images"][0].update(file_name=n))
        for name in ("../../../etc/passwd", "/etc/passwd", "C:\\x.png", "a\0b.png", "..\\x.png", "")
    ),
    _edited(
        "file that is not there", lambda c: c["images"][0].update(file_name="no.png"), "no.png"
    ),
    _edited("wrong size", lambda c: c["images"][0].update(width=63), "63"),
    _image("empty image", lambda p: p.write_bytes(b"") and None),
    _image("text as image", lambda p: p.write_bytes(b"this is no picture") and None),
    _image("HTML as image", lambda p: p.write_bytes(b"<html>404</html>") and None),
    _image("image of another size", lambda p: Image.new("RGB", (5, 5)).save(p)),
    _image("folder as image", lambda p: (p.unlink(), p.mkdir()) and None),
    _image("link to itself", lambda p: (p.unlink(), p.symlink_to(p.name)) and None),
]


def _fuzzed_field(number: int) -> Case:
    """A required field of a random record set to a random value of the wrong kind."""
    chance = random.Random(SEED + number)
    fields = {
        "images": ("id", "width", "height", "file_name"),
        "annotations": ("id", "image_id", "category_id", "bbox"),
        "categories": ("id", "name"),
    }
    section = chance.choice(sorted(fields))
    field = chance.choice(fields[section])
    texts = field in ("file_name", "name")
    value = chance.choice([v for v in JUNK if not (texts and isinstance(v, str))])
    if field in ("id", "image_id", "category_id") and value == -1:
        value = "1"  # a negative number is an id like any other
    place = chance.random()

    def change(content: Any) -> None:
        records = content[section]
        records[int(place * len(records))][field] = value

    return _edited(f"fuzz {number}: {section} {field}={value!r:.16}", change, section, field)


def _fuzzed_cut(number: int) -> Case:
    share = random.Random(SEED + number).uniform(0.01, 0.99)

    def make(base: Base, folder: Path) -> list[str]:
        data = copy_data(base, folder)
        cut(data / "train.json", share)
        return check(PAA, data, folder)

    return Case(f"fuzz {number}: file cut at {share:.2f}", make, ("train.json", "not JSON"))


def _fuzzed_image(number: int) -> Case:
    share = random.Random(SEED + number).uniform(0.05, 0.8)
    return _image(f"fuzz {number}: image cut at {share:.2f}", lambda p: cut(p, share))


CASES = [
    *FIXED,
    *(_fuzzed_field(number) for number in range(24)),
    *(_fuzzed_cut(number) for number in range(100, 104)),
    *(_fuzzed_image(number) for number in range(200, 204)),
]
