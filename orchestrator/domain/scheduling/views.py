"""Jobs, attempts, devices and teams as the scheduler's decision sees them. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.pace import estimate_finish
from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.pool import Device, DeviceUse, Node
from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.domain.scheduling.facts import (
    WHOLE_DEVICE_MICROS,
    Footprint,
    Hold,
    QueuedJob,
    RunningJob,
    SharedDevice,
    TeamTerms,
)
from orchestrator.domain.spec import AUTO
from orchestrator.domain.teams import Team, WhenExhausted

AS_ASKED = "as asked"
"""The name of a job's own footprint."""
UNKNOWN_SECONDS = 3600.0
"""An hour: for a job whose time nobody has predicted."""


@dataclass(frozen=True, kw_only=True)
class Market:
    """The device types of the pool: what a whole device of each costs, in micro-dollars per hour, its kind, and the
    largest share of one that a byte can be, by the smallest usable bytes of the type."""

    prices: Mapping[str, int]
    kinds: Mapping[str, DeviceKind]
    least_bytes: Mapping[str, int]

    @property
    def reference_price(self) -> int:
        """Of the dearest type: one reference device is one of these."""
        return max(self.prices.values(), default=0)

    def weight_micros(self, device_type: str) -> int:
        """What a whole device of the type counts for. Where nothing costs anything, each counts for one."""
        reference = self.reference_price
        if reference == 0:
            return WHOLE_DEVICE_MICROS
        return WHOLE_DEVICE_MICROS * self.prices[device_type] // reference


def sum_attained(by_type: Mapping[str, float], market: Market) -> float:
    """Device-seconds by type in reference-device-seconds; a type that has left the pool counts as the reference."""
    reference = WHOLE_DEVICE_MICROS
    weights = {name: market.weight_micros(name) if name in market.prices else reference for name in by_type}
    return sum(seconds * weights[name] / reference for name, seconds in sorted(by_type.items()))


def read_market(devices: Iterable[Device], prices: Mapping[str, int]) -> Market:
    kinds: dict[str, DeviceKind] = {}
    least: dict[str, int] = {}
    for device in devices:
        kinds[device.device_type] = device.kind
        least[device.device_type] = min(device.usable_bytes, least.get(device.device_type, device.usable_bytes))
    return Market(prices=prices, kinds=kinds, least_bytes=least)


def view_device(device: Device, uses: Iterable[DeviceUse], node: Node | None, market: Market) -> SharedDevice:
    """`uses` are those of this device. What runs counts with its job; what has ended and is not gone is held."""
    cordoned = node is not None and node.cordoned_at is not None
    held = [use for use in uses if use.draining]
    held_for: dict[str, int] = {}
    for use in held:
        if use.preempted_for is not None:
            held_for[use.preempted_for] = held_for.get(use.preempted_for, 0) + use.reserved_bytes
    return SharedDevice(
        device_id=device.device_id,
        node_name=device.node_name,
        device_type=device.device_type,
        kind=device.kind,
        usable_bytes=device.usable_bytes,
        weight_micros=market.weight_micros(device.device_type),
        held_bytes=sum(use.reserved_bytes for use in held),
        held_for=held_for,
        schedulable=device.online and not cordoned,
        draining=node is not None and node.drain_requested_at is not None,
        resting=device.online and node is not None and node.is_resting,
    )


def view_team(team: Team, left_usd_micros: int | None) -> TeamTerms:
    return TeamTerms(
        team_id=team.team_id,
        name=team.name,
        guarantee_micros=team.guarantee_micros,
        ceiling_micros=team.ceiling_micros,
        weight=team.weight_millis / 1000,
        usage=team.usage,
        usage_at=team.usage_at.timestamp() if team.usage_at else 0.0,
        budget_left_usd_micros=left_usd_micros,
        idle_when_exhausted=team.when_exhausted is WhenExhausted.IDLE,
    )


def view_queued(
    job: Job,
    market: Market,
    *,
    array_limit: int | None = None,
    warm_nodes: Collection[str] = (),
    attained_seconds: float = 0.0,
) -> QueuedJob:
    """A queued job; its places and costs by today's prices."""
    assert job.queued_at is not None, "a queued job has a place in the queue"
    own = Footprint(
        name=AS_ASKED,
        bytes_by_kind=job.footprints or {},
        seconds_by_type=_by_type(_predicted(job.estimate), job, market),
        cost_usd_micros=_costs(job, job.footprints or {}, _predicted(job.estimate, upper=True), market),
    )
    others = (
        Footprint(
            name=found.name,
            bytes_by_kind=found.footprints,
            seconds_by_type=_by_type(found.seconds, job, market),
            cost_usd_micros=_costs(job, found.footprints, found.seconds, market),
        )
        for found in job.alternatives
    )
    return QueuedJob(
        job_id=job.job_id,
        team_id=job.team_id,
        user_id=job.created_by,
        priority_class=job.spec.priority_class,
        queued_at=job.queued_at.timestamp(),
        footprints=(own, *others),
        priority=job.spec.priority,
        rank=job.rank,
        replicas=job.spec.resources.count,
        exclusive=job.spec.resources.exclusive,
        device_types=_allowed_types(job),
        warm_nodes=frozenset(warm_nodes),
        is_held=job.held_at is not None or job.pause_requested_at is not None or job.cancel_requested_at is not None,
        not_before_at=job.not_before_at.timestamp() if job.not_before_at else 0.0,
        array_id=job.array_id,
        array_limit=array_limit,
        preempted_at=tuple(at.timestamp() for at in job.preempted_at),
        attained_seconds=attained_seconds,
    )


def view_running(job: Job, attempt: Attempt, *, saved_at: datetime | None, attained_seconds: float = 0.0) -> RunningJob:
    """A job with an attempt that holds its device. `saved_at` is its newest checkpoint; `attained_seconds` is what its
    earlier attempts ran."""
    started = attempt.started_at or attempt.created_at
    asked = attempt.preempt_rule is not None or attempt.stop_requested_at is not None
    return RunningJob(
        job_id=job.job_id,
        team_id=job.team_id,
        user_id=job.created_by,
        priority_class=attempt.runs_as or job.spec.priority_class,
        holds=tuple(Hold(device_id=device.device_id, bytes=device.rate.reserved_bytes) for device in attempt.devices),
        started_at=started.timestamp(),
        expected_end_at=_expect_end(job, attempt, started).timestamp(),
        saved_at=(saved_at or started).timestamp(),
        priority=job.spec.priority,
        queued_at=job.queued_at.timestamp() if job.queued_at else 0.0,
        checkpoint_seconds=_checkpoint_seconds(attempt),
        preempted_at=tuple(at.timestamp() for at in job.preempted_at),
        attained_seconds=attained_seconds,
        is_stopping=asked,
        stopping_for=attempt.preempted_for,
        stops_by_at=attempt.grace_ends_at.timestamp() if attempt.grace_ends_at else None,
        array_id=job.array_id,
        device_types=_allowed_types(job),
    )


def _allowed_types(job: Job) -> frozenset[str] | None:
    wanted = job.spec.resources.device_type
    return None if wanted == AUTO else frozenset({wanted})


def _expect_end(job: Job, attempt: Attempt, started: datetime) -> datetime:
    """By the attempt's own pace once it has one, else by what was predicted of the job."""
    if attempt.pace is not None and job.plan is not None and job.total_steps and attempt.last_contact_at is not None:
        found = estimate_finish(
            attempt.pace,
            job.plan,
            step=job.current_step,
            total_steps=job.total_steps,
            evaluates=job.spec.validation_file is not None,
            seen_at=attempt.last_contact_at,
            end_seconds=0.0,
        )
        if found is not None:
            return found
    seconds = _predicted(job.estimate).get(attempt.device_kind, UNKNOWN_SECONDS)
    return started + timedelta(seconds=seconds * _left(job))


def _checkpoint_seconds(attempt: Attempt) -> float:
    """What one checkpoint took, on average; 0 before the first."""
    if attempt.pace is None or not attempt.pace.entered.get("saving"):
        return 0.0
    spent = sum(attempt.pace.seconds.get(phase, 0.0) for phase in ("saving", "uploading"))
    return spent / attempt.pace.entered["saving"]


def _predicted(estimate: Mapping[str, Any] | None, *, upper: bool = False) -> dict[str, float]:
    """Seconds of the whole job by device kind, from what was predicted when it was validated; or their upper ends."""
    name = "high_seconds" if upper else "seconds"
    return {
        kind: float(time.get(name) or time["seconds"]) for kind, time in ((estimate or {}).get("time") or {}).items()
    }


def _left(job: Job) -> float:
    """The fraction of the job's steps that is still to be done."""
    return max(0.0, 1 - job.current_step / job.total_steps) if job.total_steps else 1.0


def _by_type(seconds: Mapping[str, float], job: Job, market: Market) -> dict[str, float]:
    return {device_type: seconds.get(kind, UNKNOWN_SECONDS) * _left(job) for device_type, kind in market.kinds.items()}


def _costs(job: Job, footprints: Mapping[str, int], seconds: Mapping[str, float], market: Market) -> dict[str, int]:
    """What the rest of the job costs at most, by device type: never more than its own limit."""
    costs = {}
    for device_type, kind in market.kinds.items():
        reserved, whole = footprints.get(kind), market.least_bytes[device_type]
        if reserved is None or whole <= 0:
            continue
        rate = Rate(
            price_usd_micros_per_hour=market.prices[device_type],
            reserved_bytes=whole if job.spec.resources.exclusive else min(reserved, whole),
            device_bytes=whole,
        )
        left = timedelta(seconds=seconds.get(kind, UNKNOWN_SECONDS) * _left(job))
        limit = job.spec.max_cost_usd_micros
        cost = GangRate((rate,) * job.spec.resources.count).amount_usd_micros(left)
        costs[device_type] = cost if limit is None else min(cost, limit)
    return costs
