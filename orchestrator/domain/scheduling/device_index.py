"""Devices in the order of the default rule, found without looking at all of them.

Open devices lie in bins by type and usable bytes; in a bin, those with the same free bytes are ties. Nodes lie in shelf
bins by the free bytes of their k-th emptiest device, for each gang size k that was ever asked for.
"""

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from orchestrator.domain.placement import DeviceKind

BinKey = tuple[int, str, DeviceKind]
"""Usable bytes, device type, kind: sorts smallest first."""

_FEW = 8


class Slotted(Protocol):
    """What lies in a bin. `fullness` orders ties: (free bytes of the node, id)."""

    @property
    def fullness(self) -> tuple[int, str]: ...


_S = TypeVar("_S", bound=Slotted)


class Ties(Generic[_S]):
    """Things with the same free bytes. Beyond a few, the fullest is kept on a heap whose stale entries are skipped."""

    __slots__ = ("_heap", "live")

    def __init__(self) -> None:
        self.live: dict[str, _S] = {}
        self._heap: list[tuple[int, str]] | None = None

    def put(self, thing: _S) -> None:
        """Add it, or note that it has become fuller or emptier."""
        fullness = thing.fullness
        self.live[fullness[1]] = thing
        if self._heap is not None:
            heapq.heappush(self._heap, fullness)
            if len(self._heap) > 4 * len(self.live) + 64:
                self._heap = None

    def touch(self, thing: _S) -> None:
        """Note that it has become fuller or emptier."""
        if self._heap is not None:
            self.put(thing)

    def best(self) -> _S:
        """The one on the fullest node, then by id."""
        if len(self.live) <= _FEW:
            self._heap = None
            if len(self.live) == 1:
                return next(iter(self.live.values()))
            return min(self.live.values(), key=_fullness)
        if self._heap is None:
            self._heap = [thing.fullness for thing in self.live.values()]
            heapq.heapify(self._heap)
        while True:
            top = self._heap[0]
            thing = self.live.get(top[1])
            if thing is not None and thing.fullness == top:
                return thing
            heapq.heappop(self._heap)


def _fullness(thing: Slotted) -> tuple[int, str]:
    return thing.fullness


class Bin(Generic[_S]):
    """Ties by free bytes, tightest first."""

    __slots__ = ("_frees", "ties")

    def __init__(self) -> None:
        self._frees: list[int] = []
        self.ties: dict[int, Ties[_S]] = {}

    def put(self, free: int, thing: _S) -> None:
        ties = self.ties.get(free)
        if ties is None:
            ties = self.ties[free] = Ties()
            insort(self._frees, free)
        ties.put(thing)

    def drop(self, free: int, key: str) -> None:
        ties = self.ties[free]
        del ties.live[key]
        if not ties.live:
            del self.ties[free]
            del self._frees[bisect_left(self._frees, free)]

    def from_tightest(self, needed: int) -> Iterator[Ties[_S]]:
        """All ties that suffice, tightest first."""
        for at in range(bisect_left(self._frees, needed), len(self._frees)):
            yield self.ties[self._frees[at]]

    def emptiest(self, most: int) -> Iterator[_S]:
        """So many things at most, those with the most free bytes first."""
        for free in reversed(self._frees):
            for key in sorted(self.ties[free].live):
                if most == 0:
                    return
                most -= 1
                yield self.ties[free].live[key]

    @property
    def most(self) -> int:
        """The most free bytes of anything in here; -1 when there is nothing."""
        return self._frees[-1] if self._frees else -1


class Bins(Generic[_S]):
    """All bins, smallest first."""

    def __init__(self) -> None:
        self.bins: dict[BinKey, Bin[_S]] = {}
        self._order: list[BinKey] = []

    def bin_of(self, key: BinKey) -> Bin[_S]:
        """The bin of that key, a new one if there is none."""
        found = self.bins.get(key)
        if found is None:
            found = self.bins[key] = Bin()
            insort(self._order, key)
        return found

    def by_size(self, needs: Callable[[BinKey], int | None]) -> Iterator[tuple[BinKey, int, Bin[_S]]]:
        """The bins where `needs` says how many bytes are needed (None: not there), smallest devices first."""
        for key in self._order:
            needed = needs(key)
            if needed is not None:
                yield key, needed, self.bins[key]
