"""Metrics of a run, and the dashboard that shows them."""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchestrator.live_view import Progress
from orchestrator.metrics import PER_NETWORK, PER_RUN, run_name, values_of

DASHBOARD = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "colad.json"
EXPORTED = {f"ray_{name}" for name in (*PER_NETWORK, *PER_RUN)}  # Ray adds its prefix

PROGRESS = Progress(
    status="training",
    iteration=5,
    max_iterations=10,
    seconds_per_iteration=0.5,
    images_per_second=8.0,
    eta_s=2.5,
    networks={"r18": {"losses": {"cls": 1.0, "total": 3.0}, "lr": 0.01}},
    taught={"r18": 0.25, "r34": 0.75},
    evaluations={"r34": {"AP": 40.0, "AP50": 60.0, "AP75": 44.0, "iteration": 5}},
)


def test_everything_that_is_known_is_published() -> None:
    values = {(name, network): value for name, network, value in values_of(PROGRESS)}
    assert values["colad_loss", "r18"] == 3.0 and values["colad_ap", "r34"] == 40.0
    assert values["colad_taught_share", "r34"] == 0.75
    assert values["colad_iteration_seconds", None] == 0.5
    assert {name for name, _ in values} == {*PER_NETWORK, *PER_RUN}
    assert {name for name, network in values if network is not None} == set(PER_NETWORK)


def test_nothing_is_published_of_what_is_not_known_yet() -> None:
    assert {name for name, *_ in values_of(Progress())} == set(PER_RUN)


def test_runs_of_a_sweep_have_its_name() -> None:
    assert run_name(Path("runs/colad")) == "colad"
    assert run_name(Path("runs/dw-table2/trials/0001-ab")) == "dw-table2/0001-ab"


def test_the_dashboard_asks_for_what_is_exported() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    texts = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    shown = set()
    for text in texts:
        names = set(re.findall(r"ray_\w+", text))
        assert names and names <= EXPORTED, text
        shown |= names
        network = any(name.removeprefix("ray_") in PER_NETWORK for name in names)
        assert 'run=~"$run"' in text and ('network=~"$network"' in text) == network
    assert shown == EXPORTED
    variables = {v["name"]: v for v in board["templating"]["list"]}
    assert set(variables) == {"datasource", "run", "network"}
    for name in ("run", "network"):
        metric, label = re.findall(r"\((\w+), (\w+)\)", variables[name]["definition"])[0]
        assert label == name and metric in EXPORTED
