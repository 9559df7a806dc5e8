"""The feed: images per second into two networks, from one shared feeder or from one each.

Both have the same number of decoding processes in all: two workers behind the shared feeder, one
behind each of the two. Readers only touch what they read; decoding, resizing to 800 x 800, packing
and the object store are what is timed.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import Pair, Result
from orchestrator.quiet import quiet_environment

NETWORKS = 2
CONFIG = Path(__file__).resolve().parents[1] / "configs" / "tiny" / "colad_shapes.py"
IMAGES, SIDE, SCALE, BATCH = 48, 640, 800, 8
DECODED_AHEAD = 8
"""Batches that feeders and their workers may hold ready, at most."""


class Reader:
    """A network that only reads."""

    def read(self, batch: Any) -> int:
        """Touch every page; returns the number of images."""
        batch.pixels[::4096].sum()
        return int(batch.num_images)


class Feeding:
    """Feeders and readers: ``shared`` has one feeder for all readers.

    Args:
        readers: one actor per network.
    """

    def __init__(self, config: Any, data: Any, readers: list[Any], *, shared: bool) -> None:
        import ray

        from orchestrator.actors import ActorFeed, FeederProcess
        from orchestrator.calls import Calls

        self.readers, self.position = readers, 0
        count = 1 if shared else len(readers)
        feeders = [ray.remote(FeederProcess).options(num_cpus=0).remote() for _ in range(count)]
        self.calls = Calls()
        ahead = config.feed.prefetch
        feeds = [ActorFeed([{"": feeder}], ahead, self.calls) for feeder in feeders]
        for feed in feeds:
            feed.build(config, data)
        self.feeds = feeds * (len(readers) if shared else 1)
        self.shared = shared

    def run(self, batches: int) -> float:
        """Seconds per image that every reader has read, in the steady state.

        Batches decoded ahead are used up before the clock starts, and before this returns the
        feeders have decoded ahead again, so that they do not disturb what is timed next.
        """
        self._read(DECODED_AHEAD)
        start = time.perf_counter()
        images = self._read(batches)
        seconds = time.perf_counter() - start
        time.sleep(2 * DECODED_AHEAD * BATCH * seconds / images)
        return seconds / images

    def _read(self, batches: int) -> int:
        """Read the next ones; returns how many images that were."""
        import ray

        images = 0
        for _ in range(batches):
            if self.shared:
                read = [self.feeds[0].batches(self.position)[0]] * len(self.readers)
            else:
                read = [feed.batches(self.position)[0] for feed in self.feeds]
            counts = ray.get(
                [reader.read.remote(part.on("")) for reader, part in zip(self.readers, read)]
            )
            self.calls.forget(part.on("") for part in read)
            images += counts[0]
            self.position += 1
        return images


def run(quick: bool) -> list[Result]:
    """Blocks in turns; ``quick``: fewer."""
    quiet_environment()
    import ray

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:
        ray.init(address="local", include_dashboard=False, log_to_driver=False, _temp_dir=folder)
        try:
            pair = _measure(Path(folder), blocks=3 if quick else 9, batches=10)
        finally:
            ray.shutdown()
    result = pair.result(
        "feed/shared-vs-one-each",
        goal=None,
        note=f"ms per image into {NETWORKS} networks: "
        f"{1 / _median(pair.ours):.1f} and {1 / _median(pair.peer):.1f} images/s",
    )
    return [result]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _measure(folder: Path, *, blocks: int, batches: int) -> Pair:
    import ray

    from orchestrator.config_file import load_config
    from orchestrator.data.shapes import make_shapes
    from orchestrator.datasets import prepare_data

    root = make_shapes(folder / "images", train=IMAGES, val=1, size=SIDE)
    readers = [ray.remote(Reader).options(num_cpus=0).remote() for _ in range(NETWORKS)]
    feedings = []
    for workers, shared in ((NETWORKS, True), (1, False)):
        settings = [
            f"data.root={root}",
            f"data.shapes.train={IMAGES}",
            "data.shapes.val=1",
            f"data.shapes.size={SIDE}",
            f"data.scale=({SCALE}, {SCALE})",
            f"train.batch_size={BATCH}",
            f"feed.workers={workers}",
        ]
        config = load_config(CONFIG, settings)
        data = prepare_data(config.data, folder)
        feedings.append(Feeding(config, data, readers, shared=shared))
    pair = Pair()
    for block in range(blocks + 1):
        for feeding, seconds in zip(feedings, (pair.ours, pair.peer)):
            taken = feeding.run(batches)
            if block:
                seconds.append(taken)
    return pair
