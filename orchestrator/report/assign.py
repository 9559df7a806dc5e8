"""``colad assign``: the assignments of any methods for an image, side by side, without training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.errors import ConfigError
from orchestrator.report.maps import (
    Method,
    assign_scene,
    method_of_config,
    method_of_run,
    with_checkpoint,
)
from orchestrator.report.panels import draw_assignments, reading
from orchestrator.report.scenes import Scene, make_scenes, open_target
from orchestrator.saved_runs import SavedRun, open_run

DPI = 100
FILE_KINDS = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


@dataclass(frozen=True, kw_only=True)
class AssignRequest:
    """What to draw."""

    target: Path
    """An image, a COCO file or a data folder."""
    configs: tuple[Path, ...] = ()
    checkpoints: tuple[Path, ...] = ()
    """Run directories, checkpoints in them or .pth files, in the order of ``configs``."""
    overrides: tuple[str, ...] = ()
    """For every configuration."""
    annotations: Path | None = None
    image: str | None = None
    """File name of the image meant in a data set."""
    count: int = 1
    """Otherwise the first so many images with objects."""
    out: Path = Path("assignments")
    """A file for one image (``FILE_KINDS``), else a folder."""


def draw_request(request: AssignRequest) -> list[tuple[Path, list[str]]]:
    """Draw every image asked for.

    Returns:
        Each PNG file and a line per view.

    Raises:
        CoTrainError: before anything is drawn, naming what to correct.
    """
    if request.count < 1:
        raise ConfigError(f"--count {request.count}: must be at least 1")
    coco_set, images = open_target(request.target, request.annotations)
    if request.image is not None:
        images = [record for record in images if Path(record["file_name"]).name == request.image]
        if not images:
            raise ConfigError(f"--image {request.image}: {request.target} has no such image")
    ids = [int(record["id"]) for record in images[: request.count]]
    pairs = _pairs(request, str(coco_set.annotation_file.parent.resolve()))
    classes = _classes(pairs, coco_set.class_names)
    methods = [_method(config, saved, classes) for _, config, saved in pairs]
    methods = [_named(method, title) for method, (title, _, _) in zip(methods, pairs)]
    scenes = make_scenes(coco_set, methods[0].config.data, classes, ids)
    return [_draw(scene, methods, _place(request, scene)) for scene in scenes]


_Pair = tuple[str, RunConfig | None, SavedRun | None]


def _pairs(request: AssignRequest, root: str) -> list[_Pair]:
    """Title, configuration and run of every method asked for."""
    configs: list[Path | None] = list(request.configs)
    checkpoints: list[Path | None] = list(request.checkpoints)
    if not configs and not checkpoints:
        raise ConfigError("which method? give --config, or --checkpoint RUN of a trained one")
    if not configs:
        configs = [None] * len(checkpoints)
    elif len(configs) == 1 and len(checkpoints) > 1:
        configs = configs * len(checkpoints)
    if len(checkpoints) > len(configs):
        raise ConfigError(
            f"{len(checkpoints)} checkpoints for {len(configs)} configurations: give one each, in "
            "the same order"
        )
    checkpoints += [None] * (len(configs) - len(checkpoints))
    return [_pair(c, p, request.overrides, root) for c, p in zip(configs, checkpoints)]


def _pair(
    config: Path | None, checkpoint: Path | None, overrides: Sequence[str], root: str
) -> _Pair:
    loaded = None
    if config is not None:
        loaded = load_config(config, [f"data.root={root}", *overrides])
    if checkpoint is None:
        assert config is not None
        return config.stem, loaded, None
    if checkpoint.is_dir():
        saved = open_run(checkpoint)
        title = f"{saved.run_dir.name} at {saved.iteration}"
        return (f"{config.stem} on {title}" if config is not None else title), loaded, saved
    if loaded is None or config is None:
        raise ConfigError(
            f"--checkpoint {checkpoint}: not a run directory, so --config must say "
            "which detector it is of"
        )
    return f"{config.stem}: {checkpoint.stem}", with_checkpoint(loaded, str(checkpoint)), None


def _classes(pairs: Sequence[_Pair], names: Sequence[str]) -> tuple[str, ...]:
    """Classes that all trained methods know; without any, those of the data.

    Raises:
        ConfigError: two runs differ.
    """
    known = {saved.data.classes for _, _, saved in pairs if saved is not None}
    if len(known) > 1:
        first, second, *_ = sorted(known)
        raise ConfigError(f"the runs know different classes: {list(first)} and {list(second)}")
    return known.pop() if known else tuple(names)


def _method(config: RunConfig | None, saved: SavedRun | None, classes: Sequence[str]) -> Method:
    if saved is not None:
        return method_of_run("", saved, config)
    assert config is not None
    return method_of_config("", config, classes)


def _named(method: Method, title: str) -> Method:
    return Method(**{**vars(method), "title": title})


def _place(request: AssignRequest, scene: Scene) -> Path:
    if request.out.suffix.lower() in FILE_KINDS:
        if request.count > 1:
            raise ConfigError(
                f"--out {request.out}: one file for {request.count} images; give a folder"
            )
        return request.out
    stem = re.sub(r"[^\w.-]+", "_", Path(scene.name).stem)
    return request.out / f"{stem}.png"


def _draw(scene: Scene, methods: Sequence[Method], path: Path) -> tuple[Path, list[str]]:
    views = [view for method in methods for view in assign_scene(method, scene)]
    strides = {tuple(level.stride for level in view.levels) for view in views}
    if len(strides) > 1:
        raise ConfigError(
            f"the methods have different pyramid strides, {sorted(strides)}: draw them apart"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_assignments(scene, views).savefig(path, dpi=DPI)
    except OSError as error:
        raise ConfigError(f"--out {path}: cannot write there ({error.strerror})") from error
    return path, [f"{view.title}: {reading(view)}{_who(view.taught)}" for view in views]


def _who(taught: dict[str, float]) -> str:
    shares = [f"{name} {share:.0%}" for name, share in taught.items()]
    return f"; taught by {', '.join(shares)}" if shares else ""
