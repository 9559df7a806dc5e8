"""Checkpoints of others load without executing anything, or say why they do not."""

from __future__ import annotations

import builtins
import os
import pickle
import threading
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler import OneCycleLR
from torch import nn

from orchestrator.errors import CheckpointError
from orchestrator.weights import (
    Inert,
    deserialise,
    load_into,
    load_weights,
    serialise,
    state_dict_of,
)


def _network() -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 3), bn=nn.BatchNorm2d(4), head=nn.Conv2d(4, 2, 1))
    )


def _epoch_file(path: Path) -> nn.Module:
    """A file with everything that mmengine's CheckpointHook writes beside the weights."""
    network = _network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = OneCycleLR(optimizer, eta_max=0.1, total_steps=8, by_epoch=False)
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    torch.save(
        {
            "meta": {"epoch": 1, "cfg": ConfigDict(a=1), "dataset_meta": {"classes": ("a", "b")}},
            "state_dict": network.state_dict(),
            "message_hub": {
                "log_scalars": OrderedDict({"train/loss": history}),
                "runtime_info": OrderedDict(eta=np.float64(3.5), best=np.int64(3), when=slice(2)),
                "resumed_keys": OrderedDict({"train/loss": True}),
            },
            "optimizer": optimizer.state_dict(),
            "param_schedulers": [schedule.state_dict()],
        },
        path,
    )
    return network


def _zip_with_pickle(path: Path, data: bytes) -> None:
    """The archive layout of torch.save around any pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")


def test_an_epoch_file_of_mmengine_loads(tmp_path: Path) -> None:
    network = _epoch_file(tmp_path / "epoch_1.pth")
    allowed = set(torch.serialization.get_safe_globals())
    checkpoint = load_weights(tmp_path / "epoch_1.pth")
    assert checkpoint["meta"]["dataset_meta"] == {"classes": ("a", "b")}
    assert isinstance(checkpoint["message_hub"]["log_scalars"]["train/loss"], Inert)
    assert isinstance(checkpoint["message_hub"]["runtime_info"]["eta"], Inert)
    target = _network()
    load_into(target, state_dict_of(checkpoint), what="network 'a'")
    for got, expected in zip(target.state_dict().values(), network.state_dict().values()):
        assert torch.equal(got, expected)
    assert HistoryBuffer([1.0], [1]).statistics("mean") == 1.0  # its class was not touched
    assert set(torch.serialization.get_safe_globals()) == allowed


class _Hostile:
    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = (call, args)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_files_execute_nothing(tmp_path: Path, zipped: bool) -> None:
    target = tmp_path / "created"
    for number, call in enumerate(
        (
            _Hostile(os.system, f"touch {target}"),
            _Hostile(eval, f"open({str(target)!r}, 'w')"),
            _Hostile(open, str(target), "w"),
            _Hostile(Path.touch, target),
        )
    ):
        path = tmp_path / f"hostile{number}.pth"
        content = {"state_dict": {"w": torch.zeros(2)}, "meta": call}
        if zipped:
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content["meta"], protocol=2))
        with pytest.raises(CheckpointError, match="refused, because it holds") as caught:
            load_weights(path)
        assert str(path) in str(caught.value)
        assert not target.exists()


def test_getattr_does_not_reach_the_builtins(tmp_path: Path) -> None:
    """The way through mmengine's allow-list: getattr(getattr, '__self__') is the builtins module.

    The pickle takes its ``__dict__`` and sets an entry there, which needs no call at all.
    """
    getattr_, text = b"cbuiltins\ngetattr\n", b"X%c\x00\x00\x00%s"
    builtins_module = getattr_ + b"(" + getattr_ + text % (8, b"__self__") + b"tR"
    names = getattr_ + b"(" + builtins_module + text % (8, b"__dict__") + b"tR"
    attack = b"\x80\x02" + names + text % (10, b"colad_evil") + text % (1, b"x") + b"s."
    with torch.serialization.safe_globals([getattr]):
        _zip_with_pickle(tmp_path / "attack.pth", attack)
        torch.load(tmp_path / "attack.pth", weights_only=True)
    assert builtins.__dict__.pop("colad_evil", None) == "x", "the attack itself must work"
    with pytest.raises(CheckpointError):
        load_weights(tmp_path / "attack.pth")
    assert not hasattr(builtins, "colad_evil")


def test_objects_that_are_not_weights_are_refused_with_advice(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "where": Path("a")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"holds 'pathlib.*state_dict\(\)"):
        load_weights(tmp_path / "a.pth")
    torch.save(_network(), tmp_path / "module.pth")
    with pytest.raises(CheckpointError, match="refused, because it holds 'torch.nn"):
        load_weights(tmp_path / "module.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list, expected a dict"):
        load_weights(tmp_path / "list.pth")


@pytest.mark.parametrize("data", [b"", b"not a checkpoint", b"PK\x03\x04abc", b"\x89PNG\r\n" * 99])
def test_other_files_are_not_checkpoints(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pth.*is not a torch checkpoint, or is damaged"):
        load_weights(tmp_path / "x.pth")


def test_a_truncated_file_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "epoch_1.pth"
    _epoch_file(path)
    whole = path.read_bytes()
    for length in (10, len(whole) // 2, len(whole) - 10):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="is not a torch checkpoint, or is damaged"):
            load_weights(path)


def test_paths_that_are_no_files_are_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.pth.*does not exist.*\.pretrained"):
        load_weights(tmp_path / "absent.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    "url",
    ["torchvision://resnet50", "open-mmlab://x", "http://h/x.pth", "https://h/x", "s3://b/x"],
)
def test_nothing_is_downloaded(url: str) -> None:
    for path in (url, Path(url)):
        with pytest.raises(CheckpointError, match=r"nothing is downloaded.*<name>\.checkpoint"):
            load_weights(path)


def test_loads_in_several_threads_do_not_disturb_each_other(tmp_path: Path) -> None:
    _epoch_file(tmp_path / "epoch_1.pth")
    failures: list[Exception] = []

    def load() -> None:
        try:
            for _ in range(10):
                load_weights(tmp_path / "epoch_1.pth")
        except CheckpointError as error:
            failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_state_dict_is_found_in_every_usual_place() -> None:
    weights = {"a.w": torch.ones(1), "b": torch.zeros(2)}
    for checkpoint in (
        weights,
        {"state_dict": weights, "meta": {}},
        {"model": weights, "epoch": 3},
        {"module." + key: value for key, value in weights.items()},
    ):
        assert state_dict_of(checkpoint) == weights
    half = {"module.a": torch.ones(1), "b": torch.zeros(1)}
    assert set(state_dict_of(half)) == {"module.a", "b"}
    with pytest.raises(CheckpointError, match="no weights found.*'epoch'"):
        state_dict_of({"epoch": 3, "w": torch.ones(1)})
    with pytest.raises(CheckpointError, match="nothing at all"):
        state_dict_of({"state_dict": {}})


def test_weights_of_another_architecture_change_nothing() -> None:
    network = _network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    other = {key: value + 1 for key, value in _network().state_dict().items()}
    del other["conv.bias"]
    other["head.weight"] = torch.zeros(80, 4, 1, 1)
    other |= {f"extra.{i}": torch.zeros(1) for i in range(8)}
    with pytest.raises(CheckpointError) as caught:
        load_into(network, other, what="network 'r50' from x.pth")
    message = str(caught.value)
    assert message.startswith("network 'r50' from x.pth: the weights are of another architecture")
    assert "other shape (1): head.weight (80, 4, 1, 1) instead of (2, 4, 1, 1)" in message
    assert "missing (1): conv.bias" in message
    assert "unexpected (8): extra.0" in message and "3 more" in message
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_prefix_and_permitted_differences() -> None:
    source = _network()
    weights = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    weights["neck.w"] = torch.zeros(1)
    target = _network()
    load_into(target, weights, what="x", prefix="backbone")
    assert torch.equal(target.conv.weight, source.conv.weight)
    with pytest.raises(CheckpointError, match=r"no key of the weights starts with 'trunk\.'"):
        load_into(target, weights, what="x", prefix="trunk.")

    partial = {k: v for k, v in source.state_dict().items() if not k.startswith("head.")}
    del partial["bn.num_batches_tracked"]  # as files of before torch 0.4.1
    with pytest.raises(CheckpointError, match=r"missing \(2\): head\.weight, head\.bias"):
        load_into(target, partial, what="x")
    load_into(target, partial, what="x", allow_missing=["head.*"])
    partial["fc.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): fc\.weight"):
        load_into(target, partial, what="x", allow_missing=["head.*"])
    load_into(target, partial, what="x", allow_missing=["head.*"], allow_unexpected=["fc.*"])


def test_own_state_survives() -> None:
    network = _network()
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
        "position": (3, [1.5, None, True], {"a", "b"}, b"x", torch.Size([2])),
        "counts": Counter(a=2),
    }
    again = deserialise(memoryview(serialise(state)))
    assert again["position"] == state["position"] and again["counts"] == state["counts"]
    assert torch.equal(again["random"], state["random"])
    for key, value in network.state_dict().items():
        assert torch.equal(again["network"][key], value)
    optimizer.load_state_dict(again["optimizer"])


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [np.zeros(2)]}, r"state\['a'\]\[0\] is a numpy\.ndarray"),
        ({"lr": np.float64(1)}, r"state\['lr'\] is a numpy\.float64"),
        (({1: Path("x")},), r"state\[0\]\[1\] is a pathlib"),
    ],
)
def test_own_state_that_would_not_load_is_refused_at_once(value: Any, where: str) -> None:
    with pytest.raises(TypeError, match=where):
        serialise(value)


def test_damaged_own_state_is_a_checkpoint_error() -> None:
    data = serialise({"a": torch.zeros(100)})
    with pytest.raises(CheckpointError, match="state part of"):
        deserialise(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="refused"):
        deserialise(pickle.dumps(_Hostile(os.system, "true"), protocol=2))
