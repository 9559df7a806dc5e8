"""The house of the project: imports go one way, and what the README points at is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("assigners", "models", "orchestrator", "tune_spaces", "jobs", "benchmarks")
ALLOWED = {
    "assigners": set(),
    "models": {"assigners"},
    "tune_spaces": set(),
    "orchestrator": {"assigners", "models", "tune_spaces"},
    "jobs": {"orchestrator"},
}
ASSIGNER_LIBRARIES = {"torch", "numpy"}
RAY_MODULES = {
    "actors.py",
    "calls.py",
    "controller.py",
    "launcher.py",
    "metrics.py",
    "monitor.py",
    "nodes.py",
    "preflight.py",
    "proposals.py",
    "retries.py",
    "run_watch.py",
    "trackers.py",
    "trial.py",
    "tuner.py",
    "waiting.py",
    "watch.py",
}


def imports_of(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports, at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def files_of(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    for path in files_of(package):
        others = (imports_of(path) & set(OURS)) - {package}
        assert others <= ALLOWED[package], f"{path.relative_to(ROOT)} imports {others}"


def test_assigners_need_torch_and_numpy_only() -> None:
    import sys

    for path in files_of("assigners"):
        foreign = imports_of(path) - set(sys.stdlib_module_names) - {"assigners"}
        assert foreign <= ASSIGNER_LIBRARIES, f"{path.relative_to(ROOT)} imports {foreign}"


def test_ray_is_imported_by_few_modules() -> None:
    users = {path.name for path in files_of("orchestrator") if "ray" in imports_of(path)}
    assert users == RAY_MODULES
    for package in ("assigners", "models", "tune_spaces"):
        assert not [p for p in files_of(package) if "ray" in imports_of(p)]


def readme_links() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]


def test_readme_links_exist() -> None:
    links = readme_links()
    assert links, "the README points at no file"
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_readme_symbols_exist() -> None:
    """`module.py::name` in the README names a function or class of that file."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    references = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
    assert references, "the guided tour names no symbol"
    for file, symbol in references:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        names = {
            node.name
            for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        }
        assert symbol in names, f"README names {file}::{symbol}"


def test_tracked_files_hold_no_path_of_a_machine() -> None:
    pattern = re.compile(r"(?<![\w.])/(home|root|Users)/(?!s\b|someone\b)\w+\b")
    for folder in (*OURS, "configs", "docs", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".md", ".yaml") and path != Path(__file__).resolve():
                found = pattern.search(path.read_text(encoding="utf-8"))
                assert not found, f"{path.relative_to(ROOT)}: {found and found.group()}"
