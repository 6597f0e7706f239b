"""Torch's caching allocator for CUDA, played on a recording: what it holds, beside what was asked of it.

Sizes and rules from c10/cuda/CUDACachingAllocator.cpp (torch 2.13): requests are rounded to 512 bytes; up to 1 MiB they
come from segments of 2 MiB, below 10 MiB from segments of 20 MiB, above from segments of their own, rounded to 2 MiB.
A free block serves if it is the smallest that is large enough; what is left over is split off; neighbours merge.
"""

from bisect import bisect_left, insort
from collections import defaultdict

from workers.estimator.depth import Recording

MIB = 2**20
MIN_BLOCK, SMALL_SIZE, SMALL_SEGMENT, LARGE_SEGMENT = 512, MIB, 2 * MIB, 20 * MIB
MIN_LARGE, ROUND_LARGE = 10 * MIB, 2 * MIB


def round_size(size_bytes: int) -> int:
    """What an allocation counts in torch's `memory_allocated`."""
    return -(-size_bytes // MIN_BLOCK) * MIN_BLOCK or MIN_BLOCK


class _Block:
    """A piece of a segment; `before` and `after` are its neighbours there."""

    __slots__ = ("address", "after", "before", "free", "size")

    def __init__(self, address: int, size: int) -> None:
        self.address, self.size, self.free = address, size, False
        self.before: _Block | None = None
        self.after: _Block | None = None


class CachingAllocator:
    """One device. At its limit, if it has one, it first gives back the segments that nothing uses.

    What one stream has freed serves no other: each has its own free blocks, small ones and large ones.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.reserved_bytes = self.most_bytes = 0
        self._limit_bytes = limit_bytes
        self._end = 0
        self._free: dict[tuple[int, bool], list[tuple[int, int, _Block]]] = defaultdict(list)

    def allocate(self, size_bytes: int, *, stream: int = 0) -> _Block:
        size = -(-size_bytes // MIN_BLOCK) * MIN_BLOCK or MIN_BLOCK
        small = size <= SMALL_SIZE
        pool = self._free[stream, small]
        index = bisect_left(pool, (size,))
        block = pool.pop(index)[2] if index < len(pool) else self._grow(size, small=small)
        rest = block.size - size
        if rest >= MIN_BLOCK if small else rest > SMALL_SIZE:
            self._split(block, size, pool)
        block.free = False
        return block

    def release(self, block: _Block, *, small: bool, stream: int = 0) -> None:
        pool = self._free[stream, small]
        before, after = block.before, block.after
        if before is not None and before.free:
            _take(pool, before)
            block.address, block.size, block.before = before.address, before.size + block.size, before.before
            if block.before is not None:
                block.before.after = block
        if after is not None and after.free:
            _take(pool, after)
            block.size, block.after = block.size + after.size, after.after
            if block.after is not None:
                block.after.before = block
        block.free = True
        insort(pool, (block.size, block.address, block))

    def empty(self) -> None:
        """Give back the segments that are free as a whole, as torch.cuda.empty_cache does."""
        for pool in self._free.values():
            whole = [block for _, _, block in pool if block.before is None and block.after is None]
            self.reserved_bytes -= sum(block.size for block in whole)
            pool[:] = [item for item in pool if not (item[2].before is None and item[2].after is None)]

    def _grow(self, size: int, *, small: bool) -> _Block:
        segment = (
            SMALL_SEGMENT if small else LARGE_SEGMENT if size < MIN_LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE
        )
        if self._limit_bytes is not None and self.reserved_bytes + segment > self._limit_bytes:
            self.empty()
            if self.reserved_bytes + segment > self._limit_bytes:
                raise NoRoom
        block = _Block(self._end, segment)
        self._end += segment
        self.reserved_bytes += segment
        self.most_bytes = max(self.most_bytes, self.reserved_bytes)
        return block

    @staticmethod
    def _split(block: _Block, size: int, pool: list[tuple[int, int, _Block]]) -> None:
        rest = _Block(block.address + size, block.size - size)
        rest.before, rest.after, rest.free = block, block.after, True
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        insort(pool, (rest.size, rest.address, rest))


def _take(pool: list[tuple[int, int, _Block]], block: _Block) -> None:
    del pool[bisect_left(pool, (block.size, block.address))]


class NoRoom(MemoryError):
    """The recording does not fit on a device of this size, even when everything cached is given back."""


def simulate_reserved(recording: Recording, *, limit_bytes: int | None, empties_cache: bool) -> int:
    """The most that the allocator holds at any moment: torch's `max_memory_reserved`. Raises NoRoom.

    A loop that empties its cache does so before the last step, so what earlier steps left behind does not count.
    """
    allocator = CachingAllocator(limit_bytes)
    blocks: dict[int, _Block] = {}
    sizes = [round_size(born.size_bytes) for born in recording.births]
    streams = [born.stream for born in recording.births]
    last_step = max(start for start, (name, _) in recording.marks if name == "step")
    events = recording.events
    for index, event in enumerate(events):
        if index == last_step and empties_cache:
            allocator.empty()
            allocator.most_bytes = allocator.reserved_bytes
        if event >= 0:
            blocks[event] = allocator.allocate(sizes[event], stream=streams[event])
        else:
            allocator.release(blocks.pop(~event), small=sizes[~event] <= SMALL_SIZE, stream=streams[~event])
    return allocator.most_bytes
