"""All facts between passes, indexed, and kept true by small changes.

Locks and pins depend on the moment, so a pass lays them over the rooms and takes them off again.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.domain.scheduling.books import TeamBook
from orchestrator.domain.scheduling.facts import (
    Hold,
    Lock,
    Pin,
    QueuedJob,
    Rules,
    RunningJob,
    SharedDevice,
    TeamTerms,
)
from orchestrator.domain.scheduling.lines import Lines, Waiting
from orchestrator.domain.scheduling.rooms import Rooms
from orchestrator.domain.scheduling.shapes import Shapes, rate_micros
from orchestrator.domain.scheduling.turns import Turns, backlog_seconds


class State:
    """What a pass reads. `version` rises with every change."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.version = 0
        self.devices: dict[str, SharedDevice] = {}
        self.capacity_micros = 0
        self.rooms = Rooms()
        self.shapes = Shapes()
        self.books: dict[str, TeamBook] = {}
        self.lines: dict[str, Lines] = {}
        self.waiting: dict[str, Waiting] = {}
        self.running: dict[str, RunningJob] = {}
        self.running_on: dict[str, dict[str, int]] = {}
        self._departures: dict[str, list[tuple[float, int]]] = {}
        self.stopping: set[str] = set()
        self.arrays: Counter[str] = Counter()
        self.locks: tuple[Lock, ...] = ()
        self.pins: tuple[Pin, ...] = ()

    def set_devices(self, devices: Iterable[SharedDevice]) -> None:
        """Replace the pool. Where only held bytes and flags changed, nothing is rebuilt."""
        found = {device.device_id: device for device in devices}
        if found == self.devices:
            return
        self.version += 1
        old, self.devices = self.devices, found
        if _same_hardware(old, found):
            for device_id, device in found.items():
                if device != old[device_id]:
                    self.rooms.give(device_id, old[device_id].held_bytes - device.held_bytes)
                    self.rooms.open(device_id, is_open=device.schedulable)
        else:
            self._rebuild()
        self.capacity_micros = sum(device.weight_micros for device in found.values() if device.schedulable)
        if self.shapes.set_pool(found.values()):
            for lines in self.lines.values():
                lines.forget_rates()

    def _rebuild(self) -> None:
        self.rooms = Rooms(self.devices.values())
        for job in self.running.values():
            self.books[job.team_id].remove(job.job_id)
            self._take(job)

    def set_team(self, terms: TeamTerms) -> None:
        book = self.books.get(terms.team_id)
        if book is not None and book.terms == terms:
            return
        self.version += 1
        if book is None:
            self.books[terms.team_id] = TeamBook(terms, self.rules)
            self.lines[terms.team_id] = Lines()
        else:
            book.terms = terms

    def _know_team(self, team_id: str) -> None:
        if team_id not in self.books:
            self.set_team(TeamTerms(team_id=team_id, name=team_id))

    def put_queued(self, job: QueuedJob) -> None:
        """Add or replace a waiting job."""
        before = self.waiting.get(job.job_id)
        if before is not None:
            if before.job == job:
                return
            self.drop_queued(job.job_id)
        self.version += 1
        self._know_team(job.team_id)
        rank = job.queued_at if job.rank is None else job.rank
        waiting = Waiting(job=job, shape=self.shapes.claim(job), rank=rank)
        self.waiting[job.job_id] = waiting
        if not job.is_held:
            self.lines[job.team_id].add(waiting)

    def drop_queued(self, job_id: str) -> None:
        """Forget a waiting job; unknown ones are no error."""
        waiting = self.waiting.pop(job_id, None)
        if waiting is None:
            return
        self.version += 1
        if not waiting.job.is_held:
            self.lines[waiting.job.team_id].remove(waiting)
        self.shapes.release(waiting.shape, waiting.job)

    def put_running(self, job: RunningJob) -> None:
        """Add or replace a running job."""
        before = self.running.get(job.job_id)
        if before is not None:
            if before == job:
                return
            self.drop_running(job.job_id)
        self.version += 1
        self._know_team(job.team_id)
        self.running[job.job_id] = job
        if job.is_stopping:
            self.stopping.add(job.job_id)
        if job.array_id is not None:
            self.arrays[job.array_id] += 1
        self._take(job)

    def _take(self, job: RunningJob) -> None:
        rate = 0
        for hold in job.holds:
            self._departures.pop(hold.device_id, None)
            on_device = self.running_on.setdefault(hold.device_id, {})
            on_device[job.job_id] = hold.bytes
            rate += self.rate_of(hold)
            if hold.device_id in self.devices:
                self.rooms.take(hold.device_id, hold.bytes)
        self.books[job.team_id].add(job, rate)

    def drop_running(self, job_id: str) -> None:
        """Forget a running job: its bytes are free. Unknown ones are no error."""
        job = self.running.pop(job_id, None)
        if job is None:
            return
        self.version += 1
        self.stopping.discard(job_id)
        if job.array_id is not None:
            self.arrays[job.array_id] -= 1
        for hold in job.holds:
            self._departures.pop(hold.device_id, None)
            del self.running_on[hold.device_id][job_id]
            if hold.device_id in self.devices:
                self.rooms.give(hold.device_id, hold.bytes)
        self.books[job.team_id].remove(job_id)

    def departures(self, device_id: str) -> list[tuple[float, int]]:
        """When what runs on the device is expected to leave, and its bytes, the soonest first."""
        found = self._departures.get(device_id)
        if found is None:
            on_device = self.running_on.get(device_id, {}).items()
            found = sorted((expected_departure(self.running[job_id]), size) for job_id, size in on_device)
            self._departures[device_id] = found
        return found

    def rate_of(self, hold: Hold) -> int:
        """What a hold counts for; nothing on a device that is gone."""
        device = self.devices.get(hold.device_id)
        return 0 if device is None else rate_micros(device.weight_micros, hold.bytes, device.usable_bytes)

    def turns(self, now: float) -> Turns:
        """Whose turn it is at this moment."""
        backlog = backlog_seconds(self.shapes, self.capacity_micros) if self.rules.turns_hours else 0.0
        return Turns(self.rules, now, backlog_seconds=backlog)

    def set_locks(self, locks: Iterable[Lock]) -> None:
        self.version += 1
        self.locks = tuple(sorted(locks, key=lambda lock: (lock.job_id, lock.device_id)))

    def set_pins(self, pins: Iterable[Pin]) -> None:
        self.version += 1
        self.pins = tuple(sorted(pins, key=lambda pin: (pin.job_id, pin.device_id)))


def expected_departure(job: RunningJob) -> float:
    """When the job's bytes are expected to be free: at the latest when its grace ends."""
    return job.expected_end_at if job.stops_by_at is None else min(job.expected_end_at, job.stops_by_at)


def _same_hardware(old: dict[str, SharedDevice], new: dict[str, SharedDevice]) -> bool:
    if old.keys() != new.keys():
        return False
    return all(_hardware(old[device_id]) == _hardware(device) for device_id, device in new.items())


def _hardware(device: SharedDevice) -> SharedDevice:
    return replace(device, held_bytes=0, schedulable=True, draining=False, resting=False)
