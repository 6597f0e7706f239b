"""Who is given up, on what proof, and when a device is free without one."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.states import AttemptState
from orchestrator.scheduler.reap import FreeDevice, GiveUp, Held, ReapFacts, ReapTimes, decide_reaping
from tests.support.facts import NOW, make_attempt, make_job

TIMES = ReapTimes(interval_seconds=1, attempt_lease_seconds=120, stop_grace_seconds=60, launch_timeout_seconds=300)
LONG_AGO = NOW - timedelta(hours=1)


def _decide(
    state: AttemptState, *, gone: float | None = None, launching: bool = False, job: Any = None, **attempt: Any
) -> list[GiveUp | FreeDevice]:
    held = Held(
        attempt=make_attempt(state, **attempt),
        job=make_job(**(job or {})),
        gone_seconds=gone,
        is_launching=launching,
    )
    return decide_reaping(ReapFacts(held=[held], online_nodes={"node-a"}, now=NOW, times=TIMES))


@pytest.mark.parametrize("state", [AttemptState.ASSIGNED, AttemptState.LAUNCHING, AttemptState.RUNNING])
def test_an_attempt_in_good_order_is_left_alone(state: AttemptState) -> None:
    assert _decide(state) == []


@pytest.mark.parametrize(
    ("state", "facts", "message", "needs_proof"),
    [
        (AttemptState.ASSIGNED, {"created_at": LONG_AGO}, "could not be prepared", True),
        (AttemptState.LAUNCHING, {"gone": 6.0}, "No supervisor", True),
        (AttemptState.LAUNCHING, {"started_at": LONG_AGO}, "did not answer within 300 s", False),
        (AttemptState.RUNNING, {"gone": 6.0}, "not there any more", True),
        (AttemptState.RUNNING, {"lease_expires_at": LONG_AGO}, "has not answered for 120 s", False),
    ],
)
def test_what_cannot_be_reached_is_given_up(
    state: AttemptState, facts: dict[str, Any], message: str, needs_proof: bool
) -> None:
    (decision,) = _decide(state, **facts)
    assert isinstance(decision, GiveUp)
    assert decision.end.state is AttemptState.LOST
    assert decision.end.failure is not None
    assert message in decision.end.failure.message
    assert decision.needs_proof is needs_proof


@pytest.mark.parametrize(
    "facts",
    [
        {"gone": 4.0},
        {"gone": 60.0, "launching": True},
        {"launching": True, "job": {"cancel_requested_at": NOW}},
    ],
)
def test_a_launch_under_way_is_not_taken_for_a_lost_one(facts: dict[str, Any]) -> None:
    assert _decide(AttemptState.LAUNCHING, **facts) == []


@pytest.mark.parametrize(
    ("wish", "state"),
    [("cancel_requested_at", AttemptState.CANCELLED), ("pause_requested_at", AttemptState.INTERRUPTED)],
)
def test_a_wish_ends_an_attempt_that_has_never_answered(wish: str, state: AttemptState) -> None:
    (decision,) = _decide(AttemptState.LAUNCHING, job={wish: NOW})
    assert isinstance(decision, GiveUp)
    assert (decision.end.state, decision.needs_proof) == (state, True)


def test_an_attempt_that_is_being_verified_needs_no_supervisor() -> None:
    assert _decide(AttemptState.VERIFYING, gone=1000.0, lease_expires_at=LONG_AGO) == []


def test_the_device_of_an_ended_attempt_needs_proof_while_its_node_is_there() -> None:
    (decision,) = _decide(AttemptState.LOST, lease_expires_at=LONG_AGO, ended_at=LONG_AGO)
    assert decision == FreeDevice(attempt=decision.attempt, without_proof=False)


@pytest.mark.parametrize(
    ("since_lease_seconds", "without_proof"),
    [(0, False), (100, False), (120 / 6 + 60 + 30, False), (120 / 6 + 60 + 31, True)],
)
def test_without_a_node_the_supervisors_own_deadline_must_be_over(
    since_lease_seconds: float, without_proof: bool
) -> None:
    attempt = make_attempt(AttemptState.LOST, lease_expires_at=NOW - timedelta(seconds=since_lease_seconds))
    held = Held(attempt=attempt, job=make_job(), gone_seconds=None, is_launching=False)
    facts = ReapFacts(held=[held], online_nodes=set(), now=NOW, times=TIMES)
    assert decide_reaping(facts) == [FreeDevice(attempt=attempt, without_proof=without_proof)]
    back = replace(facts, online_nodes={"node-a"})
    assert decide_reaping(back) == [FreeDevice(attempt=attempt, without_proof=False)]
