"""What nodes lack is said before the start: by the answers that they give, made up here."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ResourceError
from orchestrator.nodes import Answer, Question, judge, look, modules_to_ship
from orchestrator.placement import Node

MIB = 2**20
RUN = Path("/shared/run")
HOSTS = [
    Node(address=f"10.0.0.{n}", resources={"object_store_memory": 900.0 * MIB}) for n in (1, 2, 3)
]
GOOD = Answer(token=True, free_bytes=800 * MIB)


def test_what_all_nodes_have_is_fine() -> None:
    judge(HOSTS, [GOOD] * 3, RUN, 700 * MIB)
    judge(HOSTS, [Answer(token=True)] * 3, RUN, 850 * MIB)  # a node without /dev/shm


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            Answer(token=False),
            r"--work-dir /shared/run: 1 of 3 node\(s\) \(10.0.0.2\) does not see a file written",
        ),
        (
            Answer(token=True, missing_files=("/data/a.jpg",)),
            r"data: 1 of 3 node\(s\) \(10.0.0.2\) does not see '/data/a.jpg'; put it on storage",
        ),
        (
            Answer(token=True, missing_modules=("my_heads",)),
            r"custom_imports: 1 of 3 node\(s\) \(10.0.0.2\) does not see 'my_heads'; install",
        ),
        (
            Answer(token=True, free_bytes=64 * MIB),
            r"needs 500 MB of object store in /dev/shm; free: 10.0.0.2 64 MB\. Enlarge",
        ),
        ("no answer within 60 s", r"1 node\(s\).*cannot run colad \(10.0.0.2: no answer within"),
        (
            "ModuleNotFoundError: No module named 'orchestrator'",
            r"cannot run colad \(10.0.0.2: ModuleNotFoundError.*Install the same version",
        ),
    ],
)
def test_what_one_node_lacks_is_refused(bad: Answer | str, message: str) -> None:
    with pytest.raises(ResourceError, match=message):
        judge(HOSTS, [GOOD, bad, GOOD], RUN, 500 * MIB)


def test_a_small_object_store_counts_as_small_memory() -> None:
    small = Node(address="10.0.0.9", resources={"object_store_memory": 80.0 * MIB})
    with pytest.raises(ResourceError, match="10.0.0.9 80 MB"):
        judge([*HOSTS, small], [GOOD] * 4, RUN, 100 * MIB)


def test_a_node_looks(tmp_path: Path) -> None:
    token = tmp_path / "token"
    asked = dict(
        token=str(token),
        content="secret",
        files=(str(tmp_path), str(tmp_path / "none.json")),
        modules=("json", "no_such_module"),
    )
    assert not look(Question(**asked)).token
    token.write_text("another run's")
    assert not look(Question(**asked)).token
    token.write_text("secret")
    seen = look(Question(**asked))
    assert seen.token
    assert seen.missing_files == (str(tmp_path / "none.json"),)
    assert seen.missing_modules == ("no_such_module",)


def test_own_modules_are_sent_and_installed_ones_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "colad_test_single.py").write_text("")
    (tmp_path / "colad_test_package").mkdir()
    (tmp_path / "colad_test_package" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ["colad_test_single", "colad_test_package.heads", "colad_test_package", "none_such"]
    sent = [str(tmp_path / "colad_test_single.py"), str(tmp_path / "colad_test_package")]
    assert modules_to_ship([*names, "models", "json", "numpy.linalg"]) == sent
