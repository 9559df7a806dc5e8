"""Errors cross process borders."""

from __future__ import annotations

import pickle

import pytest

from orchestrator import errors
from orchestrator.errors import CoTrainError, NetworkLostError

ALL = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, CoTrainError) and cls is not NetworkLostError
]


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_pickle_round_trip(cls: type[CoTrainError]) -> None:
    error = pickle.loads(pickle.dumps(cls("what happened")))
    assert type(error) is cls and str(error) == "what happened" and not error.retryable


def test_lost_network_keeps_its_fields() -> None:
    error = pickle.loads(pickle.dumps(NetworkLostError("network 'a'", "killed")))
    assert (error.who, error.detail, error.retryable) == ("network 'a'", "killed", True)
    assert str(error) == "network 'a' was lost: killed"
