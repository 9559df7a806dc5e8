"""COCO annotation files: every way to be wrong has its message, every box its verdict."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pycocotools.coco import COCO

from orchestrator.data.coco import (
    check_coco,
    load_coco,
    require_same_classes,
    resolve_image_root,
    write_clean,
    write_json,
)
from orchestrator.data.records import clean_box
from orchestrator.errors import DataError


def _box(index: int, image: int, category: int, *bbox: float, **more: Any) -> dict[str, Any]:
    area = bbox[2] * bbox[3]
    return dict(
        id=index, image_id=image, category_id=category, bbox=[*bbox], area=area, iscrowd=0, **more
    )


@pytest.fixture
def content() -> dict[str, Any]:
    """Three 64 x 48 images, the last without a box; two categories with gaps in their ids."""
    return {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in (1, 2, 3)
        ],
        "annotations": [
            _box(1, 1, 7, 4, 5, 20, 10),
            _box(2, 1, 9, 30, 5, 8.5, 8),
            _box(3, 2, 7, 0, 0, 64, 48),
        ],
        "categories": [{"id": 7, "name": "cell"}, {"id": 9, "name": "rod"}],
    }


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], Path]:
    """Writes ``train.json``."""

    def write_file(content: Any) -> Path:
        (tmp_path / "train.json").write_text(json.dumps(content))
        return tmp_path / "train.json"

    return write_file


def test_sound_file_is_taken_as_it_is(tmp_path, content, write):
    coco_set = load_coco(write(content), None)
    assert coco_set.annotations == content["annotations"]
    assert coco_set.images == content["images"] and coco_set.class_names == ["cell", "rod"]
    assert write_clean(coco_set, tmp_path / "clean.json") is None
    assert not (tmp_path / "clean.json").exists()
    report = check_coco(coco_set)
    assert report.warnings == () and report.boxes == 3 and report.images_without_boxes == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON.*the file is empty"),
        ("{", r"not JSON \(line 1, column 2"),
        ("\x00\x01\x02\x03PNG", "not JSON|not readable JSON"),
        ("[" * 100_000, "not readable JSON"),
        ("1" * 5000, "not readable JSON|it holds"),
        ("[]", "it holds a list;.*expected COCO"),
        ('[{"image_id": 1, "score": 0.5}]', "a list of detection results"),
        ('"text"', "it holds 'text'"),
        ("{}", r"'images' is missing \(keys: none\)"),
        ('{"shapes": [], "version": 1}', r"'images' is missing \(keys: 'shapes'; 'version'\)"),
        ('{"images": {}, "annotations": [], "categories": []}', "'images' is {}"),
        ('{"images": [], "annotations": [], "categories": []}', "no images"),
        ('{"images": [1], "annotations": [], "categories": []}', "no categories"),
    ],
)
def test_file_that_is_not_coco_is_refused(tmp_path, text, message):
    file = tmp_path / "train.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_coco(file, None)
    assert "train.json" in str(caught.value) and len(str(caught.value)) < 600


def test_missing_file_and_folder_name_the_fields(tmp_path):
    with pytest.raises(DataError, match=r"no such annotation file; set data\.root, data\.train"):
        load_coco(tmp_path / "none.json", None)
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        load_coco(tmp_path, None)


@pytest.mark.parametrize(
    ("part", "record", "message"),
    [
        ("images", "x", r"images\[0\]: expected an object, got 'x'"),
        ("images", {"file_name": None}, r"images\[0\]: 'file_name' must be a text, got None"),
        ("images", {"id": "1"}, r"images\[0\]: 'id' must be an integer, got '1'"),
        ("images", {"id": True}, "'id' must be an integer, got True"),
        ("images", {"id": 2**70}, "'id' must be an integer"),
        ("images", {"width": 0}, "'width' must be a positive whole number of pixels, got 0"),
        ("images", {"height": 48.5}, "'height' must be a positive whole number"),
        ("images", {"height": math.nan}, "'height' must be a positive whole number"),
        ("images", {"id": 2}, "image ids must be unique, 1 is used more than once: 2"),
        ("annotations", None, r"annotations\[0\]: expected an object, got None"),
        ("annotations", {"id": [1]}, r"annotations\[0\]: 'id' must be an integer"),
        ("annotations", {"bbox": [1, 2, 3]}, "'bbox' must be a list of four numbers"),
        ("annotations", {"bbox": [1, 2, 3, "4"]}, "'bbox' must be a list of four numbers"),
        ("annotations", {"bbox": [1, 2, 3, None]}, "'bbox' must be a list of four numbers"),
        ("annotations", {"bbox": None}, "'bbox' must be a list of four numbers"),
        ("annotations", {"iscrowd": "no"}, "'iscrowd' must be 0 or 1, got 'no'"),
        ("annotations", {"iscrowd": [0]}, "'iscrowd' must be 0 or 1"),
        ("annotations", {"id": 3}, "annotation ids must be unique, 1 is used more than once: 3"),
        (
            "annotations",
            {"image_id": 99},
            "1 annotation of 3 whose image_id is not in 'images': annotation 1 has image_id 99",
        ),
        ("annotations", {"category_id": 0}, r"category_id .*ids there: 7; 9\).*has category_id 0"),
        ("categories", {"id": None}, r"categories\[0\]: 'id' must be an integer"),
        ("categories", {"name": 5}, r"categories\[0\]: 'name' must be a text"),
        ("categories", {"id": 9}, "category ids must be unique"),
        ("categories", {"name": "rod"}, "category names must be unique.*'rod'"),
    ],
)
def test_broken_record_is_named(content, write, part, record, message):
    first = content[part][0]
    content[part][0] = {**first, **record} if isinstance(record, dict) else record
    with pytest.raises(DataError, match=message) as caught:
        load_coco(write(content), None)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("part", "key"),
    [
        *[("images", key) for key in ("id", "file_name", "width", "height")],
        *[("annotations", key) for key in ("id", "image_id", "category_id", "bbox")],
        *[("categories", key) for key in ("id", "name")],
    ],
)
def test_missing_key_is_named(content, write, part, key):
    del content[part][0][key]
    with pytest.raises(DataError, match=rf"{part}\[0\]: '{key}' is missing"):
        load_coco(write(content), None)


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../1.jpg", "a/../../1.jpg", "..\\1.jpg", "C:\\1.jpg", "", " ", "a\0b", "."]
    + ["\ud800.jpg", "\\\\host\\1.jpg"],
)
def test_file_name_that_leaves_the_image_folder_is_refused(content, write, name):
    content["images"][0]["file_name"] = name
    file = write(content)
    with pytest.raises(DataError, match=r"images\[0\]: file_name .* refused"):
        load_coco(file, None)
    with pytest.raises(DataError, match="refused"):
        resolve_image_root(file.parent, file)


def test_inner_dots_that_stay_inside_are_fine(content, write):
    content["images"][0]["file_name"] = "a/../b/./1..jpg"
    assert load_coco(write(content), None).images[0]["file_name"] == "a/../b/./1..jpg"


def test_control_characters_of_names_never_reach_the_message(content, write, tmp_path):
    evil = "\x1b[2J\x07\n\r\u202ename[red]" + "x" * 5000
    content["images"][0]["file_name"] = evil
    content["categories"][0]["name"] = evil
    content["annotations"] = [_box(1, 1, 9, 0, 0, -5, 5), _box(2, 1, 9, 0, 0, 5, 5)]
    coco_set = load_coco(write(content), tmp_path)
    messages = [*check_coco(load_coco(coco_set.annotation_file, None)).warnings]
    with pytest.raises(DataError) as caught:
        check_coco(coco_set)
    messages.append(str(caught.value))
    with pytest.raises(DataError) as caught:
        require_same_classes(coco_set.class_names, ["rod"])
    messages.append(str(caught.value))
    assert len(messages) == 4
    for message in messages:
        assert message.isprintable() and len(message) < 1000


@pytest.mark.parametrize(
    ("bbox", "kind", "result"),
    [
        ([1, 2, 3, 4], None, [1, 2, 3, 4]),
        ([0, 0, 64, 48], None, [0, 0, 64, 48]),
        ([-0.9, 0, 10, 10], None, [-0.9, 0, 10, 10]),
        ([60, 40, 4.4, 9], None, [60, 40, 4.4, 9]),
        ([-5, 2, 10, 4], "clipped", [0, 2, 5, 4]),
        ([60, 40, 10, 10], "clipped", [60, 40, 4, 8]),
        ([-9, -9, 999, 999], "clipped", [0, 0, 64, 48]),
        ([1, 2, 0, 4], "without area", None),
        ([1, 2, 3, -4], "without area", None),
        ([64, 0, 5, 5], "outside the image", None),
        ([-5, 0, 5, 5], "outside the image", None),
        ([0, 1e300, 5, 1e300], "outside the image", None),
        ([math.nan, 0, 5, 5], "not finite", None),
        ([0, 0, math.inf, 5], "not finite", None),
        ([0, 0, 10**400, 5], "not finite", None),
    ],
)
def test_verdict_on_a_box(bbox, kind, result):
    assert clean_box(bbox, 64, 48) == (kind, result)


def test_unusable_boxes_are_dropped_counted_and_shown_once(tmp_path, content, write):
    content["annotations"] += [
        _box(11, 1, 7, 5, 5, 0, 3),
        _box(12, 1, 7, 5, 5, -2, 3),
        _box(13, 1, 7, 100, 5, 5, 5),
        _box(14, 2, 9, math.nan, 5, 5, 5),
        _box(15, 2, 9, 60, 5, 20, 10),
        _box(16, 2, 9, 60, 5, 0.5, 10),
    ]
    coco_set = load_coco(write(content), None)
    assert [a["id"] for a in coco_set.annotations] == [1, 2, 3, 15, 16]
    assert coco_set.annotations[3]["bbox"] == [60, 5, 4, 10]
    assert coco_set.annotations[3]["area"] == 40
    report = check_coco(coco_set)
    assert (report.boxes, report.boxes_dropped, report.boxes_clipped) == (5, 4, 1)
    boxes, thin = report.warnings
    assert "of 9 boxes 4 dropped, 1 clipped at the image border" in boxes
    assert "(1 not finite, 2 without area, 1 outside the image, 1 clipped)" in boxes
    assert "annotation 11 of '1.jpg', bbox [5, 5, 0, 3] (without area)" in boxes
    assert "1 box thinner than 1 pixel" in thin and "annotation 16" in thin


def test_clean_file_is_read_by_pycocotools_and_needs_no_more_cleaning(
    tmp_path, content, write, capsys
):
    content["annotations"] += [_box(11, 1, 7, 5, 5, 0, 3), _box(15, 2, 9, 60, 5, 20, 10)]
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4, 5, 6]]
    path = write_clean(load_coco(write(content), None), tmp_path / "sub" / "clean.json")
    assert path == tmp_path / "sub" / "clean.json" and len(list(path.parent.iterdir())) == 1
    again = load_coco(path, None)
    assert not again.rewrite and again.problems.dropped + again.problems.clipped == 0
    coco = COCO(str(path))
    capsys.readouterr()
    assert len(coco.anns) == 4 and coco.anns[15]["bbox"] == [60, 5, 4, 10]
    assert "segmentation" not in coco.anns[1]


@pytest.mark.parametrize("area", [None, 0, -1, math.nan, math.inf, "big"])
def test_useless_area_and_absent_iscrowd_are_filled_in(content, write, tmp_path, area):
    for annotation in content["annotations"]:
        del annotation["iscrowd"]
    content["annotations"][0]["area"] = area
    coco_set = load_coco(write(content), None)
    assert coco_set.rewrite and check_coco(coco_set).warnings == ()
    assert [a["area"] for a in coco_set.annotations] == [200, 68, 3072]
    assert [a["iscrowd"] for a in coco_set.annotations] == [0, 0, 0]


def test_area_of_a_mask_and_ignore_flag_are_kept(content, write):
    content["annotations"][0] |= {"area": 123.5, "ignore": 1}
    coco_set = load_coco(write(content), None)
    assert coco_set.annotations[0]["area"] == 123.5 and coco_set.annotations[0]["ignore"] == 1
    assert not coco_set.rewrite


def test_annotation_id_zero_is_renumbered_since_pycocotools_never_matches_it(content, write):
    content["annotations"][0]["id"] = 0
    coco_set = load_coco(write(content), None)
    assert [a["id"] for a in coco_set.annotations] == [4, 2, 3] and coco_set.rewrite


def test_whole_floats_are_taken_as_pixels(content, write):
    content["images"][0]["width"] = 64.0
    coco_set = load_coco(write(content), None)
    assert coco_set.rewrite and type(coco_set.images[0]["width"]) is int


def test_byte_order_mark_is_read_and_cleaned_away(content, tmp_path):
    file = tmp_path / "train.json"
    file.write_bytes(codecs.BOM_UTF8 + json.dumps(content).encode())
    coco_set = load_coco(file, None)
    assert coco_set.rewrite
    assert not load_coco(write_clean(coco_set, tmp_path / "clean.json"), None).rewrite


def test_category_without_a_box_is_a_warning(content, write):
    content["categories"].insert(0, {"id": 0, "name": "root"})
    report = check_coco(load_coco(write(content), None))
    assert len(report.warnings) == 1
    assert "1 of 3 categories without a box: 'root'" in report.warnings[0]
    assert "data.classes" in report.warnings[0]


def test_split_without_a_usable_box_is_refused(content, write):
    content["annotations"] = []
    with pytest.raises(DataError, match=r"no usable box of the classes 'cell'; 'rod' \(0 annot"):
        load_coco(write(content), None)
    content["annotations"] = [_box(1, 1, 7, 0, 0, 0, 5)]
    with pytest.raises(DataError, match=r"1 annotation, 1 dropped: 1 without area"):
        load_coco(write(content), None)


def test_crowd_boxes_are_counted(content, write):
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"][1]["iscrowd"] = True
    coco_set = load_coco(write(content), None)
    assert check_coco(coco_set).crowd_boxes == 2
    assert coco_set.annotations[1]["iscrowd"] is not True and coco_set.rewrite


def test_chosen_classes_give_the_labels_and_the_order_of_the_clean_file(content, write, tmp_path):
    coco_set = load_coco(write(content), None, classes=["rod", "cell"])
    assert coco_set.class_names == ["rod", "cell"] and coco_set.num_other_classes == 0
    clean = json.loads(write_clean(coco_set, tmp_path / "clean.json").read_text())
    assert [c["name"] for c in clean["categories"]] == ["rod", "cell"]
    coco_set = load_coco(coco_set.annotation_file, None, classes=["rod"])
    assert [a["id"] for a in coco_set.annotations] == [2]
    assert coco_set.num_other_classes == 2 and coco_set.num_records == 3 and coco_set.rewrite


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cell", "fish"], r"data\.classes names 'fish', which the file lacks.*'cell'; 'rod'"),
        ([], "must hold at least one name"),
        (["rod", "rod"], "each once"),
    ],
)
def test_classes_that_the_file_lacks_are_named(content, write, classes, message):
    with pytest.raises(DataError, match=message):
        load_coco(write(content), None, classes=classes)


def test_splits_must_agree_on_names_and_order():
    require_same_classes(["a", "b"], ("a", "b"))
    with pytest.raises(DataError, match=r"train \(2\) and val \(2\).*train: 'b'; .*val: 'c'"):
        require_same_classes(["a", "b"], ["a", "c"])
    with pytest.raises(DataError, match=r"only in val: none; list those"):
        require_same_classes(["a", "b"], ["a"])
    with pytest.raises(DataError, match=r"another order: .*set data\.classes to the order"):
        require_same_classes(["a", "b"], ["b", "a"])


@pytest.mark.parametrize(
    "folder",
    ["", "images", "JPEGImages", "train", "images/train", "train2017", "images/train2017"],
)
def test_images_are_found_in_the_usual_places(content, write, save_image, folder):
    file = write(content)
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        save_image(file.parent / folder / name)
    root = resolve_image_root(file.parent, file)
    assert root == file.parent / folder
    assert check_coco(load_coco(file, root)).images_checked == 3


def test_layouts_of_coco_and_of_exporters_are_found(content, tmp_path, save_image):
    for file, images in (
        ("coco/annotations/instances_train2017.json", "coco/train2017"),
        ("export/train/_annotations.coco.json", "export/train"),
    ):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).write_text(json.dumps(content))
        save_image(tmp_path / images / "1.jpg")
        root = tmp_path / Path(file).parts[0]
        assert resolve_image_root(root, tmp_path / file) == tmp_path / images
        alone = resolve_image_root((tmp_path / file).parent, tmp_path / file)
        assert alone == tmp_path / images, "as `colad data stats` asks, which knows no root"


def test_file_names_with_folders_point_to_the_root_itself(content, write, save_image):
    content["images"][0]["file_name"] = "images/1.jpg"
    file = write(content)
    save_image(file.parent / "images" / "1.jpg")
    assert resolve_image_root(file.parent, file) == file.parent


def test_folder_that_holds_most_of_the_images_wins(content, write, save_image):
    file = write(content)
    for name in ("images/1.jpg", "images/2.jpg", "train/1.jpg"):
        save_image(file.parent / name)
    assert resolve_image_root(file.parent, file) == file.parent / "images"


def test_link_to_the_same_folder_is_not_a_second_place(content, write, save_image):
    file = write(content)
    save_image(file.parent / "JPEGImages" / "1.jpg")
    (file.parent / "images").symlink_to("JPEGImages")
    assert resolve_image_root(file.parent, file) == file.parent / "images"


def test_unfound_or_ambiguous_image_folder_names_places_and_field(content, write, save_image):
    file = write(content)
    with pytest.raises(DataError, match=r"looked for '1\.jpg'.*JPEGImages.*set data\.images"):
        resolve_image_root(file.parent, file)
    for folder in ("images", "train"):
        save_image(file.parent / folder / "1.jpg")
    with pytest.raises(DataError, match=r"several folders .*images.*train.*set data\.images"):
        resolve_image_root(file.parent, file)
    assert resolve_image_root(file.parent, file, "train") == file.parent / "train"
    absolute = file.parent / "images"
    assert resolve_image_root("elsewhere", file, str(absolute)) == absolute
    with pytest.raises(DataError, match=r"data\.images = 'none': no such folder"):
        resolve_image_root(file.parent, file, "none")


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_json({}, tmp_path / "file" / "clean.json")


def test_mmdet_takes_labels_boxes_and_crowds_from_the_clean_file(content, write, tmp_path, capsys):
    pytest.importorskip("mmdet", reason="mmdet is not installed (extra mmdet)")
    from mmdet.datasets import CocoDataset

    content["annotations"][1]["iscrowd"] = 1
    content["annotations"].append(_box(15, 2, 9, 60, 5, 20, 10))
    coco_set = load_coco(write(content), tmp_path, classes=["rod", "cell"])
    dataset = CocoDataset(
        ann_file=str(write_clean(coco_set, tmp_path / "clean.json")),
        data_prefix=dict(img=str(tmp_path)),
        metainfo=dict(classes=tuple(coco_set.class_names)),
    )
    capsys.readouterr()
    instances = [
        (info["img_id"], i["bbox_label"], i["bbox"], i["ignore_flag"])
        for info in map(dataset.get_data_info, range(len(dataset)))
        for i in info["instances"]
    ]
    assert instances == [
        (1, 1, [4, 5, 24, 15], 0),
        (1, 0, [30, 5, 38.5, 13], 1),
        (2, 1, [0, 0, 64, 48], 0),
        (2, 0, [60, 5, 64, 15], 0),
    ]
