"""Files of strangers: checkpoints that would run a program, annotations that point elsewhere."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from PIL import Image
from rich.console import Console

from orchestrator import cli
from orchestrator.building import build_detector
from orchestrator.checkpoints import find_checkpoints, read_state
from orchestrator.config import NetworkConfig
from orchestrator.config_file import load_config
from orchestrator.errors import CheckpointError, CoTrainError, ModelError
from orchestrator.evaluation import EvalResult, per_class_table
from orchestrator.local_run import run_locally
from orchestrator.runlog import write_environment
from tests.corpus.base import Base, make_base
from tests.support.runs import ROOT

SECRET = "hunter2-do-not-tell"
SECRETS = ("WANDB_API_KEY", "RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD")
CLASSES = 4


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Base]:
    """A finished run, made with secrets in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name in SECRETS:
            patch.setenv(name, SECRET)
        yield make_base(tmp_path_factory.mktemp("base"))


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.target}",)


def hostile(target: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {"w": torch.zeros(1)}, "meta": Payload(target)}, buffer)
    return buffer.getvalue()


def test_the_payload_works(tmp_path: Path) -> None:
    torch.load(io.BytesIO(hostile(tmp_path / "ran")), weights_only=False)
    assert (tmp_path / "ran").exists()


# -- checkpoints ----------------------------------------------------------------------------------


def pretrained(path: Path) -> dict[str, Any]:
    return dict(type="Pretrained", checkpoint=str(path))


ENTRIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "teacher": lambda p: dict(learner=False, checkpoint=str(p)),
    "checkpoint": lambda p: dict(checkpoint=str(p)),
    "pretrained": lambda p: dict(pretrained=str(p)),
    "init_cfg of the backbone": lambda p: dict(model=dict(backbone=dict(init_cfg=pretrained(p)))),
    "init_cfg in a list": lambda p: dict(model=dict(backbone=dict(init_cfg=[pretrained(p)]))),
    "init_cfg of the neck": lambda p: dict(model=dict(neck=dict(init_cfg=pretrained(p)))),
    "init_cfg of the detector": lambda p: dict(model=dict(init_cfg=pretrained(p))),
    "pretrained of the backbone": lambda p: dict(model=dict(backbone=dict(pretrained=str(p)))),
}


@pytest.mark.filterwarnings("ignore:DeprecationWarning. pretrained:UserWarning")
@pytest.mark.parametrize("entry", ENTRIES)
def test_weights_of_a_network_execute_nothing(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "epoch_12.pth"
    path.write_bytes(hostile(tmp_path / "ran"))
    settings = NetworkConfig(preset="tiny_r18", **ENTRIES[entry](path))
    with pytest.raises((CheckpointError, ModelError)) as caught:
        build_detector("t", settings, CLASSES, seed=0)
    assert not (tmp_path / "ran").exists()
    message = str(caught.value)
    assert str(path) in message
    assert "executing what the file says" in message or "mmengine executes" in message


def save_epoch(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """The file that mmengine's CheckpointHook leaves after an epoch, log histories included."""
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    content = {
        "meta": {"epoch": 12, "cfg": ConfigDict(a=1), "dataset_meta": {"classes": ("a", "b")}},
        "state_dict": weights,
        "message_hub": {"log_scalars": OrderedDict({"train/loss": history})},
        "optimizer": {"state": {}, "param_groups": []},
    }
    torch.save(content, path)


@pytest.mark.parametrize("entry", ["teacher", "pretrained", "init_cfg of the backbone"])
def test_an_epoch_of_mmengine_is_taken(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "epoch_12.pth"
    settings = NetworkConfig(preset="tiny_r18", **ENTRIES[entry](path))
    source, _ = build_detector("t", NetworkConfig(preset="tiny_r18"), CLASSES, seed=7)
    save_epoch(path, source.state_dict())
    built, _ = build_detector("t", settings, CLASSES, seed=0)
    got, expected = built.state_dict(), source.state_dict()
    for key in got:
        if entry == "teacher" or key.startswith("backbone."):
            assert torch.equal(got[key], expected[key]), key


def spoil_checkpoints(run: Path, content: bytes) -> None:
    """Replace the weights of every checkpoint and make size and checksum fit."""
    for folder in find_checkpoints(run):
        (folder / "r18-rank0.pt").write_bytes(content)
        state = json.loads((folder / "state.json").read_text())
        sha256 = hashlib.sha256(content).hexdigest()
        state["files"]["r18-rank0.pt"] = {"size": len(content), "sha256": sha256}
        (folder / "state.json").write_text(json.dumps(state))


def resume(run: Path, out: Path) -> None:
    run_locally(load_config(run / "config.py"), run, resume=True)


READERS: dict[str, Callable[[Path, Path], object]] = {
    "eval": lambda run, out: cli.app(["eval", str(run)], standalone_mode=False),
    "export": lambda run, out: cli.app(
        ["export", str(run), str(out), "--network", "r18"], standalone_mode=False
    ),
    "resume": resume,
}


@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_of_a_run_executes_nothing(reader: str, base: Base, tmp_path: Path) -> None:
    run = Path(shutil.copytree(base.run, tmp_path / "run"))
    spoil_checkpoints(run, hostile(tmp_path / "ran"))
    with pytest.raises(CheckpointError, match="refused, because it holds 'posix.system'") as caught:
        READERS[reader](run, tmp_path / "out")
    assert not (tmp_path / "ran").exists()
    assert "checkpoint_" in str(caught.value)
    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    spoil_checkpoints(run, buffer.getvalue())
    if reader != "resume":
        with pytest.raises(CheckpointError, match="holds a list"):
            READERS[reader](run, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", ".hidden", "a/b", ""])
def test_a_state_cannot_name_files_elsewhere(name: str, base: Base, tmp_path: Path) -> None:
    run = Path(shutil.copytree(base.run, tmp_path / "run"))
    folder = find_checkpoints(run)[-1]
    state = json.loads((folder / "state.json").read_text())
    state["files"][name] = {"size": 1, "sha256": "0"}
    (folder / "state.json").write_text(json.dumps(state))
    with pytest.raises(CheckpointError, match="is no name of a part"):
        read_state(folder)


# -- annotations ----------------------------------------------------------------------------------


_installed: list[Any] = []
_opened: list[str] = []
_watching = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], (str, bytes)):
        _opened.append(os.fsdecode(arguments[0]))


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """Every path that this process opens meanwhile (for reading or writing)."""
    global _watching
    if _hook not in _installed:
        sys.addaudithook(_hook)  # for good: Python has no way to take one away
        _installed.append(_hook)
    _opened.clear()
    _watching = True
    yield _opened
    _watching = False


@pytest.mark.parametrize(
    "name",
    ["../outside.png", "{outside}", "sub/../../outside.png", "..\\outside.png", "a\0/b.png"],
)
@pytest.mark.parametrize("command", ["stats", "assign", "eval", "check"])
def test_annotations_cannot_name_files_elsewhere(
    command: str,
    name: str,
    base: Base,
    tmp_path: Path,
    opened: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing outside the image folder is opened, although it is there and an image."""
    data = Path(shutil.copytree(base.data, tmp_path / "data"))
    outside = data / "outside.png"
    file = data / "train.json"
    content = json.loads(file.read_text())
    first = content["images"][0]
    Image.new("RGB", (first["width"], first["height"])).save(outside)
    first["file_name"] = name.format(outside=outside)
    file.write_text(json.dumps(content))
    paa = str(ROOT / "configs" / "tiny" / "paa.py")
    commands = {
        "stats": ["data", "stats", str(file)],
        "assign": ["assign", str(file), "--config", paa, "--out", str(tmp_path / "out.png")],
        "eval": ["eval", str(base.run), "--split", str(file)],
        "check": ["check", paa, "--work-dir", str(tmp_path / "work"), "--set", f"data.root={data}"],
    }
    before = {path: path.stat().st_mtime_ns for path in data.rglob("*")}
    monkeypatch.chdir(tmp_path)
    opened.clear()
    with pytest.raises(CoTrainError, match=r"images\[0\]: file_name .* refused"):
        cli.app(commands[command], standalone_mode=False)
    assert any(path.endswith("train.json") for path in opened), "the watch works"
    assert not [path for path in opened if "outside" in path]
    assert {path: path.stat().st_mtime_ns for path in data.rglob("*")} == before
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "work").exists()


def test_names_of_classes_cannot_command_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[/red]<script>\u202e"
    metrics = {name: 1.0 for name in ("AP", "AP50")}
    result = EvalResult(
        metrics=metrics, per_class={evil: (50.0, 60.0)}, num_images=1, num_detections=1, seconds=0.0
    )
    Console().print(per_class_table({"r18": result}))
    said = capsys.readouterr().out
    assert "\\x1b[2J" in said and "[/red]" in said
    assert "\x1b" not in said and "\x07" not in said and "\u202e" not in said


# -- secrets --------------------------------------------------------------------------------------


def test_nothing_written_holds_a_secret(base: Base) -> None:
    files = [path for folder in (base.run, base.weights) for path in folder.rglob("*")]
    contents = [path.read_bytes() for path in files if path.is_file()]
    assert len(contents) > 10
    assert not [content for content in contents if SECRET.encode() in content]


def test_an_address_in_the_command_line_loses_its_password(tmp_path: Path) -> None:
    command = ["colad", "tune", "--mlflow", f"http://me:{SECRET}@host:5000/x", "s3://a@b"]
    written = write_environment(tmp_path, command)["command"]
    assert written == ["colad", "tune", "--mlflow", "http://***@host:5000/x", "s3://***@b"]
    assert SECRET not in (tmp_path / "environment.json").read_text()
