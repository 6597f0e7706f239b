"""Attempts: created once, fenced by a lease, ended once.

Every write about an attempt names its lease token and the states it may come from. No row changed means that another
control plane acts on the attempt now: LeaseLostError, and the caller drops what it knows. Locks are taken on the
attempt first and on its job second.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, case, func, select, update

from orchestrator.domain.attempts import Attempt, HeldDevice
from orchestrator.domain.errors import IllegalTransitionError, LeaseLostError, NotFoundError
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.ids import new_attempt_id, new_lease_token
from orchestrator.domain.outcomes import AttemptEnd, JobMove
from orchestrator.domain.pace import Pace
from orchestrator.domain.pricing import Rate
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.protocol import Succeeded
from orchestrator.domain.states import (
    ACTIVE_ATTEMPT_STATES,
    FINAL_ATTEMPT_STATES,
    AttemptState,
    JobState,
    states_before_attempt,
)
from orchestrator.store.columns import bind_moment
from orchestrator.store.endings import move_job, record_observation, settle_team, write_bill
from orchestrator.store.holds import read_devices
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import attempts
from orchestrator.store.tables.jobs import jobs

CHANGEABLE = frozenset({"phase", "resumed_from_step", "result"})
"""Fields of an Attempt that a transition may set along with the state."""


@dataclass(frozen=True, kw_only=True)
class NewAttempt:
    job_id: str
    device_id: str
    node_name: str
    device_type: str
    reserved_bytes: int
    rate: Rate
    lease_owner: str
    lease_seconds: float
    resumed_from_step: int | None = None
    rate_micros: int = 0
    runs_as: PriorityClass | None = None
    more_devices: tuple[HeldDevice, ...] = ()
    attempt_id: str = field(default_factory=new_attempt_id)


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Highest memory so far, in bytes; what is stored never goes down."""

    allocated_bytes: int = 0
    reserved_bytes: int = 0
    device_bytes: int = 0


def insert_attempt(tx: WriteTx, new: NewAttempt) -> Attempt:
    """The job's next attempt, assigned, with a fresh lease. Move the job to running in the same transaction.

    Raises IllegalTransitionError when the job is neither queued nor running, and ConflictError when it has an active
    attempt (the transaction is then lost).
    """
    now = tx.now()
    claimed = tx.row(
        update(jobs)
        .where(jobs.c.job_id == new.job_id, jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
        .values(attempts=jobs.c.attempts + 1)
        .returning(jobs.c.attempts, jobs.c.team_id)
    )
    if claimed is None:
        raise IllegalTransitionError(f"Job {new.job_id} takes no attempt.")
    statement = tx.insert(attempts).values(
        attempt_id=new.attempt_id,
        job_id=new.job_id,
        team_id=claimed["team_id"],
        number=claimed["attempts"],
        state=AttemptState.ASSIGNED,
        device_id=new.device_id,
        node_name=new.node_name,
        device_type=new.device_type,
        reserved_bytes=new.reserved_bytes,
        price_usd_micros_per_hour=new.rate.price_usd_micros_per_hour,
        rate_reserved_bytes=new.rate.reserved_bytes,
        rate_device_bytes=new.rate.device_bytes,
        lease_owner=new.lease_owner,
        lease_token=new_lease_token(),
        lease_generation=1,
        lease_expires_at=now + timedelta(seconds=new.lease_seconds),
        cursor=0,
        resumed_from_step=new.resumed_from_step,
        rate_micros=new.rate_micros,
        runs_as=new.runs_as,
        more_devices=[asdict(device) for device in new.more_devices] or None,
        created_at=now,
        peak_allocated_bytes=0,
        peak_reserved_bytes=0,
        peak_device_bytes=0,
    )
    row = tx.row(statement.returning(attempts))
    assert row is not None
    return _attempt(row)


def get_attempt(tx: ReadTx, attempt_id: str, team_id: str | None = None) -> Attempt:
    query = select(attempts).where(attempts.c.attempt_id == attempt_id)
    row = tx.row(query if team_id is None else query.where(attempts.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such attempt: {attempt_id}")
    return _attempt(row)


def lock_attempt(tx: WriteTx, attempt_id: str, token: str) -> Attempt:
    """As `get_attempt`; no one else changes it until the transaction ends. Raises LeaseLostError for a stale token."""
    row = tx.row(select(attempts).where(*_held(attempt_id, token)).with_for_update())
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} is not held under this lease.")
    return _attempt(row)


def list_attempts(tx: ReadTx, job_id: str) -> list[Attempt]:
    """In the order of their numbers."""
    query = select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
    return [_attempt(row) for row in tx.rows(query)]


def list_newest_of(tx: ReadTx, job_ids: Collection[str]) -> dict[str, Attempt]:
    """Each job's newest attempt; a job without one is absent."""
    is_newest = (jobs.c.job_id == attempts.c.job_id) & (jobs.c.attempts == attempts.c.number)
    query = select(attempts).join(jobs, is_newest).where(jobs.c.job_id.in_(sorted(job_ids)))
    return {row["job_id"]: _attempt(row) for row in tx.rows(query)}


def count_by_state(tx: ReadTx) -> dict[tuple[AttemptState, FailureKind | None], int]:
    """How many attempts are or ended in each state, by what failed, over all teams."""
    kinds = (attempts.c.state, attempts.c.failure_kind)
    rows = tx.rows(select(*kinds, func.count().label("number")).group_by(*kinds))
    return {
        (AttemptState(row["state"]), row["failure_kind"] and FailureKind(row["failure_kind"])): row["number"]
        for row in rows
    }


def list_active(tx: ReadTx) -> list[Attempt]:
    """Attempts that have not ended, oldest first."""
    query = select(attempts).where(
        attempts.c.released_at.is_(None), attempts.c.state.in_(sorted(ACTIVE_ATTEMPT_STATES))
    )
    return [_attempt(row) for row in tx.rows(query.order_by(*_BY_AGE))]


def list_unreleased(tx: ReadTx) -> list[Attempt]:
    """Attempts that still hold their device, ended or not, oldest first."""
    query = select(attempts).where(attempts.c.released_at.is_(None)).order_by(*_BY_AGE)
    return [_attempt(row) for row in tx.rows(query)]


_BY_AGE = (attempts.c.created_at, attempts.c.attempt_id)


def apply_attempt_transition(
    tx: WriteTx, attempt_id: str, token: str, to: AttemptState, *, changes: Mapping[str, Any] | None = None
) -> Attempt:
    """Move an attempt that goes on; `end_attempt` ends one. The launch (launching) starts its bill.

    Raises LeaseLostError when the token is stale or the attempt is not in a state before `to`.
    """
    if to in FINAL_ATTEMPT_STATES:
        raise ValueError(f"end_attempt moves an attempt to {to}")
    values = dict(changes or {})
    if unknown := set(values) - CHANGEABLE:
        raise ValueError(f"not changeable: {sorted(unknown)}")
    if isinstance(result := values.get("result"), Succeeded):
        values["result"] = result.model_dump(mode="json")
    if to is AttemptState.LAUNCHING:
        values["started_at"] = tx.now()
    return _guarded_move(tx, attempt_id, token, to, values)


def _guarded_move(tx: WriteTx, attempt_id: str, token: str, to: AttemptState, values: Mapping[str, Any]) -> Attempt:
    before = attempts.c.state.in_(sorted(states_before_attempt(to)))
    statement = update(attempts).where(*_held(attempt_id, token), before).values(state=to, **values)
    row = tx.row(statement.returning(attempts))
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} cannot become {to} under this lease.")
    return _attempt(row)


def end_attempt(
    tx: WriteTx,
    attempt_id: str,
    token: str,
    end: AttemptEnd,
    *,
    ended_at: datetime,
    changes: Mapping[str, Any] | None = None,
) -> JobMove:
    """End the attempt, with its bill and what it teaches, and move the job by one event: all or nothing.

    `ended_at` is where the bill stops; `changes` sets fields of the job (jobs.CHANGEABLE). A job that has ended
    already stays as it is. Raises LeaseLostError when the token is stale or the attempt has ended.
    """
    failure = end.failure
    attempt = _guarded_move(
        tx,
        attempt_id,
        token,
        end.state,
        {
            "ended_at": case((attempts.c.started_at > ended_at, attempts.c.started_at), else_=bind_moment(ended_at)),
            "phase": None,
            "failure_kind": failure and failure.kind,
            "failure_message": failure and failure.message,
        },
    )
    write_bill(tx, attempt, end)
    record_observation(tx, attempt, end)
    move = move_job(tx, attempt, end, changes=changes or {})
    settle_team(tx, attempt, end)
    return move


def claim_attempts(tx: WriteTx, *, owner: str, lease_seconds: float) -> list[Attempt]:
    """Take over every attempt that holds a device: a new token and the next generation for each, oldest first.

    From then on every write of an earlier owner changes nothing.
    """
    query = select(attempts.c.attempt_id).where(attempts.c.released_at.is_(None)).order_by(*_BY_AGE)
    expires_at = tx.now() + timedelta(seconds=lease_seconds)
    claimed = []
    for found in tx.rows(query.with_for_update()):
        statement = update(attempts).where(attempts.c.attempt_id == found["attempt_id"])
        row = tx.row(
            statement.values(
                lease_owner=owner,
                lease_token=new_lease_token(),
                lease_generation=attempts.c.lease_generation + 1,
                lease_expires_at=expires_at,
            ).returning(attempts)
        )
        assert row is not None
        claimed.append(_attempt(row))
    return claimed


def record_contact(
    tx: WriteTx,
    attempt_id: str,
    token: str,
    *,
    cursor_before: int,
    cursor: int,
    lease_seconds: float,
    peaks: Peaks = Peaks(),
    phase: str | None = None,
    pace: Pace | None = None,
    alive_at: datetime | None = None,
) -> Attempt:
    """Renew the lease and move the journal's cursor, in the transaction that stores what was pulled.

    `alive_at` is the last proof of life when that was before now: a worker whose end is learned late.

    Raises LeaseLostError when the token is stale or the cursor is not at `cursor_before`: these entries were stored
    by someone else.
    """
    now = tx.now()
    statement = (
        update(attempts)
        .where(*_held(attempt_id, token), attempts.c.cursor == cursor_before)
        .values(
            cursor=cursor,
            last_contact_at=alive_at or now,
            lease_expires_at=now + timedelta(seconds=lease_seconds),
            peak_allocated_bytes=_larger("peak_allocated_bytes", peaks.allocated_bytes),
            peak_reserved_bytes=_larger("peak_reserved_bytes", peaks.reserved_bytes),
            peak_device_bytes=_larger("peak_device_bytes", peaks.device_bytes),
            **({} if phase is None else {"phase": phase}),
            **({} if pace is None else {"pace": pace.model_dump(mode="json")}),
        )
    )
    row = tx.row(statement.returning(attempts))
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} is not at entry {cursor_before} under this lease.")
    return _attempt(row)


def _larger(column: str, value: int) -> ColumnElement[int]:
    return case((attempts.c[column] < value, value), else_=attempts.c[column])


def request_stop(tx: WriteTx, attempt_id: str, token: str, reason: str) -> Attempt:
    """Write down that an active attempt is to stop; the first moment stays, the newest reason holds."""
    statement = (
        update(attempts)
        .where(*_held(attempt_id, token), attempts.c.state.in_(sorted(ACTIVE_ATTEMPT_STATES)))
        .values(
            stop_reason=reason, stop_requested_at=func.coalesce(attempts.c.stop_requested_at, bind_moment(tx.now()))
        )
    )
    row = tx.row(statement.returning(attempts))
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} cannot be stopped under this lease.")
    return _attempt(row)


def request_preemption(
    tx: WriteTx, attempt_id: str, token: str, *, rule: str, for_job_id: str | None, grace_seconds: float
) -> Attempt:
    """Write down that an active attempt makes room; the first rule stays. Its worker is asked by the watch loop."""
    ends_at = tx.now() + timedelta(seconds=grace_seconds)
    unasked = (attempts.c.preempt_rule.is_(None), attempts.c.state.in_(sorted(ACTIVE_ATTEMPT_STATES)))
    statement = (
        update(attempts)
        .where(*_held(attempt_id, token), *unasked)
        .values(preempt_rule=rule, preempted_for=for_job_id, grace_ends_at=ends_at)
    )
    row = tx.row(statement.returning(attempts))
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} cannot be preempted under this lease.")
    return _attempt(row)


def release_attempt(tx: WriteTx, attempt_id: str, token: str) -> Attempt:
    """Give the device back: only on proof that the attempt has ended and its processes are gone."""
    statement = (
        update(attempts)
        .where(*_held(attempt_id, token), attempts.c.ended_at.is_not(None))
        .values(released_at=func.coalesce(attempts.c.released_at, bind_moment(tx.now())))
    )
    row = tx.row(statement.returning(attempts))
    if row is None:
        raise LeaseLostError(f"Attempt {attempt_id} cannot be released under this lease.")
    return _attempt(row)


def _held(attempt_id: str, token: str) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (attempts.c.attempt_id == attempt_id, attempts.c.lease_token == token)


def _attempt(row: RowMapping) -> Attempt:
    first, *more = read_devices(row)
    return Attempt(
        attempt_id=row["attempt_id"],
        job_id=row["job_id"],
        team_id=row["team_id"],
        number=row["number"],
        state=AttemptState(row["state"]),
        phase=row["phase"],
        device_id=row["device_id"],
        node_name=row["node_name"],
        device_type=row["device_type"],
        reserved_bytes=row["reserved_bytes"],
        rate=first.rate,
        lease_owner=row["lease_owner"],
        lease_token=row["lease_token"],
        lease_generation=row["lease_generation"],
        lease_expires_at=row["lease_expires_at"],
        cursor=row["cursor"],
        resumed_from_step=row["resumed_from_step"],
        stop_reason=row["stop_reason"],
        stop_requested_at=row["stop_requested_at"],
        failure_kind=None if row["failure_kind"] is None else FailureKind(row["failure_kind"]),
        failure_message=row["failure_message"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        last_contact_at=row["last_contact_at"],
        ended_at=row["ended_at"],
        released_at=row["released_at"],
        peak_allocated_bytes=row["peak_allocated_bytes"],
        peak_reserved_bytes=row["peak_reserved_bytes"],
        peak_device_bytes=row["peak_device_bytes"],
        result=None if row["result"] is None else Succeeded.model_validate(row["result"]),
        pace=None if row["pace"] is None else Pace.model_validate(row["pace"]),
        rate_micros=row["rate_micros"],
        runs_as=None if row["runs_as"] is None else PriorityClass(row["runs_as"]),
        preempt_rule=row["preempt_rule"],
        preempted_for=row["preempted_for"],
        grace_ends_at=row["grace_ends_at"],
        more_devices=tuple(more),
    )
