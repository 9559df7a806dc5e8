"""``python -m benchmarks [--quick] [PART ...]``: measure, print ratios, write them down."""

from __future__ import annotations

import argparse
import importlib
import os

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is imported

from benchmarks.harness import machine, print_table, save  # noqa: E402

PARTS = {
    "assignment": "mixture fit, other assigners, memory, growth",
    "iteration": "LAD and CoLAD against in-process peers",
    "exchange": "bytes and milliseconds of the exchange",
    "feed": "one feed for all networks against one each",
    "evaluation": "COCO evaluation against pycocotools",
    "scale": "orchestration of many ranks",
    "long_run": "memory over many iterations",
    "sweep": "a sweep of short trials, two at once",
}
QUICK = ("assignment", "iteration", "exchange")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Ratios, measured in turns on this machine.",
        epilog="parts: " + "; ".join(f"{name}: {what}" for name, what in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="default: all")
    parser.add_argument("--quick", action="store_true", help="the main ratios, few rounds")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown part {unknown[0]!r}: expected some of {', '.join(PARTS)}")
    before = machine()
    results = []
    for part in arguments.parts or (QUICK if arguments.quick else PARTS):
        found = importlib.import_module(f"benchmarks.{part}").run(arguments.quick)
        print_table(found)
        results += found
        path = save(results, before)  # after every part, so that an interrupted run is not lost
    print(f"written to {path}")


if __name__ == "__main__":
    main()
