"""Frozen teachers of every dense mmdet family, from a plain mmdet config and checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmdet
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config, ConfigDict

from assigners.types import Step
from orchestrator.building import import_custom
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.datasets import build_dataset, prepare_data
from orchestrator.errors import CheckpointError, ConfigError, CoTrainError, ModelError
from orchestrator.feed import Feeder, batch_order
from orchestrator.grid import check_compatible
from orchestrator.iteration import cotrain_iteration
from orchestrator.local import LocalNetwork
from orchestrator.step import NetworkSpec, StepResult
from tests.models.teacher_cases import FAMILIES, STRIDES, detector_config, randomise
from tests.support.runs import ROOT

CLASSES = ["circle", "square", "triangle"]
THREE_LEVELS = dict(
    neck=dict(num_outs=3), bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32]))
)
MMDET_CONFIGS = Path(mmdet.__file__).parent / ".mim" / "configs"
ITERATIONS = 2

pytestmark = pytest.mark.filterwarnings("ignore:DeprecationWarning. `num_anchors`:UserWarning")


@dataclass(frozen=True)
class Saved:
    """A detector as users keep one."""

    config: Path
    weights: Path

    def as_override(self, **fields: Any) -> str:
        network = dict(config=str(self.config), checkpoint=str(self.weights), learner=False)
        return f"networks.teacher={ {'_delete_': True, **network, **fields}!r}"


@dataclass(frozen=True)
class Outcome:
    """Networks by name after the run, and what the student said of each iteration."""

    networks: dict[str, LocalNetwork]
    results: list[StepResult]

    @property
    def losses(self) -> list[float]:
        return [sum(result.losses.values()) for result in self.results]


Save = Callable[..., Saved]
Lad = Callable[..., Outcome]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data") / "shapes"


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def go(model: ConfigDict, *, classes: list[str] | None = CLASSES, build: bool = True) -> Saved:
        folder = tmp_path / "teacher"
        folder.mkdir()
        saved = Saved(folder / "config.py", folder / "weights.pth")
        Config(dict(model=model.to_dict())).dump(saved.config)
        state = {}
        if build:
            detector = MODELS.build(ConfigDict(model.to_dict()))
            randomise(detector, spread=0.1)
            state = detector.state_dict()
        meta = {} if classes is None else dict(dataset_meta=dict(classes=classes), epoch=12)
        torch.save(dict(state_dict=state, meta=meta), saved.weights)
        return saved

    return go


@pytest.fixture
def lad(root: Path) -> Lad:
    """Two iterations of a small PAA student under the given teacher."""

    def go(*overrides: str) -> Outcome:
        config = load_config(
            ROOT / "configs" / "tiny" / "lad_shapes.py",
            [
                f"data.root={root}",
                "data.shapes={'train': 8, 'val': 2, 'size': 64}",
                f"data.classes={CLASSES}",
                f"data.train_pipeline={UNEVEN!r}",
                "train.batch_size=2",
                "networks.student.model.backbone.base_channels=8",
                "networks.student.model.neck.in_channels=[8, 16, 32, 64]",
                *overrides,
            ],
        )
        return train(config, root.parent / "prepared")

    return go


def train(config: RunConfig, folder: Path) -> Outcome:
    """What a run does before and in its first iterations."""
    import_custom(())
    data = prepare_data(config.data, folder)
    dataset = build_dataset(config.data, data.train, data.classes, train=True)
    order = batch_order(config, dataset)
    feeder = Feeder(dataset, order, seed=config.seed)
    common: dict[str, Any] = dict(
        config=config, data=data, iterations_per_epoch=ITERATIONS, max_iterations=ITERATIONS
    )
    networks = {n: LocalNetwork(NetworkSpec(name=n, **common)) for n in config.networks}
    check_compatible({name: network.describe()[0] for name, network in networks.items()})
    results = []
    for iteration in range(ITERATIONS):
        step = Step(iteration=iteration, max_iterations=ITERATIONS)
        batch = feeder.batch(iteration)
        assert len({tuple(meta["img_shape"]) for meta in batch.metas}) == 2
        record = cotrain_iteration([batch], list(networks.values()), step)
        results += record.handles["student"]
    return Outcome(networks, results)


# Sizes differ between images and between iterations, so batches are padded.
UNEVEN = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="RandomResize", scale=(96, 64), ratio_range=(0.6, 1.4), keep_ratio=False),
    dict(type="PackDetInputs"),
]


def assert_taught(outcome: Outcome, saved: Saved) -> None:
    """Two finite iterations under the teacher, which stayed frozen and in eval mode."""
    for result in outcome.results:
        assert result.taught["teacher"] == 1 and result.num_gts > 0
        assert np.isfinite(list(result.losses.values())).all()
    detector = outcome.networks["teacher"].network.detector
    assert not any(module.training for module in detector.modules())
    assert not any(parameter.requires_grad for parameter in detector.parameters())
    before = torch.load(saved.weights, weights_only=True)["state_dict"]
    assert all(torch.equal(value, before[k]) for k, value in detector.state_dict().items())


@pytest.mark.parametrize("family", FAMILIES)
def test_family_teaches_a_paa_student(family: str, save: Save, lad: Lad) -> None:
    saved = save(detector_config(family))
    outcome = lad(saved.as_override())
    assert_taught(outcome, saved)


@pytest.mark.parametrize("family", ["RTMDet_sep", "GFL"])
def test_three_levels(family: str, save: Save, lad: Lad) -> None:
    saved = save(detector_config(family, levels=3))
    outcome = lad(saved.as_override(), f"networks.student.model={THREE_LEVELS!r}")
    assert_taught(outcome, saved)
    assert outcome.networks["student"].describe()[0].strides == (8, 16, 32)


def test_rtmdet_as_released(lad: Lad, tmp_path: Path) -> None:
    """mmdet's own configuration; its checkpoint's padding is not learned, so the run sets it."""
    reference = "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py"
    path = MMDET_CONFIGS / reference.split("::")[1]
    model = Config.fromfile(path, import_custom_modules=False).model
    model.bbox_head.num_classes = len(CLASSES)
    model.backbone.pop("init_cfg")
    saved = Saved(path, tmp_path / "rtmdet.pth")
    torch.save(dict(state_dict=MODELS.build(model).state_dict(), meta={}), saved.weights)
    fields = dict(
        config=reference,
        model=dict(
            bbox_head=dict(num_classes=len(CLASSES)), data_preprocessor=dict(pad_size_divisor=32)
        ),
    )
    outcome = lad(saved.as_override(**fields), f"networks.student.model={THREE_LEVELS!r}")
    assert_taught(outcome, saved)


@pytest.mark.parametrize("family", ["TOOD", "VFNet"])
def test_deformable_convolutions_under_autocast(family: str, save: Save, lad: Lad) -> None:
    saved = save(detector_config(family))
    assert_taught(lad(saved.as_override(), "train.precision=bf16"), saved)


NEW_STYLE = """
from mmdet.models.backbones import ResNet
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.dense_heads import GFLHead
from mmdet.models.detectors import GFL
from mmdet.models.necks import FPN
model = dict({model!r})
model.update(type=GFL)
model["data_preprocessor"].update(type=DetDataPreprocessor)
model["backbone"].update(type=ResNet)
model["neck"].update(type=FPN)
model["bbox_head"].update(type=GFLHead)
"""


def test_new_style_config(save: Save, lad: Lad) -> None:
    """mmdet's Python configs name classes, not strings."""
    model = detector_config("GFL")
    saved = save(model)
    saved.config.write_text(NEW_STYLE.format(model=model.to_dict()))
    assert_taught(lad(saved.as_override()), saved)


def test_teacher_with_other_anchors(save: Save, lad: Lad) -> None:
    """Only the location matters: the teacher decodes its boxes with its own anchors."""
    generator = dict(
        type="AnchorGenerator",
        ratios=[1.0],
        octave_base_scale=4,
        scales_per_octave=1,
        center_offset=0.5,
        strides=list(STRIDES),
    )
    saved = save(detector_config("ATSS", anchor_generator=generator))
    assert_taught(lad(saved.as_override()), saved)


def test_teacher_and_student_decide_together(save: Save, lad: Lad) -> None:
    saved = save(detector_config("FCOS_norm"))
    outcome = lad(saved.as_override(), "switch={'_delete_': True, 'criterion': 'std_mean'}")
    for result in outcome.results:
        assert result.taught["teacher"] + result.taught["student"] == pytest.approx(1)


@pytest.mark.parametrize(
    "method, family",
    [
        ("DW", "ATSS"),
        ("DW", "TOOD"),
        ("DW", "AutoAssign"),
        ("AutoAssign", "PAA"),
        ("MuSu", "TOOD"),
        ("ALA", "GFL"),
    ],
)
def test_point_based_students(method: str, family: str, save: Save, lad: Lad) -> None:
    """Grids of points under centerness, probabilities and objectness; ALA without its maps."""
    saved = save(detector_config(family))
    outcome = lad(
        saved.as_override(),
        f"networks.student.preset=tiny_{method.lower()}_r18",
        f"assigner={{'_delete_': True, 'type': {method!r}}}",
    )
    assert_taught(outcome, saved)


def test_paa_teachers_of_either_head_are_equal(save: Save, lad: Lad) -> None:
    """mmdet's PAAHead through its adapter, and our CoPAAHead, give the student the same losses."""
    saved = save(detector_config("PAA"))
    plain = lad(saved.as_override())
    ours = lad(saved.as_override(model=dict(bbox_head=dict(type="CoPAAHead"))))
    assert plain.losses == ours.losses


# -- what cannot teach --------------------------------------------------------------------------

RETINA_ANCHORS = dict(
    type="AnchorGenerator",
    octave_base_scale=4,
    scales_per_octave=3,
    ratios=[0.5, 1.0, 2.0],
    strides=list(STRIDES),
)


def faster_rcnn() -> ConfigDict:
    model = detector_config("ATSS")
    head = model.pop("bbox_head")
    return ConfigDict(**model, rpn_head=head, roi_head=dict(type="StandardRoIHead"))


def detr() -> ConfigDict:
    path = (
        Path(__import__("mmdet").__file__).parent / ".mim/configs/detr/detr_r50_8xb2-150e_coco.py"
    )
    model = Config.fromfile(path, import_custom_modules=False).model
    model.backbone.pop("init_cfg")
    model.data_preprocessor.pad_size_divisor = 32
    return model


UNFIT: dict[str, tuple[Callable[[], ConfigDict], dict[str, Any], type[CoTrainError], str]] = {
    "two_stage": (faster_rcnn, {}, ConfigError, "networks.teacher.model .* has no bbox_head"),
    "detr": (
        detr,
        dict(bbox_head=dict(num_classes=3)),
        ModelError,
        "networks.teacher cannot teach: head DETRHead has no adapter.*query-based",
    ),
    "several_anchors": (
        lambda: detector_config("RetinaNet", anchor_generator=RETINA_ANCHORS),
        {},
        ModelError,
        "networks.teacher cannot teach: head RetinaHead has 9 priors per location",
    ),
    "other_strides": (
        lambda: detector_config("RTMDet", levels=3),
        {},
        ModelError,
        r"networks.teacher and networks.student cannot be compared: strides is \(8, 16, 32\) and "
        r"\(8, 16, 32, 64, 128\); .*docs/teachers.md",
    ),
    "other_class_count": (
        lambda: detector_config("GFL", num_classes=80),
        {},
        ConfigError,
        "networks.teacher is a frozen teacher of 80 classes but the data has 3",
    ),
    "other_padding": (
        lambda: detector_config("GFL"),
        dict(data_preprocessor=dict(pad_size_divisor=1)),
        ModelError,
        "pad_size_divisor is 1 and 32; set networks.teacher.model.data_preprocessor.pad_size_div",
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of DETR's modules
@pytest.mark.parametrize("case", list(UNFIT))
def test_what_cannot_teach_is_refused_before_training(case: str, save: Save, lad: Lad) -> None:
    make, overrides, error, message = UNFIT[case]
    model = make()
    if overrides.get("bbox_head"):
        model.bbox_head.num_classes = 3
    saved = save(model, build=case != "two_stage")
    with pytest.raises(error, match=message):
        lad(saved.as_override(model=overrides))


def test_other_class_names_are_refused(save: Save, lad: Lad) -> None:
    saved = save(detector_config("GFL"), classes=["square", "circle", "triangle"])
    with pytest.raises(CheckpointError, match="knows the classes .'square', 'circle'.*same order"):
        lad(saved.as_override())


def test_checkpoint_without_class_names_is_accepted(save: Save, lad: Lad) -> None:
    saved = save(detector_config("GFL"), classes=None)
    assert_taught(lad(saved.as_override()), saved)


def test_a_foreign_head_cannot_learn(save: Save, lad: Lad) -> None:
    saved = save(detector_config("GFL"))
    with pytest.raises(
        ConfigError, match=r"networks.teacher: head GFLHead cannot train .*learner="
    ):
        lad(saved.as_override(learner=True), "switch={'_delete_': True, 'criterion': 'std_mean'}")


def test_learners_need_the_same_anchors(lad: Lad) -> None:
    other = "{'bbox_head': {'anchor_generator': {'octave_base_scale': 4}}}"
    with pytest.raises(ModelError, match=r"priors is 8: \[-16, -16, 16, 16\].*all learners"):
        lad(
            "networks={'_delete_': True, 'a': {'preset': 'tiny_r18'}, 'student': {'preset': "
            f"'tiny_r18', 'model': {other}}}}}",
            "switch={'_delete_': True, 'criterion': 'std_mean'}",
        )
