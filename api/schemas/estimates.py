"""What a job would take: memory and time on each kind of device, and what each type of the pool would do with it."""

from collections.abc import Sequence
from typing import Any, Literal

from api.schemas.wire import Wire, usd
from orchestrator.domain.estimate import MemoryEstimate, TimeEstimate
from orchestrator.domain.estimate_changes import Change
from orchestrator.domain.estimate_cost import CostRange
from orchestrator.domain.estimate_time import Confidence
from orchestrator.services.estimate_fits import DeviceFit
from orchestrator.services.estimates import JobEstimate, Rows

Source = Literal["given", "guessed", "unknown"]


class RowsOut(Wire):
    """The training file's rows; null where nothing is known. `tokens` counts all rows together."""

    rows: int | None
    tokens: int | None
    longest_row_tokens: int | None
    tokens_are: Source
    longest_is: Source

    @classmethod
    def of(cls, rows: Rows) -> "RowsOut":
        return cls(
            rows=rows.rows,
            tokens=rows.tokens,
            longest_row_tokens=rows.longest_row_tokens,
            tokens_are=rows.tokens_are,
            longest_is=rows.longest_is,
        )


class ChangeOut(Wire):
    """A change of the job that makes it smaller, so that it may fit."""

    settings: dict[str, bool | int | str]
    """Fields of the job with their new values."""
    effect: str
    total_bytes: int
    """What the job then reserves."""
    saved_bytes: int
    time_factor: float | None
    """How many times as much a step then computes; null where that stays the same or is not known."""
    method: Literal["traced", "closed_form"]

    @classmethod
    def of(cls, change: Change) -> "ChangeOut":
        return cls(
            settings=dict(change.settings),
            effect=change.effect,
            total_bytes=change.total_bytes,
            saved_bytes=change.saved_bytes,
            time_factor=change.time_factor,
            method=change.method,
        )


class MemoryOut(Wire):
    """Bytes on one device: three peaks that are not the same, and what a job reserves."""

    total_bytes: int
    """What a job reserves: the sum of the breakdown, a margin included."""
    breakdown: dict[str, int]
    allocated_bytes: int
    """Of tensors, as torch's max_memory_allocated."""
    reserved_bytes: int
    """Held by the allocator for them, as torch's max_memory_reserved."""
    device_bytes: int
    """Of the whole process, as nvidia-smi shows it; on CPU its peak resident set."""
    method: Literal["traced", "closed_form"]
    """Traced: the model's real training step was followed, tensor by tensor. Closed form: computed from its shapes."""
    reason: str | None
    """Why it was not traced."""
    savings: list[ChangeOut]
    """What would make it smaller, the least costly first; only for kinds of device that the pool has."""

    @classmethod
    def of(cls, memory: MemoryEstimate, savings: Sequence[Change]) -> "MemoryOut":
        return cls(
            total_bytes=memory.total_bytes,
            breakdown=dict(memory.breakdown),
            allocated_bytes=memory.allocated_bytes,
            reserved_bytes=memory.reserved_bytes,
            device_bytes=memory.device_bytes,
            method=memory.method,
            reason=memory.reason,
            savings=[ChangeOut.of(change) for change in savings],
        )


class TimeOut(Wire):
    """Seconds on one device, with the range that the estimate is honest about.

    `runs` is how many jobs of this kind were measured on such a device lately: none makes the confidence low, three
    make it high.
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    steps: int
    tokens: int
    padded_tokens: int
    """Of all steps together, with what short rows are padded by."""
    runs: int
    confidence: Confidence
    speed: Literal["measured", "catalogue"]
    """Where the device's own speed is from: measured there, or the manufacturer's figures."""
    breakdown: dict[str, float]
    """Seconds by term: start, loading, training, evaluating, saving."""

    @classmethod
    def of(cls, time: TimeEstimate) -> "TimeOut":
        return cls(
            seconds=time.seconds,
            low_seconds=time.low_seconds,
            high_seconds=time.high_seconds,
            steps=time.steps,
            tokens=time.tokens,
            padded_tokens=time.padded_tokens,
            runs=time.runs,
            confidence=time.confidence,
            speed=time.speed,
            breakdown=dict(time.breakdown),
        )


class PredictedCost(Wire):
    """For the predicted time and the ends of its range, at today's price. `confidence` is that of the time."""

    usd_micros: int
    usd: str
    low_usd_micros: int
    high_usd_micros: int
    confidence: Confidence

    @classmethod
    def of(cls, cost: CostRange) -> "PredictedCost":
        return cls(
            usd_micros=cost.usd_micros,
            usd=usd(cost.usd_micros),
            low_usd_micros=cost.low_usd_micros,
            high_usd_micros=cost.high_usd_micros,
            confidence=cost.confidence,
        )


class DeviceFitOut(Wire):
    """What one type of device of the pool would do with the job."""

    device_type: str
    kind: Literal["cpu", "cuda"]
    devices: int
    largest_bytes: int
    needed_bytes: int | None
    """Null when this kind of device cannot run the job at all."""
    fit: Literal["now", "when_empty", "never"]
    usd_micros_per_hour: int
    """For a whole device."""
    cost: PredictedCost | None
    """Null when too little is known of the rows."""
    changes: list[ChangeOut]

    @classmethod
    def of(cls, fit: DeviceFit) -> "DeviceFitOut":
        return cls(
            device_type=fit.device_type,
            kind=fit.kind,
            devices=fit.devices,
            largest_bytes=fit.largest_bytes,
            needed_bytes=fit.needed_bytes,
            fit=fit.fit,
            usd_micros_per_hour=fit.usd_micros_per_hour,
            cost=None if fit.cost is None else PredictedCost.of(fit.cost),
            changes=[ChangeOut.of(change) for change in fit.changes],
        )


class EstimateOut(Wire):
    object: Literal["estimate"]
    model: str
    plan: dict[str, Any]
    """Every number that the worker would use, without 'auto'."""
    rows: RowsOut
    memory: dict[str, MemoryOut]
    """By kind of device: cpu, cuda."""
    time: dict[str, TimeOut]
    devices: list[DeviceFitOut]
    """By device type; empty in a pool that has shown none yet."""
    warnings: list[str]
    expected_start_at: int | None
    """When the job would start if it were submitted now; null where it never would, or where nobody can say."""

    @classmethod
    def of(cls, estimate: JobEstimate) -> "EstimateOut":
        return cls(
            object="estimate",
            model=estimate.model,
            plan=estimate.plan.model_dump(mode="json"),
            rows=RowsOut.of(estimate.rows),
            memory={
                kind: MemoryOut.of(found, estimate.savings.get(kind, ())) for kind, found in estimate.memory.items()
            },
            time={kind: TimeOut.of(found) for kind, found in estimate.time.items()},
            devices=[DeviceFitOut.of(fit) for fit in estimate.devices],
            warnings=list(estimate.warnings),
            expected_start_at=None if estimate.expected_start_at is None else round(estimate.expected_start_at),
        )
