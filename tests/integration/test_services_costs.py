"""Bills: the ledger's sums, and the running interval, on both engines."""

from datetime import timedelta

import pytest

from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.outcomes import lost, succeeded
from orchestrator.domain.states import AttemptState
from orchestrator.domain.teams import Caller, Role
from orchestrator.services.costs import Costs, running_usd_micros
from orchestrator.store import attempts, checkpoints, jobs
from orchestrator.store.session import Store
from tests.support.rows import add_attempt, add_running_attempt, add_team, make_checkpoint


def _caller(team_id: str, role: Role = Role.MEMBER) -> Caller:
    return Caller(key_id="key-1", team_id=team_id, team_name="t", role=role)


def test_a_running_job_costs_up_to_its_last_contact(store: Store) -> None:
    with store.write() as tx:
        attempt = add_running_attempt(tx)
    with store.write() as tx:
        attempt = attempts.record_contact(
            tx, attempt.attempt_id, attempt.lease_token, cursor_before=attempt.cursor, cursor=1, lease_seconds=60
        )
    bill = Costs(store).of_job(_caller(attempt.team_id), attempt.job_id)
    assert attempt.started_at is not None
    assert attempt.last_contact_at is not None
    expected = attempt.rate.amount_usd_micros(attempt.last_contact_at - attempt.started_at)
    assert bill.running_usd_micros == bill.billed_usd_micros == expected
    assert not bill.final
    much_later = attempt.last_contact_at + timedelta(days=1)
    assert running_usd_micros(attempt, much_later) == expected


def test_the_bill_is_the_ledger_when_the_job_is_over(store: Store) -> None:
    with store.write() as tx:
        attempt = add_running_attempt(tx)
        attempt = attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState.VERIFYING)
        assert attempt.started_at is not None
        ended_at = attempt.started_at + timedelta(hours=1)
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, succeeded(), ended_at=ended_at)
    bill = Costs(store).of_job(_caller(attempt.team_id), attempt.job_id)
    assert bill.final
    assert [entry.amount_usd_micros for entry in bill.entries] == [bill.billed_usd_micros]
    assert bill.billed_usd_micros == attempt.rate.amount_usd_micros(timedelta(hours=1)) > 0
    assert Costs(store).of_team(_caller(attempt.team_id)) == (bill.billed_usd_micros, 0)


def test_work_that_the_platform_lost_is_billed_to_nobody(store: Store) -> None:
    with store.write() as tx:
        attempt = add_running_attempt(tx)
        assert attempt.started_at is not None
        kept = attempt.started_at + timedelta(minutes=30)
        checkpoints.insert_checkpoint(tx, make_checkpoint(attempt, step=10, created_at=kept))
        attempts.end_attempt(
            tx, attempt.attempt_id, attempt.lease_token, lost("gone"), ended_at=kept + timedelta(minutes=10)
        )
    bill = Costs(store).of_job(_caller(attempt.team_id), attempt.job_id)
    assert [entry.billed for entry in bill.entries] == [True, False]
    assert bill.billed_usd_micros == attempt.rate.amount_usd_micros(timedelta(minutes=30))
    assert bill.lost_usd_micros == attempt.rate.amount_usd_micros(timedelta(minutes=10))
    assert not bill.final


def test_another_team_sees_no_bill(store: Store) -> None:
    with store.write() as tx:
        attempt = add_running_attempt(tx)
        other = add_team(tx)
    with pytest.raises(NotFoundError):
        Costs(store).of_job(_caller(other.team_id), attempt.job_id)
    assert Costs(store).of_job(_caller(other.team_id, Role.ADMIN), attempt.job_id).entries == ()
    assert Costs(store).of_team(_caller(other.team_id)) == (0, 0)


def test_a_team_pays_for_what_runs_and_periods_add_up(store: Store) -> None:
    with store.write() as tx:
        ended = add_running_attempt(tx)
        assert ended.started_at is not None
        ended_at = ended.started_at + timedelta(hours=1)
        attempts.end_attempt(tx, ended.attempt_id, ended.lease_token, lost("gone"), ended_at=ended_at)
    with store.write() as tx:
        job = jobs.get_job(tx, ended.job_id)
        attempt = add_attempt(tx, job, device_id="node-1/cuda:1")
        attempt = attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, AttemptState.LAUNCHING)
    with store.write() as tx:
        attempt = attempts.record_contact(
            tx, attempt.attempt_id, attempt.lease_token, cursor_before=0, cursor=1, lease_seconds=60
        )
    assert attempt.started_at is not None
    assert attempt.last_contact_at is not None
    caller = _caller(ended.team_id)
    running = attempt.rate.amount_usd_micros(attempt.last_contact_at - attempt.started_at)
    hour = ended.rate.amount_usd_micros(timedelta(hours=1))
    costs = Costs(store)
    assert costs.of_team(caller) == (running, hour)
    assert costs.of_team(_caller("team-0", Role.ADMIN)) == (running, hour)
    between = attempt.started_at
    assert costs.of_team(caller, until=between) == (0, hour)
    assert costs.of_team(caller, since=between) == (running, 0)
    assert costs.of_team(caller, since=ended.started_at, until=between) == (0, hour)
    assert costs.of_team(caller, until=ended.started_at) == (0, 0)


def test_spend_by_team_model_and_day_sums_up_to_the_total(store: Store) -> None:
    with store.write() as tx:
        ended = add_running_attempt(tx)
        assert ended.started_at is not None
        over = ended.started_at + timedelta(minutes=30)
        attempts.end_attempt(tx, ended.attempt_id, ended.lease_token, lost("gone"), ended_at=over)
        running = add_running_attempt(tx)
        assert running.started_at is not None
    admin = _caller("team-of-admin", Role.ADMIN)
    since = ended.started_at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=1)
    until = since + timedelta(days=3)
    costs = Costs(store)
    spends = costs.by_team_and_model(admin, since=since, until=until)
    assert {spend.team_id for spend in spends} == {ended.team_id, running.team_id}
    assert {spend.model for spend in spends} == {"smol"}
    lost_usd_micros = ended.rate.amount_usd_micros(timedelta(minutes=30))
    assert sum(spend.lost_usd_micros for spend in spends) == lost_usd_micros
    assert sum(spend.billed_usd_micros for spend in spends) == costs.of_team(admin, since=since, until=until)[0]
    days = costs.by_day(admin, since=since, days=3)
    assert [(day.day - since).days for day in days] == [0, 1, 2]
    assert sum(day.lost_usd_micros for day in days) == lost_usd_micros
    (own,) = costs.by_team_and_model(_caller(ended.team_id), since=since, until=until)
    assert own.team_id == ended.team_id
    assert costs.by_team_and_model(admin, since=until, until=until + timedelta(days=1)) == ()
