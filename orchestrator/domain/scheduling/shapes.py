"""Jobs that ask for the same room share one shape, so that what does not fit is found out once.

A spot is one footprint's room: its bytes, replicas and device types. A shape is a job's spots in order of preference.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from operator import itemgetter

from orchestrator.domain.placement import DeviceKind
from orchestrator.domain.scheduling.device_index import BinKey
from orchestrator.domain.scheduling.facts import QueuedJob, SharedDevice
from orchestrator.domain.scheduling.rooms import Ask

Variant = tuple[str, DeviceKind, int, int]
"""A sort of device in the pool: type, kind, usable bytes, weight in micros."""


def rate_micros(weight_micros: int, held_bytes: int, usable_bytes: int) -> int:
    """The share of the pool that bytes of one device count for, in micros, rounded up."""
    return -(-weight_micros * held_bytes // max(usable_bytes, 1))


class Spot:
    """`rates` is the most that the job would count for on each device type that can hold it, empty; `needs` are the
    bytes of one replica in each bin of such devices."""

    __slots__ = ("ask", "most_rate", "needs", "rates")

    def __init__(self, ask: Ask, variants: Iterable[Variant]) -> None:
        self.ask = ask
        self.rates: dict[str, int] = {}
        self.needs: list[tuple[BinKey, int]] = []
        self.most_rate = 0
        self.weigh(variants)

    def weigh(self, variants: Iterable[Variant]) -> None:
        """Work out `rates` for a pool of these variants."""
        self.rates, self.needs = {}, []
        for device_type, kind, usable, weight in variants:
            key = (usable, device_type, kind)
            needed = self.ask.needs_in(key)
            if needed is None:
                continue
            self.needs.append((key, needed))
            rate = rate_micros(weight, needed, usable)
            self.rates[device_type] = max(self.rates.get(device_type, 0), rate * self.ask.replicas)
        self.most_rate = max(self.rates.values(), default=0)


class Shape:
    """`least_rate` is None where no device of the pool can hold a replica. `told_seconds` is how long its jobs run,
    all together and by their least estimates: whole seconds, so that the sum does not depend on its order."""

    __slots__ = ("jobs", "key", "least_rate", "number", "spots", "told_seconds")

    def __init__(self, key: object, spots: tuple[Spot, ...], number: int) -> None:
        self.number = number
        self.key = key
        self.spots = spots
        self.jobs = 0
        self.told_seconds = 0
        self.least_rate: int | None = None
        self.settle()

    def settle(self) -> None:
        """Take over the rates of the spots."""
        self.least_rate = min((rate for spot in self.spots for rate in spot.rates.values()), default=None)


class Family:
    """Shapes that differ in nothing but the bytes of their one footprint on one kind of device, the smallest first."""

    def __init__(self, ask: Ask, kind: str) -> None:
        self.ask = ask
        self.kind = kind
        self._members: list[tuple[int, int, Shape]] = []

    @property
    def is_loose(self) -> bool:
        """Whether the room of single devices is all that can be said about a gang's room beforehand."""
        return self.ask.replicas > 1 and (self.ask.exclusive or not self.ask.same_node)

    def add(self, shape: Shape) -> None:
        insort(self._members, self._entry(shape), key=itemgetter(0, 1))

    def remove(self, shape: Shape) -> None:
        size_bytes, number, _ = self._entry(shape)
        del self._members[bisect_left(self._members, (size_bytes, number), key=itemgetter(0, 1))]

    def fitting(self, most: Mapping[BinKey, int]) -> Iterator[Shape]:
        """The shapes that need no more than the most that is free in some bin; False is certain for the others."""
        limit = -1
        for key, free in most.items():
            usable, device_type, kind = key
            if kind == self.kind and (self.ask.device_types is None or device_type in self.ask.device_types):
                is_enough = free >= usable or not self.ask.exclusive or self.is_loose
                limit = max(limit, min(usable, free) if is_enough else -1)
        end = bisect_right(self._members, limit, key=itemgetter(0))
        return (self._members[at][2] for at in range(end))

    def _entry(self, shape: Shape) -> tuple[int, int, Shape]:
        return shape.spots[0].ask.bytes_by_kind[self.kind], shape.number, shape


class Shapes:
    """All shapes that wait, each once. Most belong to a family, so that those that fit are found by their size."""

    def __init__(self) -> None:
        self.families: dict[object, Family] = {}
        self.others: dict[Shape, None] = {}
        self._count = 0
        self._shapes: dict[object, Shape] = {}
        self._spots: dict[object, Spot] = {}
        self._variants: tuple[Variant, ...] = ()

    def claim(self, job: QueuedJob) -> Shape:
        """The shape of the job, counted once more."""
        keys = tuple(_spot_key(job, footprint.bytes_by_kind) for footprint in job.footprints)
        shape = self._shapes.get(keys)
        if shape is None:
            spots = tuple(
                self._spot(key, job, footprint.bytes_by_kind)
                for key, footprint in zip(keys, job.footprints, strict=True)
            )
            self._count += 1
            shape = self._shapes[keys] = Shape(keys, spots, self._count)
            self._file(shape)
        shape.jobs += 1
        shape.told_seconds += least_seconds(job)
        return shape

    def __iter__(self) -> Iterator[Shape]:
        return iter(self._shapes.values())

    def release(self, shape: Shape, job: QueuedJob) -> None:
        """Count it once less; one that nobody has is forgotten, its spots with the next pool."""
        shape.jobs -= 1
        shape.told_seconds -= least_seconds(job)
        if shape.jobs == 0:
            del self._shapes[shape.key]
            key = _family_key(shape)
            if key is None:
                del self.others[shape]
            else:
                self.families[key].remove(shape)

    def _file(self, shape: Shape) -> None:
        key = _family_key(shape)
        if key is None:
            self.others[shape] = None
            return
        family = self.families.get(key)
        if family is None:
            ask = shape.spots[0].ask
            (kind,) = ask.bytes_by_kind
            family = self.families[key] = Family(ask, kind)
        family.add(shape)

    def set_pool(self, devices: Iterable[SharedDevice]) -> bool:
        """Weigh everything anew when the sorts of devices have changed; whether they have."""
        variants = tuple(
            sorted({(d.device_type, d.kind, d.usable_bytes, d.weight_micros) for d in devices if d.schedulable})
        )
        if variants == self._variants:
            return False
        self._variants = variants
        self._spots = {key: spot for shape in self._shapes.values() for key, spot in _keyed(shape)}
        for spot in self._spots.values():
            spot.weigh(variants)
        for shape in self._shapes.values():
            shape.settle()
        return True

    def _spot(self, key: object, job: QueuedJob, bytes_by_kind: Mapping[str, int]) -> Spot:
        spot = self._spots.get(key)
        if spot is None:
            ask = Ask(
                bytes_by_kind=dict(bytes_by_kind),
                replicas=job.replicas,
                same_node=job.same_node,
                exclusive=job.exclusive,
                device_types=job.device_types,
            )
            spot = self._spots[key] = Spot(ask, self._variants)
        return spot


def least_seconds(job: QueuedJob) -> int:
    """The shortest time that the job is said to take, in whole seconds."""
    return round(min((told for each in job.footprints for told in each.seconds_by_type.values()), default=0.0))


def _family_key(shape: Shape) -> object | None:
    ask = shape.spots[0].ask if len(shape.spots) == 1 else None
    if ask is None or len(ask.bytes_by_kind) != 1:
        return None
    return *ask.bytes_by_kind, ask.replicas, ask.same_node, ask.exclusive, ask.device_types


def _keyed(shape: Shape) -> Iterable[tuple[object, Spot]]:
    assert isinstance(shape.key, tuple)
    return zip(shape.key, shape.spots, strict=True)


def _spot_key(job: QueuedJob, bytes_by_kind: Mapping[str, int]) -> object:
    return tuple(sorted(bytes_by_kind.items())), job.replicas, job.same_node, job.exclusive, job.device_types
