"""`colad assign`: maps that agree with the assigners, one picture for all methods, clear errors."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.errors import ConfigError
from orchestrator.local_run import run_locally
from orchestrator.report.assign import AssignRequest, draw_request
from orchestrator.report.maps import assign_scene, method_of_config
from orchestrator.report.panels import used_levels
from orchestrator.report.scenes import make_scenes, open_target
from tests.support.runs import ROOT, SMALL

TINY = ROOT / "configs" / "tiny"
METHODS = ("paa", "dw", "autoassign", "ala", "musu")
BCCD = Path(os.environ.get("COLAD_BCCD", ROOT.parent / "shared" / "data" / "bccd"))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("assign") / "shapes", train=4, val=4, size=96)


def request(target: Path, *configs: str, **more: object) -> AssignRequest:
    paths = tuple(TINY / f"{name}.py" for name in configs)
    values = dict(target=target, configs=paths, overrides=("data.scale=[96, 96]",), **more)
    return AssignRequest(**values)  # type: ignore[arg-type]


def test_all_methods_in_one_picture(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "all.png"
    ((path, lines),) = draw_request(request(shapes, *METHODS, out=out))
    assert path == out and [line.partition(":")[0] for line in lines] == list(METHODS)
    with Image.open(out) as image:
        assert image.width > 1500 and image.height > 300


def test_maps_are_what_the_assigner_says(shapes: Path) -> None:
    """One positive of a hard assignment is one point of the maps."""
    coco_set, images = open_target(shapes)
    config = load_config(TINY / "paa.py", [f"data.root={shapes}", "data.scale=[96, 96]"])
    method = method_of_config("paa", config, coco_set.class_names)
    (scene,) = make_scenes(coco_set, config.data, coco_set.class_names, [images[0]["id"]])
    (view,) = assign_scene(method, scene)
    assert view.counts.sum() > 0
    cells = 0
    for level in view.levels:
        assert level.positive.shape == scene.pixels.shape[:2]
        assert set(np.unique(level.positive)) <= {0.0, 1.0}
        np.testing.assert_array_equal(level.negative, 1 - level.positive)
        cells += int(level.positive[:: level.stride, :: level.stride].sum())  # at the points
    assert cells == view.counts.sum()
    assert len(used_levels([view])) < 5


def test_colad_draws_networks_and_their_choice(shapes: Path, tmp_path: Path) -> None:
    result = draw_request(request(shapes, "colad", count=2, out=tmp_path))
    assert len(result) == 2 and all(path.parent == tmp_path for path, _ in result)
    for _, lines in result:
        assert [line.partition(":")[0] for line in lines] == [
            "colad r18",
            "colad r34",
            "colad as taught",
        ]
        assert "taught by r18" in lines[-1]


def test_a_run_brings_its_networks_and_a_config_its_assigner(tmp_path: Path) -> None:
    overrides = [item for item in SMALL if "r34" not in item]
    overrides += [f"data.root={tmp_path / 'shapes'}", "train.max_iterations=2"]
    run_locally(load_config(TINY / "paa_shapes.py", overrides), tmp_path / "run")
    ((_, (own,)),) = draw_request(
        AssignRequest(
            target=tmp_path / "shapes" / "val.json",
            checkpoints=(tmp_path / "run",),
            out=tmp_path / "own.jpg",
        )
    )
    ((_, (other,)),) = draw_request(
        AssignRequest(
            target=tmp_path / "shapes" / "val.json",
            configs=(TINY / "paa.py",),
            checkpoints=(tmp_path / "run",),
            overrides=("assigner.topk=1",),
            out=tmp_path / "other.png",
        )
    )
    assert own.startswith("run at 2: ") and other.startswith("paa on run at 2: ")
    assert own.partition(": ")[2] != other.partition(": ")[2], "one candidate a level for nine"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (dict(configs=()), "which method"),
        (dict(image="other.png"), "no such image"),
        (dict(count=0), "at least 1"),
        (dict(count=2, out=Path("x.png")), "one file for 2 images"),
        (dict(checkpoints=(Path("a"), Path("b"), Path("c"))), "3 checkpoints for 2"),
        (dict(overrides=("assigner.type=PAA",)), "does not fit"),
    ],
)
def test_what_is_wrong_is_said(
    shapes: Path, tmp_path: Path, more: dict[str, object], message: str
) -> None:
    values = dict(
        target=shapes,
        configs=(TINY / "dw.py", TINY / "musu.py"),
        overrides=("data.scale=[96, 96]",),
        out=tmp_path,
    )
    with pytest.raises(ConfigError, match=message):
        draw_request(AssignRequest(**{**values, **more}))  # type: ignore[arg-type]


def test_targets_without_annotations(shapes: Path, tmp_path: Path) -> None:
    lonely = tmp_path / "a" / "b" / "c" / "lonely.png"
    lonely.parent.mkdir(parents=True)
    Image.new("RGB", (96, 96)).save(lonely)
    with pytest.raises(ConfigError, match="--annotations"):
        open_target(lonely)
    with pytest.raises(ConfigError, match="lists no image named lonely.png"):
        open_target(lonely, shapes / "train.json")
    with pytest.raises(ConfigError, match="no train.json"):
        open_target(tmp_path)
    with pytest.raises(ConfigError, match="no such image"):
        open_target(tmp_path / "missing.png")
    name = json.loads((shapes / "val.json").read_text())["images"][0]["file_name"]
    found, images = open_target(shapes / "images" / name)
    assert found.annotation_file == shapes / "val.json" and len(images) == 1


@pytest.mark.skipif(not BCCD.is_dir(), reason="needs the BCCD data (COLAD_BCCD)")
@pytest.mark.slow
def test_five_methods_on_bccd_in_20_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    configs = tuple(TINY / f"{name}.py" for name in METHODS)
    target = next((BCCD / "JPEGImages").glob("*.jpg"))
    draw_request(AssignRequest(target=target, configs=configs, out=tmp_path / "bccd.png"))
    assert time.perf_counter() - started < 20
