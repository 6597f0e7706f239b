"""The rules of torch's caching allocator, one by one."""

import pytest

from workers.estimator.allocator import MIB, CachingAllocator, NoRoom, round_size


def test_sizes_are_rounded_to_512_bytes() -> None:
    assert [round_size(size) for size in (1, 512, 513)] == [512, 512, 1024]


@pytest.mark.parametrize(
    ("size", "reserved"),
    [(1, 2 * MIB), (MIB, 2 * MIB), (MIB + 1, 20 * MIB), (10 * MIB, 10 * MIB), (11 * MIB, 12 * MIB)],
)
def test_segments_come_in_classes(size: int, reserved: int) -> None:
    allocator = CachingAllocator()
    allocator.allocate(size)
    assert allocator.reserved_bytes == reserved


def test_a_freed_block_serves_again_and_its_rest_is_split_off() -> None:
    allocator = CachingAllocator()
    block = allocator.allocate(64 * MIB)
    allocator.release(block, small=False)
    first, second = allocator.allocate(30 * MIB), allocator.allocate(34 * MIB)
    assert allocator.reserved_bytes == 64 * MIB
    allocator.release(first, small=False)
    allocator.release(second, small=False)
    allocator.allocate(64 * MIB)
    assert allocator.reserved_bytes == 64 * MIB


def test_a_block_in_the_way_keeps_its_segment_from_larger_requests() -> None:
    allocator = CachingAllocator()
    allocator.release(allocator.allocate(64 * MIB), small=False)
    allocator.allocate(30 * MIB)
    allocator.allocate(40 * MIB)
    assert allocator.reserved_bytes == 104 * MIB


def test_at_its_limit_it_gives_back_what_nothing_uses() -> None:
    allocator = CachingAllocator(limit_bytes=100 * MIB)
    allocator.release(allocator.allocate(60 * MIB), small=False)
    allocator.allocate(80 * MIB)
    assert allocator.reserved_bytes == 80 * MIB
    with pytest.raises(NoRoom):
        allocator.allocate(40 * MIB)
