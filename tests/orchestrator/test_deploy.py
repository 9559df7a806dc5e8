"""The shipped cluster files, against Ray's own validation, and the job scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from orchestrator import cli
from orchestrator.errors import ConfigError
from orchestrator.job import _found, run_on_cluster

PROJECT = Path(__file__).resolve().parents[2]
CLUSTERS = ("cluster.yaml", "deploy/cluster.local.yaml")
JOBS = ("train", "tune", "eval")


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((PROJECT / name).read_text())
    return content


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """All containers of a Kubernetes manifest."""
    if isinstance(node, dict):
        yield from node.get("containers", ())
        for value in node.values():
            yield from containers(value)
    elif isinstance(node, list):
        for value in node:
            yield from containers(value)


@pytest.mark.parametrize("name", CLUSTERS)
def test_cluster_files_pass_rays_validation(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(name)))
    broken = {**read(name), "max_worker": 2}
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepare_config(broken))


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_command_is_whole(name: str) -> None:
    """YAML takes ` #` in a plain line for a comment; a shell then misses the closing quote."""
    content = read(name)
    commands = [c for key in content if key.endswith("commands") for c in content[key]]
    assert len(commands) >= 7
    for command in commands:
        checked = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0 and not checked.stderr, f"{command}: {checked.stderr}"
    assert "colad-environment' ~/.bashrc" in content["setup_commands"][-1]


@pytest.mark.parametrize("name", CLUSTERS)
def test_every_package_is_among_the_files_that_are_sent(name: str) -> None:
    """`data` would leave out orchestrator/data, too: rsync looks for it at any depth."""
    excluded = read(name)["rsync_exclude"]
    for path in (
        p for top in ("orchestrator", "models", "configs") for p in PROJECT.glob(f"{top}/**")
    ):
        parts = path.relative_to(PROJECT).parts
        if "__pycache__" not in parts:
            assert not set(parts) & set(excluded), path
    assert {"/data", "/runs", ".git"} <= set(excluded)


@pytest.mark.parametrize("name", CLUSTERS)
def test_clusters_ask_for_a_token_and_keep_their_dashboard_private(name: str) -> None:
    content = read(name)
    assert "~/.ray/auth_token" in content["file_mounts"]
    for kind in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in content[kind] if "ray start" in command]
        assert starts and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "--dashboard-host=127.0.0.1" in " ".join(content["head_start_ray_commands"])
    assert "0.0.0.0" not in (PROJECT / name).read_text()


def test_kubernetes_containers_ask_for_a_token() -> None:
    content = read("deploy/rayjob.yaml")
    found = list(containers(content))
    assert {container["name"] for container in found} == {"submitter", "ray-head", "ray-worker"}
    for container in found:
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
        assert environment["RAY_AUTH_MODE"] == "token"
        assert str(Path(environment["RAY_AUTH_TOKEN_PATH"]).parent) in mounts
    cluster = content["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"


def test_versions_are_those_of_the_constraints() -> None:
    pins = dict(
        line.split("==")
        for line in (PROJECT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    cluster = read("deploy/rayjob.yaml")["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == pins["ray"]
    for name in (*CLUSTERS, "deploy/Dockerfile"):
        assert f"torch=={pins['torch']}" in (PROJECT / name).read_text()
    for name in CLUSTERS:
        assert f"ray[default]=={pins['ray']}" in (PROJECT / name).read_text()


def run_script(script: Path, *arguments: str, cwd: Path, isolated: bool = False) -> Any:
    flags = ["-I", "-S"] if isolated else []
    return subprocess.run(
        [sys.executable, *flags, str(script), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("name", JOBS)
def test_job_scripts_alone_say_that_colad_is_missing(name: str, tmp_path: Path) -> None:
    script = Path(shutil.copy(PROJECT / "jobs" / f"{name}.py", tmp_path))
    done = run_script(script, cwd=tmp_path, isolated=True)
    assert done.returncode == 1
    assert "colad is not installed in" in done.stderr and "Traceback" not in done.stderr


def test_a_job_script_runs_from_the_home_directory(tmp_path: Path) -> None:
    script = Path(shutil.copy(PROJECT / "jobs" / "train.py", tmp_path))
    done = run_script(script, "configs/tiny/nothing.py", cwd=tmp_path)
    assert done.returncode == 2
    assert "configs/tiny/nothing.py: no such configuration" in done.stderr
    assert "Traceback" not in done.stderr
    # The project's own configuration is found there; the field is what is wrong.
    wrong = ["configs/tiny/colad.py", "--address", "127.0.0.1:9", "--set", "trian.seed=1"]
    done = run_script(script, *wrong, cwd=tmp_path)
    assert done.returncode == 2 and "trian" in done.stderr


def test_a_job_goes_to_the_cluster_of_its_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `ray start` has noted it; without one nothing is started in its place."""
    called: list[Any] = []
    monkeypatch.setattr(cli, "main", lambda words: called.append(os.environ.get("RAY_ADDRESS")))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.9:6379")  # of `ray job submit`
    run_on_cluster("train", ["configs/tiny/paa.py"])
    monkeypatch.delenv("RAY_ADDRESS")
    with pytest.raises(SystemExit, match="2"):
        run_on_cluster("train", ["configs/tiny/paa.py"])
    run_on_cluster("eval", ["run"])
    run_on_cluster("train", ["configs/tiny/paa.py", "--address", "10.0.0.7:6379"])
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("10.0.0.1:6379\n")
    run_on_cluster("train", ["configs/tiny/paa.py"])
    assert called == ["10.0.0.9:6379", None, None, "10.0.0.1:6379"]


def test_configurations_of_the_project_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _found("configs/tiny/paa.py") == str(PROJECT / "configs" / "tiny" / "paa.py")
    (tmp_path / "own.py").write_text("")
    for argument in ("own.py", "--config=none.py", "assigner.beta=1", "dw-table2"):
        assert _found(argument) == argument
    with pytest.raises(ConfigError, match="none.py: no such configuration"):
        _found("none.py")
