"""What `colad doctor` says of mmdet's two distributions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.doctor import Finding, diagnose, installed_mmdet, mmdet_problem
from tests.support.runs import ROOT

MAINTAINED = {"onedl-mmdetection", "onedl-mmengine", "onedl-mmcv"}
ORIGINAL = {"mmdet", "mmengine", "mmcv"}


@pytest.mark.parametrize(
    "installed", [MAINTAINED, ORIGINAL, {"mmdet", "mmengine-lite", "mmcv-lite"}]
)
def test_whole_distributions(installed: set[str]) -> None:
    assert mmdet_problem(installed) is None


@pytest.mark.parametrize(
    "installed",
    [
        MAINTAINED | ORIGINAL,
        MAINTAINED | {"mmcv"},
        ORIGINAL | {"onedl-mmengine"},
        ORIGINAL | {"mmcv-lite"},
        {"onedl-mmdetection", "onedl-mmengine", "mmcv"},
    ],
)
def test_mixtures(installed: set[str]) -> None:
    problem = mmdet_problem(installed)
    assert problem is not None and "installed together" in problem
    assert f"pip uninstall {' '.join(sorted(installed))}," in problem


def test_missing_parts() -> None:
    assert mmdet_problem(()) == "mmdet is missing: pip install 'colad[mmdet]'"
    problem = mmdet_problem({"mmdet", "mmengine"})
    assert problem == "mmcv missing beside mmdet, mmengine: pip install 'colad[openmmlab]'"


def test_the_distribution_that_is_here() -> None:
    """Named in full, nothing about it bad: what these tests run with."""
    findings = list(diagnose())
    (line,) = [f for f in findings if f.text.startswith("mmdet, ")]
    family = "original" if "mmdet" in installed_mmdet() else "maintained"
    versions = ", ".join(f"{name} {version}" for name, version in installed_mmdet().items())
    assert line == Finding("ok", f"mmdet, {family} distribution: {versions}")
    assert not [finding for finding in findings if finding.level == "bad"]


def test_a_mixture_is_refused(tmp_path: Path) -> None:
    """The other family's mmcv, as pip records it, beside what is installed: exit status 2."""
    other = "onedl-mmcv" if "mmcv" in installed_mmdet() else "mmcv"
    record = tmp_path / f"{other.replace('-', '_')}-9.9.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {other}\nVersion: 9.9\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator.cli", "doctor"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "installed together" in done.stdout and f"{other}, " in done.stdout
