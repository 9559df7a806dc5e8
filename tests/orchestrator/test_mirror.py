"""A run's copy in an object store, against an S3 server on this machine."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import fs

from orchestrator.checkpoint_store import run_store
from orchestrator.checkpoints import find_checkpoints
from orchestrator.config import RunConfig
from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.errors import CheckpointError, ConfigError
from orchestrator.local_run import run_locally
from orchestrator.mirror import GOOGLE_LIMIT_S, Mirror, check_uri, fetch, open_uri
from tests.support.runs import ROOT, SMALL, assert_equal_weights, final_weights

PAA = ROOT / "configs" / "tiny" / "paa.py"
BUCKET = "colad-test"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[bytes]]:
    """An S3 server with a bucket; keys and address in the environment, as a user has them."""
    pytest.importorskip("moto", reason="no S3 server: pip install 'moto[s3,server]' (extra dev)")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in (
                ("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}"),
                ("AWS_ACCESS_KEY_ID", "testing"),
                ("AWS_SECRET_ACCESS_KEY", "testing"),
                ("AWS_DEFAULT_REGION", "us-east-1"),
                ("AWS_EC2_METADATA_DISABLED", "true"),
            ):
                patch.setenv(name, value)
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None and time.monotonic() < deadline
                    time.sleep(0.1)
            made, _ = fs.FileSystem.from_uri(f"s3://{BUCKET}?allow_bucket_creation=true")
            made.create_dir(BUCKET)
            yield process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("mirror") / "shapes", train=8, val=4, size=64)


def small(dataset: Path, *more: str) -> RunConfig:
    overrides = [item for item in SMALL if not item.startswith(("networks.r34", "data.shapes"))]
    settings = ["train.max_iterations=6", "checkpoint.interval=2", "checkpoint.keep=2"]
    return load_config(PAA, [f"data.root={dataset}", *overrides, *settings, *more])


def keys(uri: str) -> set[str]:
    filesystem, root = open_uri(uri, "test")
    infos = filesystem.get_file_info(fs.FileSelector(root, recursive=True))
    return {i.path.removeprefix(f"{root}/") for i in infos if i.type == fs.FileType.File}


def test_a_run_comes_back_from_s3_and_goes_on(
    server: object, dataset: Path, tmp_path: Path
) -> None:
    uri = f"s3://{BUCKET}/runs/first"
    config = small(dataset, f"checkpoint.upload={uri}")
    run_locally(config, tmp_path / "run")
    held = keys(uri)
    assert {"config.py", "data.json", "environment.json"} <= held
    names = [path.name for path in find_checkpoints(tmp_path / "run")]
    assert names == ["checkpoint_000000004", "checkpoint_000000006"]
    copied = {key.split("/")[1] for key in held if key.startswith("checkpoints/")}
    assert copied == set(names), "what the run has dropped is dropped there"
    assert fetch(uri, tmp_path / "back") == len(held)
    for key in held:
        assert (tmp_path / "back" / key).read_bytes() == (tmp_path / "run" / key).read_bytes()
    shutil.rmtree(tmp_path / "back" / "checkpoints" / "checkpoint_000000006")
    run_locally(config, tmp_path / "back", resume=True)
    assert_equal_weights(final_weights(tmp_path / "back"), final_weights(tmp_path / "run"))
    with pytest.raises(ConfigError, match="not empty"):
        fetch(uri, tmp_path / "back")
    with pytest.raises(ConfigError, match="holds no run"):
        fetch(f"s3://{BUCKET}/nothing", tmp_path / "none")


def test_a_state_is_the_last_to_come_and_the_first_to_go(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whenever the copying stops, every state there belongs to a whole checkpoint."""
    folder = tmp_path / "run" / "checkpoints" / "checkpoint_000000001"
    folder.mkdir(parents=True)
    for name in ("z.pt", "state.json", "a.pt"):
        (folder / name).write_text(name)
    uri = (tmp_path / "copy").as_uri()
    mirror = Mirror(uri, tmp_path / "run")
    order: list[str] = []
    send = mirror._send
    monkeypatch.setattr(mirror, "_send", lambda name: (order.append(name.name), send(name)))
    mirror.push()
    mirror.wait()
    assert order == ["a.pt", "z.pt", "state.json"]
    shutil.rmtree(folder)
    deleted: list[str] = []

    class Watched:
        type_name = "local"

        def __getattr__(self, name: str) -> object:
            return getattr(mirror_filesystem, name)

        def delete_file(self, path: str) -> None:
            deleted.append(Path(path).name)
            mirror_filesystem.delete_file(path)

    mirror_filesystem = mirror._filesystem
    monkeypatch.setattr(mirror, "_filesystem", Watched())
    mirror.close()
    assert deleted[0] == "state.json" and len(deleted) == 3
    assert keys(uri) == set()


def test_hidden_and_passing_files_stay_here(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in (
        "config.py",
        ".lock",
        "iterations.parquet/part-000000000-000000.parquet",
        "iterations.parquet/.part.tmp",
        "processes.json",
        "report/index.html",
        "checkpoints/experiment_state.json",
        "checkpoints/trial/checkpoint_000000002/r18-rank0.pt",
        "checkpoints/trial/.checkpoint_000000004.x.unfinished/r18-rank0.pt",
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x")
    mirror = Mirror((tmp_path / "copy").as_uri(), run)
    mirror.close()
    assert keys((tmp_path / "copy").as_uri()) == {
        "config.py",
        "iterations.parquet/part-000000000-000000.parquet",
        "checkpoints/trial/checkpoint_000000002/r18-rank0.pt",
    }


@pytest.mark.parametrize("uri", ["s3://me:hunter2@bucket/x", "nowhere", "s3:/", "ftp://a/b", ""])
def test_what_is_no_place_is_refused(uri: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="checkpoint.upload") as caught:
        check_uri(uri, "checkpoint.upload")
    assert "hunter2" not in str(caught.value)


def test_a_bucket_that_is_not_there_is_said_before_the_start(server: object) -> None:
    with pytest.raises(ConfigError, match="cannot be written.*Does the bucket exist"):
        check_uri("s3://no-such-bucket/x", "checkpoint.upload")
    check_uri(f"s3://{BUCKET}/fine", "checkpoint.upload")
    assert keys(f"s3://{BUCKET}/fine") == set()


def test_a_store_that_does_not_answer_costs_no_checkpoint(
    server: object, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run_locally(small(dataset), run)
    config = small(dataset, f"checkpoint.upload=s3://{BUCKET}/runs/second")
    with monkeypatch.context() as away:
        away.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(CheckpointError, match=r"checkpoint.upload = .*itself is whole"):
            Mirror(str(config.checkpoint.upload), run).close()
    assert len(find_checkpoints(run)) == 2
    run_store(run, config, run / "checkpoints").close()
    assert "config.py" in keys(f"s3://{BUCKET}/runs/second")


@pytest.mark.parametrize(
    ("uri", "added"),
    [
        ("gs://bucket/folder", f"?retry_limit_seconds={GOOGLE_LIMIT_S}"),
        ("gs://bucket/folder?scheme=https", f"&retry_limit_seconds={GOOGLE_LIMIT_S}"),
        ("gs://bucket/folder?retry_limit_seconds=300", ""),
        ("s3://bucket/folder", ""),
    ],
)
def test_google_is_not_asked_for_minutes(
    uri: str, added: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Recorder:
        @staticmethod
        def from_uri(uri: str) -> tuple[None, str]:
            asked.append(uri)
            return None, "bucket/folder"

    monkeypatch.setattr(fs, "FileSystem", Recorder)
    open_uri(uri, "checkpoint.upload")
    assert asked == [uri + added]


def test_pyarrow_knows_the_limit() -> None:
    assert open_uri("gs://bucket/folder", "checkpoint.upload")[1] == "bucket/folder"
