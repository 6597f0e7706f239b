"""What a validated job will take: bytes and time on each kind of device, and money where it would run.

Pure but for the sizer, which may take seconds: no transaction is open around these functions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from orchestrator.domain.calibration import choose_speeds, merge_by_kind
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate, TimeEstimate, estimate_time
from orchestrator.domain.estimate_changes import Change, describe_misfit, suggest_savings
from orchestrator.domain.estimate_cost import CostRange, price_time
from orchestrator.domain.estimate_terms import Calibration
from orchestrator.domain.jobs import Alternative, Job
from orchestrator.domain.placement import (
    DeviceRoom,
    WaitingJob,
    choose_device,
    count_together,
    describe_too_few,
)
from orchestrator.domain.plan import TokenReport, TrainingPlan
from orchestrator.domain.pool import BaseModel
from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.domain.sizer import Gauges, Sizer, build_gauges, footprints_of, glance_at_kinds, measure_kinds
from orchestrator.domain.spec import AUTO
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.scheduler.alternatives import PredictTime
from orchestrator.scheduler.sentences import describe_bytes, describe_seconds, describe_usd


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """By each kind of device that can run the plan. `home` is the device that an empty pool would give the job, and
    `savings` what would make the job smaller there."""

    memory: Mapping[DeviceKind, MemoryEstimate]
    time: Mapping[DeviceKind, TimeEstimate]
    home: DeviceRoom | None
    cost: CostRange | None
    savings: tuple[Change, ...]

    @property
    def footprints(self) -> dict[str, int]:
        return footprints_of(self.memory)


@dataclass(frozen=True, kw_only=True)
class Market:
    """What a job may run on, at which price, how fast that is, and what was learned there: the latter three by device
    type, for every type among `rooms`. Prices are micro-dollars per device-hour."""

    rooms: Sequence[DeviceRoom]
    prices: Mapping[str, int]
    speeds: Mapping[str, DeviceSpeed]
    calibrations: Mapping[str, Calibration]


def size_job(
    job: Job,
    plan: TrainingPlan,
    model: BaseModel,
    *,
    tokens: TokenReport,
    validation: TokenReport | None,
    market: Market,
    gauges: Gauges,
) -> Sizing:
    """What is predicted, with the margin and the corrections that measured runs of such jobs ask for."""
    memory = measure_kinds(plan, gauges, present={room.kind for room in market.rooms})
    predict_time = time_predictor(job, model, gauges, market=market, tokens=tokens, validation=validation)
    time = {kind: predict_time(plan, kind, size) for kind, size in memory.items()}
    footprints = footprints_of(memory)
    home = _find_room(job, footprints, market.rooms)
    cost: CostRange | None = None
    savings: tuple[Change, ...] = ()
    if home is not None:
        reserved = home.total_bytes if job.spec.resources.exclusive else footprints[home.kind]
        rate = Rate(
            price_usd_micros_per_hour=market.prices[home.device_type],
            reserved_bytes=reserved,
            device_bytes=home.total_bytes,
        )
        cost = price_time(GangRate((rate,) * plan.devices), time[home.kind])
        savings = suggest_savings(plan, gauges[home.kind])
    return Sizing(memory=memory, time=time, home=home, cost=cost, savings=savings)


def find_home(job: Job, alternatives: Iterable[Alternative], rooms: Sequence[DeviceRoom]) -> DeviceRoom | None:
    """The device that an empty pool would give the job in one of its other footprints."""
    found = (_find_room(job, alternative.footprints, rooms) for alternative in alternatives)
    return next((room for room in found if room is not None), None)


def _find_room(job: Job, footprints: dict[str, int], rooms: Sequence[DeviceRoom]) -> DeviceRoom | None:
    empty = [replace(room, free_bytes=room.total_bytes, schedulable=True) for room in rooms]
    return choose_device(empty, _asks(job, footprints))


def time_predictor(
    job: Job,
    model: BaseModel,
    gauges: Gauges,
    *,
    market: Market,
    tokens: TokenReport,
    validation: TokenReport | None,
) -> PredictTime:
    """Times of any plan over these rows."""
    speeds = choose_speeds(_allowed(job, market.rooms), market.speeds, market.calibrations)

    def predict(plan: TrainingPlan, kind: DeviceKind, size: MemoryEstimate) -> TimeEstimate:
        return estimate_time(
            plan,
            model.facts,
            training=tokens,
            speed=speeds[kind],
            validation=validation,
            corrections=gauges[kind].learned.corrections,
            traced_flops=size.flops,
        )

    return predict


def gauge_job(job: Job, model: BaseModel, *, market: Market, sizer: Sizer) -> Gauges:
    """With what was learned on the device types that the job may go to."""
    return build_gauges(sizer, model, learned=merge_by_kind(_allowed(job, market.rooms), market.calibrations))


def _allowed(job: Job, rooms: Sequence[DeviceRoom]) -> list[DeviceRoom]:
    asked = job.spec.resources.device_type
    return [room for room in rooms if asked in {AUTO, room.device_type}]


def _asks(job: Job, footprints: dict[str, int]) -> WaitingJob:
    device_type = job.spec.resources.device_type
    return WaitingJob(
        job_id=job.job_id,
        bytes_by_kind=footprints,
        device_type=None if device_type == AUTO else device_type,
        exclusive=job.spec.resources.exclusive,
        count=job.spec.resources.count,
    )


def snapshot(sizing: Sizing, tokens: TokenReport) -> dict[str, Any]:
    """What was predicted, as it is stored with the job and shown beside what was measured."""
    return {
        "memory": {kind: asdict(estimate) for kind, estimate in sizing.memory.items()},
        "time": {kind: asdict(found) | {"confidence": found.confidence} for kind, found in sizing.time.items()},
        "device_id": sizing.home.device_id if sizing.home else None,
        "device_type": sizing.home.device_type if sizing.home else None,
        "kind": sizing.home.kind if sizing.home else None,
        "cost_usd_micros": sizing.cost.usd_micros if sizing.cost else None,
        "cost": asdict(sizing.cost) if sizing.cost else None,
        "savings": [asdict(change) for change in sizing.savings],
        "rows": tokens.rows,
        "tokens": tokens.total_tokens,
        "trained_tokens": tokens.trained_tokens,
    }


def describe_sizing(sizing: Sizing, tokens: TokenReport, *, steps: int) -> str:
    """The event that ends validation."""
    found = (
        f"The files are valid: {tokens.rows:,} rows, {tokens.total_tokens:,} tokens, {tokens.trained_tokens:,} of them "
        f"trained on; {steps:,} steps."
    )
    if sizing.home is None or sizing.cost is None:
        sizes = " or ".join(
            f"{describe_bytes(estimate.total_bytes)} on {kind}" for kind, estimate in sizing.memory.items()
        )
        return f"{found} Predicted: {sizes}."
    kind = sizing.home.kind
    memory, time = sizing.memory[kind], sizing.time[kind]
    return (
        f"{found} Predicted on {sizing.home.device_type}: {describe_bytes(memory.total_bytes)} of memory, "
        f"{describe_seconds(time.seconds)} ({describe_seconds(time.low_seconds)} to "
        f"{describe_seconds(time.high_seconds)}), {describe_usd(sizing.cost.usd_micros)} "
        f"({describe_usd(sizing.cost.low_usd_micros)} to {describe_usd(sizing.cost.high_usd_micros)}; "
        f"{time.confidence} confidence)."
    )


def explain_misfit(job: Job, plan: TrainingPlan, *, rooms: Sequence[DeviceRoom], gauges: Gauges) -> str:
    """Why no device could hold the job even empty, and the nearest changes with which one could."""
    allowed = _allowed(job, rooms)
    if not allowed:
        asked = job.spec.resources.device_type
        return f"The pool has no device of type {asked}; it has {', '.join(sorted({r.device_type for r in rooms}))}."
    asks = _asks(job, footprints_of(glance_at_kinds(plan, gauges, kinds={room.kind for room in allowed})))
    if together := count_together(allowed, asks):
        return f"The job cannot start: {describe_too_few(asks.count, together)}."
    return describe_misfit(plan, allowed, gauges)
