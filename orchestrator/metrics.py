"""The run as Prometheus metrics, through Ray's own exporter; it adds ``ray_`` to the names.

``deploy/grafana/colad.json`` is a dashboard of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.live_view import Progress

PER_NETWORK = {
    "colad_ap": "COCO AP of the newest evaluation, percent",
    "colad_ap50": "AP at IoU 0.5, percent",
    "colad_ap75": "AP at IoU 0.75, percent",
    "colad_loss": "Sum of the losses of the newest iteration",
    "colad_learning_rate": "Learning rate",
    "colad_taught_share": "Share (0 to 1) of recent decisions in which the network was the teacher",
}
PER_RUN = {
    "colad_iteration": "Iterations done",
    "colad_max_iterations": "Iterations of the whole run",
    "colad_iteration_seconds": "Median time of recent iterations, seconds",
    "colad_images_per_second": "Training images per second",
    "colad_eta_seconds": "Seconds left at this pace",
}
EVALUATED = {"colad_ap": "AP", "colad_ap50": "AP50", "colad_ap75": "AP75"}


def run_name(run_dir: Path) -> str:
    """The ``run`` tag: the run directory's name, with the sweep's before it."""
    sweep = run_dir.parent.parent.name if run_dir.parent.name == "trials" else ""
    return f"{sweep}/{run_dir.name}" if sweep else run_dir.name


def values_of(progress: Progress) -> list[tuple[str, str | None, float]]:
    """(metric, network or None, value) of everything that is known at this moment."""
    found: list[tuple[str, str | None, float]] = [
        ("colad_iteration", None, progress.iteration),
        ("colad_max_iterations", None, progress.max_iterations),
        ("colad_iteration_seconds", None, progress.seconds_per_iteration),
        ("colad_images_per_second", None, progress.images_per_second),
        ("colad_eta_seconds", None, progress.eta_s),
    ]
    for network, newest in progress.networks.items():
        found.append(("colad_loss", network, newest["losses"]["total"]))
        found.append(("colad_learning_rate", network, newest["lr"]))
    found += [("colad_taught_share", network, share) for network, share in progress.taught.items()]
    for network, metrics in progress.evaluations.items():
        found += [(name, network, metrics[key]) for name, key in EVALUATED.items()]
    return found


class RunMetrics:
    """Sets the gauges of one run.

    Args:
        run_dir: names the run.
    """

    def __init__(self, run_dir: Path) -> None:
        from ray.util.metrics import Gauge

        self._gauges: Mapping[str, Any] = {
            **{n: Gauge(n, d, tag_keys=("run", "network")) for n, d in PER_NETWORK.items()},
            **{n: Gauge(n, d, tag_keys=("run",)) for n, d in PER_RUN.items()},
        }
        self._run = run_name(run_dir)

    def publish(self, progress: Progress) -> None:
        """Set everything that is known."""
        for name, network, value in values_of(progress):
            tags = {"run": self._run}
            if network is not None:
                tags["network"] = network
            self._gauges[name].set(value, tags=tags)
