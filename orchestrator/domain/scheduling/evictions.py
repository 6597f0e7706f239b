"""Which jobs leave so that one job fits on actual devices: as few and as cheap as the order of victims allows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.preemption import Starter, Victim
from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom, Rooms
from orchestrator.domain.scheduling.tallies import TallyOf

VictimsOn = Mapping[str, list[Victim]]
"""Victims by device, in order."""

_MOST_BEGINNINGS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Eviction:
    """Victims, and the devices on which the starter fits once they are gone."""

    victims: tuple[Victim, ...]
    device_ids: tuple[str, ...]
    usable_bytes: int

    @property
    def key(self) -> tuple[object, ...]:
        """The eviction whose last victim comes first in the order is best; then fewer, then smaller devices."""
        return max(victim.key for victim in self.victims), len(self.victims), self.usable_bytes, self.device_ids


def choose_eviction(
    scopes: Iterable[list[DeviceRoom]], starter: Starter, ask: Ask, victims_on: VictimsOn, tally_of: TallyOf
) -> Eviction | None:
    """The best eviction that makes room for all replicas in one of the scopes; None if there is none."""
    best: Eviction | None = None
    for scope in scopes:
        eviction = _clear(scope, starter, ask, victims_on, tally_of)
        if eviction is not None and (best is None or eviction.key < best.key):
            best = eviction
    return best


def scopes_around(rooms: Rooms, starter: Starter, ask: Ask, device_ids: Iterable[str]) -> Iterator[list[DeviceRoom]]:
    """Sets of devices among which the replicas have to find theirs, as far as they contain one of these devices.

    A gang goes by the node; one that may be spread, where no node holds it, by the device type.
    """
    if ask.replicas == 1 and starter.over_micros <= 0:
        yield from ([rooms.devices[device_id]] for device_id in device_ids)
    elif ask.replicas == 1:
        yield list(rooms.devices.values())
    else:
        yield from (shelf.devices for shelf in rooms.shelves if len(shelf.devices) >= ask.replicas)
        if not ask.same_node:
            yield from _by_type(rooms)


def _by_type(rooms: Rooms) -> Iterable[list[DeviceRoom]]:
    by_type: dict[str, list[DeviceRoom]] = {}
    for room in rooms.devices.values():
        by_type.setdefault(room.device_type, []).append(room)
    return by_type.values()


def _clear(
    scope: list[DeviceRoom], starter: Starter, ask: Ask, victims_on: VictimsOn, tally_of: TallyOf
) -> Eviction | None:
    """Take victims in order until the replicas fit in this scope, then put back those that were not needed.

    A team may stop being above its guarantee before the right victim comes, so later beginnings are tried too.
    """
    rooms = [room for room in scope if ask.needs_on(room) is not None]
    if len(rooms) < ask.replicas:
        return None
    clearing = _Clearing(rooms, starter, ask, tally_of)
    if starter.over_micros > 0:
        candidates = [each for each in _victims_of(None, victims_on) if each.job.team_id == starter.team_id]
    else:
        candidates = _victims_of(scope, victims_on)
    for beginning in range(min(len(candidates), _MOST_BEGINNINGS)):
        taken = clearing.take(candidates[beginning:])
        if taken:
            devices = clearing.fitting(taken)
            assert devices is not None
            kept = clearing.put_back(taken, devices)
            if not kept:
                return None
            return Eviction(
                victims=tuple(kept),
                device_ids=tuple(room.device_id for room in devices),
                usable_bytes=max(room.usable_bytes for room in devices),
            )
    return None


def _victims_of(scope: list[DeviceRoom] | None, victims_on: VictimsOn) -> list[Victim]:
    """The victims with holds in the scope (None: anywhere), each once, in order."""
    if scope is not None and len(scope) == 1:
        return victims_on.get(scope[0].device_id, [])
    ids = victims_on if scope is None else [room.device_id for room in scope]
    found = {victim.job.job_id: victim for device_id in ids for victim in victims_on.get(device_id, ())}
    return sorted(found.values(), key=lambda victim: victim.key)


class _Clearing:
    """One scope, with what would be free if some victims were gone."""

    def __init__(self, rooms: list[DeviceRoom], starter: Starter, ask: Ask, tally_of: TallyOf) -> None:
        self._rooms = rooms
        self._starter = starter
        self._ask = ask
        self._tally_of = tally_of

    def take(self, candidates: list[Victim]) -> list[Victim]:
        """The first victims that suffice, in order; empty if all of them do not."""
        taken: list[Victim] = []
        leaving: dict[str, int] = {}
        for victim in candidates:
            team_id = victim.job.team_id
            gone = leaving.get(team_id, 0)
            if victim.rule is not PreemptionRule.CLASS and self._tally_of(team_id).above_guarantee <= gone:
                continue
            if not self._may_ask(victim):
                continue
            leaving[team_id] = gone + victim.rate_micros
            taken.append(victim)
            if self.fitting(taken) is not None:
                return taken
        return []

    def _may_ask(self, victim: Victim) -> bool:
        if victim.is_spared and not self._starter.may_ask_spared:
            return False
        return victim.rule is not PreemptionRule.TURNS or victim.rate_micros <= self._starter.most_by_turn_micros

    def fitting(self, taken: list[Victim]) -> list[DeviceRoom] | None:
        """The tightest devices that hold the replicas once these are gone; None if they don't fit."""
        if sum(victim.rate_micros for victim in taken) < self._starter.over_micros:
            return None
        freed: dict[str, int] = {}
        for victim in taken:
            for hold in victim.job.holds:
                freed[hold.device_id] = freed.get(hold.device_id, 0) + hold.bytes
        found = []
        for room in self._rooms:
            free = self._ask.free_on(room)
            is_offered = room.is_open or room.device_id in self._ask.offers
            needed = self._ask.needs_on(room)
            if is_offered and needed is not None and needed <= free + freed.get(room.device_id, 0):
                found.append(room)
        if len(found) < self._ask.replicas:
            return None
        found.sort(key=lambda room: (room.usable_bytes, self._ask.free_on(room), room.device_id))
        return found[: self._ask.replicas]

    def put_back(self, taken: list[Victim], devices: list[DeviceRoom]) -> list[Victim]:
        """Those that are needed for these devices, tried from the last to the first."""
        kept = list(taken)
        narrowed = _Clearing(devices, self._starter, self._ask, self._tally_of)
        for victim in reversed(taken):
            without = [other for other in kept if other is not victim]
            if narrowed.fitting(without) is not None:
                kept = without
        return kept
