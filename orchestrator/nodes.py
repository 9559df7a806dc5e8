"""What the nodes of a cluster see: the run directory, the data, modules, room for batches.

A network that lands on a node without them would fail after the start, or late, at the first
checkpoint or evaluation. So each node that a part of the run may land on is asked before.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import ResourceError
from orchestrator.placement import Node, PlacementPlan, possible_hosts

ANSWER_S = 60.0
"""How long a node may take for its answer: it starts a process for it."""
SHARED_MEMORY = "/dev/shm"
OURS = ("assigners", "models", "orchestrator", "tune_spaces")
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a node is asked."""

    token: str
    """A file that the launcher has written into the run directory."""
    content: str
    """What is in it."""
    files: tuple[str, ...] = ()
    """Of the data: files or folders."""
    modules: tuple[str, ...] = ()
    """Names of modules that actors import."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a node sees."""

    token: bool
    missing_files: tuple[str, ...] = ()
    missing_modules: tuple[str, ...] = ()
    free_bytes: int | None = None
    """Of shared memory; None where there is none."""


def living_nodes() -> list[Node]:
    """The nodes of the connected cluster."""
    import ray

    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            resources=node["Resources"],
            labels=node.get("Labels") or {},
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def check_nodes(
    plan: PlacementPlan,
    run_dir: Path,
    *,
    files: Iterable[str | Path],
    modules: Iterable[str],
    needed: int,
) -> int:
    """Ask every node that a part of the run may land on; this machine alone is not.

    Args:
        plan: the run's.
        run_dir: exists here.
        files: of the data, with absolute paths.
        modules: the run's custom imports.
        needed: bytes that the run's batches may take.

    Returns:
        How many nodes were asked.

    Raises:
        ResourceError: the first thing that one of them lacks, all nodes that lack it, what to do.
    """
    import ray

    hosts = possible_hosts(plan, living_nodes())
    if {host.id for host in hosts} <= {ray.get_runtime_context().get_node_id()}:
        return 0
    token = run_dir / f".seen-{secrets.token_hex(8)}"
    question = Question(
        token=str(token),
        content=secrets.token_hex(16),
        files=tuple(map(str, files)),
        modules=tuple(dict.fromkeys(name.partition(".")[0] for name in modules)),
    )
    token.write_text(question.content, encoding="utf-8")
    try:
        answers = _ask(hosts, question)
    finally:
        with suppress(OSError):
            token.unlink()
    judge(hosts, answers, run_dir, needed)
    return len(hosts)


def look(question: Question) -> Answer:
    """What this machine sees. Called by: ``check_nodes``, in a task on every node."""
    try:
        token = Path(question.token).read_text(encoding="utf-8") == question.content
    except OSError:
        token = False
    return Answer(
        token=token,
        missing_files=tuple(name for name in question.files if not os.path.exists(name)),
        missing_modules=tuple(name for name in question.modules if _spec(name) is None),
        free_bytes=shutil.disk_usage(SHARED_MEMORY).free if os.path.isdir(SHARED_MEMORY) else None,
    )


def _ask(hosts: Sequence[Node], question: Question) -> list[Answer | str]:
    """Each node's answer, or why there is none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = [
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=host.id, soft=False)
        ).remote(question)
        for host in hosts
    ]
    ready, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_S)
    return [_answer(ref) if ref in ready else f"no answer within {ANSWER_S:.0f} s" for ref in asked]


def _answer(reference: Any) -> Answer | str:
    import ray

    try:
        answer: Answer = ray.get(reference)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines()
        missing = [line for line in lines if "ModuleNotFoundError" in line]
        return missing[-1].strip() if missing else lines[-1].strip()
    return answer


def judge(
    hosts: Sequence[Node], answers: Sequence[Answer | str], run_dir: Path, needed: int
) -> None:
    """Refuse what cannot go well.

    Raises:
        ResourceError: see ``check_nodes``.
    """
    silent: dict[str, str] = {}
    blind, little = [], []
    files: dict[str, list[str]] = {}
    modules: dict[str, list[str]] = {}
    for host, answer in zip(hosts, answers):
        name = host.address or host.id[:12]
        if isinstance(answer, str):
            silent[name] = answer
            continue
        if not answer.token:
            blind.append(name)
        for missing, found in (
            (answer.missing_files, files),
            (answer.missing_modules, modules),
        ):
            for item in missing:
                found.setdefault(item, []).append(name)
        store = host.resources.get("object_store_memory", float(needed))
        free = store if answer.free_bytes is None else min(store, answer.free_bytes)
        if free < needed:
            little.append(f"{name} {free / MIB:.0f} MB")
    _refuse_silent(silent)
    if blind:
        raise ResourceError(
            f"--work-dir {run_dir}: {_those(blind, len(hosts))} not see a file written there. All "
            "nodes that may hold a part of the run need it at the same path: put it on storage "
            "that they share"
        )
    _refuse_missing(files, len(hosts), "data", "put it on storage that all nodes share")
    _refuse_missing(
        modules,
        len(hosts),
        "custom_imports",
        "install it there, or let it lie in a folder of PYTHONPATH here, from which it is sent",
    )
    if little:
        raise ResourceError(
            f"the feed needs {needed / MIB:.0f} MB of object store in {SHARED_MEMORY}; free: "
            f"{', '.join(little)}. Enlarge {SHARED_MEMORY} there and start Ray with "
            "--object-store-memory, or lower train.batch_size or data.scale"
        )


def _refuse_silent(silent: Mapping[str, str]) -> None:
    if silent:
        shown = "; ".join(f"{name}: {why}" for name, why in list(silent.items())[:3])
        raise ResourceError(
            f"{len(silent)} node(s) of the cluster cannot run colad ({shown}). Install the same "
            "version of it on all of them, in the environment that Ray was started from"
        )


def _refuse_missing(missing: Mapping[str, list[str]], total: int, field: str, mend: str) -> None:
    if missing:
        item, names = next(iter(missing.items()))
        raise ResourceError(f"{field}: {_those(names, total)} not see {item!r}; {mend}")


def _those(names: Sequence[str], total: int) -> str:
    shown = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    return f"{len(names)} of {total} node(s) ({shown}) do{'es' if len(names) == 1 else ''}"


def modules_to_ship(names: Iterable[str]) -> list[str]:
    """Files and folders of custom modules that are not installed, for Ray's ``py_modules``.

    Those that cannot be found are left out: their import says so.
    """
    installed = {Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib", "stdlib")}
    found: list[str] = []
    for name in dict.fromkeys(name.partition(".")[0] for name in names):
        spec = None if name in OURS else _spec(name)
        if spec is None:
            continue
        places = list(spec.submodule_search_locations or ()) or [spec.origin or ""]
        found += [
            place
            for place in places
            if os.path.exists(place) and not installed & set(Path(place).parents)
        ]
    return found


def _spec(name: str) -> Any:
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
