"""The model of malloc's heap: what is resident after blocks came and went, and after a trim."""

import ctypes
import subprocess
import sys

import pytest

from workers.estimator.heap import MOST_MAPPED_FROM_BYTES, PAGE_BYTES, Heap

MIB = 2**20


def is_about(heap: Heap, size_bytes: int) -> bool:
    """But for the pages that a hole's edges lie in."""
    return abs(heap.resident_bytes - size_bytes) <= 16 * PAGE_BYTES


def test_a_freed_block_between_others_stays_until_the_heap_is_trimmed() -> None:
    heap = Heap()
    blocks = [heap.allocate(MIB) for _ in range(8)]
    for block in blocks[1:6]:
        heap.release(block)
    assert is_about(heap, 8 * MIB)
    heap.trim()
    assert is_about(heap, 3 * MIB)


def test_a_trimmed_hole_is_used_again_and_counts_as_far_as_it_is_used() -> None:
    heap = Heap()
    blocks = [heap.allocate(4 * MIB) for _ in range(3)]
    heap.release(blocks[1])
    heap.trim()
    again = heap.allocate(MIB)
    assert blocks[1].address <= again.address < blocks[2].address
    assert is_about(heap, 9 * MIB)


def test_an_aligned_block_cannot_use_a_hole_of_just_its_size() -> None:
    heap = Heap()
    blocks = [heap.allocate(MIB) for _ in range(2)]
    heap.release(blocks[0])
    assert heap.allocate(MIB).address > blocks[1].address


def test_the_largest_blocks_are_mapped_alone_and_go_at_once() -> None:
    heap = Heap()
    block = heap.allocate(MOST_MAPPED_FROM_BYTES)
    assert is_about(heap, MOST_MAPPED_FROM_BYTES)
    heap.release(block)
    assert heap.resident_bytes == 0


REAL = """
import ctypes
libc = ctypes.CDLL(None)
libc.posix_memalign.argtypes = [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallopt(-3, 32 * 2**20), libc.mallopt(-1, 64 * 2**20)

def allocate(size):
    block = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(block), 64, size) == 0
    ctypes.memset(block, 1, size)
    return block

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

before = resident()
blocks = [allocate(2**20 + 4096 * i) for i in range(64)]
for block in blocks[:48:2] + blocks[1:32:4]:
    libc.free(block)
again = [allocate(2**19) for _ in range(20)]
print(resident() - before)
libc.malloc_trim(0)
print(resident() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another malloc than glibc's")
def test_the_real_heap_holds_as_much() -> None:
    """The same calls of malloc and of the model, in a process of its own."""
    done = subprocess.run([sys.executable, "-I", "-c", REAL], capture_output=True, text=True, timeout=60, check=True)
    full, trimmed = (int(line) for line in done.stdout.split())
    heap = Heap()
    blocks = [heap.allocate(MIB + PAGE_BYTES * i) for i in range(64)]
    for block in blocks[:48:2] + blocks[1:32:4]:
        heap.release(block)
    for _ in range(20):
        heap.allocate(MIB // 2)
    assert heap.resident_bytes == pytest.approx(full, rel=0.02)
    heap.trim()
    assert heap.resident_bytes == pytest.approx(trimmed, rel=0.02)
