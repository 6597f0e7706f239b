"""Who says how much memory a plan takes: the seam between the rules that need the figure and the ways to get it.

The closed form (`domain.estimate`) answers at once, from the model's shapes. A trace of the real training step is
better and takes another process, so asking for one may wait; `glance` never does.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from orchestrator.domain.estimate import (
    KINDS,
    DeviceKind,
    MemoryEstimate,
    calibrate_memory,
    can_run,
    estimate_memory,
)
from orchestrator.domain.estimate_terms import UNCALIBRATED, Calibration
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import BaseModel


class Sizer(Protocol):
    """One estimate for each plan, in their order. Each says by which method it was made, and why not by the better."""

    def measure(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        """The best figures that can be had within some seconds. No transaction may be open around it."""
        ...

    def glance(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        """The best figures that are known already. Takes under a millisecond a plan."""
        ...

    def session(self) -> "Sizer":
        """This sizer for one use case: all its waits together last no longer than one. Not to be kept."""
        ...


@dataclass(frozen=True)
class ClosedFormSizer:
    """Formulas only. `reason` says why nothing better was asked."""

    reason: str | None = None

    def measure(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        return [replace(estimate_memory(plan, model.facts, kind), reason=self.reason) for plan in plans]

    def glance(self, model: BaseModel, plans: Sequence[TrainingPlan], *, kind: DeviceKind) -> Sequence[MemoryEstimate]:
        return self.measure(model, plans, kind=kind)

    def session(self) -> Sizer:
        return self


@dataclass(frozen=True, kw_only=True)
class Gauge:
    """A sizer for one model on one kind of device: what placement reserves there, the learned margin included."""

    sizer: Sizer
    model: BaseModel
    kind: DeviceKind
    learned: Calibration = UNCALIBRATED

    def measure(self, plans: Sequence[TrainingPlan]) -> Sequence[MemoryEstimate]:
        return self._calibrate(self.sizer.measure(self.model, plans, kind=self.kind))

    def glance(self, plans: Sequence[TrainingPlan]) -> Sequence[MemoryEstimate]:
        return self._calibrate(self.sizer.glance(self.model, plans, kind=self.kind))

    def _calibrate(self, found: Sequence[MemoryEstimate]) -> Sequence[MemoryEstimate]:
        return [calibrate_memory(estimate, self.learned.memory_factor(estimate.method)) for estimate in found]


Gauges = Mapping[DeviceKind, Gauge]
"""One for every kind of device."""


def build_gauges(sizer: Sizer, model: BaseModel, *, learned: Mapping[DeviceKind, Calibration]) -> Gauges:
    """A kind that is missing in `learned` has taught nothing."""
    return {kind: Gauge(sizer=sizer, model=model, kind=kind, learned=learned.get(kind, UNCALIBRATED)) for kind in KINDS}


def measure_kinds(
    plan: TrainingPlan, gauges: Gauges, *, present: Collection[DeviceKind]
) -> dict[DeviceKind, MemoryEstimate]:
    """The plan on every kind of device that can run it at all. Only for kinds that the pool has is anything waited for;
    a pool that has shown no device yet may have any."""
    found = {}
    for kind, gauge in gauges.items():
        if can_run(plan, kind):
            ask = gauge.measure if kind in present or not present else gauge.glance
            (found[kind],) = ask([plan])
    return found


def glance_at_kinds(
    plan: TrainingPlan, gauges: Gauges, *, kinds: Collection[DeviceKind]
) -> dict[DeviceKind, MemoryEstimate]:
    """What is known at once of the plan on those of `kinds` that can run it."""
    return {kind: gauges[kind].glance([plan])[0] for kind in kinds if can_run(plan, kind)}


def footprints_of(memory: Mapping[DeviceKind, MemoryEstimate]) -> dict[str, int]:
    """Bytes that a job reserves, by kind of device."""
    return {kind: estimate.total_bytes for kind, estimate in memory.items()}
