"""Where in the pool a sized job would fit, and at what price: now, when the pool is empty, or never.

No transaction is open here: naming the changes that would make a job fit may take a sizer some seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.estimate import DeviceKind, MemoryEstimate, TimeEstimate
from orchestrator.domain.estimate_changes import Change, suggest_changes
from orchestrator.domain.estimate_cost import CostRange, price_time
from orchestrator.domain.placement import DeviceRoom, WaitingJob, choose_device, find_together, fits
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.pool import speeds_of_types
from orchestrator.domain.pricing import GangRate, Rate
from orchestrator.domain.sizer import Gauges, footprints_of
from orchestrator.domain.spec import AUTO, JobShape
from orchestrator.domain.speed import DeviceSpeed
from orchestrator.services.pool import read_pool
from orchestrator.store import devices
from orchestrator.store.prices import read_price
from orchestrator.store.session import ReadTx

Fit = Literal["now", "when_empty", "never"]


@dataclass(frozen=True, kw_only=True)
class DeviceFit:
    """What one type of device in the pool would do with the job.

    `largest_bytes` is of the largest such device; the price is of a whole one. `changes` would make a job fit that
    never does. Without known rows there is no `cost`.
    """

    device_type: str
    kind: DeviceKind
    devices: int
    largest_bytes: int
    usd_micros_per_hour: int
    fit: Fit
    needed_bytes: int | None
    """None when this kind of device cannot run the job at all."""
    cost: CostRange | None
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Market:
    """The devices that a job may use, by type, what a whole one costs an hour in micro-dollars, and how fast it is."""

    rooms: Mapping[str, Sequence[DeviceRoom]]
    prices: Mapping[str, int]
    speeds: Mapping[str, DeviceSpeed]

    @property
    def all_rooms(self) -> list[DeviceRoom]:
        return [room for rooms in self.rooms.values() for room in rooms]

    @property
    def kinds(self) -> frozenset[DeviceKind]:
        return frozenset(room.kind for room in self.all_rooms)


@dataclass(frozen=True, kw_only=True)
class Sized:
    spec: JobShape
    plan: TrainingPlan
    gauges: Gauges
    memory: Mapping[DeviceKind, MemoryEstimate]
    time: Mapping[DeviceKind, TimeEstimate]


def read_market(tx: ReadTx, spec: JobShape) -> Market:
    """Raises InvalidRequestError when the pool has devices, but none of the type that is asked for."""
    asked = spec.resources.device_type
    by_type: dict[str, list[DeviceRoom]] = {}
    for view in read_pool(tx):
        by_type.setdefault(view.room.device_type, []).append(view.room)
    rooms = {name: found for name, found in sorted(by_type.items()) if asked in {AUTO, name}}
    if by_type and not rooms:
        raise InvalidRequestError(
            f"the pool has no device of type {asked!r}; it has {', '.join(sorted(by_type))}",
            param="resources.device_type",
        )
    return Market(
        rooms=rooms,
        prices={name: read_price(tx, name) for name in rooms},
        speeds=speeds_of_types(devices.list_devices(tx)),
    )


def fit_devices(sized: Sized, market: Market) -> tuple[DeviceFit, ...]:
    return tuple(_fit_type(sized, rooms, price=market.prices[name]) for name, rooms in market.rooms.items())


def _fit_type(sized: Sized, rooms: Sequence[DeviceRoom], *, price: int) -> DeviceFit:
    """Cost is that on the device which an empty pool would give the job: the smallest that holds it."""
    largest = max(rooms, key=lambda room: room.total_bytes)
    kind = largest.kind
    memory = sized.memory.get(kind)
    job = _ask(sized)
    holding = [room for room in rooms if fits(room, job, room.total_bytes)]
    emptied = find_together(holding, job.count)
    fit: Fit = "never" if not emptied else "now" if choose_device(rooms, job) is not None else "when_empty"
    home = min(emptied, key=lambda room: (room.total_bytes, room.device_id), default=None)
    changes: tuple[Change, ...] = ()
    if memory is not None and not holding:
        changes = suggest_changes(sized.plan, sized.gauges[kind], device_bytes=largest.total_bytes)
    return DeviceFit(
        device_type=largest.device_type,
        kind=kind,
        devices=len(rooms),
        largest_bytes=largest.total_bytes,
        usd_micros_per_hour=price,
        fit=fit,
        needed_bytes=memory.total_bytes if memory else None,
        cost=_cost(sized, home, price) if home else None,
        changes=changes,
    )


def _ask(sized: Sized) -> WaitingJob:
    return WaitingJob(
        job_id="",
        bytes_by_kind=footprints_of(sized.memory),
        device_type=None,
        exclusive=sized.spec.resources.exclusive,
        count=sized.plan.devices,
    )


def _cost(sized: Sized, home: DeviceRoom, price: int) -> CostRange | None:
    time = sized.time.get(home.kind)
    if time is None:
        return None
    reserved = home.total_bytes if sized.spec.resources.exclusive else sized.memory[home.kind].total_bytes
    rate = Rate(price_usd_micros_per_hour=price, reserved_bytes=reserved, device_bytes=home.total_bytes)
    return price_time(GangRate((rate,) * sized.plan.devices), time)
