"""A decided start, checked once more against the rows and written down: attempt, price, money held, state, event."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from orchestrator.domain.attempts import HeldDevice, rate_of
from orchestrator.domain.budgets import WARNING_PERCENT
from orchestrator.domain.failures import FAILURE_RULES, FailureKind
from orchestrator.domain.jobs import Alternative, Job, JobError
from orchestrator.domain.observations import forget_plan
from orchestrator.domain.pool import Device
from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.domain.scheduling.actions import Start
from orchestrator.domain.scheduling.facts import Hold
from orchestrator.domain.scheduling.views import AS_ASKED
from orchestrator.domain.states import JobState
from orchestrator.scheduler.limits import choose_run_limit
from orchestrator.scheduler.rooms import read_rooms
from orchestrator.scheduler.sentences import describe_usd
from orchestrator.scheduler.spending import read_spent
from orchestrator.store import attempts, events, jobs, teams
from orchestrator.store.budgets import claim_hold, read_budget
from orchestrator.store.devices import list_devices
from orchestrator.store.prices import read_price
from orchestrator.store.session import ReadTx, WriteTx

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Starter:
    """`owner` is the control plane that leads."""

    owner: str
    attempt_lease_seconds: int
    stop_grace_seconds: int

    def start(self, tx: WriteTx, start: Start) -> bool:
        """Assign the job to its devices; False, and nothing done, when the rows say otherwise by now.

        Call it under the scheduler's lock.
        """
        job = jobs.lock_job(tx, start.job_id)
        found = _find_room(tx, start.holds)
        if not _may_start(job) or found is None:
            log.info("a start is out of date", job=start.job_id, devices=[hold.device_id for hold in start.holds])
            return False
        devices = _price(tx, found, start.holds)
        if self._limit_is_used_up(tx, job, rate_of(devices)):
            return True
        if not _hold_money(tx, job, start, devices[0].device_type):
            log.info("the budget does not reach any more", job=start.job_id, team=job.team_id)
            return False
        self._assign(tx, job, start, devices, node_name=found[0].node_name)
        return True

    def _assign(self, tx: WriteTx, job: Job, start: Start, devices: tuple[HeldDevice, ...], *, node_name: str) -> None:
        first, *more = devices
        attempt = attempts.insert_attempt(
            tx,
            attempts.NewAttempt(
                job_id=job.job_id,
                device_id=first.device_id,
                node_name=node_name,
                device_type=first.device_type,
                reserved_bytes=first.rate.reserved_bytes,
                rate=first.rate,
                more_devices=tuple(more),
                rate_micros=start.rate_micros,
                runs_as=start.runs_as,
                lease_owner=self.owner,
                lease_seconds=self.attempt_lease_seconds,
            ),
        )
        data: dict[str, Any] = {
            "attempt": attempt.number,
            "device_id": first.device_id,
            "device_ids": [device.device_id for device in devices],
            "reserved_bytes": first.rate.reserved_bytes,
            "borrowing": start.is_borrowing,
        }
        jobs.apply_job_transition(
            tx,
            job.job_id,
            JobState.RUNNING,
            message=_describe(attempt.number, devices, start),
            data=data,
            changes={"phase": "starting", **_chosen_plan(job, start.footprint.name)},
        )

    def _limit_is_used_up(self, tx: WriteTx, job: Job, rate: GangRate) -> bool:
        """Earlier attempts may have left too little of a limit to run on: then the job ends here, with its reason."""
        limit = choose_run_limit(
            rate=rate,
            spent=read_spent(tx, job.job_id),
            max_cost_usd_micros=job.spec.max_cost_usd_micros,
            max_runtime_seconds=job.spec.resources.max_runtime_seconds,
            grace_seconds=self.stop_grace_seconds,
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


def _may_start(job: Job) -> bool:
    is_free = job.cancel_requested_at is None and job.pause_requested_at is None and job.held_at is None
    return job.state is JobState.QUEUED and is_free


def _find_room(tx: ReadTx, holds: Sequence[Hold]) -> list[Device] | None:
    """The devices, if all of them are there, on one node, and still have the bytes."""
    rooms = {room.device_id: room for room in read_rooms(tx) if room.schedulable}
    if any(hold.device_id not in rooms or rooms[hold.device_id].free_bytes < hold.bytes for hold in holds):
        return None
    known = {device.device_id: device for device in list_devices(tx)}
    found = [known[hold.device_id] for hold in holds]
    return found if len({device.node_name for device in found}) == 1 else None


def _price(tx: ReadTx, devices: Sequence[Device], holds: Sequence[Hold]) -> tuple[HeldDevice, ...]:
    """They are of one type."""
    price = read_price(tx, devices[0].device_type)
    return tuple(
        HeldDevice(
            device_id=device.device_id,
            device_type=device.device_type,
            rate=Rate(price_usd_micros_per_hour=price, reserved_bytes=hold.bytes, device_bytes=device.usable_bytes),
        )
        for device, hold in zip(devices, holds, strict=True)
    )


def _hold_money(tx: WriteTx, job: Job, start: Start, device_type: str) -> bool:
    """Hold the most that the job may still cost. A job that runs as idle because its team's budget is used up holds
    nothing: that is what its team's admin chose."""
    if start.runs_as is not job.spec.priority_class:
        return True
    cost = start.footprint.cost_usd_micros.get(device_type, 0)
    if claim_hold(tx, job.job_id, job.team_id, cost) is not None:
        return False
    team = teams.get_team(tx, job.team_id)
    if team.budget_usd_micros is None:
        return True
    state = read_budget(tx, team)
    if state.used_percent is not None and state.used_percent >= WARNING_PERCENT:
        message = (
            f"{state.used_percent:.0f} % of team {team.name}'s budget of {describe_usd(team.budget_usd_micros)} a "
            f"{team.budget_period.value} is spent or held."
        )
        events.append_event(tx, job.job_id, level="warn", message=message, data={"budget_percent": state.used_percent})
    return True


def _chosen_plan(job: Job, name: str) -> dict[str, Any]:
    """What changes in the job when it starts with another footprint than its own."""
    chosen = next((found for found in job.alternatives if found.name == name), None)
    if name == AS_ASKED or chosen is None:
        return {}
    changes: dict[str, Any] = {"plan": chosen.plan, "footprints": chosen.footprints, "alternatives": ()}
    if job.estimate is not None:
        changes["estimate"] = _estimate_of(job.estimate, chosen)
    return changes


def _estimate_of(estimate: dict[str, Any], chosen: Alternative) -> dict[str, Any]:
    """What was predicted, without what belongs to the plan that is not run, and with the times of the one that is."""
    rest = forget_plan(estimate)
    times = {
        kind: {**time, "seconds": chosen.seconds.get(kind, time["seconds"])} for kind, time in rest["time"].items()
    }
    return {**rest, "time": times}


def _describe(number: int, devices: Sequence[HeldDevice], start: Start) -> str:
    """A device's price is for all of it; the attempt pays for its share, of each."""
    first, rate = devices[0], devices[0].rate
    hourly = rate_of(devices).amount_usd_micros(timedelta(hours=1)) / 1_000_000
    where = " and ".join(device.device_id for device in devices)
    on_each = " on each" if len(devices) > 1 else ""
    with_what = "" if start.footprint.name == AS_ASKED else f" with {start.footprint.name}"
    return (
        f"Attempt {number} starts{with_what} on {where} ({first.device_type}) with "
        f"{rate.reserved_bytes / 2**30:.2f} GiB of {rate.device_bytes / 2**30:.2f} GiB{on_each}, "
        f"at ${hourly:.4f} an hour."
    )
