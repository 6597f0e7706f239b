"""glibc's malloc on a CPU, played on a recording: what stays resident, beside what is in use.

Rules from glibc 2.36's malloc.c. A tensor is an aligned block (torch asks for 64 bytes): memalign takes a chunk that is
larger by 64 + 32, gives back what is in front and behind, and so cannot use again a hole of just its size. The pieces
that it gives back (32 to 112 bytes) are what torch's small objects are made from, and those live as long as the
tensors beside them: so holes stay apart until backward is over. Blocks of 32 MiB and more are mapped alone and go at
once, and all others are in the heap: malloc raises its own threshold to that as such blocks are freed, which they are
while a model is loaded.
"""

from bisect import bisect_left, insort
from typing import NamedTuple

from workers.estimator.depth import Recording

MOST_MAPPED_FROM_BYTES = 32 * 2**20
"""Blocks of this size and more are mapped alone: where malloc's threshold ends up, which rises as such blocks are freed
(mallopt(3), M_MMAP_THRESHOLD)."""
KEPT_AT_TOP_BYTES = 2 * MOST_MAPPED_FROM_BYTES
"""Free memory at the heap's end that stays for reuse: twice the threshold, as malloc has it."""

PAGE_BYTES = 4096
ALIGNMENT_BYTES, SMALLEST_CHUNK_BYTES, HEADER_BYTES, STEP_BYTES = 64, 32, 8, 16
CACHED_UP_TO_BYTES, CACHED_EACH = 1040, 7
"""The thread's cache: chunks of up to this size, so many of each, are not merged with their neighbours."""
SMALL_OBJECTS = (24,) * 10 + (40, 104, 184, 184, 470, 488)
"""Bytes that torch asks for with each tensor that is kept: graph nodes, edges, saved variables, tensor and storage.
Counted at the end of a forward pass, by size, for each tensor alive (SmolLM2-135M, torch 2.13, 25 November 2026)."""
PASSING_EVENTS = 32
"""A tensor that dies within so many births and deaths was never part of the graph: about a dozen operations."""


class Chunk(NamedTuple):
    """A piece of the heap, or a mapping of its own where `address` is -1."""

    address: int
    size: int


class Heap:
    """The main arena of a process. Addresses start at 0 and are 0 modulo 16, as chunks are."""

    def __init__(self) -> None:
        self._mapped_bytes = self._resident_pages = 0
        self._pages = bytearray()
        """1 for each that is resident: it was written to, and not given back since."""
        self._top = 0
        self._free: list[tuple[int, int]] = []
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._cached: dict[int, list[int]] = {}

    @property
    def resident_bytes(self) -> int:
        return self._mapped_bytes + PAGE_BYTES * self._resident_pages

    def allocate(self, size_bytes: int) -> Chunk:
        """A tensor's block."""
        if size_bytes >= MOST_MAPPED_FROM_BYTES:
            size = -(-(size_bytes + ALIGNMENT_BYTES + STEP_BYTES) // PAGE_BYTES) * PAGE_BYTES
            self._mapped_bytes += size
            return Chunk(-1, size)
        need = _round(size_bytes)
        address, size = self._cut(_round(size_bytes + ALIGNMENT_BYTES + SMALLEST_CHUNK_BYTES))
        lead = -(address + STEP_BYTES) % ALIGNMENT_BYTES
        if lead:
            lead += ALIGNMENT_BYTES * (lead < SMALLEST_CHUNK_BYTES)
            self._give(address, lead)
        address, size = address + lead, size - lead
        if size - need >= SMALLEST_CHUNK_BYTES:
            self._give(address + need, size - need)
            size = need
        self._touch(address, size)
        return Chunk(address, size)

    def allocate_small(self, size_bytes: int) -> Chunk:
        """An object of torch's own."""
        need = _round(size_bytes)
        cached = self._cached.get(need)
        if cached:
            return Chunk(cached.pop(), need)
        address, size = self._cut(need)
        self._touch(address, size)
        return Chunk(address, size)

    def release(self, chunk: Chunk) -> None:
        if chunk.address >= 0:
            self._give(chunk.address, chunk.size)
            return
        self._mapped_bytes -= chunk.size

    def trim(self) -> None:
        """Give back all whole pages that nothing uses, as malloc_trim(3) does."""
        for address, size in self._starts.items():
            self._drop(-(-(address + SMALLEST_CHUNK_BYTES) // PAGE_BYTES), (address + size) // PAGE_BYTES)
        self._drop_top()

    def _cut(self, need: int) -> tuple[int, int]:
        """The smallest free chunk that is large enough, or the top."""
        index = bisect_left(self._free, (need, 0))
        if index == len(self._free):
            address = self._top
            self._top += need
            return address, need
        size, address = self._free[index]
        self._take(address)
        if size - need < SMALLEST_CHUNK_BYTES:
            return address, size
        self._put(address + need, size - need)
        return address, need

    def _give(self, address: int, size: int) -> None:
        if size <= CACHED_UP_TO_BYTES:
            cached = self._cached.setdefault(size, [])
            if len(cached) < CACHED_EACH:
                cached.append(address)
                return
        before = self._ends.get(address)
        if before is not None:
            size += self._take(before)
            address = before
        if address + size in self._starts:
            size += self._take(address + size)
        if address + size != self._top:
            self._put(address, size)
            return
        self._top = address
        if PAGE_BYTES * len(self._pages) - self._top > KEPT_AT_TOP_BYTES:
            self._drop_top()

    def _touch(self, address: int, size: int) -> None:
        """Its user writes to it."""
        start, end = address // PAGE_BYTES, -(-(address + size) // PAGE_BYTES)
        self._pages.extend(bytes(max(0, end - len(self._pages))))
        missing = self._pages.count(0, start, end)
        if missing:
            self._pages[start:end] = b"\1" * (end - start)
            self._resident_pages += missing

    def _drop(self, start: int, end: int) -> None:
        """Pages from `start` to before `end`."""
        if start < end:
            self._resident_pages -= self._pages.count(1, start, end)
            self._pages[start:end] = bytes(end - start)

    def _drop_top(self) -> None:
        start = -(-self._top // PAGE_BYTES)
        self._drop(start, len(self._pages))
        del self._pages[start:]

    def _put(self, address: int, size: int) -> None:
        insort(self._free, (size, address))
        self._starts[address] = size
        self._ends[address + size] = address

    def _take(self, address: int) -> int:
        size = self._starts.pop(address)
        del self._ends[address + size]
        del self._free[bisect_left(self._free, (size, address))]
        return size


def _round(size_bytes: int) -> int:
    rounded = -(-(size_bytes + HEADER_BYTES) // STEP_BYTES) * STEP_BYTES
    return max(SMALLEST_CHUNK_BYTES, rounded)


def simulate_resident(recording: Recording, *, start: int) -> int:
    """The most bytes resident at any moment from event `start` on, beside what was alive before.

    The worker trims its heap when the layers' forward passes are over (`workers.malloc`).
    """
    heap, most = Heap(), 0
    chunks: dict[int, tuple[Chunk, list[Chunk]]] = {}
    events = recording.events[start:]
    kept, trims = _find_kept(events), _find_trims(recording, start)
    for place, event in enumerate(events):
        if place in trims:
            heap.trim()
        if event >= 0:
            objects = [heap.allocate_small(size) for size in SMALL_OBJECTS] if event in kept else []
            chunks[event] = heap.allocate(recording.births[event].size_bytes), objects
            most = max(most, heap.resident_bytes)
        elif ~event in chunks:
            tensor, objects = chunks.pop(~event)
            for chunk in (tensor, *objects):
                heap.release(chunk)
    return most


def _find_trims(recording: Recording, start: int) -> set[int]:
    """Places after `start` where a head's forward pass begins."""
    return {at - start for at, (name, _) in recording.marks if name == "head" and at >= start}


def _find_kept(events: list[int]) -> set[int]:
    """Allocations that outlive the operation that made them, and the next ones: those that something refers to."""
    born: dict[int, int] = {}
    kept = set()
    for place, event in enumerate(events):
        if event >= 0:
            born[event] = place
            kept.add(event)
        elif ~event in born and place - born[~event] < PASSING_EVENTS:
            kept.discard(~event)
    return kept
