"""``colad eval``: COCO and VOC metrics, size and speed of saved networks, without Ray."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from orchestrator.building import build_detector, import_custom
from orchestrator.complexity import Complexity, Speed, measure_complexity, measure_speed
from orchestrator.config import DataConfig, EvaluationConfig, NetworkConfig
from orchestrator.config_file import from_mapping, parse_overrides, read_config, to_plain
from orchestrator.data import coco
from orchestrator.datasets import Split, build_dataset, check_sample
from orchestrator.error_analysis import ErrorResult, analyse_errors
from orchestrator.errors import CheckpointError, ConfigError, DataError
from orchestrator.evaluation import EvalResult, check_backend, evaluate_detections
from orchestrator.multi_scale import augmented, predict_augmented
from orchestrator.prediction import predict_dataset
from orchestrator.property_metric import (
    PropertyResult,
    check_property_mode,
    has_property_map,
    measure_property_map,
)
from orchestrator.saved_runs import open_run
from orchestrator.torch_state import evaluating
from orchestrator.voc_metric import VocResult, check_voc_mode, evaluate_voc
from orchestrator.weights import class_names_of, load_weights

T = TypeVar("T")

BATCH = 8
BACKEND_FIELD = "evaluation.backend"


@dataclass(frozen=True, kw_only=True)
class Extras:
    """What to measure besides COCO's metrics."""

    voc: str | None = None
    """``"area"`` or ``"11points"``: VOC's mAP at IoU 0.5."""
    complexity: bool = False
    """Parameters and multiply-adds."""
    speed: bool = False
    """Images per second, one at a time."""
    property_map: str | None = None
    """``"larger"`` or ``"half"``: overlap of ALA's property map with the boxes."""
    errors: bool = False
    """What each kind of error costs."""
    scales: tuple[tuple[int, int], ...] = ()
    """(longer, shorter) sides of multi-scale testing, with flips; none: the data's one scale."""

    def __post_init__(self) -> None:
        if self.voc is not None:
            check_voc_mode(self.voc)
        if self.property_map is not None:
            check_property_mode(self.property_map)


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """What was measured of one network; None for what was not asked for."""

    coco: EvalResult
    voc: VocResult | None = None
    complexity: Complexity | None = None
    speed: Speed | None = None
    property_map: PropertyResult | None = None
    """Also None for a network without that branch."""
    errors: ErrorResult | None = None


def evaluate_target(
    target: Path,
    *,
    split: str = "val",
    config: Path | None = None,
    network: str | None = None,
    overrides: Sequence[str] = (),
    extras: Extras = Extras(),
) -> dict[str, NetworkReport]:
    """Evaluate a run directory, a checkpoint in one, or an mmdet .pth.

    Args:
        target: what to evaluate.
        split: ``val``, ``train``, or the path of a COCO file (with ``data.images`` overridden if
            its images lie elsewhere).
        config: mmdet configuration of a .pth; None takes ``config.py`` beside it.
        network: only this one; None takes all.
        overrides: ``data.scale`` (of a run) and ``data.test_pipeline``; with a COCO file as
            ``split`` also ``data.images``; ``evaluation.backend``. Any other field would change
            nothing and is refused.
        extras: what else to measure.

    Returns:
        By network name (a .pth: by its file name).

    Raises:
        CheckpointError, ConfigError, DataError: naming what to correct; also where the property map
            is asked for and no network has one.
    """
    if target.is_file():
        if network is not None:
            raise ConfigError(f"--network {network}: a .pth holds one network; leave this out")
        return _evaluate_file(target, split, config, overrides, extras)
    saved = open_run(target)
    own = split not in ("val", "train")
    data = _override_data(saved.config.data, overrides, {"scale", "test_pipeline"}, own)
    backend = _backend(saved.config.evaluation.backend, overrides)
    names = [network] if network is not None else list(saved.config.networks)
    detectors = {name: saved.build(name)[0] for name in names}
    _check_property_maps(detectors, extras)
    results = {}
    with tempfile.TemporaryDirectory() as cache:
        if own:
            chosen = _own_split(split, data, saved.data.classes, Path(cache))
        else:
            moved = "For data that has moved: --split FILE --set data.images=FOLDER"
            known = saved.data.val if split == "val" else saved.data.train
            chosen = _look_again(known, saved.data.classes, Path(cache), moved)
        for name, detector in detectors.items():
            results[name] = _evaluate(detector, data, chosen, saved.data.classes, extras, backend)
    return results


def _evaluate_file(
    target: Path, split: str, config: Path | None, overrides: Sequence[str], extras: Extras
) -> dict[str, NetworkReport]:
    config = config or target.parent / "config.py"
    if not config.is_file():
        raise ConfigError(f"{config}: no such file; give the mmdet configuration with --config")
    classes = class_names_of(load_weights(target))
    if not classes:
        raise CheckpointError(f"{target} does not name its classes (meta.dataset_meta.classes)")
    named, pipeline = _test_data(config)
    data = DataConfig(root=named.images, test_pipeline=pipeline)
    if split == "train":
        raise ConfigError("--split train of a .pth: give the COCO file itself")
    data = _override_data(data, overrides, {"test_pipeline"}, split != "val")
    backend = _backend(EvaluationConfig().backend, overrides)
    import_custom(())
    settings = NetworkConfig(config=str(config), checkpoint=str(target))
    detector, _ = build_detector(target.stem, settings, len(classes), seed=0)
    _check_property_maps({target.stem: detector}, extras)
    with tempfile.TemporaryDirectory() as cache:
        if split != "val":
            chosen = _own_split(split, data, classes, Path(cache))
        else:
            moved = f"For data that has moved: ann_file and data_prefix in {config}, or --split"
            chosen = _look_again(named, classes, Path(cache), moved)
        return {target.stem: _evaluate(detector, data, chosen, classes, extras, backend)}


def _test_data(config: Path) -> tuple[Split, list[Any]]:
    """Files and pipeline of an mmdet configuration's ``test_dataloader``.

    Raises:
        ConfigError: naming what it lacks.
    """
    place, found = f"--config {config}: test_dataloader", to_plain(read_config(config))
    dataset = _field(_field(found, "test_dataloader", dict, place), "dataset", dict, place)
    place += ".dataset"
    root = Path(_field({"data_root": "", **dataset}, "data_root", str, place))
    prefix = _field(dataset, "data_prefix", dict, place)
    files = Split(
        annotations=str(root / _field(dataset, "ann_file", str, place)),
        images=str(root / _field(prefix, "img", str, f"{place}.data_prefix")),
        num_images=0,
        num_boxes=0,
    )
    pipeline = _field(dataset, "pipeline", list, place)
    for index, step in enumerate(pipeline):
        _field({f"pipeline[{index}]": step}, f"pipeline[{index}]", dict, place)
    return files, pipeline


def _field(holder: Mapping[str, Any], name: str, kind: type[T], place: str) -> T:
    value = holder.get(name)
    if not isinstance(value, kind):
        raise ConfigError(
            f"{place}: {name} = {value!r:.80}: expected a {kind.__name__}, as in an mmdet "
            "configuration"
        )
    return value


def _backend(configured: str, overrides: Sequence[str]) -> str:
    """``evaluation.backend`` of the overrides, else of the run.

    Raises:
        ConfigError: unknown, or not installed here.
    """
    backend = str(parse_overrides(overrides).get(BACKEND_FIELD, configured))
    check_backend(backend)
    return backend


def _check_property_maps(detectors: Mapping[str, nn.Module], extras: Extras) -> None:
    if extras.property_map is None or any(map(has_property_map, detectors.values())):
        return
    raise ConfigError(
        f"the property map is ALA's, and {', '.join(detectors)} has none: it needs a CoALAHead "
        "with bbox_head.objectness='ipb'"
    )


def _override_data(
    data: DataConfig, overrides: Sequence[str], allowed: set[str], own_split: bool
) -> DataConfig:
    """``data`` with overrides that act; others would silently change nothing."""
    parsed = parse_overrides(overrides)
    parsed.pop(BACKEND_FIELD, None)
    allowed = allowed | ({"images"} if own_split else set())
    for key in parsed:
        if key not in {f"data.{name}" for name in allowed}:
            raise ConfigError(
                f"--set {key} has no effect on this evaluation; what has: "
                f"{', '.join(f'data.{name}' for name in sorted(allowed))}, {BACKEND_FIELD}. For "
                "another annotation file: --split FILE"
            )
    plain = {**vars(data), **{key[5:]: value for key, value in parsed.items()}}
    return from_mapping(DataConfig, plain, "data")


def _own_split(split: str, data: DataConfig, classes: Sequence[str], cache: Path) -> Split:
    """A COCO file as a split: its records checked and completed as those of a run are."""
    file = Path(split)
    if not file.is_file():
        raise ConfigError(f"--split {split}: neither val nor train nor a file")
    folder = None
    if data.images is not None:  # of the run, or given relative to the working directory
        places = [Path(data.images).resolve(), (Path(data.root) / data.images).resolve()]
        folder = next((str(place) for place in places if place.is_dir()), data.images)
    return _checked(file, coco.resolve_image_root(file.parent, file, folder), classes, cache)


def _look_again(split: Split, classes: Sequence[str], cache: Path, moved: str) -> Split:
    """A split that a run or a configuration names: its files may have changed since, or be gone."""
    try:
        return _checked(Path(split.annotations), Path(split.images), classes, cache)
    except DataError as error:
        raise DataError(f"{error}. {moved}") from error


def _checked(file: Path, images: Path, classes: Sequence[str], cache: Path) -> Split:
    coco_set = coco.load_coco(file, images, classes=list(classes))
    coco.check_coco(coco_set)
    cleaned = coco.write_clean(coco_set, cache / "split.json")
    return Split(
        annotations=str(cleaned or file),
        images=str(images),
        num_images=len(coco_set.images),
        num_boxes=len(coco_set.annotations),
    )


def _evaluate(
    detector: nn.Module,
    data: DataConfig,
    split: Split,
    classes: Sequence[str],
    extras: Extras,
    backend: str,
) -> NetworkReport:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dataset = build_dataset(data, split, classes, train=False)
    check_sample(dataset)
    annotations = Path(split.annotations)
    detector.to(device)
    with evaluating(detector):
        if extras.scales:
            views = build_dataset(augmented(data, extras.scales), split, classes, train=False)
            check_sample(views, "--scales")
            detections = predict_augmented(detector, views)
        else:
            detections = predict_dataset(detector, dataset, batch_size=BATCH, device=device)
        complexity = measure_complexity(detector, dataset) if extras.complexity else None
        speed = measure_speed(detector, dataset, device) if extras.speed else None
        property_map = None
        if extras.property_map is not None and has_property_map(detector):
            property_map = measure_property_map(
                detector,
                dataset,
                annotations,
                classes,
                batch_size=BATCH,
                mode=extras.property_map,
            )
    detector.cpu()  # the next network may need the room
    voc = None
    if extras.voc is not None:
        voc = evaluate_voc(detections, annotations, classes, mode=extras.voc)
    return NetworkReport(
        coco=evaluate_detections(detections, annotations, classes, backend=backend),
        voc=voc,
        complexity=complexity,
        speed=speed,
        property_map=property_map,
        errors=analyse_errors(detections, annotations, classes) if extras.errors else None,
    )
