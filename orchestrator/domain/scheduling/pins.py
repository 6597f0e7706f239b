"""Backfill: a long waiter pins the particular devices that it will get first. Devices are blocked, never the queue.

A later job may use a pinned device when it leaves the pin's moment where it is: it ends before, or what is spare beside
the holder suffices, or it runs as idle, has checkpoints and can be asked to leave in time.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from orchestrator.domain.scheduling.facts import Pin
from orchestrator.domain.scheduling.overlay import Overlay
from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom, Rooms


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """A device and the moment from which it can hold one replica."""

    at: float
    room: DeviceRoom
    bytes: int

    @property
    def key(self) -> tuple[float, int, str]:
        return self.at, self.room.usable_bytes, self.room.device_id


def find_pins(job_id: str, ask: Ask, rooms: Rooms, overlay: Overlay, now: float) -> tuple[Pin, ...]:
    """The devices on which the job can start soonest, one a replica; empty when the pool cannot hold it.

    Devices that others have pinned are left to them, and nobody can say when one that is locked will be free.
    """
    if ask.replicas == 1:
        best = [slot] if (slot := _soonest_device(ask, rooms, overlay, now)) else []
    else:
        best = _soonest_gang(ask, rooms, overlay, now)
    at = best[-1].at if best else now
    return tuple(Pin(device_id=slot.room.device_id, job_id=job_id, bytes=slot.bytes, at=at) for slot in best)


def _soonest_device(ask: Ask, rooms: Rooms, overlay: Overlay, now: float) -> Slot | None:
    """Looks at every device that is large enough, and at no more departures than it has to."""
    best: Slot | None = None
    best_at = inf
    for key, devices in rooms.by_key.items():
        needed = ask.needs_in(key)
        if needed is None:
            continue
        for room in devices:
            if (not room.is_open and room.device_id not in ask.offers) or overlay.is_locked(room.device_id):
                continue
            departures = overlay.departures(room.device_id)
            if departures and departures[0][0] > best_at and room.free_bytes < needed and not ask.offers:
                continue
            at = moment_of(room, needed, ask.offers, overlay, now)
            if at <= best_at and at < inf:
                slot = Slot(at=at, room=room, bytes=needed)
                if best is None or slot.key < best.key:
                    best, best_at = slot, at
    return best


def _soonest_gang(ask: Ask, rooms: Rooms, overlay: Overlay, now: float) -> list[Slot]:
    shelves: dict[tuple[str, str], list[Slot]] = {}
    for shelf in rooms.shelves:
        slots = [slot for room in shelf.devices if (slot := soonest_slot(room, ask, overlay, now))]
        if slots:
            shelves[shelf.device_type, shelf.node.name] = slots
    choices = [
        sorted(shelf, key=lambda slot: slot.key)[: ask.replicas]
        for shelf in shelves.values()
        if len(shelf) >= ask.replicas
    ]
    if not choices and not ask.same_node:
        choices = _across_nodes(shelves, ask.replicas)
    return min(choices, key=lambda slots: slots[-1].key, default=[])


def _across_nodes(shelves: dict[tuple[str, str], list[Slot]], replicas: int) -> list[list[Slot]]:
    by_type: dict[str, list[Slot]] = {}
    for (device_type, _), shelf in shelves.items():
        by_type.setdefault(device_type, []).extend(shelf)
    return [sorted(slots, key=lambda slot: slot.key)[:replicas] for slots in by_type.values() if len(slots) >= replicas]


def soonest_slot(room: DeviceRoom, ask: Ask, overlay: Overlay, now: float) -> Slot | None:
    """When the device can hold one replica, as far as estimates tell; None if never, or pinned by somebody else."""
    needed = ask.needs_on(room)
    if needed is None or not (room.is_open or room.device_id in ask.offers) or overlay.is_locked(room.device_id):
        return None
    at = moment_of(room, needed, ask.offers, overlay, now)
    return None if at == inf else Slot(at=at, room=room, bytes=needed)


def moment_of(room: DeviceRoom, needed: int, offers: Mapping[str, int], overlay: Overlay, now: float) -> float:
    """When so many bytes are expected to be free for a job with these offers; infinity for never."""
    free = room.free_bytes
    if offers:
        free += offers.get(room.device_id, 0)
    if needed <= free:
        return now
    for at, size_bytes in overlay.departures(room.device_id):
        free += size_bytes
        if needed <= free:
            return at
    return inf
