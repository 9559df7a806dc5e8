"""Image files: damaged ones are named, unusual ones that OpenCV reads are fine."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.data.images import check_images, examine_image
from orchestrator.errors import DataError


def _check(folder: Path, *names: str, size=(64, 48), **options):
    return check_images(names, [size] * len(names), folder, source=Path("train.json"), **options)


@pytest.mark.parametrize(
    ("name", "mode", "how"),
    [
        ("grey.jpg", "L", {}),
        ("cmyk.jpg", "CMYK", {}),
        ("progressive.jpg", "RGB", {"progressive": True}),
        ("grey.png", "L", {}),
        ("bit.png", "1", {}),
        ("palette.png", "P", {}),
        ("deep.png", "I;16", {}),
        ("alpha.png", "RGBA", {}),
        ("grey_alpha.png", "LA", {}),
        ("colour.bmp", "RGB", {}),
        ("deep.tif", "I;16", {}),
        ("colour.webp", "RGB", {}),
        ("colour.ppm", "RGB", {}),
    ],
)
@pytest.mark.parametrize("limit", [0, 1000])
def test_image_that_opencv_reads_is_fine_and_gives_three_channels(
    tmp_path, save_image, name, mode, how, limit
):
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with mmcv, which is not installed")
    path = save_image(tmp_path / name, mode=mode, **how)
    report = _check(tmp_path, name, full_decode_limit=limit)
    assert (report.checked, report.decoded) == (1, min(limit, 1))
    pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8


def test_file_name_suffix_does_not_matter(tmp_path, save_image):
    save_image(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert _check(tmp_path, "a.jpg").checked == 1


def _cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("limit", [0, 1000])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.bmp", "a.tif", "a.webp"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_truncated_image_is_refused_however_many_there_are(tmp_path, save_image, name, limit, keep):
    _cut(save_image(tmp_path / name, width=200, height=200), keep)
    save_image(tmp_path / "good.jpg", width=200, height=200)
    with pytest.raises(DataError, match=rf"1 of 2 images under .* cannot be read: '{name}': .*"):
        _check(tmp_path, "good.jpg", name, size=(200, 200), full_decode_limit=limit)


def test_bytes_after_the_end_of_an_image_are_fine(tmp_path, save_image):
    path = save_image(tmp_path / "a.jpg")
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    assert _check(tmp_path, "a.jpg", full_decode_limit=0).checked == 1


def test_zeroed_tail_is_found_when_decoding(tmp_path, save_image):
    path = save_image(tmp_path / "a.png", width=200, height=200)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : -50] = bytes(len(data) - 50 - len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"'a\.png'"):
        _check(tmp_path, "a.png", size=(200, 200))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty, 0 bytes"),
        (b"not an image at all", "not an image that training can read"),
        (b"\xff\xd8\xff\xe0", "."),
        (b"\x89PNG\r\n\x1a\n", "."),
        (b"BM" + b"\xff" * 100, "."),
        (b"II*\0" + b"\xff" * 100, "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image that training can read"),
    ],
)
def test_file_that_is_no_image_is_named_with_the_reason(tmp_path, data, reason):
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(DataError, match=rf"train\.json.*'a\.jpg': .*{reason}"):
        _check(tmp_path, "a.jpg")


def test_formats_that_opencv_cannot_be_trusted_with_are_refused(tmp_path, save_image):
    save_image(tmp_path / "a.gif")
    with pytest.raises(DataError, match=r"not an image that training can read \(JPEG, PNG"):
        _check(tmp_path, "a.gif")
    save_image(tmp_path / "a.tif", mode="F")
    with pytest.raises(DataError, match="32-bit pixels.*convert to 8 or 16 bit"):
        _check(tmp_path, "a.tif")


def test_missing_files_are_counted_and_the_first_are_shown(tmp_path, save_image):
    save_image(tmp_path / "there.jpg")
    (tmp_path / "folder.jpg").mkdir()
    names = ["there.jpg", "folder.jpg", *(f"{i}.jpg" for i in range(9)), "x" * 300, "b\\c.jpg"]
    with pytest.raises(DataError) as caught:
        _check(tmp_path, *names)
    message = str(caught.value)
    assert "12 of 13 image files not found under" in message and str(tmp_path) in message
    assert "'folder.jpg'; '0.jpg'; '1.jpg'; '2.jpg'; '3.jpg'; and 7 more" in message
    assert "backslashes" in message and "data.images" in message


def test_size_that_differs_from_the_annotations_is_refused(tmp_path, save_image):
    for name in ("a.jpg", "b.jpg"):
        save_image(tmp_path / name)
    with pytest.raises(DataError, match="2 images have.*say 48 x 64, the image is 64 x 48"):
        _check(tmp_path, "a.jpg", "b.jpg", size=(48, 64))


def _oriented(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(io.BytesIO(path.read_bytes())) as image:
        image.save(path, exif=exif.tobytes())


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif"])
def test_orientation_turns_the_size_as_opencv_does(tmp_path, save_image, name):
    cv2 = pytest.importorskip("cv2", reason="OpenCV comes with mmcv, which is not installed")
    path = save_image(tmp_path / name)
    _oriented(path, 6)
    facts = examine_image(path, decode=True)
    assert (facts.width, facts.height, facts.orientation) == (48, 64, 6)
    assert cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR).shape == (64, 48, 3)
    assert _check(tmp_path, name, size=(48, 64)).oriented == (name,)
    with pytest.raises(DataError, match="1 of them only because .* EXIF orientation: strip"):
        _check(tmp_path, name, size=(64, 48))


def test_damaged_exif_and_impossible_orientation_are_ignored(tmp_path, save_image):
    path = save_image(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert _check(tmp_path, "a.jpg").oriented == ()
    save_image(path)
    _oriented(path, 99)
    assert examine_image(path, decode=True).orientation == 1


def test_image_of_a_decompression_bomb_is_refused(tmp_path, save_image, monkeypatch):
    save_image(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(DataError, match=r"'a\.png': DecompressionBombError"):
        _check(tmp_path, "a.png")
