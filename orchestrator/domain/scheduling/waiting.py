"""Why a job waits: one code, the first that holds it back, and the facts that its sentence names (sentences.py).

Read at the end of a pass, while the rooms still show what it decided.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from orchestrator.domain.scheduling.actions import Wait, WaitCode
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.holding import Holding
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import Level
from orchestrator.domain.scheduling.queue import queue_order
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import by_type, has_means

Facts = Mapping[str, Any]


def explain_wait(found: Pass, waiting: Waiting) -> Wait:
    """The top reason of a job that the pass did not start."""
    for code, read in _REASONS:
        facts = read(found, waiting)
        if facts is not None:
            return Wait(job_id=waiting.job.job_id, code=code, facts=facts)
    raise AssertionError("the last reason always holds")


def _held(_: Pass, waiting: Waiting) -> Facts | None:
    return {} if waiting.job.is_held else None


def _not_before(found: Pass, waiting: Waiting) -> Facts | None:
    at = waiting.job.not_before_at
    return {"at": at} if at > found.now else None


def _array_limit(found: Pass, waiting: Waiting) -> Facts | None:
    job = waiting.job
    if found.is_ready(waiting):
        return None
    return {"array_id": job.array_id, "limit": job.array_limit}


def _no_device(found: Pass, waiting: Waiting) -> Facts | None:
    """No device, or not enough of them together, would hold the job if the pool were empty."""
    if could_ever_fit(found.state, waiting):
        return None
    job = waiting.job
    usable = [
        device.usable_bytes
        for device in found.state.devices.values()
        if device.schedulable and (job.device_types is None or device.device_type in job.device_types)
    ]
    least = min((size for footprint in job.footprints for size in footprint.bytes_by_kind.values()), default=None)
    return {
        "bytes": least,
        "replicas": job.replicas,
        "same_node": job.same_node,
        "device_types": sorted(job.device_types) if job.device_types is not None else None,
        "largest_bytes": max(usable, default=0),
        "devices": len(usable),
    }


def could_ever_fit(state: State, waiting: Waiting) -> bool:
    """Whether the pool, empty, would hold all replicas in one of the footprints."""
    job = waiting.job
    for spot in waiting.shape.spots:
        if job.replicas == 1:
            if spot.rates:
                return True
            continue
        rooms = state.rooms.devices.values()
        fitting = [
            (room.device_type, room.node.name if job.same_node else "")
            for room in rooms
            if state.devices[room.device_id].schedulable and spot.ask.needs_on(room) is not None
        ]
        if max(Counter(fitting).values(), default=0) >= job.replicas:
            return True
    return False


def _over_ceiling(found: Pass, waiting: Waiting) -> Facts | None:
    tally, rate = found.tally(waiting.job.team_id), waiting.shape.least_rate or 0
    terms = tally.book.terms
    if rate <= tally.to_ceiling or waiting.job.job_id in found.overlay.locks:
        return None
    return {
        "team": terms.name,
        "share_micros": tally.rate_micros,
        "ceiling_micros": terms.ceiling_micros,
        "rate_micros": rate,
    }


def _over_budget(found: Pass, waiting: Waiting) -> Facts | None:
    tally, job = found.tally(waiting.job.team_id), waiting.job
    terms, left = tally.book.terms, tally.budget_left
    if left is None or has_means(job, waiting.shape.spots, left) or job.job_id in found.overlay.locks:
        return None
    if terms.idle_when_exhausted:
        return None
    costs = [
        by_type(footprint.cost_usd_micros, device_type, 0)
        for spot, footprint in zip(waiting.shape.spots, job.footprints, strict=True)
        for device_type in spot.rates
    ]
    return {"team": terms.name, "left_usd_micros": left, "cost_usd_micros": min(costs)}


def _preempting(found: Pass, waiting: Waiting) -> Facts | None:
    locks = found.overlay.locks.get(waiting.job.job_id)
    if not locks:
        return None
    job_id = waiting.job.job_id
    asked = {each.job_id for each in found.preemptions if each.for_job_id == job_id}
    asked |= {job.job_id for job in found.state.running.values() if job.is_stopping and job.stopping_for == job_id}
    return {
        "devices": [lock.device_id for lock in locks],
        "until_at": max(lock.until_at for lock in locks),
        "jobs": sorted(asked),
    }


def _pinned(found: Pass, waiting: Waiting) -> Facts | None:
    """The job has pinned devices itself, or would fit on some that another job has pinned."""
    pins = found.overlay.pins.get(waiting.job.job_id)
    if pins:
        return {"devices": [pin.device_id for pin in pins], "at": max(pin.at for pin in pins), "holder": None}
    for spot, _, types in found.affordable(waiting, Level.BORROWING):
        ask = found.ask_of(waiting, spot, types)
        offers = {**dict.fromkeys(found.overlay.pinned, 0), **ask.offers}
        chosen = found.policy.choose(found.state.rooms, replace(ask, offers=offers))
        used = [found.overlay.pinned[device_id] for device_id in chosen or () if device_id in found.overlay.pinned]
        if used:
            last = max(used, key=lambda pin: (pin.at, pin.device_id))
            return {"devices": [pin.device_id for pin in used], "at": last.at, "holder": last.job_id}
    return None


def _behind(found: Pass, waiting: Waiting) -> Facts | None:
    """Jobs ahead of it wait for devices that it could use too."""
    wanted = _types(waiting)
    ahead = 0
    for other in queue_order(found.state, found.now):
        if other is waiting:
            break
        if not other.is_taken and wanted & _types(other):
            ahead += 1
    return {"ahead": ahead, "priority_class": waiting.job.priority_class.value} if ahead else None


def _types(waiting: Waiting) -> set[str]:
    return {device_type for spot in waiting.shape.spots for device_type in spot.rates}


def _no_room(found: Pass, waiting: Waiting) -> Facts | None:
    pins = Holding(found).soonest(waiting)
    return {
        "devices": [pin.device_id for pin in pins],
        "at": max((pin.at for pin in pins), default=None),
        "bytes": min((size for each in waiting.job.footprints for size in each.bytes_by_kind.values()), default=0),
    }


_REASONS: tuple[tuple[WaitCode, Callable[[Pass, Waiting], Facts | None]], ...] = (
    (WaitCode.HELD, _held),
    (WaitCode.NOT_BEFORE, _not_before),
    (WaitCode.ARRAY_LIMIT, _array_limit),
    (WaitCode.NO_DEVICE, _no_device),
    (WaitCode.OVER_CEILING, _over_ceiling),
    (WaitCode.OVER_BUDGET, _over_budget),
    (WaitCode.PREEMPTING, _preempting),
    (WaitCode.PINNED, _pinned),
    (WaitCode.BEHIND, _behind),
    (WaitCode.NO_ROOM, _no_room),
)
