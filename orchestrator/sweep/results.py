"""What a sweep found: one table of everything, the paper's table with ours beside it, figures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from orchestrator.config_file import load_config
from orchestrator.errors import ConfigError
from orchestrator.evaluation import METRIC_NAMES
from orchestrator.json_files import damaged_as, read_object
from orchestrator.runlog import read_log
from orchestrator.sweep.status import read_status
from tune_spaces import SEARCH_SPACES, SPACES
from tune_spaces.space import Row, Space

_TRIAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")  # a folder, not a way out of one
_CHANGE = ("before", "source_params", "restart_seconds", "waiting_seconds")
RESULTS_FILE, TABLE_FILE, BEST_FILE = "results.parquet", "table.md", "best.py"


@dataclass(frozen=True, kw_only=True)
class SweepReport:
    """The files that a report consists of."""

    results: Path
    table: Path
    best: Path | None
    """None until a trial has finished."""
    figures: tuple[Path, ...]
    text: str
    """The table."""


def report_sweep(sweep_dir: Path) -> SweepReport:
    """Read all trials and write ``results.parquet``, ``table.md``, ``best.py`` and figures.

    Raises:
        ConfigError: the folder holds no sweep.
    """
    from orchestrator.sweep.figures import draw_figures

    plan = read_plan(sweep_dir)
    frame = collect(sweep_dir, plan)
    frame.to_parquet(sweep_dir / RESULTS_FILE, index=False)
    space = SPACES.get(plan["space"])
    lines = _header(plan, frame)
    lines += _paper_table(space, plan, frame) if space is not None else _trial_table(plan, frame)
    lines += ["", *_population(sweep_dir, plan), *_failures(sweep_dir, plan)]
    text = "\n".join(lines).rstrip() + "\n"
    (sweep_dir / TABLE_FILE).write_text(text, encoding="utf-8")
    return SweepReport(
        results=sweep_dir / RESULTS_FILE,
        table=sweep_dir / TABLE_FILE,
        best=_write_best(sweep_dir, frame),
        figures=tuple(draw_figures(sweep_dir, plan, frame)),
        text=text,
    )


def read_plan(sweep_dir: Path) -> dict[str, Any]:
    """The contents of ``sweep.json``.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = sweep_dir / "sweep.json"
    if not path.is_file():
        raise ConfigError(f"{sweep_dir} holds no sweep (no sweep.json)")
    with damaged_as(ConfigError, path, "start the sweep again"):
        plan = read_object(path)
        for name, kind in (("space", str), ("title", str), ("trials", list)):
            if not isinstance(plan[name], kind):
                raise TypeError(f"{name} = {plan[name]!r:.80} is no {kind.__name__}")
        for trial in plan["trials"]:
            _check_trial(trial)
    return plan


def _check_trial(trial: Any) -> None:
    wanted = {"id": str, "seed": int, "params": dict, "rows": list}
    wrong = [name for name, kind in wanted.items() if not isinstance(trial[name], kind)]
    if wrong:
        raise TypeError(f"{wrong[0]} of a trial = {trial[wrong[0]]!r:.80}")
    if not _TRIAL_NAME.fullmatch(trial["id"]):
        raise ValueError(f"{trial['id']!r:.80} is no name of a trial")


def collect(sweep_dir: Path, plan: Mapping[str, Any]) -> pd.DataFrame:
    """One row per trial, network and evaluation: parameters, seed, metrics, time, status.

    A trial without any evaluation has one row without metrics. ``last`` marks the newest
    evaluation of a trial and network. In a population every row has the values that its weights
    were trained with last, ``source``, the trial that these weights were last taken from, and
    ``restart_seconds``, what the trial's changes have cost until then.
    """
    rows: list[dict[str, Any]] = []
    for trial in plan["trials"]:
        run_dir = sweep_dir / "trials" / trial["id"]
        status = read_status(run_dir)
        base = {
            "trial": trial["id"],
            "status": "unfinished" if status is None else status.outcome,
            "reason": "" if status is None else status.reason,
            "trial_seconds": np.nan if status is None else status.seconds,
            "seed": trial["seed"],
            **{field: _plain(value) for field, value in trial["params"].items()},
        }
        changes = _read_changes(run_dir)
        log = read_log(run_dir, "evaluations")
        found = log.to_dict("records") if len(log) else []
        newest = {row["network"]: row["iteration"] for row in found}
        names = ("iteration", "epoch", "network", "split", *METRIC_NAMES, "seconds")
        for row in found:
            values = {name: row.get(name) for name in names}
            last = row["iteration"] == newest[row["network"]]
            rows.append({**base, **values, **_changed(changes, row["iteration"]), "last": last})
        if not found:
            rows.append({**base, "last": False})
    frame = pd.DataFrame(rows)
    for name in ("iteration", "epoch", "network", "split", *METRIC_NAMES, "seconds"):
        if name not in frame:
            frame[name] = np.nan
    return frame


def _read_changes(run_dir: Path) -> list[dict[Any, Any]]:
    """What a population's changes were, in their order."""
    rows = read_log(run_dir, "changes", _CHANGE).to_dict("records")
    with damaged_as(ConfigError, run_dir / "changes.parquet", "remove it"):
        for row in rows:
            fields = [set(json.loads(row[name])) for name in ("before", "params", "source_params")]
            if not fields[1] <= fields[2]:
                raise ValueError(f"values of other fields than before: {fields[1] - fields[2]}")
    return rows


def _plain(value: Any) -> Any:
    """Fields of one column may be words in one trial and numbers in another: then all are words."""
    return str(value) if not isinstance(value, (int, float)) or isinstance(value, bool) else value


def _changed(changes: Sequence[Mapping[str, Any]], iteration: int) -> dict[str, Any]:
    """What a population's changes say about weights after ``iteration`` iterations."""
    if not changes:
        return {}
    done = [change for change in changes if change["iteration"] <= iteration]
    if not done:
        return {**json.loads(changes[0]["before"]), "source": "", "restart_seconds": 0.0}
    # at the iteration of the change itself the weights are the other trial's, as they came
    fresh = done[-1]["iteration"] == iteration
    return {
        **json.loads(done[-1]["source_params" if fresh else "params"]),
        "source": done[-1]["source"],
        "restart_seconds": sum(change["restart_seconds"] for change in done),
    }


def _header(plan: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    counts = frame.groupby("trial")["status"].first().value_counts()
    ended = ", ".join(f"{count} {status}" for status, count in counts.items())
    return [
        f"# {plan['space']}: {plan['title']}",
        "",
        f"{len(plan['trials'])} trials: {ended}.",
        "",
    ]


# -- the paper's table --------------------------------------------------------------------------


def _paper_table(space: Space, plan: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    """The table's own lines with the paper's figures and ours, mean and deviation over seeds."""
    metrics = [name for name in METRIC_NAMES if any(name in row.paper for row in space.rows)]
    lines = [
        "| " + " | ".join(["setting", *_columns(metrics)]) + " |",
        "|" + "---|" * (1 + 2 * len(metrics)),
    ]
    pairs: list[tuple[float, float]] = []
    notes: list[str] = []
    for index, row in enumerate(space.rows):
        ours = _ours(index, row, plan, frame)
        cells = [_label(row)]
        for metric in metrics:
            cells += [_number(row.paper.get(metric)), _mean_sd(ours, metric)]
        if row.skip is not None or row.note:
            notes.append(row.skip or row.note)
            cells[0] += f" [{len(notes)}]"
        lines.append("| " + " | ".join(cells) + " |")
        paper = row.paper.get("AP")
        if paper is not None and len(ours) and not row.note.startswith("other reading"):
            pairs.append((paper, float(ours["AP"].mean())))
    lines += ["", _agreement(pairs), ""]
    lines += [f"[{number}] {note}  " for number, note in enumerate(notes, 1)]
    return lines + (["", space.note] if space.note else [])


def _columns(metrics: Sequence[str]) -> list[str]:
    return [f"{metric} {whose}" for metric in metrics for whose in ("paper", "ours")]


def _ours(index: int, row: Row, plan: Mapping[str, Any], frame: pd.DataFrame) -> pd.DataFrame:
    """The newest evaluations of the finished trials behind one line."""
    trials = [trial["id"] for trial in plan["trials"] if index in trial["rows"]]
    mine = frame[frame["trial"].isin(trials) & frame["last"] & (frame["status"] == "finished")]
    if row.network is not None:
        return mine[mine["network"] == row.network]
    return mine.drop_duplicates("trial")  # the first learner's


def _label(row: Row) -> str:
    what = [f"{field.rpartition('.')[2]} = {value}" for field, value in row.set.items()]
    if row.base is not None:
        what.insert(0, row.base)
    if row.schedule != 1:
        what.append(f"{row.schedule:g}x as long")
    if row.network is not None:
        what.append(f"figures of {row.network}")
    return ", ".join(what) or "base"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _mean_sd(ours: pd.DataFrame, metric: str) -> str:
    values = ours[metric].dropna()
    if not len(values):
        return "-"
    if len(values) == 1:
        return f"{values.iloc[0]:.1f}"
    return f"{values.mean():.1f} +- {values.std(ddof=1):.1f}"


def _agreement(pairs: Sequence[tuple[float, float]]) -> str:
    rho = spearman([paper for paper, _ in pairs], [ours for _, ours in pairs])
    if rho is None:
        return f"Rank agreement with the paper: not defined for {len(pairs)} line(s)."
    return f"Rank agreement with the paper (Spearman, AP, {len(pairs)} lines): {rho:.2f}."


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Correlation of ranks, ties at their mean; None for fewer than 3 pairs or equal values."""
    if len(first) < 3:
        return None
    ranks = [pd.Series(values).rank().to_numpy() for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


# -- a search -----------------------------------------------------------------------------------


def _trial_table(plan: Mapping[str, Any], frame: pd.DataFrame) -> list[str]:
    """All trials, best AP first."""
    fields = sorted({field for trial in plan["trials"] for field in trial["params"]})
    names = ["trial", "status", "seed", *fields, "iteration", "AP", "AP50", "AP75"]
    newest = frame[frame["last"]].drop_duplicates("trial").sort_values("AP", ascending=False)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in newest.to_dict("records"):
        cells = [_cell(row.get(name)) for name in names]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# -- the rest -----------------------------------------------------------------------------------


def _population(sweep_dir: Path, plan: Mapping[str, Any]) -> list[str]:
    """Who took over from whom, with which values, and what the restart cost."""
    lines = []
    for trial in plan["trials"]:
        for row in _read_changes(sweep_dir / "trials" / trial["id"]):
            before, after = json.loads(row["source_params"]), json.loads(row["params"])
            moved = ", ".join(
                f"{field} {_cell(before[field])} -> {_cell(value)}"
                for field, value in after.items()
                if before[field] != value
            )
            lines.append(
                f"- {trial['id']} went on from {row['source']} at iteration {row['iteration']}: "
                f"{moved or 'same values'} (restart {row['restart_seconds']:.1f} s, waited "
                f"{row['waiting_seconds']:.1f} s)"
            )
    return ["Changes within the population:", "", *lines, ""] if lines else []


def _failures(sweep_dir: Path, plan: Mapping[str, Any]) -> list[str]:
    lines = []
    for trial in plan["trials"]:
        status = read_status(sweep_dir / "trials" / trial["id"])
        if status is not None and status.outcome == "failed":
            last = (status.reason.strip().splitlines() or ["no reason was given"])[-1]
            lines.append(f"- {trial['id']} failed: {last}")
    return ["Failed trials:", "", *lines] if lines else []


def _write_best(sweep_dir: Path, frame: pd.DataFrame) -> Path | None:
    """The resolved configuration of the finished trial with the highest AP, runnable as it is."""
    done = frame[frame["last"] & (frame["status"] == "finished")].dropna(subset=["AP"])
    if not len(done):
        return None
    best = done.sort_values("AP", ascending=False).iloc[0]
    source = sweep_dir / "trials" / str(best["trial"]) / "config.py"
    load_config(source)  # what is handed out must load
    path = sweep_dir / BEST_FILE
    changes = "".join(
        f"# It went on from {row['source']} at iteration {row['iteration']}; before that: "
        f"{row['source_params']}\n"
        for row in _read_changes(source.parent)
    )
    head = (
        f"# The best of this sweep: trial {best['trial']}, seed {best['seed']}, network "
        f"{best['network']}, AP {best['AP']:.1f}.\n"
    )
    path.write_text(head + changes + source.read_text(encoding="utf-8"), encoding="utf-8")
    return path


def list_spaces() -> list[tuple[str, str, str]]:
    """(id, trials, title) of every space."""
    from orchestrator.sweep.plan import SweepOptions, plan_sweep

    rows = []
    for name, space in SPACES.items():
        trials = len(plan_sweep(name, SweepOptions()).trials)
        rows.append((name, str(trials), space.title))
    rows += [(name, "search", space.title) for name, space in SEARCH_SPACES.items()]
    return rows
