"""Budgets on both engines: what is held is never promised twice, and the ledger settles it."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

from orchestrator.domain import outcomes
from orchestrator.domain.pricing import Rate
from orchestrator.domain.teams import Team
from orchestrator.store import attempts, jobs, teams
from orchestrator.store.budgets import claim_hold, read_budget
from orchestrator.store.session import Store
from tests.support.rows import add_queued_job, add_running_attempt, add_team

BUDGET_USD_MICROS = 1_000_000


def make_team(store: Store) -> Team:
    with store.write() as tx:
        team = add_team(tx)
        return teams.record_terms(tx, team.team_id, {"budget_usd_micros": BUDGET_USD_MICROS})


def test_concurrent_starts_never_hold_more_than_the_budget(store: Store) -> None:
    team = make_team(store)
    with store.write() as tx:
        job_ids = [add_queued_job(tx, team.team_id).job_id for _ in range(24)]
    begin = threading.Barrier(8)

    def start(job_ids: list[str]) -> int:
        begin.wait(timeout=30)
        granted = 0
        for job_id in job_ids:
            with store.write() as tx:
                jobs.lock_job(tx, job_id)
                granted += claim_hold(tx, job_id, team.team_id, 90_000) is None
        return granted

    with ThreadPoolExecutor(8) as threads:
        granted = sum(threads.map(start, [job_ids[n::8] for n in range(8)]))
    assert granted == BUDGET_USD_MICROS // 90_000
    with store.read() as tx:
        assert read_budget(tx, team).held_usd_micros == granted * 90_000


def test_a_refused_hold_says_what_is_left(store: Store) -> None:
    team = make_team(store)
    with store.write() as tx:
        first, second = (add_queued_job(tx, team.team_id).job_id for _ in range(2))
        assert claim_hold(tx, first, team.team_id, 700_000) is None
        refused = claim_hold(tx, second, team.team_id, 300_001)
        assert refused is not None
        assert refused.left_usd_micros == 300_000


def test_the_end_of_an_attempt_settles_the_hold_and_remembers_the_use(store: Store) -> None:
    team = make_team(store)
    rate = Rate(price_usd_micros_per_hour=3_600_000, reserved_bytes=1, device_bytes=2)
    with store.write() as tx:
        job = add_queued_job(tx, team.team_id)
        assert claim_hold(tx, job.job_id, team.team_id, 500_000) is None
        attempt = add_running_attempt(tx, job, rate=rate, rate_micros=500_000)
    with store.write() as tx:
        assert attempt.started_at is not None
        ended_at = attempt.started_at + timedelta(seconds=100)
        end = outcomes.interrupted()
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=ended_at)
    with store.read() as tx:
        state = read_budget(tx, team)
        assert (state.billed_usd_micros, state.held_usd_micros) == (50_000, 0)
        found = teams.get_team(tx, team.team_id)
        assert found.usage_at == ended_at
        assert 49.9 < found.usage <= 50.0


def test_time_that_an_evicted_job_lost_is_billed_to_nobody(store: Store) -> None:
    team = make_team(store)
    with store.write() as tx:
        attempt = add_running_attempt(tx, add_queued_job(tx, team.team_id))
        attempts.request_preemption(
            tx, attempt.attempt_id, attempt.lease_token, rule="reclaim", for_job_id="ftjob-other", grace_seconds=60
        )
    with store.write() as tx:
        assert attempt.started_at is not None
        ended_at = attempt.started_at + timedelta(seconds=100)
        end = outcomes.interrupted()
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=ended_at)
    with store.read() as tx:
        assert read_budget(tx, team).billed_usd_micros == 0
        assert teams.get_team(tx, team.team_id).usage == 0.0
        assert jobs.get_job(tx, attempt.job_id).state == "queued"
