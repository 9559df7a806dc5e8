"""The command line: what it prints, and one message with exit code 2 for what one can correct."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from orchestrator import cli
from orchestrator.cli import _with_waits
from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.data.text import brief
from orchestrator.errors import ConfigError, ResourceError
from orchestrator.launcher import RunResult, check_shared_memory, feed_store_bytes, launch
from orchestrator.live_view import LiveView
from orchestrator.local_run import run_locally
from tests.support.runs import ROOT, SMALL

PAA = ROOT / "configs" / "tiny" / "paa.py"
SHAPES = ROOT / "configs" / "tiny" / "paa_shapes.py"

Colad = Callable[..., tuple[int, str, str]]


@pytest.fixture
def colad(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Colad:
    """Run the command line in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["colad", *map(str, arguments)])
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        code = exit_info.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes(tmp_path_factory.mktemp("cli") / "shapes", train=8, val=4, size=64)


@pytest.fixture
def broken(dataset: Path, tmp_path: Path) -> Path:
    """A copy of the dataset for a test to damage."""
    shutil.copytree(dataset, tmp_path / "data")
    return tmp_path / "data"


def train_error(colad: Colad, root: Path, *more: str) -> str:
    """What `colad train` says before the first iteration."""
    work = root.parent / "work"
    code, _, error = colad("train", PAA, "--work-dir", work, "--set", f"data.root={root}", *more)
    assert code == 2
    assert "Traceback" not in error
    assert len(error.splitlines()) < 40
    assert not (work / "config.py").exists(), "a run that never began leaves no run"
    return error


def edit(path: Path, change: Callable[[dict], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def first_image(root: Path) -> Path:
    name = json.loads((root / "train.json").read_text())["images"][0]["file_name"]
    return root / "images" / name


def test_missing_image(colad: Colad, broken: Path) -> None:
    image = first_image(broken)
    image.unlink()
    assert image.name in train_error(colad, broken)


@pytest.mark.parametrize("content", [b"", b"this is no picture", None])
def test_unreadable_image(colad: Colad, broken: Path, content: bytes | None) -> None:
    image = first_image(broken)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2] if content is None else content)
    assert image.name in train_error(colad, broken)


def test_file_that_is_not_coco(colad: Colad, broken: Path) -> None:
    (broken / "train.json").write_text('{"pictures": []}')
    assert "train.json" in train_error(colad, broken)
    (broken / "train.json").write_text("no json at all")
    assert "train.json" in train_error(colad, broken)


def test_unknown_category(colad: Colad, broken: Path) -> None:
    edit(broken / "train.json", lambda c: c["annotations"][0].update(category_id=99))
    assert "99" in train_error(colad, broken)


def test_categories_that_differ_between_splits(colad: Colad, broken: Path) -> None:
    edit(broken / "val.json", lambda c: c["categories"][0].update(name="ellipse"))
    assert "ellipse" in train_error(colad, broken)


@pytest.mark.parametrize("split", ["train", "val"])
def test_crowd_boxes_alone(colad: Colad, broken: Path, split: str) -> None:
    def make_crowds(content: dict) -> None:
        for record in content["annotations"]:
            record["iscrowd"] = 1

    edit(broken / f"{split}.json", make_crowds)
    assert "crowd boxes" in train_error(colad, broken)


def test_size_that_is_not_the_image(colad: Colad, broken: Path) -> None:
    image = first_image(broken)
    Image.open(image).resize((32, 32)).save(image)
    assert image.name in train_error(colad, broken)


def test_missing_folder_and_annotation_file(colad: Colad, broken: Path) -> None:
    assert "no such folder" in train_error(colad, broken / "absent")
    assert "absent.json" in train_error(colad, broken, "data.val=absent.json")


def test_misspelt_fields(colad: Colad, dataset: Path) -> None:
    assert "did you mean train.batch_size" in train_error(colad, dataset, "train.batchsize=3")
    assert "did you mean data.root" in train_error(colad, dataset, "data.rot=3")


def test_missing_config(colad: Colad, tmp_path: Path) -> None:
    code, _, error = colad("train", tmp_path / "absent.py")
    assert code == 2 and "no such file" in error


def test_work_dir_that_cannot_be_written(colad: Colad, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    code, _, error = colad(
        "train", PAA, "--work-dir", tmp_path / "file" / "run", "--set", f"data.root={dataset}"
    )
    assert code == 2 and "cannot write there" in error


def test_work_dir_that_holds_a_run(colad: Colad, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("")
    code, _, error = colad("train", PAA, "--work-dir", tmp_path, "--set", f"data.root={dataset}")
    assert code == 2 and "--resume" in error


def test_resume_of_nothing_and_of_another_configuration(
    colad: Colad, dataset: Path, tmp_path: Path
) -> None:
    command = ("train", PAA, "--work-dir", tmp_path / "run", "--resume", "--set")
    code, _, error = colad(*command, f"data.root={dataset}")
    assert code == 2 and "holds no run" in error
    from orchestrator.config_file import save_config

    save_config(load_config(PAA, [f"data.root={dataset}", "seed=1"]), tmp_path / "run/config.py")
    code, _, error = colad(*command, f"data.root={dataset}")
    assert code == 2 and "seed (1 -> 0)" in error


def test_stale_address(colad: Colad, dataset: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    work = dataset.parent / "stale"
    code, _, error = colad(
        "train", PAA, "--work-dir", work, "--address", address, "--set", f"data.root={dataset}"
    )
    assert code == 2 and "no Ray cluster answers" in error and "stale" in error


@pytest.mark.parametrize("address", ["auto", "somewhere", "host:port"])
def test_address_that_is_none(colad: Colad, dataset: Path, address: str) -> None:
    work = dataset.parent / "none"
    code, _, error = colad(
        "train", PAA, "--work-dir", work, "--address", address, "--set", f"data.root={dataset}"
    )
    assert code == 2 and address in error


def test_shared_memory_too_small(dataset: Path, tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).free + 2**30
    with pytest.raises(ResourceError, match=r"MB free and the feed needs .*--shm-size"):
        check_shared_memory(needed, folder=str(tmp_path))


def test_feed_bytes_follow_the_configuration() -> None:
    small = load_config(PAA, ["data.root=x"])
    large = load_config(PAA, ["data.root=x", "train.batch_size=64", "data.scale=[1333, 800]"])
    assert feed_store_bytes(small, 4) < 200 * 2**20 < feed_store_bytes(large, 80)


def test_shapes_and_stats(colad: Colad, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    code, out, _ = colad("data", "shapes", folder, "--train", 6, "--val", 2, "--size", 64)
    assert code == 0 and str(folder) in out.replace("\n", "")
    code, out, _ = colad("data", "stats", folder / "train.json")
    assert code == 0 and re.search(r"images\s+6", out) and "6 image files are readable" in out


def test_doctor(colad: Colad) -> None:
    code, out, _ = colad("doctor")
    assert code == 0 and "torch" in out and "mmdet" in out


def test_run_eval_and_export(colad: Colad, dataset: Path, tmp_path: Path) -> None:
    """A run's network, evaluated and exported, gives the same boxes in mmdet's own detector."""
    import numpy as np
    from mmdet.apis import inference_detector, init_detector

    from orchestrator.saved_runs import open_run

    small = [item for item in SMALL if not item.startswith(("networks", "data.shapes"))]
    config = load_config(
        PAA, [f"data.root={dataset}", *small, "train.max_iterations=4", "train.clip_grad=1.0"]
    )
    run_dir = tmp_path / "run"
    trainer = run_locally(config, run_dir)
    code, out, _ = colad("eval", run_dir, "--per-class")
    assert code == 0 and "AP_S" in out and "circle" in out
    shown = f"{trainer.evaluations['r18']['AR_100']:.1f}"
    assert shown in out
    code, _, _ = colad("export", run_dir, tmp_path / "out", "--network", "r18")
    assert code == 0
    detector = init_detector(
        str(tmp_path / "out/config.py"), str(tmp_path / "out/weights.pth"), device="cpu"
    )
    assert type(detector.bbox_head).__name__ == "PAAHead"
    ours, _ = open_run(run_dir).build("r18")
    ours.cfg = detector.cfg  # type: ignore[assignment]  # what inference_detector reads
    image = str(next((dataset / "images").iterdir()))
    theirs_found = inference_detector(detector, image).pred_instances.numpy()
    ours_found = inference_detector(ours, image).pred_instances.numpy()
    assert len(ours_found.scores) > 0
    np.testing.assert_array_equal(theirs_found.bboxes, ours_found.bboxes)
    np.testing.assert_array_equal(theirs_found.scores, ours_found.scores)
    code, out, _ = colad("eval", tmp_path / "out/weights.pth")
    assert code == 0 and shown in out
    code, out, _ = colad("eval", run_dir, "--split", dataset / "val.json")
    assert code == 0 and shown in out
    for target, setting in [
        (run_dir, "data.val=train.json"),
        (run_dir, "data.root=elsewhere"),
        (tmp_path / "out/weights.pth", "data.scale=[32, 32]"),
    ]:
        code, _, error = colad("eval", target, "--set", setting)
        assert code == 2 and "has no effect" in error
    code, _, error = colad("eval", tmp_path / "out/weights.pth", "--network", "r18")
    assert code == 2 and "leave this out" in error


def test_export_of_an_unknown_network(colad: Colad, tmp_path: Path) -> None:
    code, _, error = colad("export", tmp_path, tmp_path / "out", "--network", "r18")
    assert code == 2 and "not a run directory" in error


def test_a_sweep_among_runs_is_refused(colad: Colad, tmp_path: Path) -> None:
    (tmp_path / "sweep.json").touch()
    for arguments in ((tmp_path / "run", tmp_path), (tmp_path, "--out", tmp_path)):
        code, _, error = colad("report", *arguments)
        assert code == 2 and "is a sweep: give it alone" in error


def test_launch_needs_a_new_directory(dataset: Path, tmp_path: Path) -> None:
    from rich.console import Console

    (tmp_path / "config.py").write_text("")
    config = load_config(PAA, [f"data.root={dataset}"])
    with (
        LiveView(Console(quiet=True), title="x") as view,
        pytest.raises(ConfigError, match="holds a run"),
    ):
        launch(config, tmp_path, resume=False, address=None, view=view)


def test_two_launchers_of_one_directory(tmp_path: Path) -> None:
    from orchestrator.run_dir import locked

    with locked(tmp_path):
        with pytest.raises(ConfigError, match="another launcher"), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


def test_a_refused_launcher_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator import run_dir as directories

    run_dir = tmp_path / "run"
    with directories.making_run_dir(run_dir, keep=False):
        (run_dir / "config.py").write_text("")
        monkeypatch.setattr(directories, "make_writable", lambda path: True)  # both saw none
        with (
            pytest.raises(ConfigError, match="another launcher"),
            directories.making_run_dir(run_dir, keep=False),
        ):
            pass
        assert (run_dir / "config.py").is_file()


@pytest.mark.parametrize("error", [ConfigError, OSError, KeyboardInterrupt])
def test_a_start_that_fails_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    from orchestrator.run_dir import making_run_dir

    run_dir = tmp_path / "run"
    with pytest.raises(error), making_run_dir(run_dir, keep=False):
        (run_dir / "config.py").write_text("")
        raise error
    assert not run_dir.exists()
    for kept in ("checkpoints/trial", "tune"):  # Tune has begun
        with pytest.raises(error), making_run_dir(run_dir, keep=False):
            (run_dir / kept).mkdir(parents=True)
            raise error
        assert (run_dir / kept).is_dir()


def test_a_disk_without_room_is_refused_at_the_start(tmp_path: Path) -> None:
    import resource

    from orchestrator.run_dir import make_writable

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, hard))
    try:
        with pytest.raises(ConfigError, match="cannot write there"):
            make_writable(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "run").exists()


def test_sigterm_outside_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own handler ends the process with the signal's number."""

    def ends(args: Any) -> None:
        raise SystemExit(signal.SIGTERM)

    monkeypatch.setattr(cli, "app", ends)
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 143


def test_trials_are_not_given_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray import tune
    from ray.tune.execution import class_cache

    from orchestrator.launcher import hide_credentials

    names = class_cache.ENV_VARS_TO_PROPAGATE
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", names)  # restored afterwards
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_CHDIR_TO_TRIAL_DIR"):
        monkeypatch.setenv(name, "0")
    hide_credentials()
    actor = class_cache._ActorClassCache().get(tune.Trainable)
    given = actor._default_options["runtime_env"]["env_vars"]
    assert "RAY_CHDIR_TO_TRIAL_DIR" in given and not [n for n in given if n.startswith("AWS")]


def test_finished_run_is_told_from_one_to_go_on_with(dataset: Path, tmp_path: Path) -> None:
    from orchestrator.launcher import finished_run

    small = [item for item in SMALL if not item.startswith(("networks", "data.shapes"))]
    config = load_config(PAA, [f"data.root={dataset}", *small, "train.max_iterations=2"])
    run_locally(config, tmp_path)
    result = finished_run(tmp_path, config)
    assert result is not None and result.iteration == 2 and "AP50" in result.evaluations["r18"]
    longer = load_config(PAA, [f"data.root={dataset}", *small, "train.max_iterations=4"])
    assert finished_run(tmp_path, longer) is None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_exit_code_of_a_stopped_run(
    colad: Colad,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    code: int,
) -> None:
    waited: list[float | None] = []

    def stopped(
        config: object, run_dir: Path, *, wait_s: float | None, **rest: object
    ) -> RunResult:
        waited.append(wait_s)
        return RunResult(
            outcome="stopped",
            run_dir=run_dir,
            iteration=7,
            evaluations={},
            retries=1,
            signal=number,
        )

    monkeypatch.setattr("orchestrator.launcher.launch", stopped)
    train = ("train", "--work-dir", tmp_path, PAA, f"data.root={dataset}")
    assert colad(*train)[0] == code
    assert colad(*train, "--wait-for-resources")[0] == code
    assert colad(*train[:1], "--wait-for-resources", "90", *train[1:])[0] == code
    assert waited == [None, float("inf"), 90.0]


def test_negative_wait(colad: Colad, dataset: Path, tmp_path: Path) -> None:
    train = ("train", "--wait-for-resources", "-5", "--work-dir", tmp_path, PAA)
    code, _, told = colad(*train, f"data.root={dataset}")
    assert code == 2 and "--wait-for-resources -5" in told


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["inf"]),
        (["600"], ["600"]),
        (["1e3"], ["1e3"]),
        (["600s"], ["600s"]),
        (["-1"], ["-1"]),
        (["--set", "a=1"], ["inf", "--set", "a=1"]),
        (["10_paa.py"], ["inf", "10_paa.py"]),
    ],
)
def test_waiting_takes_a_number_or_none(given: list[str], expected: list[str]) -> None:
    assert _with_waits(["--wait-for-resources", *given]) == ["--wait-for-resources", *expected]


def test_messages_fit_on_a_screen() -> None:
    assert brief("short\n\nlines") == "short\n\nlines"
    for text in ("9" * 5000, "\n".join(map(str, range(600))), "\n".join(["x" * 400] * 30)):
        said = brief(text)
        assert sum(-(-len(line) // 100) or 1 for line in said.splitlines()) <= 18
        assert said[:3] == text[:3] and said[-1] == text[-1]
        assert "..." in said
