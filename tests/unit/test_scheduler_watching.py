"""What a supervisor's answer leads to: rows, a stop, an end, or nothing."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.domain.failures import FailureKind
from orchestrator.domain.protocol import Entry, LogLine, Pulled, Stopped, Succeeded
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import AttemptState
from orchestrator.scheduler.limits import RunLimit, Spent
from orchestrator.scheduler.watching import OUTCOME_PATIENCE_SECONDS, Seen, decide_news, decide_stop
from tests.support.facts import NOW, START, make_attempt, make_job
from tests.support.launchers import GIB, AnyReport

SUCCESS = Succeeded(key_prefix="p/", files=(), step=3, trained_tokens=9, metrics={}, lineage={})
LINE = LogLine(stream="stdout", text="a")


def _answer(*reports: AnyReport, alive: bool = True, more: bool = False, exit_code: int | None = None) -> Pulled:
    entries = tuple(
        Entry(seq=seq, at_unix=(START + timedelta(seconds=90 + seq)).timestamp(), report=report)
        for seq, report in enumerate(reports, start=1)
    )
    return Pulled(entries=entries, alive=alive, exit_code=exit_code, more=more)


def _seen(answer: Pulled, **changes: Any) -> Seen:
    seen = Seen(
        attempt=make_attempt(),
        job=make_job(),
        answer=answer,
        limit=None,
        spent=Spent(billed_usd_micros=0, billed_seconds=0),
        now=NOW,
        lease_seconds=120,
        grace_seconds=60,
        known_seconds=0,
    )
    return replace(seen, **changes)


def test_an_answer_without_news_costs_no_write() -> None:
    assert decide_news([_seen(_answer())]) == []


def test_contact_is_written_down_when_it_is_due() -> None:
    old = make_attempt(last_contact_at=NOW - timedelta(seconds=20))
    assert len(decide_news([_seen(_answer(), attempt=old)])) == 1


def test_the_first_contact_is_news() -> None:
    launching = make_attempt(AttemptState.LAUNCHING, last_contact_at=None)
    assert len(decide_news([_seen(_answer(), attempt=launching)])) == 1


def test_an_outcome_waits_for_the_last_words_of_its_process() -> None:
    (news,) = decide_news([_seen(_answer(LINE, SUCCESS))])
    assert (news.digest.cursor, news.result, news.end) == (1, None, None)
    assert decide_news([_seen(_answer(SUCCESS))]) == []


def test_an_outcome_takes_effect_when_the_process_is_gone() -> None:
    (news,) = decide_news([_seen(_answer(LINE, SUCCESS, LINE, alive=False, exit_code=0))])
    assert news.result == SUCCESS
    assert len(news.digest.logs) == 2
    assert news.ended_at == START + timedelta(seconds=99), "the worker's clock is held by our last contact"


def test_an_outcome_does_not_wait_for_ever() -> None:
    (news,) = decide_news([_seen(_answer(SUCCESS), known_seconds=OUTCOME_PATIENCE_SECONDS)])
    assert news.result == SUCCESS


def test_a_process_that_is_gone_is_lost_only_when_its_journal_is_drained() -> None:
    (news,) = decide_news([_seen(_answer(LINE, alive=False, exit_code=-9, more=True))])
    assert (news.end, news.more) == (None, True)
    (news,) = decide_news([_seen(_answer(LINE, alive=False, exit_code=-9))])
    assert news.end is not None
    assert news.end.state is AttemptState.LOST


def test_a_long_silence_before_the_end_is_not_billed() -> None:
    hour_later = NOW + timedelta(hours=1)
    silent = _seen(_answer(alive=False, exit_code=-9), now=hour_later)
    (news,) = decide_news([silent])
    assert news.ended_at == NOW - timedelta(seconds=1)


@pytest.mark.parametrize("offset_seconds", [-1_000_000, 1_000_000])
def test_a_wrong_clock_of_a_worker_moves_the_bill_only_within_what_we_saw(offset_seconds: float) -> None:
    entry = Entry(seq=1, at_unix=NOW.timestamp() + offset_seconds, report=SUCCESS)
    (news,) = decide_news([_seen(Pulled(entries=(entry,), alive=False, exit_code=0, more=False))])
    assert news.ended_at is not None
    assert NOW - timedelta(seconds=1) <= news.ended_at <= NOW


def test_the_budget_ends_the_bill() -> None:
    spec = JobSpec(model="smol", training_file="file-1", max_cost_usd="0.05")
    (news,) = decide_news([_seen(_answer(SUCCESS, alive=False), job=make_job(spec=spec))])
    assert news.ended_at == START + timedelta(seconds=50)


def test_a_stop_that_was_kept_ends_the_attempt_as_asked() -> None:
    (news,) = decide_news([_seen(_answer(Stopped(reason="paused", step=3), alive=False))])
    assert news.end is not None
    assert (news.end.state, news.end.failure) == (AttemptState.INTERRUPTED, None)


LIMIT = RunLimit(stop_seconds=90, end_seconds=110, reason="budget_exceeded")


@pytest.mark.parametrize(
    ("job", "attempt", "limit", "asked"),
    [
        ({}, {}, None, None),
        ({"cancel_requested_at": NOW}, {}, None, ("cancelled", False, 60)),
        ({"cancel_requested_at": NOW}, {"stop_reason": "cancelled"}, None, None),
        ({"cancel_requested_at": NOW}, {"stop_reason": "paused"}, None, ("cancelled", False, 60)),
        ({"pause_requested_at": NOW}, {}, None, ("paused", True, 60)),
        ({"pause_requested_at": NOW}, {"stop_reason": "budget_exceeded"}, None, None),
        ({"pause_requested_at": NOW, "cancel_requested_at": NOW}, {}, LIMIT, ("cancelled", False, 60)),
        ({}, {}, LIMIT, ("budget_exceeded", True, 10)),
        ({"pause_requested_at": NOW}, {}, LIMIT, ("budget_exceeded", True, 10)),
        ({}, {"stop_reason": "budget_exceeded"}, LIMIT, None),
        ({}, {}, RunLimit(stop_seconds=101, end_seconds=110, reason="timeout"), None),
        ({}, {}, RunLimit(stop_seconds=1, end_seconds=2, reason="timeout"), ("timeout", True, 1)),
    ],
)
def test_who_is_asked_to_stop_why_and_how_fast(
    job: dict[str, Any], attempt: dict[str, Any], limit: RunLimit | None, asked: tuple[str, bool, float] | None
) -> None:
    stop = decide_stop(_seen(_answer(), job=make_job(**job), attempt=make_attempt(**attempt), limit=limit))
    assert (stop and (stop.reason.reason, stop.reason.save, stop.grace_seconds)) == asked


def test_a_process_that_is_gone_is_not_asked_to_stop() -> None:
    seen = _seen(_answer(alive=False, more=True), job=make_job(cancel_requested_at=NOW))
    assert all(news.stop is None for news in decide_news([seen]))


@pytest.mark.parametrize(
    ("device_type", "own_bytes", "failure"),
    [("nvidia-rtx-4090", GIB, FailureKind.LOST), ("nvidia-rtx-4090", 9 * GIB, FailureKind.OUT_OF_MEMORY)],
)
def test_a_kill_on_a_shared_gpu_is_judged_by_what_the_process_had_itself(
    device_type: str, own_bytes: int, failure: FailureKind
) -> None:
    """The device's figure counts the neighbours too."""
    attempt = make_attempt(
        device_id="node-1/cuda:0",
        device_type=device_type,
        reserved_bytes=8 * GIB,
        peak_reserved_bytes=own_bytes,
        peak_device_bytes=20 * GIB,
    )
    (news,) = decide_news([_seen(_answer(alive=False, exit_code=-9), attempt=attempt)])
    assert news.end is not None
    assert news.end.failure is not None
    assert news.end.failure.kind is failure
