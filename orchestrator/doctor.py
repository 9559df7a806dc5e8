"""``colad doctor``: what is installed, what is missing, what does not go together."""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata

MMDET_DISTRIBUTIONS = {
    "maintained": ("onedl-mmdetection", "onedl-mmengine", "onedl-mmcv"),
    "original": ("mmdet", "mmengine", "mmcv"),
}
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


def mmdet_mixture() -> str | None:
    """What is wrong with the mmdet installation, or None: one distribution, all three parts."""
    present = {
        name: [d for d in parts if version_of(d) is not None]
        for name, parts in MMDET_DISTRIBUTIONS.items()
    }
    there = {name: parts for name, parts in present.items() if parts}
    if not there:
        return "mmdet is missing: pip install 'colad[mmdet]'"
    if len(there) > 1:
        families = " and ".join(", ".join(parts) for parts in there.values())
        return f"{families} are installed together and overwrite each other: uninstall one family"
    (name, parts), *_ = there.items()
    missing = [d for d in MMDET_DISTRIBUTIONS[name] if d not in parts]
    return f"{', '.join(missing)} missing beside {', '.join(parts)}" if missing else None


def _mmdet() -> Iterator[Finding]:
    problem = mmdet_mixture()
    if problem is not None:
        yield Finding("bad", problem)
        return
    for name, parts in MMDET_DISTRIBUTIONS.items():
        if version_of(parts[0]) is not None:
            versions = ", ".join(f"{d} {version_of(d)}" for d in parts)
            yield Finding("ok", f"mmdet, {name} distribution: {versions}")


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
            "convolution (slower on GPUs: build them with MMCV_WITH_OPS=1 pip install "
            "--no-build-isolation onedl-mmcv)",
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
