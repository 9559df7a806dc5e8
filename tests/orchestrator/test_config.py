"""Configuration files: valid ones round-trip, others name the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.config import RunConfig
from orchestrator.config_file import from_mapping, load_config, parse_overrides, save_config
from orchestrator.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TINY = sorted((ROOT / "configs" / "tiny").glob("*.py"))


def minimal(**changes: object) -> dict[str, object]:
    fields: dict[str, object] = dict(
        networks=dict(a=dict(preset="tiny_r18"), b=dict(preset="tiny_r34")),
        data=dict(root="somewhere"),
        train=dict(max_iterations=3),
        switch=dict(criterion="std_mean"),
    )
    fields.update(changes)
    return fields


@pytest.mark.parametrize("path", TINY, ids=lambda path: path.stem)
def test_shipped_tiny_configs_are_valid(path: Path) -> None:
    config = load_config(path, ["data.root=here"])
    assert config.learners


def test_saved_config_reads_back_equal(tmp_path: Path) -> None:
    config = from_mapping(RunConfig, minimal(assigner=dict(type="PAA", topk=5)))
    save_config(config, tmp_path / "config.py")
    assert load_config(tmp_path / "config.py") == config


def test_saved_config_keeps_the_order_of_networks(tmp_path: Path) -> None:
    """The first listed network teaches on ties, so every reader must see the same order."""
    networks = dict(z=dict(preset="tiny_r18"), a=dict(preset="tiny_r34"))
    save_config(from_mapping(RunConfig, minimal(networks=networks)), tmp_path / "config.py")
    assert list(load_config(tmp_path / "config.py").networks) == ["z", "a"]


def test_overrides_reach_nested_fields() -> None:
    config = load_config(
        ROOT / "configs/tiny/colad_shapes.py",
        ["train.batch_size=4", "networks.r34.model.backbone.depth=18", "data.root=x"],
    )
    assert config.train.batch_size == 4
    assert config.networks["r34"].model == {"backbone": {"depth": 18}}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("[1, 2]", [1, 2]),
        ("true", True),
        ("None", None),
        ("none", "none"),
        ("a/b", "a/b"),
    ],
)
def test_override_values(text: str, value: object) -> None:
    assert parse_overrides([f"x.y={text}"]) == {"x.y": value}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(trian=dict()), "unknown field trian; did you mean train"),
        (dict(train=dict(max_iterations=3, batchsize=4)), "did you mean train.batch_size"),
        (dict(train=dict(max_iterations="many")), "train.max_iterations = 'many': expected int"),
        (dict(train=dict()), "exactly one"),
        (dict(train=dict(max_iterations=1, max_epochs=1)), "exactly one"),
        (dict(train=dict(max_iterations=0)), "train.max_iterations = 0"),
        (dict(train=dict(max_iterations=1, precision="int8")), "train.precision"),
        (dict(data=dict(root="")), "data.root is empty"),
        (dict(networks=dict()), "networks is empty"),
        (dict(networks={"a b": dict(preset="x")}), "a network's name"),
        (dict(networks=dict(a=dict(preset="x", config="y"))), "networks.a: .* exclude each other"),
        (dict(networks=dict(a=dict(preset="x", learner=False))), "networks.a: .*needs checkpoint"),
        (dict(networks=dict(a=dict(preset="x"))), "needs at least two networks"),
        (dict(switch=dict(criterion="best")), "switch.criterion = 'best'"),
        (dict(switch=dict(criterion="fixed")), "switch.teacher = None"),
        (dict(switch=dict(criterion="fixed", teacher="c")), "no such network"),
        (dict(switch=dict(criterion="fisher", scope="level")), "switch.scope"),
        (dict(resources=dict(ranks=3)), "does not divide"),
        (dict(resources=dict(ranks=2, gpus_per_network=0.5)), "use whole GPUs"),
        (dict(assigner=dict(topk=9)), "assigner needs a type"),
        (dict(networks={"_a": dict(preset="x")}), "starts with a letter"),
        (dict(networks={"é": dict(preset="x")}), "a network's name"),
        (dict(resources=dict(cpus_per_network=-1)), "resources.cpus_per_network = -1"),
        (dict(resources=dict(cpus_controller=float("inf"))), "resources.cpus_controller"),
        (dict(seed=-1), "seed = -1"),
        (dict(evaluation=dict(backend="slow")), "evaluation.backend = 'slow'"),
        (dict(data=dict(root="r", min_size=-1)), "data.min_size"),
    ],
)
def test_invalid_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_mapping(RunConfig, minimal(**changes))


def test_missing_file_and_broken_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "absent.py")
    broken = tmp_path / "broken.py"
    broken.write_text("x = 1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        load_config(broken)


def test_override_without_value() -> None:
    with pytest.raises(ConfigError, match="expected FIELD=VALUE"):
        parse_overrides(["train.batch_size"])


def test_digest_ignores_what_does_not_decide_weights() -> None:
    config = from_mapping(RunConfig, minimal())
    elsewhere = from_mapping(RunConfig, minimal(resources=dict(max_retries=9)))
    other = from_mapping(RunConfig, minimal(seed=1))
    assert config.digest() == elsewhere.digest()
    assert config.digest() != other.digest()


def test_readable_networks() -> None:
    solo = dict(criterion="self")
    fixed = dict(criterion="fixed", teacher="b")
    assert from_mapping(RunConfig, minimal()).readable == ("a", "b")
    assert from_mapping(RunConfig, minimal(switch=solo)).readable == ()
    assert from_mapping(RunConfig, minimal(switch=fixed)).readable == ("b",)
