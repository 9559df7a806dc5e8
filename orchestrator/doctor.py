"""``colad doctor``: what is installed, what is missing, what does not go together."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib import metadata

MMDET_DISTRIBUTIONS = {
    "mmdet": (("onedl-mmdetection",), ("onedl-mmengine",), ("onedl-mmcv",)),
    "openmmlab": (("mmdet",), ("mmengine", "mmengine-lite"), ("mmcv", "mmcv-lite")),
}
"""By our extra: the names that mmdet, mmengine and mmcv go by. Both supply the same modules."""
REQUIRED = (
    "torch",
    "ray",
    "numpy",
    "pandas",
    "pyarrow",
    "pycocotools",
    "matplotlib",
    "tensorboard",
)
OPTIONAL = {
    "faster-coco-eval": "faster evaluation (extra fast-eval)",
    "optuna": "Bayesian search (extra optuna)",
    "mlflow": "MLflow logging (extra mlflow)",
}


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    level: str
    """ok, note or bad."""
    text: str


def diagnose() -> Iterator[Finding]:
    """Everything worth saying about this installation."""
    for name in REQUIRED:
        version = version_of(name)
        if version is None:
            yield Finding("bad", f"{name}: pip install {name}")
        else:
            yield Finding("ok", f"{name} {version}")
    yield from _mmdet()
    yield from _operators()
    yield from _machine()
    for name, purpose in OPTIONAL.items():
        version = version_of(name)
        if version is None:
            yield Finding("note", f"{name} is not installed: {purpose}")
        else:
            yield Finding("ok", f"{name} {version}")


def version_of(distribution: str) -> str | None:
    """Installed version, or None."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def installed_mmdet() -> dict[str, str]:
    """Version by name, of all distributions that supply mmdet, mmengine or mmcv."""
    names = [name for parts in MMDET_DISTRIBUTIONS.values() for part in parts for name in part]
    versions = {name: version_of(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def mmdet_problem(installed: Collection[str]) -> str | None:
    """What is wrong with these distributions, or None: each part once, all of one extra."""
    found = {
        extra: [[name for name in part if name in installed] for part in parts]
        for extra, parts in MMDET_DISTRIBUTIONS.items()
    }
    extras = [extra for extra, parts in found.items() if any(parts)]
    if not extras:
        return "mmdet is missing: pip install 'colad[mmdet]'"
    if len(extras) > 1 or any(len(names) > 1 for names in found[extras[0]]):
        names = sorted(installed)
        return (
            f"{', '.join(names)} are installed together and overwrite each other's files: "
            f"pip uninstall {' '.join(names)}, then pip install 'colad[mmdet]'"
        )
    (extra,) = extras
    missing = [
        part[0] for part, names in zip(MMDET_DISTRIBUTIONS[extra], found[extra]) if not names
    ]
    if missing:
        beside = ", ".join(sorted(installed))
        return f"{', '.join(missing)} missing beside {beside}: pip install 'colad[{extra}]'"
    return None


def _mmdet() -> Iterator[Finding]:
    installed = installed_mmdet()
    problem = mmdet_problem(installed)
    if problem is not None:
        yield Finding("bad", problem)
        return
    maintained = any(part[0] in installed for part in MMDET_DISTRIBUTIONS["mmdet"])
    family = "maintained" if maintained else "original"
    versions = ", ".join(f"{name} {version}" for name, version in installed.items())
    yield Finding("ok", f"mmdet, {family} distribution: {versions}")


def _operators() -> Iterator[Finding]:
    try:
        mmcv_ops = importlib.import_module("models").mmcv_ops
        importlib.import_module("mmdet")
    except Exception as error:  # a broken installation raises anything
        yield Finding("bad", f"mmdet does not import: {type(error).__name__}: {error}")
        return
    if mmcv_ops.is_stand_in():
        yield Finding(
            "note",
            "mmcv has no compiled operators; our stand-in serves NMS, focal loss and deformable "
            f"convolution (slower on GPUs). {mmcv_ops.HOW_TO_BUILD}",
        )
    else:
        yield Finding("ok", "mmcv's compiled operators")


def _machine() -> Iterator[Finding]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    yield Finding("ok" if count else "note", f"{count} GPU(s) {names}".rstrip())
    yield Finding("ok", f"{os.cpu_count()} CPU cores")
    if os.path.isdir("/dev/shm"):
        free = shutil.disk_usage("/dev/shm").free / 2**20
        level = "ok" if free > 512 else "note"
        yield Finding(level, f"/dev/shm has {free:.0f} MB free (the object store lives there)")
    address = os.environ.get("RAY_ADDRESS")
    if address:
        yield Finding(
            "note", f"RAY_ADDRESS={address}: runs go there unless --address says otherwise"
        )
