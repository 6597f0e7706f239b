"""The rooms while a pass is under way: locks and pins laid over them, starts taken out, all of it undone at the end."""

from collections.abc import Iterable

from orchestrator.domain.scheduling.facts import Hold, Lock, Pin, RunningJob
from orchestrator.domain.scheduling.state import State, expected_departure


class Overlay:
    """`locks` and `pins` are those in force, by job; `pinned` is who has pinned a device."""

    def __init__(self, state: State, now: float) -> None:
        self._state = state
        self._now = now
        self._rooms = state.rooms
        self._taken: dict[str, int] = {}
        self._closed: list[str] = []
        self._started_on: dict[str, list[tuple[float, int]]] = {}
        self._lock_bytes: dict[str, dict[str, int]] = {}
        self._lockers: dict[str, set[str]] = {}
        self.locks: dict[str, tuple[Lock, ...]] = {}
        self.pins: dict[str, tuple[Pin, ...]] = {}
        self.pinned: dict[str, Pin] = {}

    def undo(self) -> None:
        """Leave the rooms as they were found."""
        for device_id, size_bytes in self._taken.items():
            if size_bytes:
                self._rooms.give(device_id, size_bytes)
        for device_id in self._closed:
            self._rooms.open(device_id, is_open=self._state.devices[device_id].schedulable)

    def take(self, device_id: str, size_bytes: int) -> None:
        self._rooms.take(device_id, size_bytes)
        self._taken[device_id] = self._taken.get(device_id, 0) + size_bytes

    def start(self, holds: Iterable[Hold], ends_at: float) -> None:
        """Take the holds of a job that starts now."""
        for hold in holds:
            self.take(hold.device_id, hold.bytes)
            self._started_on.setdefault(hold.device_id, []).append((ends_at, hold.bytes))

    def lock(self, job_id: str, locks: tuple[Lock, ...], leaving: Iterable[RunningJob]) -> None:
        """Put locks in force. What `leaving` jobs still occupy there, or others left and did not give back yet, comes
        to the job by itself."""
        self.locks[job_id] = locks
        for lock in locks:
            self._lockers.setdefault(lock.device_id, set()).add(job_id)
        going: dict[str, int] = {}
        for job in leaving:
            for hold in job.holds:
                going[hold.device_id] = going.get(hold.device_id, 0) + hold.bytes
        for lock in locks:
            held = self._state.devices[lock.device_id].held_for.get(job_id, 0)
            going[lock.device_id] = going.get(lock.device_id, 0) + held
        taken = {lock.device_id: max(0, lock.bytes - going.get(lock.device_id, 0)) for lock in locks}
        self._lock_bytes[job_id] = taken
        for device_id, size_bytes in taken.items():
            self.take(device_id, size_bytes)

    def unlock(self, job_id: str) -> None:
        """Give up the job's locks."""
        if self.locks.pop(job_id, None) is None:
            return
        for lockers in self._lockers.values():
            lockers.discard(job_id)
        for device_id, size_bytes in self._lock_bytes.pop(job_id).items():
            self.take(device_id, -size_bytes)

    def is_locked(self, device_id: str) -> bool:
        """Whether somebody has locked a part of the device, so that nobody knows yet how long it will run there.

        With turns locks come and go all the time and this plays no part: pins that avoided them made large jobs wait
        for 17.2 h at worst, against 12.9 (Philly, days 60 to 70, 2026-11-25).
        """
        return not self._state.rules.turns_hours and bool(self._lockers.get(device_id))

    def pin(self, job_id: str, pins: tuple[Pin, ...]) -> None:
        """Close the devices to everybody but the job."""
        self.pins[job_id] = pins
        for pin in pins:
            self.pinned[pin.device_id] = pin
            self._rooms.open(pin.device_id, is_open=False)
            self._closed.append(pin.device_id)

    def unpin(self, job_id: str) -> None:
        """Open the job's pinned devices again."""
        for pin in self.pins.pop(job_id, ()):
            del self.pinned[pin.device_id]
            self._rooms.open(pin.device_id, is_open=self._state.devices[pin.device_id].schedulable)

    def own_offers(self, job_id: str) -> dict[str, int]:
        """What counts otherwise for this job: the devices it has pinned, and the bytes locked to it."""
        pinned = {pin.device_id: 0 for pin in self.pins.get(job_id, ())}
        return {**pinned, **self._lock_bytes.get(job_id, {})}

    def departures(self, device_id: str) -> list[tuple[float, int]]:
        """When bytes of the device are expected to come free, soonest first: (moment, bytes)."""
        found = self._state.departures(device_id)
        started = self._started_on.get(device_id)
        if started is not None:
            found = [*found, *started]
        elif not found or found[0][0] >= self._now:
            return found
        return sorted((late_end(at, self._now), size_bytes) for at, size_bytes in found)

    def end_of(self, job_id: str) -> float:
        """When a running job is expected to be gone; now, when it is late."""
        return late_end(expected_departure(self._state.running[job_id]), self._now)

    def free_at(self, device_id: str, moment: float) -> int:
        """The bytes expected to be free at that moment if nothing more starts."""
        free = self._rooms.devices[device_id].free_bytes
        return free + sum(size for at, size in self.departures(device_id) if at <= moment)


def late_end(expected_at: float, now: float) -> float:
    """A job that is late is taken to be as late again: otherwise it would always be the next to end."""
    return expected_at if expected_at >= now else now + (now - expected_at)
