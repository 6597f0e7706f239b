"""What becomes of attempts that nobody hears of any more, and when a device is free again.

Invariants: a device is given back only on proof that the attempt's processes are gone, or when its node has left the
cluster and the supervisor's own deadline, after which it ends itself, is surely over. Losing contact is no proof: an
attempt is given up when its lease is over, but its device is not.
"""

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from orchestrator.domain import outcomes
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import AttemptGoneError, ClusterUnavailableError, LeaseLostError
from orchestrator.domain.jobs import Job
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.states import FINAL_ATTEMPT_STATES, AttemptState
from orchestrator.runtime.launcher import Launcher
from orchestrator.scheduler.contacts import Contacts
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.limits import latest_billed_at
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.spending import read_spent
from orchestrator.scheduler.watching import RENEWALS_PER_LEASE
from orchestrator.store import attempts, devices, jobs
from orchestrator.store.session import Store

GONE_SECONDS = 5.0
"""The cluster must know of no supervisor for this long, so that one odd answer ends nothing."""
MARGIN_SECONDS = 30
"""Added to every deadline of a supervisor before we act without proof: clocks and polls are not exact."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class ReapTimes:
    interval_seconds: float
    attempt_lease_seconds: int
    stop_grace_seconds: int
    launch_timeout_seconds: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """An attempt that holds a device. `gone_seconds` is None unless the cluster knows no supervisor of it."""

    attempt: Attempt
    job: Job
    gone_seconds: float | None
    is_launching: bool


@dataclass(frozen=True, kw_only=True)
class ReapFacts:
    held: Sequence[Held]
    online_nodes: Collection[str]
    now: datetime
    times: ReapTimes


@dataclass(frozen=True, kw_only=True)
class GiveUp:
    """End the attempt; with `needs_proof` only once its processes are proved gone."""

    attempt: Attempt
    end: AttemptEnd
    needs_proof: bool


@dataclass(frozen=True, kw_only=True)
class FreeDevice:
    """Give the device of an ended attempt back; `without_proof` when there is no node left to ask."""

    attempt: Attempt
    without_proof: bool


class Reap:
    def __init__(
        self, store: Store, launcher: Launcher, leadership: Leadership, *, contacts: Contacts, times: ReapTimes
    ) -> None:
        self._store = store
        self._launcher = launcher
        self._leadership = leadership
        self._contacts = contacts
        self._times = times

    def loop(self) -> Loop[ReapFacts, GiveUp | FreeDevice]:
        return Loop(
            name="reap",
            interval_seconds=self._times.interval_seconds,
            load=self.load,
            decide=decide_reaping,
            apply=self.apply,
            subject=lambda decision: decision.attempt.attempt_id,
            parallel=4,
            wakes=("place",),
        )

    def load(self) -> ReapFacts:
        with self._store.read() as tx:
            held = [
                Held(
                    attempt=attempt,
                    job=jobs.get_job(tx, attempt.job_id),
                    gone_seconds=self._contacts.gone_seconds(attempt.attempt_id),
                    is_launching=self._contacts.is_launching(attempt.attempt_id),
                )
                for attempt in attempts.list_unreleased(tx)
                if attempt.lease_owner == self._leadership.owner
            ]
            online = {device.node_name for device in devices.list_devices(tx) if device.online}
            return ReapFacts(held=held, online_nodes=online, now=tx.now(), times=self._times)

    def apply(self, decision: GiveUp | FreeDevice) -> None:
        """Proving kills what is left of an attempt, and no token fences that: so only a leader may."""
        if not self._leadership.is_leading():
            raise LeaseLostError("Another control plane may lead now.")
        if isinstance(decision, FreeDevice):
            self._free_device(decision)
        else:
            self._give_up(decision)

    def _give_up(self, decision: GiveUp) -> None:
        attempt = decision.attempt
        proved = decision.needs_proof and self._prove_gone(attempt)
        if decision.needs_proof and not proved:
            raise ClusterUnavailableError(f"processes of {attempt.attempt_id} may still live on {attempt.node_name}")
        with self._store.write() as tx:
            ended_at = latest_billed_at(
                attempt.last_contact_at or attempt.started_at or tx.now(),
                started_at=attempt.started_at,
                rate=attempt.whole_rate,
                spent=read_spent(tx, attempt.job_id),
                max_cost_usd_micros=jobs.get_job(tx, attempt.job_id).spec.max_cost_usd_micros,
            )
            attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, decision.end, ended_at=ended_at)
            if proved:
                attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token)
        log.warning("attempt given up", attempt=attempt.attempt_id, job=attempt.job_id, proved_gone=proved)

    def _free_device(self, decision: FreeDevice) -> None:
        attempt = decision.attempt
        if not decision.without_proof and not self._prove_gone(attempt):
            raise ClusterUnavailableError(f"processes of {attempt.attempt_id} still live on {attempt.node_name}")
        with self._store.write() as tx:
            attempts.release_attempt(tx, attempt.attempt_id, attempt.lease_token)
        log.info("devices released", attempt=attempt.attempt_id, devices=[each.device_id for each in attempt.devices])

    def _prove_gone(self, attempt: Attempt) -> bool:
        with suppress(AttemptGoneError):
            self._launcher.release(attempt.attempt_id)
        return self._launcher.confirm_gone(attempt.attempt_id, node_name=attempt.node_name)


def decide_reaping(facts: ReapFacts) -> list[GiveUp | FreeDevice]:
    """Release what has ended; give up what cannot be reached."""
    decisions: list[GiveUp | FreeDevice] = []
    for held in facts.held:
        if held.attempt.state in FINAL_ATTEMPT_STATES:
            decisions.append(FreeDevice(attempt=held.attempt, without_proof=_is_beyond_proof(held.attempt, facts)))
        elif (give_up := _decide_giving_up(held, facts)) is not None:
            decisions.append(give_up)
    return decisions


def _decide_giving_up(held: Held, facts: ReapFacts) -> GiveUp | None:
    attempt, times = held.attempt, facts.times
    is_gone = held.gone_seconds is not None and held.gone_seconds >= GONE_SECONDS and not held.is_launching
    match attempt.state:
        case AttemptState.ASSIGNED if _is_over(attempt.created_at, times.launch_timeout_seconds, facts.now):
            message = f"It could not be prepared for its launch within {times.launch_timeout_seconds} s."
            return GiveUp(attempt=attempt, end=outcomes.lost(message), needs_proof=True)
        case AttemptState.LAUNCHING:
            return _decide_unborn(held, facts, is_gone=is_gone)
        case AttemptState.RUNNING if _is_over(attempt.lease_expires_at, MARGIN_SECONDS, facts.now):
            message = f"The worker on {attempt.node_name} has not answered for {times.attempt_lease_seconds} s."
            return GiveUp(attempt=attempt, end=outcomes.lost(message), needs_proof=False)
        case AttemptState.RUNNING if is_gone:
            message = f"The supervisor on {attempt.node_name} is not there any more."
            return GiveUp(attempt=attempt, end=outcomes.lost(message), needs_proof=True)
    return None


def _decide_unborn(held: Held, facts: ReapFacts, *, is_gone: bool) -> GiveUp | None:
    """An attempt that was launched and has never answered. Past its time it is given up whether or not it is proved."""
    attempt, job = held.attempt, held.job
    assert attempt.started_at is not None, "launching begins with the launch"
    if not held.is_launching and job.cancel_requested_at is not None:
        return GiveUp(attempt=attempt, end=outcomes.cancelled(), needs_proof=True)
    if not held.is_launching and (job.pause_requested_at is not None or attempt.preempt_rule is not None):
        return GiveUp(attempt=attempt, end=outcomes.interrupted(), needs_proof=True)
    timeout = facts.times.launch_timeout_seconds
    if _is_over(attempt.started_at, timeout, facts.now):
        message = f"The worker on {attempt.node_name} did not answer within {timeout} s of its launch."
        return GiveUp(attempt=attempt, end=outcomes.lost(message), needs_proof=False)
    if is_gone:
        message = f"No supervisor of it was found on {attempt.node_name}."
        return GiveUp(attempt=attempt, end=outcomes.lost(message), needs_proof=True)
    return None


def _is_beyond_proof(attempt: Attempt, facts: ReapFacts) -> bool:
    """The node has left the cluster, and the supervisor, unheard, has stopped its worker by its own deadline.

    The database may not know of the very last renewals, hence a part of a lease more.
    """
    times = facts.times
    unwritten = times.attempt_lease_seconds / RENEWALS_PER_LEASE
    deadline = unwritten + times.stop_grace_seconds + MARGIN_SECONDS
    return attempt.node_name not in facts.online_nodes and _is_over(attempt.lease_expires_at, deadline, facts.now)


def _is_over(since: datetime, seconds: float, now: datetime) -> bool:
    return now - since > timedelta(seconds=seconds)
