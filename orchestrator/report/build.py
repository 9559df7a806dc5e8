"""``colad report``: one self-contained page on a run, or on several compared."""

from __future__ import annotations

import json
import os
import pprint
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import ConfigError
from orchestrator.report.compare import comparison_page
from orchestrator.report.costs import costs_section
from orchestrator.report.curves import ap_section, final_table, loss_section, time_section
from orchestrator.report.page import (
    Html,
    details,
    element,
    join,
    note_list,
    page,
    paragraph,
    section,
    table,
)
from orchestrator.report.pictures import (
    assignment_section,
    pick_scenes,
    prediction_section,
    read_moments,
)
from orchestrator.report.quality import class_section, error_section
from orchestrator.report.run_data import RunData, read_run
from orchestrator.report.teaching import positives_section, teaching_section
from orchestrator.runlog import read_log

PAGE = "index.html"


def report_runs(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run, or the comparison of several.

    Args:
        run_dirs: run directories; a running one may be read, too.
        out: folder of the page; None: ``report`` in the run, or beside the first of several.

    Returns:
        The page.

    Raises:
        ConfigError, CheckpointError: a folder is no run, is given twice, or its log cannot be read.
    """
    runs = [read_run(path) for path in run_dirs]
    twice = [path.name for path, n in Counter(run.run_dir for run in runs).items() if n > 1]
    if twice:
        raise ConfigError(f"given twice: {', '.join(twice)}; one run is no second sample of itself")
    folder = out
    if folder is None:
        first = runs[0].run_dir
        folder = (first if len(runs) == 1 else first.parent) / "report"
    text = run_page(runs[0]) if len(runs) == 1 else comparison_page(runs)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{PAGE}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / PAGE)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot write there ({error.strerror})") from error
    return folder / PAGE


def run_page(run: RunData) -> str:
    """The page of one run as HTML text."""
    scenes, moments = pick_scenes(run), read_moments(run)
    parts = [
        ("ap", "AP", ap_section(run)),
        ("losses", "Losses", loss_section(run)),
        ("teaching", "Who taught", teaching_section(run)),
        ("costs", "Costs", costs_section(run)),
        ("positives", "Positives", positives_section(run)),
        ("assignments", "Assignments", assignment_section(run, scenes, moments)),
        ("predictions", "Predictions", prediction_section(run, scenes)),
        ("classes", "Classes", class_section(run)),
        ("errors", "Errors", error_section(run)),
        ("time", "Time", time_section(run)),
        ("setup", "Configuration", setup_section(run)),
    ]
    sections = [(a, title, section(a, _LONG.get(a, title), body)) for a, title, body in parts]
    return page(f"colad: {run.name}", _lead(run), sections)


_LONG = {
    "ap": "AP over training",
    "teaching": "Who taught when",
    "costs": "Costs of single objects",
    "positives": "Positives per object",
    "assignments": "Assignments on sample images",
    "predictions": "Predictions and ground truth",
    "classes": "AP per class and size",
    "errors": "Kinds of errors",
    "time": "Time of an iteration",
    "setup": "Configuration and environment",
}


def _lead(run: RunData) -> list[Html]:
    """What the run is, its final numbers, and what this page lacks."""
    length = run.config.train.max_iterations
    of = f" of {length}" if length else ""
    networks = [
        name if name in run.config.learners else f"{name} (frozen)" for name in run.networks
    ]
    text = (
        f"{run.config.assigner['type']}, switch {run.config.switch.criterion}; "
        f"networks {', '.join(networks)}; {run.done}{of} iterations of "
        f"{run.config.train.batch_size} images; {run.data.train.num_images} training and "
        f"{run.data.val.num_images} validation images, {len(run.data.classes)} classes; "
        f"seed {run.config.seed}."
    )
    lead = [paragraph(text, "dim")]
    if len(run.evaluations):
        lead.append(final_table(run))
        lead.append(paragraph("In percent, on the validation split; a dash: no such boxes.", "dim"))
    return [*lead, *note_list("What this page lacks", dict.fromkeys(run.lacks))]


def setup_section(run: RunData) -> Html:
    """The resolved configuration and what it ran on."""
    env = run.environment
    rows = [
        [key, value if isinstance(value, str) else json.dumps(value)]
        for key, value in env.items()
        if key != "versions"
    ]
    rows += [[name, str(version)] for name, version in env.get("versions", {}).items()]
    config = "\n".join(
        f"{name} = {pprint.pformat(value, width=88, sort_dicts=False)}"
        for name, value in run.config.to_dict().items()
    )
    classes = ", ".join(run.data.classes)
    return join(
        [
            table(["environment", ""], rows, wrap_last=True)
            if rows
            else paragraph("Not recorded."),
            paragraph(f"Classes: {classes}."),
            *_changes(run),
            details("config.py (every field)", element("pre", config)),
        ]
    )


def _changes(run: RunData) -> list[Html]:
    """What a population-based search changed while this trial trained."""
    log = read_log(run.run_dir, "changes", ("before",))
    if not len(log):
        return []
    rows = [
        [str(row["iteration"]), row["source"], row["before"], row["params"]]
        for row in log.to_dict("records")
    ]
    head = ["from iteration", "taken over from", "values before", "values since"]
    text = "Values changed while this run trained (population-based search):"
    return [paragraph(text), table(head, rows, wrap_last=True)]
