"""Which rows share a packed example? No torch: validation packs as training does, to count steps exactly."""

from bisect import bisect_left, insort
from collections.abc import Sequence


def choose_bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest row first, into the fullest bin that still has room. At most 11/9 of the
    fewest bins (Johnson 1973). Deterministic; every length is at most `capacity`."""
    bins: list[list[int]] = []
    rooms: list[tuple[int, int]] = []
    for number in sorted(range(len(lengths)), key=lambda number: (-lengths[number], number)):
        place = bisect_left(rooms, (lengths[number], -1))
        room, target = rooms.pop(place) if place < len(rooms) else (capacity, len(bins))
        if target == len(bins):
            bins.append([])
        bins[target].append(number)
        insort(rooms, (room - lengths[number], target))
    return bins
