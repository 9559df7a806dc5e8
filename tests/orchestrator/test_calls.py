"""Who does not answer, who waits for them, and what counts as a loss."""

from __future__ import annotations

from typing import Any

import pytest
from ray import exceptions

from orchestrator.calls import Call, Calls, blame, describe, is_node
from orchestrator.errors import NetworkLostError, ResourceError


def made(who: str, what: str, *needs: str) -> Call:
    return Call(who=who, what=what, answer=f"{who}:{what}", needs=needs)


def test_stopped_network_is_blamed_and_the_waiting_one_is_not() -> None:
    calls = [
        made("r18", "begin_step of 7"),
        made("r34", "finish_step of 7", "r18:begin_step of 7"),
        made("r18", "finish_step of 7", "r18:begin_step of 7"),
        made("r18", "begin_step of 8"),
    ]
    error = blame(calls, 600)
    assert error.who == "r18"
    assert str(error) == (
        "r18 does not answer: begin_step of 7, for 600 s; waiting for that: r34 (for finish_step "
        "of 7)"
    )


def test_stopped_feeder_is_blamed() -> None:
    calls = [
        made("feeder 0", "batch 8"),
        made("r18", "begin_step of 8", "feeder 0:batch 8"),
        made("r34", "begin_step of 8", "feeder 0:batch 8"),
        made("feeder 0", "batch 9"),
    ]
    error = blame(calls, 5)
    assert error.who == "feeder 0" and "batch 8, for 5 s; waiting for that: r18" in str(error)


def test_ranks_that_wait_for_each_other_are_all_named() -> None:
    calls = [made("r18, rank 0", "finish_step of 3"), made("r18, rank 1", "finish_step of 3")]
    assert blame(calls, 5).who == "r18, rank 0 and r18, rank 1"


def test_answers_that_do_not_arrive() -> None:
    assert "all calls are answered" in str(blame([], 5))


def test_calls_are_kept_until_they_are_answered() -> None:
    """And no longer: what is kept stays in the object store."""
    calls = Calls(10.0)
    for position in range(3):
        batch = calls.made("feeder 0", f"batch {position}", f"b{position}")
        table = calls.made("t", "begin_step", f"t{position}", (batch,))
        begun = calls.made("s", "begin_step", f"s{position}", (batch,))
        calls.made("s", "finish_step", f"f{position}", (table, begun))
    calls.forget(["f0", "f1"])
    assert list(calls._open) == ["b2", "t2", "s2", "f2"]
    calls.forget(["f2"])
    assert not calls._open


def test_an_evaluation_has_more_time() -> None:
    calls = Calls(10.0)
    calls.made("a", "predict", "a0", patience=2.5)
    assert calls._limit(["a0"]) == 25.0 and calls._limit(["other"]) == 10.0
    assert Calls(None)._limit(["a0"]) is None


def lost(cause: Any) -> Any:
    return Calls()._explained(cause)


def test_what_is_a_loss_and_what_is_not() -> None:
    gone = lost(exceptions.ActorUnavailableError("no route", None))
    assert isinstance(gone, NetworkLostError) and gone.node
    died = lost(exceptions.ActorDiedError())
    assert isinstance(died, NetworkLostError) and not died.node
    assert lost(exceptions.NodeDiedError("n1")).node
    assert isinstance(lost(exceptions.ObjectStoreFullError("16 MB")), ResourceError)
    assert isinstance(lost(exceptions.OutOfDiskError("16 MB")), ResourceError)
    # these would come again
    assert lost(exceptions.RuntimeEnvSetupError("no such package")) is None
    assert lost(exceptions.RayActorError(actor_init_failed=True)) is None
    task = exceptions.RayTaskError("f", "traceback", ValueError("x"))
    assert lost(task) is None


@pytest.mark.parametrize("preempted", [True, False])
def test_preempted_node(preempted: bool) -> None:
    assert is_node(exceptions.RayActorError(preempted=preempted), None) is preempted


def test_one_line_of_an_error() -> None:
    assert describe(exceptions.NodeDiedError("first\nsecond")) == "first"
    assert describe(exceptions.ActorDiedError()) == exceptions.ActorDiedError.BASE_ERROR_MSG
