"""VOC folders: the boxes as they are, the broken files by name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator.data.coco import check_coco, load_coco, resolve_image_root
from orchestrator.data.voc import convert_voc
from orchestrator.errors import DataError

BCCD = Path(__file__).resolve().parents[4] / "shared" / "data" / "bccd"
needs_bccd = pytest.mark.skipif(
    not BCCD.is_dir(), reason="needs the BCCD images in ../shared/data/bccd of the repository"
)


def page(name: str | None, *objects: str, size=(64, 48)) -> str:
    """An annotation file of VOC's form."""
    filename = f"<filename>{name}</filename>" if name is not None else ""
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"<annotation>{filename}{extent}{''.join(objects)}</annotation>"


def thing(name: str, *corners: object, extra: str = "") -> str:
    """One object with xmin, ymin, xmax, ymax."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    box = "".join(f"<{key}>{value}</{key}>" for key, value in zip(keys, corners))
    return f"<object><name>{name}</name>{extra}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def folder(tmp_path, save_image) -> Path:
    """Three images; b and c in train, a in val."""
    for name in "abc":
        save_image(tmp_path / "voc" / "JPEGImages" / f"{name}.jpg")
    root = tmp_path / "voc"
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    objects = {
        "a": [thing("rod", 1, 2, 11, 22)],
        "b": [thing("cell", 3, 4, 5, 5), thing("rod", "7.5", 8, 20, "4e1")],
        "c": [thing("cell", 9, 9, 9, 20), thing("cell", 0, 0, 64, 48)],
    }
    for name, items in objects.items():
        (root / "Annotations" / f"{name}.xml").write_text(page(f"{name}.jpg", *items))
    (root / "ImageSets" / "Main" / "train.txt").write_text("c\n\n b \n")
    (root / "ImageSets" / "Main" / "val.txt").write_text("a")
    return root


def _convert(folder: Path, split: str | None = "train", **options):
    out = folder.parent / f"{split}.json"
    report = convert_voc(folder, split=split, out=out, **options)
    return report, json.loads(out.read_text())


def _spoil(folder: Path, text: str | bytes, name: str = "b") -> None:
    path = folder / "Annotations" / f"{name}.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def test_split_becomes_coco_and_box_without_area_is_reported(folder):
    report, content = _convert(folder)
    assert content["images"] == [
        {"id": 3, "file_name": "c.jpg", "width": 64, "height": 48},
        {"id": 2, "file_name": "b.jpg", "width": 64, "height": 48},
    ]
    assert content["categories"] == [{"id": 1, "name": "cell"}, {"id": 2, "name": "rod"}]
    boxes = [(a["id"], a["image_id"], a["category_id"], a["bbox"]) for a in content["annotations"]]
    assert boxes == [
        (1, 3, 1, [0, 0, 64, 48]),
        (2, 2, 1, [3, 4, 2, 1]),
        (3, 2, 2, [7.5, 8, 12.5, 32]),
    ]
    assert all(a["area"] == a["bbox"][2] * a["bbox"][3] for a in content["annotations"])
    (dropped,) = report.dropped
    assert (dropped.file, dropped.object_index, dropped.name) == ("c.xml", 0, "cell")
    assert dropped.box_xyxy == (9, 9, 9, 20)
    assert (report.images, report.boxes, report.categories) == (2, 3, ("cell", "rod"))
    assert report.boxes_per_category == {"cell": 2, "rod": 1}
    assert report.unverified_images == report.renamed == ()
    assert "train.json': 2 images, 3 boxes\ncategories: 'cell' 2, 'rod' 1\n" in str(report)
    assert "\n  'c.xml', object[0] 'cell': (9, 9, 9, 20)" in str(report)


def test_report_shows_what_is_odd_without_control_characters(folder):
    os.unlink(folder / "JPEGImages" / "b.jpg")
    odd = thing("rod&#10;&#x85;", 1, 1, 1, 1, extra="<difficult>1</difficult>")
    _spoil(folder, page("b.jpg", odd))
    _spoil(folder, page("a.jpg"), "c")
    text = str(_convert(folder, classes=["rod\n\x85".strip(), "cell"])[0])
    assert "size not compared, image missing or unreadable: 'b.jpg'" in text
    assert "<filename> is another image; that of the XML file's own name is used: 'c.xml'" in text
    assert "marked difficult: 1 box" in text and all(
        line.isprintable() for line in text.split("\n")
    )


def test_result_trains_without_cleaning(folder):
    report, _ = _convert(folder)
    coco_set = load_coco(report.out, resolve_image_root(folder, report.out))
    assert not coco_set.rewrite and not check_coco(coco_set).warnings


def test_ids_are_the_same_whatever_the_split(folder):
    _, val = _convert(folder, "val")
    _, both = _convert(folder, None)
    assert val["categories"] == both["categories"]
    assert [i["id"] for i in val["images"]] == [1] and [i["id"] for i in both["images"]] == [
        1,
        2,
        3,
    ]


def test_chosen_classes_give_the_ids(folder):
    report, content = _convert(folder, classes=["fish", "rod"])
    assert content["categories"] == [{"id": 1, "name": "fish"}, {"id": 2, "name": "rod"}]
    assert report.other_classes == 3 and report.boxes_per_category == {"fish": 0, "rod": 1}
    assert report.dropped == ()
    with pytest.raises(DataError, match="expected distinct names"):
        _convert(folder, classes=["a", "a"], overwrite=True)


@pytest.mark.parametrize(
    ("difficult", "expected"), [("ignore", [1, 0]), ("keep", [0, 0]), ("drop", [0])]
)
def test_difficult_boxes(folder, difficult, expected):
    marked = thing("cell", 1, 1, 9, 9, extra="<difficult>1</difficult>")
    plain = thing("cell", 2, 2, 9, 9, extra="<difficult>0</difficult>")
    _spoil(folder, page("a.jpg", marked, plain), "a")
    report, content = _convert(folder, "val", difficult=difficult)
    assert [a["iscrowd"] for a in content["annotations"]] == expected
    assert [a.get("difficult") for a in content["annotations"]] == [1, None][-len(expected) :]
    assert report.difficult == 1


def test_unknown_handling_of_difficult_is_refused(folder):
    with pytest.raises(DataError, match="difficult = 'maybe': expected ignore, keep or drop"):
        _convert(folder, difficult="maybe")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"b\.xml': malformed XML: 'no element found"),
        ("<annotation><object></annotation>", r"b\.xml': malformed XML: 'mismatched tag"),
        (b"\xff\xfe\x00", "malformed XML"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "b.xml': "),
        ("<html/>", "<'html'> at the top; expected <annotation>"),
        (page("b.jpg", "<object/>"), r"object\[0\]: <name> is missing or empty"),
        (page("b.jpg", "<object><name>rod</name></object>"), "<bndbox/xmin> is missing"),
        (page("b.jpg", thing("rod", 1, 2, 3)), r"object\[0\]: <bndbox/ymax> is missing"),
        (
            page("b.jpg", thing("rod", 1, 2, 3, 4), thing("rod", 1, "two", 3, 4)),
            r"object\[1\]: <bndbox/ymin> is 'two'; expected a number",
        ),
        (page("b.jpg", thing("rod", 1, "nan", 3, 4)), "<bndbox/ymin> is 'nan'; expected a number"),
        (page("b.jpg", thing("rod", 1, "1e999", 3, 4)), "<bndbox/ymin> is '1e999'"),
        (page("b.jpg", thing("rod", "1_0", 1, 30, 4)), "<bndbox/xmin> is '1_0'"),
        (page("b.jpg", thing("rod", "", 1, 30, 4)), "<bndbox/xmin> is ''"),
        (
            page("b.jpg", thing("rod", 1, 2, 3, 4, extra="<difficult>yes</difficult>")),
            "<difficult> is 'yes'; expected 0 or 1",
        ),
        (page("b.jpg", size=("wide", 3)), "<size/width> is 'wide'; expected a number"),
        (page("b.jpg", size=(0, 48)), "<size> is 0 x 48; expected whole numbers"),
        (page("b.jpg", size=(48, 64)), r"<size> is 48 x 64, the image 'b\.jpg' is 64 x 48"),
    ],
)
def test_broken_file_is_named_with_the_element(folder, text, message):
    _spoil(folder, text)
    with pytest.raises(DataError, match=message) as caught:
        _convert(folder)
    assert "b.xml" in str(caught.value) and len(str(caught.value)) < 500
    assert not (folder.parent / "train.json").exists()


LAUGHS = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 10))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize(
    "declaration",
    [
        f'[<!ENTITY a0 "ha">{LAUGHS}]',
        '[<!ENTITY a9 SYSTEM "file:///etc/passwd">]',
        'SYSTEM "http://localhost/voc.dtd"',
    ],
)
def test_entities_are_refused_unread(folder, declaration, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation {declaration}>'
    text += page("b.jpg", thing("&a9;", 1, 2, 3, 4))
    _spoil(folder, text.encode(encoding))
    with pytest.raises(DataError, match=r"b\.xml': declares a DOCTYPE; refused"):
        _convert(folder)


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd", "..\\x.jpg"])
def test_file_name_that_leaves_the_folder_is_refused(folder, name):
    _spoil(folder, page(name))
    with pytest.raises(DataError, match=r"b\.xml': <filename> .*: refused"):
        _convert(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the split list is empty"),
        (
            "b\n../../../etc/passwd\n",
            r"train\.txt': entry '../../../etc/passwd' leads out.*refused",
        ),
        ("/b\n", "entry '/b' is an absolute path: refused"),
        ("b\nc\nb\n", "1 entry listed twice: 'b'; image ids must be unique"),
        (
            "b\nb.jpg\nnone\x1b[2J\n",
            r"2 of 3 entries without a .xml file in .*: 'b\.jpg'; 'none\\x",
        ),
    ],
)
def test_bad_split_list_is_named(folder, text, message):
    (folder / "ImageSets" / "Main" / "train.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        _convert(folder)


def test_unknown_split_names_those_there_are(folder):
    with pytest.raises(DataError, match="no such split list; there are: 'train'; 'val'"):
        _convert(folder, "test")
    with pytest.raises(DataError, match="split = '../val' leads out"):
        convert_voc(folder, split="../val", out=folder.parent / "x.json")


def test_missing_or_empty_annotation_folder_is_named(folder):
    with pytest.raises(DataError, match="none': cannot list the XML files"):
        _convert(folder, annotations="none")
    with pytest.raises(DataError, match=r"holds no \.xml file"):
        _convert(folder, annotations="JPEGImages")


def test_existing_output_is_kept_unless_asked(folder):
    _convert(folder)
    with pytest.raises(DataError, match="exists: give another file, or ask to overwrite"):
        _convert(folder)
    assert _convert(folder, overwrite=True)[0].boxes == 3
    assert not list(folder.parent.glob(".*"))


def test_two_files_of_one_image_are_refused(folder):
    os.rename(folder / "JPEGImages" / "b.jpg", folder / "JPEGImages" / "d.jpg")
    _spoil(folder, page("c.jpg"))
    with pytest.raises(DataError, match=r"'c\.jpg' is also that of 'c\.xml'"):
        _convert(folder)


def test_image_of_the_xml_files_name_goes_before_a_stale_filename(folder):
    _spoil(folder, page("a.jpg", thing("rod", 1, 2, 3, 4)))
    report, content = _convert(folder)
    assert content["images"][1]["file_name"] == "b.jpg" and report.renamed == ("b.xml",)


def test_filename_serves_where_no_image_bears_the_xml_files_name(folder):
    os.rename(folder / "JPEGImages" / "b.jpg", folder / "JPEGImages" / "d.jpeg")
    _spoil(folder, page("d.jpeg"))
    report, content = _convert(folder)
    assert content["images"][1]["file_name"] == "d.jpeg" and report.unverified_images == ()
    _spoil(folder, page(None))
    with pytest.raises(DataError, match=r"b\.xml': <filename> is missing, and .* no image 'b'"):
        _convert(folder, overwrite=True)


def test_size_comes_from_the_xml_file_or_else_from_the_image(folder):
    _spoil(folder, page("b.jpg", size=None))
    assert _convert(folder)[1]["images"][1]["width"] == 64
    (folder / "JPEGImages" / "b.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"<size> is missing and the image 'b\.jpg' cannot tell"):
        _convert(folder, overwrite=True)
    _spoil(folder, page("b.jpg", size=(7, 8)))
    report, content = _convert(folder, overwrite=True)
    assert content["images"][1]["width"] == 7 and report.unverified_images == ("b.jpg",)


@needs_bccd
@pytest.mark.parametrize(
    ("split", "dropped"),
    [
        ("train", [("BloodImage_00343.xml", 3, (181, 329, 181, 329))]),
        ("val", [("BloodImage_00338.xml", 12, (504, 337, 504, 337))]),
        ("test", []),
    ],
)
def test_bccd_gives_its_json_files(tmp_path, split, dropped):
    report = convert_voc(BCCD, split=split, out=tmp_path / "out.json")
    expected = json.loads((BCCD / f"{split}.json").read_text())
    assert json.loads(report.out.read_text()) == expected
    assert [(d.file, d.object_index, d.box_xyxy) for d in report.dropped] == dropped
    assert report.unverified_images == report.renamed == ()


@needs_bccd
def test_bccd_passes_the_check():
    file = BCCD / "val.json"
    report = check_coco(load_coco(file, resolve_image_root(BCCD, file)))
    assert report.images_decoded == 87 and report.boxes == 1137 and report.warnings == ()
