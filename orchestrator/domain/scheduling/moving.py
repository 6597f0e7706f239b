"""Moving smaller jobs out of a holder's way, where each of them finds room elsewhere at once.

Small jobs get onto large devices while the small ones are full, and stay for as long as they run. So a holder may have
them moved: they leave with a checkpoint and go on where room is left once everybody was considered. It costs them what
leaving and coming back take (measured in decision 0020).

Only a job with more bytes on the device than its victim has there may have it moved, so two jobs cannot move each other
in turn. No team exceeds its ceiling by a move, and one with a budget does not pay more.
"""

from collections.abc import Iterator

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.evictions import Eviction
from orchestrator.domain.scheduling.facts import Footprint, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import CLASS_RANKS, Level
from orchestrator.domain.scheduling.preemption import Victim, is_exempt
from orchestrator.domain.scheduling.rooms import Ask, DeviceRoom
from orchestrator.domain.scheduling.shapes import Spot, rate_micros

_MOST_TRIED = 16
"""Devices, or nodes for a gang, that are looked at in each bin, the emptiest first."""


class Moving:
    """What may move for the holders of one pass. Finds only; nothing is changed for good."""

    def __init__(self, found: Pass) -> None:
        self._found = found
        self._most_free = max(found.state.rooms.most_free(1).values(), default=0)

    def find(self, waiting: Waiting) -> tuple[tuple[Spot, Footprint], Eviction] | None:
        """The eviction that moves the fewest bytes, for the first footprint that has room by it before its pins say."""
        if waiting.job.priority_class is PriorityClass.IDLE:
            return None
        pins = self._found.overlay.pins[waiting.job.job_id]
        before = max(pin.at for pin in pins)
        for spot, footprint, types in self._found.affordable(waiting, Level.BORROWING):
            ask = self._found.ask_of(waiting, spot, types)
            ways = [way for rooms in self._scopes(ask) if (way := self._clear(rooms, waiting, ask)) is not None]
            ways = [way for way in ways if self._free_at(way) < before]
            if ways:
                return (spot, footprint), min(ways, key=_cost)
        return None

    def _free_at(self, eviction: Eviction) -> float:
        """When all that moves has left, at the latest."""
        return self._found.now + max(self._found.grace_of(victim.job) for victim in eviction.victims)

    def _scopes(self, ask: Ask) -> Iterator[list[DeviceRoom]]:
        """Single devices for a job of one replica, otherwise the devices of one type on one node."""
        rooms = self._found.state.rooms
        offered = [rooms.devices[device_id] for device_id in ask.offers]
        if ask.replicas == 1:
            yield from ([room] for room in offered)
            for _, _, each in rooms.bins.by_size(ask.needs_in):
                yield from ([room] for room in each.emptiest(_MOST_TRIED))
            return
        shelves = {(room.device_type, room.node.name): room.node.shelves[room.device_type] for room in offered}
        for _, _, bin_ in rooms.gang_bins(ask.replicas).by_size(ask.needs_in):
            for shelf in bin_.emptiest(_MOST_TRIED):
                shelves[shelf.device_type, shelf.node.name] = shelf
        yield from (shelf.devices for shelf in shelves.values())

    def _clear(self, rooms: list[DeviceRoom], waiting: Waiting, ask: Ask) -> Eviction | None:
        """The cheapest devices among these, if all that has to move for them finds room elsewhere."""
        ways: list[tuple[int, str, DeviceRoom, list[Victim]]] = []
        for room in rooms:
            needed = ask.needs_on(room)
            if needed is None or not (room.is_open or room.device_id in ask.offers):
                continue
            leaving = self._leaving(room, waiting, needed=needed, missing=needed - ask.free_on(room))
            if leaving is not None:
                ways.append((sum(map(_bytes, leaving)), room.device_id, room, leaving))
        chosen = sorted(ways, key=lambda way: way[:2])[: ask.replicas]
        victims = tuple(victim for way in chosen for victim in way[3])
        if len(chosen) < ask.replicas or not victims or not self._find_room([way[2] for way in chosen], victims):
            return None
        return Eviction(
            victims=victims,
            device_ids=tuple(way[1] for way in chosen),
            usable_bytes=max(way[2].usable_bytes for way in chosen),
        )

    def _leaving(self, room: DeviceRoom, waiting: Waiting, *, needed: int, missing: int) -> list[Victim] | None:
        """Smaller jobs that together give the device what it misses, none of them in vain; None if they do not."""
        state = self._found.state
        movable = [
            self._as_victim(state.running[job_id])
            for job_id, size_bytes in state.running_on.get(room.device_id, {}).items()
            if size_bytes < needed and size_bytes <= self._most_free and self._may_move(state.running[job_id], waiting)
        ]
        movable.sort(key=lambda victim: victim.key)
        leaving: list[Victim] = []
        while missing > 0:
            if not movable:
                return None
            smallest = next((at for at, each in enumerate(movable) if _bytes(each) >= missing), len(movable) - 1)
            leaving.append(movable.pop(smallest))
            missing -= _bytes(leaving[-1])
        return leaving

    def _as_victim(self, job: RunningJob) -> Victim:
        rate = self._found.state.books[job.team_id].rate_of(job.job_id)
        key = (False, True, float(job.holds[0].bytes), 0.0, -job.started_at, job.job_id)
        return Victim(job=job, rule=PreemptionRule.MOVE, rate_micros=rate, is_spared=False, key=key)

    def _may_move(self, job: RunningJob, waiting: Waiting) -> bool:
        """Gangs stay, and what a team has within its guarantee."""
        found = self._found
        if len(job.holds) > 1 or not job.checkpointable or job.job_id in found.leaving:
            return False
        if is_exempt(job, found.rules, found.now):
            return False
        is_better = CLASS_RANKS[job.priority_class] < CLASS_RANKS[waiting.job.priority_class]
        return not is_better and found.tally(job.team_id).above_guarantee > 0

    def _find_room(self, cleared: list[DeviceRoom], victims: tuple[Victim, ...]) -> bool:
        """Whether all victims fit on other devices at once, tried from the largest to the smallest."""
        found, rooms = self._found, self._found.state.rooms
        taken = [(room.device_id, max(room.free_bytes, 0)) for room in cleared]
        for device_id, size_bytes in taken:
            rooms.take(device_id, size_bytes)
        for victim in sorted(victims, key=lambda each: (-_bytes(each), each.job.job_id)):
            device_ids = found.policy.choose(rooms, self._ask_elsewhere(victim))
            if device_ids is None:
                break
            taken.append((device_ids[0], _bytes(victim)))
            rooms.take(*taken[-1])
        for device_id, size_bytes in taken:
            rooms.give(device_id, size_bytes)
        return len(taken) == len(cleared) + len(victims)

    def _ask_elsewhere(self, victim: Victim) -> Ask:
        """What the job asks of the rooms when it comes back: device types on which its team stays below its ceiling,
        and pays no more if it has a budget."""
        rooms, size_bytes, allowed = self._found.state.rooms, _bytes(victim), victim.job.device_types
        tally = self._found.tally(victim.job.team_id)
        most_rate = victim.rate_micros + (tally.to_ceiling if tally.budget_left is None else min(0, tally.to_ceiling))
        kind = rooms.devices[victim.job.holds[0].device_id].kind
        types = frozenset(
            device_type
            for (usable, device_type, _), devices in rooms.by_key.items()
            if (allowed is None or device_type in allowed)
            and rate_micros(devices[0].weight_micros, size_bytes, usable) <= most_rate
        )
        return Ask(bytes_by_kind={kind: size_bytes}, device_types=types)


def _bytes(victim: Victim) -> int:
    return victim.job.holds[0].bytes


def _cost(eviction: Eviction) -> tuple[int, int, int, tuple[str, ...]]:
    """The fewest bytes to move first, then the fewest jobs and the smallest devices."""
    moved = sum(map(_bytes, eviction.victims))
    return moved, len(eviction.victims), eviction.usable_bytes, eviction.device_ids
