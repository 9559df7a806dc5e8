"""The spaces are the papers' tables, and every line of them can be run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from assigners import build_assigner
from orchestrator.building import build_detector
from orchestrator.sweep.plan import SweepOptions, plan_sweep
from tune_spaces import SEARCH_SPACES, SPACES
from tune_spaces.space import Row

TABLES = Path(__file__).resolve().parents[2].parent / "shared" / "papers" / "tables.json"
METRICS = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
NOT_SWEPT = {
    "lad-table7": "comparison on test-dev",
    "lad-table8": "comparison on test-dev",
    "lad-table9": "comparison on test-dev",
    "lad-table11": "comparison with LD, whose PAA lines are those of tables 2, 5 and 6",
    "lad-text-tide": "error components, not AP",
    "lad-text-quoted": "single results",
    "dw-table7": "comparison on test-dev",
    "ala-table2": "overlap of the property map, which `colad eval` measures",
    "ala-table13": "comparison on test-dev",
    "ala-table14": "comparison on test-dev",
    "ala-table15": "spread over ten seeds: --seeds 10",
    "ala-table16": "comparison on Pascal VOC",
    "ala-table17": "comparison on test-dev; one_to_one is a field of ALA",
    "autoassign-table1": "comparison of detectors",
    "autoassign-table6": "comparison on test-dev",
    "autoassign-table7": "comparison on other data sets",
    "musu-table6": "comparison on test-dev",
    "musu-table7": "cost, not AP",
}


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    if not TABLES.is_file():
        pytest.skip("the papers' tables (shared/papers/tables.json) are not here")
    return {table["id"]: table for table in json.loads(TABLES.read_text())["tables"]}


def own_rows(name: str) -> tuple[Row, ...]:
    """The lines without further readings of the one before."""
    return tuple(row for row in SPACES[name].rows if not row.note.startswith("other reading"))


def test_every_table_is_a_space_or_says_why_not(tables: dict[str, Any]) -> None:
    assert set(SPACES) | set(NOT_SWEPT) == set(tables)
    assert not set(SPACES) & set(NOT_SWEPT)


@pytest.mark.parametrize("name", SPACES)
def test_figures_are_the_papers(name: str, tables: dict[str, Any]) -> None:
    table, rows = tables[name], own_rows(name)
    assert SPACES[name].title == table["title"] and SPACES[name].paper == table["paper"]
    assert [row.paper for row in rows] == [
        {metric: line[metric] for metric in METRICS if metric in line} for line in table["rows"]
    ]


@pytest.mark.parametrize("name", SPACES)
def test_settings_are_the_papers(name: str, tables: dict[str, Any]) -> None:
    space, table = SPACES[name], tables[name]
    swept = {name for name in table["swept"]}
    # alpha is a word in MuSu's tables ("1/3"), beside which its value stands
    assert swept == {{"alpha_value": "alpha"}.get(key, key) for key in space.fields}
    checked = 0
    for row, line in zip(own_rows(name), table["rows"], strict=True):
        if row.skip is not None:
            continue
        for parameter, field in space.fields.items():
            value = line["params"].get(parameter)
            if field and value is not None:
                assert row.set[field] == value, f"{parameter} of {line['params']}"
                checked += 1
    assert checked or not any(space.fields.values())


def test_other_readings_follow_their_line() -> None:
    rows = SPACES["dw-table2"].rows
    others = [index for index, row in enumerate(rows) if row.note.startswith("other reading")]
    assert len(others) == 2
    for index in others:
        assert rows[index].paper == rows[index - 1].paper
        assert rows[index].set["assigner.mu"] != rows[index - 1].set["assigner.mu"]


@pytest.mark.parametrize("name", [*SPACES, *SEARCH_SPACES])
def test_every_trial_is_a_valid_configuration(name: str) -> None:
    plan = plan_sweep(name, SweepOptions(samples=4))
    for trial in plan.trials:
        assigner = build_assigner(trial.config.assigner)
        for field, value in trial.params.items():
            if field.startswith("assigner."):
                assert getattr(assigner, field.removeprefix("assigner.")) == value


@pytest.mark.parametrize("name", [*SPACES, *SEARCH_SPACES])
def test_own_data(name: str) -> None:
    data = ["data.root=somewhere", "data.train=a.json", "data.val=b.json"]
    teacher = "networks.teacher.checkpoint=teacher.pth"  # for the lines that have one
    plan = plan_sweep(name, SweepOptions(samples=2, overrides=[*data, teacher]))
    for trial in plan.trials:
        assert trial.config.data.root == "somewhere" and trial.config.data.shapes is None
        if "teacher" in trial.config.networks:
            assert trial.config.networks["teacher"].checkpoint == "teacher.pth"


@pytest.mark.parametrize("name", SPACES)
def test_networks_of_every_line_build(name: str) -> None:
    """Model fields are only checked when a network is built; equal models are built once."""
    built = set()
    for trial in plan_sweep(name, SweepOptions()).trials:
        for network in trial.config.learners:
            settings = trial.config.networks[network]
            key = repr((settings.preset, settings.model))
            if key in built or settings.checkpoint is not None:
                continue
            built.add(key)
            build_detector(network, settings, 3, 0)
    assert built
