"""Which devices the pool lacks: whole ones on which waiting jobs would start now, beyond what is or soon will be free.

Read at the end of a pass. The queue is walked in its order, as if each job that fits into what is soon free took it
and each other one got a device of a sort that the pool has had; several share a new device where they fit. A job counts
only if nothing but room holds it back: not when it is held or for later, when its array, its team's ceiling or its
budget is used up (by the jobs before it, too), or when room is being made for it. Idle jobs never count: they run on
what is left. Devices that the pool itself put to rest, because nothing ran there, are woken before new ones are asked
for.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.facts import SharedDevice
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.queue import queue_order
from orchestrator.domain.scheduling.shapes import rate_micros
from orchestrator.domain.scheduling.tallies import by_type

SOON_SECONDS = 300.0
"""What is expected to be free by then is not asked for: a machine of a cloud takes minutes to come up, too."""
MOST_JOBS = 1_000
"""Jobs that are looked at, from the front of the queue."""
MOST_DEVICES = 256
"""Devices that are asked for at once; once they are there, more may be."""


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class Lack:
    """`groups` times `together` whole devices of this type and size; those of one group on one node. `jobs` would run
    on them."""

    device_type: str
    usable_bytes: int
    together: int
    groups: int
    jobs: int

    @property
    def devices(self) -> int:
        return self.together * self.groups


@dataclass(frozen=True, kw_only=True, slots=True)
class Demand:
    """`wakes` are the ids of resting devices that waiting jobs need; `lacks` is what is needed beyond them."""

    lacks: tuple[Lack, ...] = ()
    wakes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Sort:
    """A sort of device; the order is that in which one is chosen: the one that counts for least, then the smallest."""

    weight_micros: int
    usable_bytes: int
    device_type: str
    kind: DeviceKind


@dataclass(frozen=True, kw_only=True, slots=True)
class _Option:
    """One way to run a job on devices of one sort, with what all its replicas count for and cost."""

    sort: _Sort
    needed_bytes: int
    rate_micros: int
    cost_usd_micros: int


def find_demand(found: Pass, types: Collection[str] = ()) -> Demand:
    """What the pool lacks, only of these device types if any are named, and what is to be woken. Changes the pass's
    tallies: use the pass for nothing else afterwards."""
    devices, kept = list(found.state.devices.values()), _bytes_kept(found)
    sorts = sorted({_sort_of(device) for device in devices})
    rooms = _Rooms((device for device in devices if device.schedulable), kept)
    resting = _Rooms((device for device in devices if device.resting), kept)
    wishes = _Wishes(devices, types)
    for waiting in islice(queue_order(found.state, found.now), MOST_JOBS):
        if not _waits_for_room(found, waiting):
            continue
        options = list(_options(found, waiting, sorts))
        taken = rooms.take(waiting, options) or resting.take(waiting, options) or wishes.take(waiting, options)
        if taken is not None:
            found.tally(waiting.job.team_id).promise(taken.rate_micros, taken.cost_usd_micros)
            if waiting.job.array_id is not None:
                found.arrays[waiting.job.array_id] = found.arrays.get(waiting.job.array_id, 0) + 1
    return Demand(lacks=wishes.lacks(), wakes=tuple(sorted(resting.taken)))


def _waits_for_room(found: Pass, waiting: Waiting) -> bool:
    """Whether the job was neither started nor is made room for, and nothing of its own holds it back."""
    job = waiting.job
    if waiting.is_taken or job.job_id in found.overlay.locks or job.priority_class is PriorityClass.IDLE:
        return False
    return found.is_ready(waiting)


def _options(found: Pass, waiting: Waiting, sorts: Iterable[_Sort]) -> Iterator[_Option]:
    """The job's footprints in its order, each on the sorts that hold it within its team's ceiling and budget."""
    tally, job = found.tally(waiting.job.team_id), waiting.job
    for spot, footprint in zip(waiting.shape.spots, job.footprints, strict=True):
        for sort in sorts:
            needed = spot.ask.needs_in((sort.usable_bytes, sort.device_type, sort.kind))
            if needed is None:
                continue
            rate = rate_micros(sort.weight_micros, needed, sort.usable_bytes) * job.replicas
            cost = by_type(footprint.cost_usd_micros, sort.device_type, 0)
            if rate <= tally.to_ceiling and (tally.budget_left is None or cost <= tally.budget_left):
                yield _Option(sort=sort, needed_bytes=needed, rate_micros=rate, cost_usd_micros=cost)


class _Rooms:
    """What is soon free on these devices, by sort and node; it only gets less. `taken` are those that were needed."""

    def __init__(self, devices: Iterable[SharedDevice], kept: Mapping[str, int]) -> None:
        self.taken: set[str] = set()
        self._free: dict[_Sort, list[tuple[int, str]]] = {}
        self._nodes: dict[str, str] = {}
        self._full: set[tuple[_Sort, int, int, bool]] = set()
        for device in devices:
            free = max(0, device.usable_bytes - kept.get(device.device_id, 0))
            insort(self._free.setdefault(_sort_of(device), []), (free, device.device_id))
            self._nodes[device.device_id] = device.node_name

    def take(self, waiting: Waiting, options: Iterable[_Option]) -> _Option | None:
        """The first option for which there is room, which is gone then."""
        replicas, same_node = waiting.job.replicas, waiting.job.same_node
        for option in options:
            key = (option.sort, option.needed_bytes, replicas, same_node)
            if key in self._full:
                continue
            chosen = self._choose(option, replicas, same_node=same_node)
            if chosen is None:
                self._full.add(key)
                continue
            rooms = self._free[option.sort]
            for room in chosen:
                self.taken.add(room[1])
                rooms.remove(room)
                insort(rooms, (room[0] - option.needed_bytes, room[1]))
            return option
        return None

    def _choose(self, option: _Option, replicas: int, *, same_node: bool) -> list[tuple[int, str]] | None:
        """The tightest holes; for a gang on one node, the first node that has enough of them."""
        rooms = self._free.get(option.sort, [])
        fitting = rooms[bisect_left(rooms, (option.needed_bytes, "")) :]
        if len(fitting) < replicas:
            return None
        if replicas == 1 or not same_node:
            return fitting[:replicas]
        by_node: dict[str, list[tuple[int, str]]] = {}
        for room in fitting:
            by_node.setdefault(self._nodes[room[1]], []).append(room)
        enough = [name for name, on_node in by_node.items() if len(on_node) >= replicas]
        return by_node[min(enough)][:replicas] if enough else None


class _Wishes:
    """New devices, as they are wished for one by one. What a job leaves free of its own others may use; not of those of
    a gang on one node."""

    def __init__(self, devices: Iterable[SharedDevice], types: Collection[str]) -> None:
        self._types = types
        self._most_on_a_node: Counter[_Sort] = Counter()
        for (_, sort), count in Counter((device.node_name, _sort_of(device)) for device in devices).items():
            self._most_on_a_node[sort] = max(self._most_on_a_node[sort], count)
        self._free: dict[_Sort, list[int]] = {}
        self._groups: Counter[tuple[_Sort, int]] = Counter()
        self._jobs: Counter[tuple[_Sort, int]] = Counter()
        self._count = 0

    def take(self, waiting: Waiting, options: Iterable[_Option]) -> _Option | None:
        """The first option that a new device could serve; a wished one that has room is taken before another one."""
        replicas, same_node = waiting.job.replicas, waiting.job.same_node
        wanted = [option for option in options if not self._types or option.sort.device_type in self._types]
        shared = (option for option in wanted if replicas == 1 and self._share(option))
        added = (option for option in wanted if self._add(option, replicas, together=replicas if same_node else 1))
        return next(shared, None) or next(added, None)

    def _share(self, option: _Option) -> bool:
        free = self._free.get(option.sort, [])
        at = bisect_left(free, option.needed_bytes)
        if at == len(free):
            return False
        insort(free, free.pop(at) - option.needed_bytes)
        self._jobs[option.sort, 1] += 1
        return True

    def _add(self, option: _Option, replicas: int, *, together: int) -> bool:
        if together > self._most_on_a_node[option.sort] or self._count + replicas > MOST_DEVICES:
            return False
        self._count += replicas
        self._groups[option.sort, together] += replicas // together
        self._jobs[option.sort, together] += 1
        for _ in range(replicas if together == 1 else 0):
            insort(self._free.setdefault(option.sort, []), option.sort.usable_bytes - option.needed_bytes)
        return True

    def lacks(self) -> tuple[Lack, ...]:
        groups: Counter[tuple[str, int, int]] = Counter()
        jobs: Counter[tuple[str, int, int]] = Counter()
        for counted, into in ((self._groups, groups), (self._jobs, jobs)):
            for (sort, together), count in counted.items():
                into[sort.device_type, sort.usable_bytes, together] += count
        return tuple(
            Lack(
                device_type=name,
                usable_bytes=usable,
                together=together,
                groups=count,
                jobs=jobs[name, usable, together],
            )
            for (name, usable, together), count in sorted(groups.items())
        )


def _bytes_kept(found: Pass) -> Counter[str]:
    """By device, what is not free soon: what runs on, starts now, or is locked for somebody. What was left and is not
    proved gone yet will be."""
    kept: Counter[str] = Counter()
    for job in found.state.running.values():
        stays = job.job_id not in found.leaving and found.overlay.end_of(job.job_id) > found.now + SOON_SECONDS
        kept.update({hold.device_id: hold.bytes for hold in job.holds} if stays else {})
    for start in found.starts:
        kept.update({hold.device_id: hold.bytes for hold in start.holds})
    for locks in found.overlay.locks.values():
        kept.update({lock.device_id: lock.bytes for lock in locks})
    return kept


def _sort_of(device: SharedDevice) -> _Sort:
    return _Sort(
        weight_micros=device.weight_micros,
        usable_bytes=device.usable_bytes,
        device_type=device.device_type,
        kind=device.kind,
    )
