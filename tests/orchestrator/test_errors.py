"""Errors cross process borders."""

from __future__ import annotations

import pickle

import pytest

from orchestrator import errors
from orchestrator.errors import CoTrainError, HungError, NetworkLostError

ALL = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type)
    and issubclass(cls, CoTrainError)
    and not issubclass(cls, NetworkLostError)
]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_pickle_round_trip(cls: type[CoTrainError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what happened")))
    assert type(error) is cls and str(error) == "what happened" and not error.retryable


def test_lost_network_keeps_its_fields() -> None:
    error = pickle.loads(pickle.dumps(NetworkLostError("network 'a'", "killed")))
    assert (error.who, error.detail, error.retryable) == ("network 'a'", "killed", True)
    assert str(error) == "network 'a' was lost: killed"
    with_node = pickle.loads(pickle.dumps(NetworkLostError("network 'a'", "gone", node=True)))
    assert with_node.node and str(with_node) == "network 'a' was lost with its node: gone"


def test_hung_process_is_a_lost_one() -> None:
    error = pickle.loads(pickle.dumps(HungError("feeder 0", "batch 7, for 600 s")))
    assert isinstance(error, NetworkLostError) and error.retryable and not error.node
    assert str(error) == "feeder 0 does not answer: batch 7, for 600 s"
