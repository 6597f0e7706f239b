"""Which waiting job starts now, and on which device.

Invariants: a device's reservations, counting attempts that have ended but are not proved gone, never exceed its bytes.
A job gets at most one active attempt, at the price that holds when it is placed. A leader whose lease is gone places
nothing.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from orchestrator.domain import placement
from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.failures import FAILURE_RULES, FailureKind
from orchestrator.domain.jobs import Job, JobError
from orchestrator.domain.placement import DeviceRoom, Placement
from orchestrator.domain.pool import Device
from orchestrator.domain.pricing import Rate
from orchestrator.domain.spec import AUTO
from orchestrator.domain.states import JobState
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.limits import choose_run_limit
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.rooms import read_rooms, waiting_job
from orchestrator.scheduler.spending import read_spent
from orchestrator.store import attempts, devices, events, jobs, leader
from orchestrator.store.session import ReadTx, Store, WriteTx

JOBS_PER_PASS = 500
JOBS_WITHOUT_REST = 50
REST_SECONDS_PER_JOB = 0.004
"""Sixteen times as long as reading one waiting job takes (0.25 ms: SQLite, two EPYC cores, 23 November 2026)."""
LONGEST_REST_SECONDS = 2.0
NO_DEVICE_PHASE = "no_device_fits"
WAITING_PHASE = "waiting_for_room"
PriceOf = Callable[[ReadTx, str], int]
"""The price that holds now for a device type, in micro-dollars per device-hour."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class PlaceFacts:
    rooms: Sequence[DeviceRoom]
    waiting: Sequence[Job]


@dataclass(frozen=True, kw_only=True)
class NewPhase:
    """What a waiting job waits for has changed."""

    job_id: str
    phase: str


class Place:
    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        price_of: PriceOf,
        *,
        interval_seconds: float,
        attempt_lease_seconds: int,
        stop_grace_seconds: int,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._price_of = price_of
        self._interval_seconds = interval_seconds
        self._attempt_lease_seconds = attempt_lease_seconds
        self._stop_grace_seconds = stop_grace_seconds
        self._rooms_seen: Sequence[DeviceRoom] = ()
        self._rest_until = 0.0

    def loop(self) -> Loop[PlaceFacts, Placement | NewPhase]:
        return Loop(
            name="place",
            interval_seconds=self._interval_seconds,
            load=self.load,
            decide=decide_places,
            apply=self.apply,
            subject=lambda decision: decision.job_id,
            wakes=("launch",),
        )

    def load(self) -> PlaceFacts:
        """Behind a long queue nothing is read while no device has changed, for as long as reading it is dear."""
        with self._store.read() as tx:
            rooms = read_rooms(tx)
            if rooms == self._rooms_seen and time.monotonic() < self._rest_until:
                return PlaceFacts(rooms=(), waiting=())
            waiting = jobs.list_placeable(tx, tx.now(), JOBS_PER_PASS)
        self._rooms_seen = rooms
        surplus = max(0, len(waiting) - JOBS_WITHOUT_REST)
        self._rest_until = time.monotonic() + min(LONGEST_REST_SECONDS, surplus * REST_SECONDS_PER_JOB)
        return PlaceFacts(rooms=rooms, waiting=waiting)

    def apply(self, decision: Placement | NewPhase) -> None:
        with self._store.write() as tx:
            if isinstance(decision, NewPhase):
                self._change_phase(tx, decision)
            else:
                self._place(tx, decision)

    def _place(self, tx: WriteTx, choice: Placement) -> None:
        """Check everything again under the scheduler's lock, then assign. Raises LeaseLostError without the lease."""
        tx.lock_scheduler()
        holder = leader.find_leader(tx)
        if holder is None or holder.owner != self._leadership.owner or holder.expires_at <= tx.now():
            raise LeaseLostError("Another control plane leads now.")
        job = jobs.lock_job(tx, choice.job_id)
        room = next((room for room in read_rooms(tx) if room.device_id == choice.device_id), None)
        if not _may_start(job) or room is None or placement.choose_device((room,), waiting_job(job)) is None:
            log.info("a placement is out of date", job=choice.job_id, device=choice.device_id)
            return
        rate = Rate(
            price_usd_micros_per_hour=self._price_of(tx, room.device_type),
            reserved_bytes=choice.reserved_bytes,
            device_bytes=room.total_bytes,
        )
        if self._limit_is_used_up(tx, job, rate):
            return
        device = next(device for device in devices.list_devices(tx) if device.device_id == choice.device_id)
        attempt = attempts.insert_attempt(
            tx,
            attempts.NewAttempt(
                job_id=job.job_id,
                device_id=device.device_id,
                node_name=device.node_name,
                device_type=device.device_type,
                reserved_bytes=choice.reserved_bytes,
                rate=rate,
                lease_owner=self._leadership.owner,
                lease_seconds=self._attempt_lease_seconds,
            ),
        )
        jobs.apply_job_transition(
            tx,
            job.job_id,
            JobState.RUNNING,
            message=_describe(attempt.number, device, rate),
            data={"attempt": attempt.number, "device_id": device.device_id, "reserved_bytes": choice.reserved_bytes},
            changes={"phase": "starting"},
        )

    def _limit_is_used_up(self, tx: WriteTx, job: Job, rate: Rate) -> bool:
        """Earlier attempts may have left too little of a limit to run on: then the job ends here, with its reason."""
        limit = choose_run_limit(
            rate=rate,
            spent=read_spent(tx, job.job_id),
            max_cost_usd_micros=job.spec.max_cost_usd_micros,
            max_runtime_seconds=job.spec.resources.max_runtime_seconds,
            grace_seconds=self._stop_grace_seconds,
        )
        if limit is None or limit.stop_seconds >= 1:
            return False
        over_budget = limit.reason == "budget_exceeded"
        kind = FailureKind.BUDGET if over_budget else FailureKind.TIMEOUT
        field = "max_cost_usd" if over_budget else "resources.max_runtime_seconds"
        message = f"Less than one second of {field} is left to run on."
        jobs.apply_job_transition(
            tx,
            job.job_id,
            JobState.FAILED,
            message=f"The job has failed: {message}",
            level="error",
            data={"failure": kind.value},
            changes={"error": JobError(code=kind.value, message=f"{message} {FAILURE_RULES[kind].hint}", param=field)},
        )
        return True

    def _change_phase(self, tx: WriteTx, decision: NewPhase) -> None:
        job = jobs.lock_job(tx, decision.job_id)
        if not _may_start(job) or job.phase == decision.phase:
            return
        jobs.record_progress(tx, job.job_id, phase=decision.phase)
        if decision.phase == NO_DEVICE_PHASE:
            events.append_event(tx, job.job_id, level="warn", message=_describe_lack(job, read_rooms(tx)))


def decide_places(facts: PlaceFacts) -> Sequence[Placement | NewPhase]:
    """Placements first. A job that waits is told whether it waits for room, or for a device that does not exist."""
    waiting = [waiting_job(job) for job in facts.waiting]
    placements = placement.choose_placements(facts.rooms, waiting)
    placed = {choice.job_id for choice in placements}
    phases = []
    for job, wait in zip(facts.waiting, waiting, strict=True):
        if job.job_id in placed:
            continue
        fits = placement.could_ever_fit(facts.rooms, wait)
        phase = WAITING_PHASE if fits else NO_DEVICE_PHASE
        if job.phase != phase:
            phases.append(NewPhase(job_id=job.job_id, phase=phase))
    return [*placements, *phases]


def _may_start(job: Job) -> bool:
    return job.state is JobState.QUEUED and job.cancel_requested_at is None and job.pause_requested_at is None


def _describe(number: int, device: Device, rate: Rate) -> str:
    """The device's price is for all of it; the attempt pays for its share."""
    share = rate.reserved_bytes / rate.device_bytes
    hourly = rate.price_usd_micros_per_hour * share / 1_000_000
    return (
        f"Attempt {number} starts on {device.device_id} ({device.device_type}) with "
        f"{rate.reserved_bytes / 2**30:.2f} GiB of {rate.device_bytes / 2**30:.2f} GiB, at ${hourly:.4f} an hour."
    )


def _describe_lack(job: Job, rooms: Sequence[DeviceRoom]) -> str:
    needs = " or ".join(f"{size / 2**30:.2f} GiB on {kind}" for kind, size in sorted((job.footprints or {}).items()))
    wanted = job.spec.resources.device_type
    type_text = "" if wanted == AUTO else f" of type {wanted}"
    return (
        f"No device of the pool could hold this job, even empty: it needs {needs}{type_text}, and the pool has "
        f"{len(rooms)} devices. The job waits for one."
    )
