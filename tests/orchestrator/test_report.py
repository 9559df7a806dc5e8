"""The report: complete, readable by a strict parser, honest about what is missing, and harmless."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from orchestrator.config_file import load_config
from orchestrator.data.shapes import make_shapes
from orchestrator.errors import ConfigError
from orchestrator.local_run import run_locally
from orchestrator.report.build import report_runs, run_page, setup_section
from orchestrator.report.compare import group_runs
from orchestrator.report.quality import class_section
from orchestrator.report.run_data import read_run
from orchestrator.report.teaching import (
    decisions_of,
    positives_of,
    size_classes,
    teaching_section,
)
from orchestrator.runlog import RunLog
from tests.support.html import HOSTILE, parsed
from tests.support.runs import ROOT, SMALL, final_weights

TINY = ROOT / "configs" / "tiny"
HOSTILE_FILE = '<img src=x onerror="alert(4)">.png'


def shapes_with_hostile_names(root: Path) -> Path:
    """The toy dataset, its classes and a file renamed to what an attacker would like."""
    make_shapes(root, train=8, val=6, size=64, seed=3)
    for split in ("train", "val"):
        path = root / f"{split}.json"
        content = json.loads(path.read_text())
        assert len(content["categories"]) == len(HOSTILE)
        for category, name in zip(content["categories"], HOSTILE):
            category["name"] = name
        for number, image in enumerate(content["images"]):
            renamed = f"{number}{split}{HOSTILE_FILE}"
            (root / "images" / image["file_name"]).rename(root / "images" / renamed)
            image["file_name"] = renamed
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short CoLAD run on hostile data, in a folder with a hostile name."""
    base = tmp_path_factory.mktemp("report")
    root = shapes_with_hostile_names(base / "data")
    small = [item for item in SMALL if "shapes" not in item and "max_iterations" not in item]
    overrides = [*small, f"data.root={root}", "train.max_iterations=6", "evaluation.interval=3"]
    config = load_config(TINY / "colad.py", overrides)
    run_locally(config, base / "<b>run & co")
    return base / "<b>run & co"


@pytest.fixture(scope="module")
def hostile_page(hostile_run: Path) -> str:
    path = report_runs([hostile_run])
    assert path == hostile_run.resolve() / "report" / "index.html"
    return path.read_text(encoding="utf-8")


def test_hostile_names_are_text(hostile_page: str) -> None:
    parser = parsed(hostile_page)
    everything = " ".join(data for _, data in parser.text)
    for name in (*HOSTILE, HOSTILE_FILE, "<b>run & co"):
        assert name in everything, f"{name} is shown as what it is"
    policy = [v for tag, key, v in parser.attributes if tag == "meta" and key == "content"]
    assert any("default-src 'none'" in value for value in policy)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)


def console_of(page_path: Path, width: int, scratch: Path) -> list[str]:
    """What a headless browser logs to its console while it shows a page ``width`` pixels wide.

    In a frame, since the browser's own window is never narrower than 500.
    """
    assert BROWSER is not None
    scratch.mkdir()
    frame = scratch / "frame.html"
    frame.write_text(f'<iframe src="{page_path.as_uri()}" width="{width}" height="900"></iframe>')
    done = subprocess.run(
        [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={scratch / 'profile'}",
            "--window-size=1400,1000",
            f"--screenshot={scratch / 'shot.png'}",
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [line for line in done.stderr.splitlines() if "CONSOLE" in line]


MEASURE = (
    "<script>const top_ = document.documentElement;"
    "console.log(innerWidth, top_.scrollWidth <= top_.clientWidth)</script></body>"
)


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs chromium on PATH")
def test_a_browser_shows_it_without_complaint(
    hostile_page: str, hostile_run: Path, tmp_path: Path
) -> None:
    page_path = hostile_run / "report" / "index.html"
    for width in (1280, 390):
        assert console_of(page_path, width, tmp_path / f"at{width}") == []
    measured = tmp_path / "measured.html"
    text = hostile_page.replace("default-src", "script-src 'unsafe-inline'; default-src")
    measured.write_text(text.replace("</body>", MEASURE), encoding="utf-8")
    (line,) = console_of(measured, 390, tmp_path / "measured")
    assert '"390 true"' in line, "nothing is wider than a phone"
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(hostile_page.replace("</body>", f"{HOSTILE[0]}</body>"), encoding="utf-8")
    refused = console_of(spoiled, 390, tmp_path / "spoiled")
    assert refused and "Content Security Policy" in refused[0], "the second line of defence"


def figures(text: str) -> Iterator[str]:
    for part in text.split("<figure>")[1:]:
        yield part.partition("</figure>")[0]


def test_every_figure_is_labelled_and_read(hostile_page: str) -> None:
    check_figures(hostile_page, more_than=30)


def check_figures(text: str, more_than: int) -> None:
    """Each has a title, a reading, and two named axes."""
    found = list(figures(text))
    assert len(found) > more_than
    for part in found:
        title, _, rest = part.removeprefix("<h4>").partition("</h4>")
        caption = rest.partition("<figcaption>")[2].partition("</figcaption>")[0]
        assert title and len(caption) > 15, part[:200]
        texts = [t.partition("</text>")[0].partition(">")[2] for t in rest.split("<text")[1:]]
        named = [t for t in texts if not t.replace(".", "").replace("\u2212", "").isdigit()]
        assert len(named) >= 2, f"{title}: {texts}"
        if "data:image" in rest:
            assert 'xlink:href="data:image/jpeg;base64,' in rest and "data:image/png" not in rest
            assert "x (px)" in named and "y (px)" in named
    assert any("data:image" in part for part in found)


def test_all_sections_have_content(hostile_page: str) -> None:
    anchors = "ap losses teaching costs positives assignments predictions classes errors time setup"
    for anchor in anchors.split():
        body = hostile_page.partition(f'id="{anchor}"')[2].partition("</section>")[0]
        assert len(body) > 500 and "Not available" not in body, anchor
        assert f'href="#{anchor}"' in hostile_page
    assert len(hostile_page) < 8e6
    assert "What this page lacks" in hostile_page, "two checkpoints are few moments"


def test_an_older_run_says_what_it_lacks(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    new = ["gt_area", "gt_label", "pos_weight", "neg_weight", "positive"]
    run = type(run)(
        **{**vars(run), "samples": run.samples.drop(columns=new), "detections": {}, "lacks": []}
    )
    text = run_page(run)
    parsed(text)
    lacks = text.partition("What this page lacks")[2].partition("</ul>")[0]
    for what in ("Costs", "Positives per object", "Who taught per level"):
        assert what in lacks
    assert text.count("Not available for this run.") >= 3


def test_a_run_that_has_just_begun(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    none = run.samples.iloc[:0][["iteration"]]
    young = dict(samples=none, evaluations=none, detections={}, checkpoints=(), lacks=[])
    text = run_page(type(run)(**{**vars(run), **young}))
    parsed(text)
    lacks = text.partition("What this page lacks")[2].partition("</ul>")[0]
    assert lacks.count("none were taken yet") == 3 and "no checkpoint is kept yet" in lacks


def test_a_method_alone(tmp_path: Path) -> None:
    """Weights instead of a mixture; nobody teaches."""
    overrides = [o for o in SMALL if "r34" not in o and "max_iterations" not in o]
    overrides += [f"data.root={tmp_path / 'shapes'}", "train.max_iterations=2"]
    run_locally(load_config(TINY / "musu_shapes.py", overrides), tmp_path / "run")
    text = run_page(read_run(tmp_path / "run"))
    parsed(text)
    check_figures(text, more_than=20)
    assert "Nobody teaches another" in text and "weight (% of largest)" in text
    assert "as taught" not in text


@pytest.mark.slow
def test_a_fixed_teacher_whose_file_is_gone(hostile_run: Path, tmp_path: Path) -> None:
    weights = tmp_path / "teacher.pth"
    torch.save(dict(state_dict=final_weights(hostile_run)["r34"]), weights)
    overrides = [
        *(line for line in SMALL if "shapes" not in line and "max_iterations" not in line),
        f"data.root={hostile_run.parent / 'data'}",
        "train.max_iterations=2",
        "networks.r34.learner=False",
        f"networks.r34.checkpoint={weights}",
        "switch={'_delete_': True, 'criterion': 'fixed', 'teacher': 'r34'}",
    ]
    run_locally(load_config(TINY / "colad.py", overrides), tmp_path / "lad")
    text = run_page(read_run(tmp_path / "lad"))
    parsed(text)
    assert "The teacher is fixed: r34" in text and "Taught by r34 100%" in text
    assert "r34 (frozen)" in text
    weights.unlink()
    text = run_page(read_run(tmp_path / "lad"))
    parsed(text)
    assert "Assignments at the start: " in text.partition("What this page lacks")[2][:2000]


def test_data_that_moved_away_is_said(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    gone = type(run.data.val)(**{**vars(run.data.val), "annotations": "elsewhere/val.json"})
    data = type(run.data)(**{**vars(run.data), "val": gone})
    text = run_page(type(run)(**{**vars(run), "data": data, "lacks": []}))
    parsed(text)
    assert "Sample images: the data of the run cannot be read" in text
    assert "Kinds of errors: " in text


def test_shares_add_up_and_positives_are_counted(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    decisions, positives = decisions_of(run), positives_of(run)
    assert decisions is not None and positives is not None
    assert set(decisions["teacher"]) <= {"r18", "r34"} and set(decisions["level"]) <= {
        "8",
        "16",
    } | {
        "32",
        "64",
        "128",
    }
    mine = run.samples[run.samples["learner"] == "r18"]
    expected = mine[mine["positive"]].groupby(["iteration", "gt"]).size()
    counted = positives.set_index(["iteration", "gt"])["positives"]
    assert (counted[counted > 0] == expected).all() and counted.sum() == expected.sum()


def test_decisions_for_whole_objects_count_once(hostile_run: Path) -> None:
    """Per object and level under gt_level, per object under gt; not for each level again."""
    run = read_run(hostile_run)
    above = run.samples.assign(level=run.samples["level"] + 1)
    run = dataclasses.replace(run, samples=pd.concat([run.samples, above]))
    mine = run.samples[run.samples["learner"] == "r18"]
    pairs = len(mine.drop_duplicates(["iteration", "gt", "level"]))
    objects = len(mine.drop_duplicates(["iteration", "gt"]))
    assert objects < pairs
    for scope, unit, total in (("gt_level", "decisions", pairs), ("gt", "decisions", objects)):
        switch = dataclasses.replace(run.config.switch, scope=scope)
        config = dataclasses.replace(run.config, switch=switch)
        section = teaching_section(dataclasses.replace(run, config=config))
        drawing = section.partition("who taught, per object size")[2].partition("</figure>")[0]
        below = re.findall(r">(\d+)</text>", drawing.partition(">object size<")[0])
        assert f"Below the names: {unit} sampled." in drawing
        assert sum(map(int, below)) == total


def test_values_that_changed_are_listed(hostile_run: Path) -> None:
    assert "population-based" not in setup_section(read_run(hostile_run))
    log = RunLog(hostile_run)
    change = dict(source="trial_3", before='{"lr": 0.1}', params='{"lr": 0.2}')
    log.log_change(dict(iteration=3, **change))
    log.close()
    text = setup_section(read_run(hostile_run))
    shutil.rmtree(hostile_run / "changes.parquet")
    assert "population-based" in text and "trial_3" in text and "{&quot;lr&quot;: 0.2}" in text


def test_classes_without_objects_are_left_out(hostile_run: Path) -> None:
    run = read_run(hostile_run)
    evaluations = run.evaluations.assign(**{f"AP/{HOSTILE[0]}": math.nan})
    text = class_section(dataclasses.replace(run, evaluations=evaluations))
    drawing, _, listing = text.partition("<details>")
    assert "alert(1)" not in drawing and "alert(1)" in listing
    assert "nan" not in drawing and " 1 without objects in the validation data" in drawing


def test_size_classes_are_thirds() -> None:
    words, texts = size_classes(np.arange(1, 31, dtype=float) ** 2)
    assert Counter(words.tolist()) == {"small": 10, "medium": 10, "large": 10}
    assert texts[0] == "small: up to 11 px"
    assert size_classes(np.zeros(0))[0].tolist() == []


def test_a_run_that_has_not_begun_and_what_is_no_run(tmp_path: Path, hostile_run: Path) -> None:
    with pytest.raises(ConfigError, match="neither a run directory"):
        report_runs([tmp_path])
    for name in ("config.py", "data.json"):
        (tmp_path / name).write_bytes((hostile_run / name).read_bytes())
    with pytest.raises(ConfigError, match="nothing is logged yet"):
        report_runs([tmp_path])


# -- comparison ---------------------------------------------------------------------------------


def copy_of(run_dir: Path, to: Path, seed: int, gain: float) -> Path:
    """The same run with another seed and other numbers."""
    run = read_run(run_dir)
    for name, frame in (("iterations", run.iterations), ("evaluations", run.evaluations)):
        frame = frame.copy()
        if name == "evaluations":
            frame["AP"] += gain
        (to / f"{name}.parquet").mkdir(parents=True)
        frame.to_parquet(to / f"{name}.parquet" / "part-000000000-000000.parquet")
    text = (run_dir / "config.py").read_text()
    (to / "config.py").write_text(text.replace("seed = 0", f"seed = {seed}"))
    (to / "data.json").write_bytes((run_dir / "data.json").read_bytes())
    return to


def test_seeds_of_one_setting_are_one_line(hostile_run: Path, tmp_path: Path) -> None:
    runs = [copy_of(hostile_run, tmp_path / f"s{n}", n, gain) for n, gain in ((0, 0), (1, 2))]
    other = copy_of(hostile_run, tmp_path / "other", 0, 5)
    text = (other / "config.py").read_text().replace("'std_mean'", "'fisher'")
    (other / "config.py").write_text(text)
    settings = group_runs([read_run(path) for path in (*runs, other)])
    assert [(s.name, len(s.runs)) for s in settings] == [
        ("switch.criterion = 'std_mean'", 2),
        ("switch.criterion = 'fisher'", 1),
    ]
    written = report_runs([*runs, other])
    assert written == tmp_path.resolve() / "report" / "index.html"
    page_text = written.read_text(encoding="utf-8")
    parsed(page_text)
    assert "Compare with care" not in page_text
    base = float(read_run(hostile_run).final.set_index("network").loc["r18", "AP"])
    assert f"{base + 1:.1f} \u00b1 12.7" in page_text, "t(1) times sqrt(2) over sqrt(2)"
    assert "one seed: no interval" in page_text


def test_what_cannot_be_compared_is_said(hostile_run: Path, tmp_path: Path) -> None:
    """Runs of one name, of the same seed, on other data, unfinished; one run twice."""
    runs = [copy_of(hostile_run, tmp_path / name / "run", 0, 0) for name in "abc"]
    data = json.loads((runs[2] / "data.json").read_text())
    data["val"]["num_images"] = 99
    (runs[2] / "data.json").write_text(json.dumps(data))
    text = (runs[2] / "config.py").read_text()
    longer = text.replace("max_iterations=6", "max_iterations=60")
    longer = longer.replace("'max_iterations': 6", "'max_iterations': 60")
    assert longer != text
    (runs[2] / "config.py").write_text(longer)
    page_text = report_runs(runs, tmp_path).read_text(encoding="utf-8")
    parsed(page_text)
    note = page_text.partition("Compare with care")[2].partition("</ul>")[0]
    boxes = read_run(hostile_run).data.val.num_boxes
    assert f"a/run on 6 images with {boxes} boxes, c/run on 99 images" in note
    assert "Not finished: c/run at 6 of 60." in note
    assert "seed 0 more than once" in note
    with pytest.raises(ConfigError, match="given twice: run"):
        report_runs([runs[0], tmp_path / "a" / ".." / "a" / "run"])
