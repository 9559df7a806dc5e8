"""Malformed checkpoints, runs, weights, images and command lines."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from orchestrator.checkpoints import find_checkpoints
from tests.corpus.base import PAA, SEED, Base, Case, check, copy_data, cut, edit_json, flip_bit

Spoil = Callable[[Path], None]


def _run(name: str, spoil: Spoil, command: list[str], *says: str) -> Case:
    """A copy of the run, spoilt, given to a command: RUN in it stands for its folder."""

    def make(base: Base, folder: Path) -> list[str]:
        run = Path(shutil.copytree(base.run, folder / "run"))
        spoil(run)
        out = str(folder / "out")
        words = {"RUN": str(run), "OUT": out}
        return [words.get(word, word) for word in command]

    return Case(f"run: {name}", make, says)


def _weights(name: str, spoil: Spoil, *says: str) -> Case:
    """A copy of the exported weights, spoilt: evaluated, and given to a network."""

    def make(base: Base, folder: Path) -> list[str]:
        copied = Path(shutil.copytree(base.weights, folder / "weights"))
        spoil(copied / "weights.pth")
        return ["eval", str(copied / "weights.pth")]

    return Case(f"weights: {name}", make, says)


def _starting(name: str, field: str, spoil: Spoil, *says: str) -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        path = Path(shutil.copy(base.weights / "weights.pth", folder / "start.pth"))
        spoil(path)
        return check(PAA, base.data, folder, f"networks.r18.{field}={path}")

    return Case(f"{field}: {name}", make, ("start.pth", *says))


def _newest(run: Path) -> Path:
    return find_checkpoints(run)[-1]


def _all(spoil: Spoil) -> Spoil:
    def every(run: Path) -> None:
        for folder in find_checkpoints(run):
            spoil(folder / "r18-rank0.pt")

    return every


def _text(name: str, content: str) -> Spoil:
    return lambda run: (run / name).write_text(content) and None


def _split(**fields: str) -> Spoil:
    """What the run notes of its validation data says something else; RUN is its folder."""

    def change(run: Path) -> None:
        def edit(content: Any) -> None:
            content["val"].update(
                {key: value.replace("RUN", str(run)) for key, value in fields.items()}
            )

        edit_json(run / "data.json", edit)

    return change


def _annotations(content: str) -> Spoil:
    def change(run: Path) -> None:
        (run / "mine.json").write_text(content)
        _split(annotations="RUN/mine.json")(run)

    return change


def _own_data(name: str, spoil: Spoil, *says: str) -> Case:
    """Exported weights whose data is a copy, spoilt."""

    def make(base: Base, folder: Path) -> list[str]:
        data = copy_data(base, folder)
        weights = Path(shutil.copytree(base.weights, folder / "weights"))
        config = weights / "config.py"
        config.write_text(config.read_text().replace(str(base.data), str(data)))
        spoil(data)
        return ["eval", str(weights / "weights.pth")]

    return Case(f"weights: {name}", make, says)


def _beside(name: str, text: str | bytes, *says: str) -> Case:
    """Exported weights with another config.py."""
    content = text.encode() if isinstance(text, str) else text
    spoil: Spoil = lambda p: (p.parent / "config.py").write_bytes(content) and None  # noqa: E731
    return _weights(f"config {name}", spoil, "config.py", *says)


def _dataset(**fields: object) -> str:
    sound = dict(data_prefix=dict(img="x"), ann_file="gone.json", pipeline=[])
    return f"test_dataloader = dict(dataset={sound | fields!r})\n"


def _numbers(run: Path) -> None:
    edit_json(run / "data.json", lambda content: content["val"].update(annotations=5))


def _log_part(run: Path) -> None:
    for part in (run / "iterations.parquet").glob("part-*"):
        cut(part, 0.5)


def _states(name: str, **fields: object) -> Case:
    """Every state.json says something else."""

    def change(run: Path) -> None:
        for folder in find_checkpoints(run):
            edit_json(folder / "state.json", lambda state: state.update(fields))

    return _run(f"state with {name}", change, EVAL, "state.json", "no intact checkpoint")


def _deep_states(run: Path) -> None:
    for folder in find_checkpoints(run):
        (folder / "state.json").write_text(DEEP)


def _log(log: str, **columns: list[Any]) -> Case:
    """A log of a run with other columns."""

    def change(run: Path) -> None:
        folder = run / f"{log}.parquet"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        pq.write_table(pa.table(columns), folder / "part-000000001-000000.parquet")

    what = ", ".join(f"{name} {values}" for name, values in columns.items())
    return _run(f"log {log} of {what}", change, REPORT, f"{log}.parquet", "column")


def _other_detections(run: Path) -> None:
    for path in (run / "detections").glob("*.parquet"):
        pq.write_table(pa.table({"a": [1]}), path)


def _sweep(name: str, content: str, *says: str) -> Case:
    return _run(f"a sweep of {name}", _text("sweep.json", content), REPORT, "sweep.json", *says)


def _trial(**fields: object) -> str:
    trial = dict(id="0000-abc", params={}, seed=0, rows=[]) | fields
    return json.dumps(dict(space="x", title="t", trials=[trial]))


def _progress(**fields: object) -> Spoil:
    content = dict(time=1, outcome="failed", error="", progress=fields)
    return _text("progress.json", json.dumps(content))


def _save(content: object) -> Spoil:
    return lambda path: torch.save(content, path)


def _state(change: Callable[[dict[Any, Any]], dict[Any, Any]]) -> Spoil:
    """The weights, changed."""

    def spoil(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        torch.save({**content, "state_dict": change(content["state_dict"])}, path)

    return spoil


def _every(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Any], dict[Any, Any]]:
    return lambda state: {key: change(value) for key, value in state.items()}


ODD: list[tuple[str, Callable[[torch.Tensor], torch.Tensor], str]] = [
    ("complex", lambda v: v.to(torch.complex64), "complex"),
    ("sparse", lambda v: v.to_sparse(), "sparse"),
    ("without values", lambda v: v.to("meta"), "meta"),
    ("not numbers", lambda v: v * float("nan"), "NaN"),
]


def _fuzzed(number: int) -> Case:
    chance = random.Random(SEED + number)
    share, flips = chance.uniform(0.02, 0.98), chance.random() < 0.5
    spoil: Spoil = (lambda p: flip_bit(p, share)) if flips else (lambda p: cut(p, share))
    what = f"fuzz {number}: all {'flipped' if flips else 'cut'} at {share:.2f}"
    return _run(what, _all(spoil), ["eval", "RUN"], "r18-rank0.pt", "damaged")


def _image(data: Path) -> Path:
    return min((data / "images").glob("val*"))


DEEP = "[" * 100_000
EVAL, REPORT = ["eval", "RUN"], ["report", "RUN"]
EXPORT = ["export", "RUN", "OUT", "--network", "r18"]

CASES = [
    _run("no checkpoints", lambda r: shutil.rmtree(r / "checkpoints"), EVAL, "run", "checkpoint"),
    _run("all damaged", _all(lambda p: cut(p, 0.5)), EXPORT, "r18-rank0.pt", "damaged"),
    _run("parts missing", _all(Path.unlink), EVAL, "r18-rank0.pt", "missing"),
    _run("no config", lambda r: (r / "config.py").unlink(), EVAL, "config.py"),
    _run("damaged config", _text("config.py", "networks = ("), EVAL, "config.py"),
    _run("config of something else", _text("config.py", "model = 3"), REPORT, "config.py", "model"),
    _run("no data.json", lambda r: (r / "data.json").unlink(), EXPORT, "data.json"),
    _run("damaged data.json", _text("data.json", '{"train"'), EVAL, "data.json"),
    _run("other data.json", _text("data.json", "[]"), EVAL, "data.json"),
    _run("data.json without val", _text("data.json", '{"train": {}}'), REPORT, "data.json"),
    _run("damaged environment", _text("environment.json", "{"), REPORT, "environment.json"),
    _run("damaged log", _log_part, REPORT, "part-"),
    _run("no log", lambda r: shutil.rmtree(r / "iterations.parquet"), REPORT, "run"),
    _run("another network", lambda r: None, [*EXPORT[:4], "r99"], "r99"),
    _run("of another split", lambda r: None, [*EVAL, "--split", "none.json"], "none.json"),
    _run("wrong scales", lambda r: None, [*EVAL, "--scales", "5by5"], "5by5"),
    _run("a sweep that is none", _text("sweep.json", "{"), REPORT, "sweep.json"),
    _run("damaged progress", _text("progress.json", "{"), ["watch", "RUN"], "progress.json"),
    _weights("cut", lambda p: cut(p, 0.6), "weights.pth", "damaged"),
    _weights("empty", lambda p: p.write_bytes(b"") and None, "weights.pth"),
    _weights("text", lambda p: p.write_text("x") and None, "weights.pth"),
    _weights("a list", _save([1]), "weights.pth", "list"),
    _weights("no classes", _save({"state_dict": {}}), "weights.pth", "classes"),
    _weights(
        "pickle",
        lambda p: p.write_bytes(pickle.dumps({"a": Path("x")})) and None,
        "weights.pth",
        "not a torch checkpoint",
    ),
    _weights("no config", lambda p: (p.parent / "config.py").unlink(), "config.py"),
    _weights(
        "bad config", lambda p: (p.parent / "config.py").write_text("(") and None, "config.py"
    ),
    _weights(
        "config of no dataset",
        lambda p: (p.parent / "config.py").write_text("model = {}") and None,
        "config.py",
        "test_dataloader",
    ),
    _run("deep states", _deep_states, EVAL, "state.json", "RecursionError"),
    _states("an infinite iteration", iteration=float("inf")),
    _states("a huge iteration", iteration=10**300),
    _states("an infinite part", files={"r18-rank0.pt": {"size": float("inf"), "sha256": "x"}}),
    _run("deep data.json", _text("data.json", DEEP), EVAL, "data.json"),
    _run("data.json of numbers", _numbers, EVAL, "data.json", "annotations = 5"),
    _run("deep environment", _text("environment.json", DEEP), REPORT, "environment.json"),
    _run(
        "environment with a list of versions",
        _text("environment.json", '{"versions": [1]}'),
        REPORT,
        "environment.json",
        "versions",
    ),
    _run("deep progress", _text("progress.json", DEEP), ["watch", "RUN"], "progress.json"),
    _run(
        "progress of words",
        _progress(iteration="x"),
        ["watch", "RUN"],
        "progress.json",
        "progress.iteration = 'x'",
    ),
    _sweep("nothing", "{}", "space"),
    _sweep("depth", DEEP),
    _sweep("a trial 3", '{"space": "x", "title": "t", "trials": [3]}'),
    _sweep("trials elsewhere", _trial(id="../../../../etc"), "../../../../etc", "no name of a"),
    _sweep("seeds of words", _trial(seed="x"), "seed"),
    _log("iterations", a=[1]),
    _log("iterations", iteration=[1]),
    _log("iterations", iteration=["<b>"], network=["r18"]),
    _log("evaluations", a=[1]),
    _log("evaluations", iteration=[1], network=["r18"]),
    _log("assignments", a=[1]),
    _log("assignments", iteration=["x"]),
    _log("changes", iteration=[1]),
    _run("other detections", _other_detections, REPORT, "r18.parquet", "'image_id'"),
    _run("annotations moved", _split(annotations="/nowhere/val.json"), EVAL, "/nowhere/val.json"),
    _run("images moved", _split(images="/nowhere"), EVAL, "/nowhere", "data.images"),
    _run("annotations emptied", _annotations("[]"), EVAL, "mine.json", "a list"),
    _run("annotations cut", _annotations("{"), EVAL, "mine.json", "not JSON"),
    _run("annotations of nothing", _annotations("{}"), EVAL, "mine.json", "'images'"),
    _run("scales of 100000", lambda r: None, [*EVAL, "--scales", "100000x100000"], "10000 pixels"),
    _own_data("annotations gone", lambda d: (d / "val.json").unlink(), "val.json", "config.py"),
    _own_data("an image gone", lambda d: _image(d).unlink(), "val.json", "1 of 2 image files"),
    _own_data("an image cut", lambda d: cut(_image(d), 0.5), "val.json", "cannot be read"),
    _beside("with an unknown name", "model = foo\n", "NameError", "foo"),
    _beside("that raises", "raise ValueError('boom')\n", "boom"),
    _beside("that leaves Python", "import sys\nsys.exit(0)\n", "SystemExit"),
    _beside("based on itself", "_base_ = './config.py'\n", "leads back to itself"),
    _beside("based on a number", "_base_ = 3\n"),
    _beside("not UTF-8", b"# \xff\nx = 1\n"),
    _beside("of an empty dataset", "test_dataloader = dict(dataset=dict())\n", "data_prefix"),
    _beside("of a dataset 3", "test_dataloader = dict(dataset=3)\n", "dataset = 3"),
    _beside("img 5", _dataset(data_prefix=dict(img=5)), "data_prefix: img = 5"),
    _beside("ann_file 3", _dataset(ann_file=3), "ann_file = 3"),
    _beside("pipeline 3", _dataset(pipeline=3), "pipeline = 3"),
    _beside("pipeline [3]", _dataset(pipeline=[3]), "pipeline[0] = 3"),
    _starting("cut", "checkpoint", lambda p: cut(p, 0.4)),
    _starting("no weights in it", "checkpoint", _save({"state_dict": {"a": "b"}}), "'a'"),
    _starting("of another network", "checkpoint", _save({"a": torch.zeros(2)}), "networks.r18"),
    _starting("gone", "checkpoint", Path.unlink, "exist"),
    _weights("numbered keys", _state(lambda s: {1: torch.zeros(2)}), "weights.pth", "got 1"),
    _weights("a numbered key", _state(lambda s: {**s, 1: torch.zeros(2)}), "weights.pth", "got 1"),
    *(
        _weights(what, _state(_every(change)), "weights.pth", "'backbone.conv1.weight'", says)
        for what, change, says in ODD
    ),
    *(
        _starting(what, field, _state(_every(change)), "conv1.weight", says)
        for field in ("checkpoint", "pretrained")
        for what, change, says in ODD
    ),
    _starting("numbered keys", "pretrained", _state(lambda s: {1: torch.zeros(2)}), "got 1"),
    _starting("cut", "pretrained", lambda p: cut(p, 0.4)),
    _starting("of another network", "pretrained", _save({"a": torch.zeros(2)}), "networks.r18"),
    *(_fuzzed(number) for number in range(300, 308)),
]


def _line(*words: str, says: tuple[str, ...]) -> Case:
    """A command line; DATA stands for the dataset, IMAGE for an image that is none."""

    def make(base: Base, folder: Path) -> list[str]:
        image = folder / "broken.png"
        image.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
        known = {"DATA": str(base.data), "IMAGE": str(image), "OUT": str(folder / "out.png")}
        return [known.get(word, word) for word in words]

    return Case("line: " + " ".join(words)[:60], make, says)


def _voc(name: str, xml: str, *says: str) -> Case:
    def make(base: Base, folder: Path) -> list[str]:
        for part in ("Annotations", "JPEGImages"):
            (folder / part).mkdir()
        (folder / "Annotations" / "a.xml").write_text(xml)
        return ["data", "voc2coco", str(folder), str(folder / "out.json")]

    return Case(f"voc: {name}", make, ("a.xml", *says))


LONG = "a" * 300
BOX = "<bndbox><xmin>{}</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
VOC = (
    "<annotation><filename>a.jpg</filename><size><width>{w}</width><height>20</height></size>"
    "<object><name>{name}</name>{box}</object></annotation>"
)

LINES = [
    _line("assign", "IMAGE", "--config", str(PAA), "--out", "OUT", says=("broken.png",)),
    _line("assign", "nowhere.png", "--config", str(PAA), says=("nowhere.png",)),
    _line("assign", "DATA", "--config", "nowhere.py", says=("nowhere.py",)),
    _line("assign", "DATA", "--config", str(PAA), "--image", "no.png", says=("no.png",)),
    _line("assign", "DATA", says=("--config",)),
    *(_line(word, LONG, says=("aaaa", "too long")) for word in ("eval", "report", "watch")),
    _line("check", LONG, says=("aaaa", "too long")),
    _line("train", LONG, says=("aaaa", "too long")),
    _line("fetch", "file:///nowhere-at-all", "IMAGE", says=("broken.png is a file",)),
    _line("report", "nowhere", says=("nowhere",)),
    _line("export", "nowhere", "out", "--network", "r18", says=("nowhere",)),
    _line("eval", "nowhere", says=("nowhere",)),
    _line("watch", "nowhere", says=("nowhere",)),
    _line("check", "nowhere.py", says=("nowhere.py",)),
    _line("check", "DATA", says=("config file",)),
    _line("tune", "no-table", says=("no-table",)),
    _line("tune", says=("colad tune --list",)),
    _line("tune", "dw-table2", "--config", "nowhere.py", says=("nowhere.py",)),
    _line("tune", "dw-table2", "--scheduler", "best", says=("best",)),
    _line("tune", "dw-table2", "--search", "luck", says=("luck",)),
    _line("tune", "dw-table2", "--set", "train.batchsize=3", says=("train.batch_size",)),
    _line("data", "stats", "nowhere.json", says=("nowhere.json",)),
    _line("data", "stats", "IMAGE", says=("broken.png",)),
    _line("data", "voc2coco", "nowhere", "out.json", says=("nowhere",)),
    _voc("not XML", "x", "XML"),
    _voc("cut", VOC[:60], "XML"),
    _voc("no size", "<annotation><object/></annotation>"),
    _voc("width is a word", VOC.format(w="wide", name="cat", box=BOX.format(1)), "width"),
    _voc("box is a word", VOC.format(w=20, name="cat", box=BOX.format("left")), "xmin"),
    _voc("no box", VOC.format(w=20, name="cat", box=""), "bndbox"),
    _voc("no name", VOC.format(w=20, name="", box=BOX.format(1)), "name"),
    _voc(
        "entities that grow",
        '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
        '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation>&c;</annotation>',
    ),
    _voc(
        "entity from a file",
        '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>',
    ),
]
