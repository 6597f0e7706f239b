"""Who is considered next. Levels first, then teams, then the jobs of the team.

1. Class; within a class, jobs whose team stays within its guarantee before those that borrow. Urgent work beyond the
   guarantee counts as normal.
2. Among teams: the lower (decayed usage + start charges) / weight.
3. Within a team: priority, then the user who runs least, then rank, then id.

During a pass all of these only ever get worse for a job, so a line is walked once per level.
"""

import heapq
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum
from math import inf

from orchestrator.domain.scheduling.facts import PriorityClass
from orchestrator.domain.scheduling.lines import Lane, Lines, Waiting


class Level(IntEnum):
    """Lower goes first, and is never held up by what higher levels have pinned."""

    URGENT = 0
    WITHIN = 1
    BORROWING = 2
    IDLE_WITHIN = 3
    IDLE = 4


CLASS_RANKS: Mapping[PriorityClass, int] = {PriorityClass.URGENT: 0, PriorityClass.NORMAL: 1, PriorityClass.IDLE: 2}
"""Lower is better."""

WITHIN_LEVELS = frozenset({Level.URGENT, Level.WITHIN, Level.IDLE_WITHIN})
IDLE_LEVELS = frozenset({Level.IDLE_WITHIN, Level.IDLE})

CLASSES_BY_LEVEL: Mapping[Level, tuple[PriorityClass, ...]] = {
    Level.URGENT: (PriorityClass.URGENT,),
    Level.WITHIN: (PriorityClass.NORMAL,),
    Level.BORROWING: (PriorityClass.URGENT, PriorityClass.NORMAL),
    Level.IDLE_WITHIN: (PriorityClass.IDLE,),
    Level.IDLE: (PriorityClass.IDLE,),
}


def share_key(usage: float, weight: float) -> float:
    """What orders teams: usage per weight. A team of no weight comes last."""
    return usage / weight if weight > 0 else inf


def walk_line(
    lines: Lines,
    classes: tuple[PriorityClass, ...],
    running_by_user: Mapping[str, int],
    skips: Callable[[Waiting], bool],
) -> Iterator[Waiting]:
    """The jobs of one team in order. `running_by_user` is read anew for each job, and may grow between two."""
    for priority in lines.priorities(classes):
        yield from _take_turns(lines.lanes(classes, priority), running_by_user, skips)


def _take_turns(
    lanes: list[Lane], running_by_user: Mapping[str, int], skips: Callable[[Waiting], bool]
) -> Iterator[Waiting]:
    heap: list[tuple[int, float, str, int, int]] = []
    for number in range(len(lanes)):
        _push(heap, lanes, (number, 0), running_by_user, skips)
    while heap:
        running, _, _, number, at = heapq.heappop(heap)
        lane = lanes[number]
        waiting = lane.entries[at][2]
        if skips(waiting) or running != running_by_user.get(lane.user_id, 0):
            _push(heap, lanes, (number, at), running_by_user, skips)
            continue
        yield waiting
        _push(heap, lanes, (number, at + 1), running_by_user, skips)


def _push(
    heap: list[tuple[int, float, str, int, int]],
    lanes: list[Lane],
    place: tuple[int, int],
    running_by_user: Mapping[str, int],
    skips: Callable[[Waiting], bool],
) -> None:
    """Put the lane's first job from `place` (lane, index) on that is not skipped into the heap."""
    number, at = place
    lane = lanes[number]
    entries = lane.entries
    while at < len(entries) and skips(entries[at][2]):
        at += 1
    if at < len(entries):
        rank, job_id, _ = entries[at]
        heapq.heappush(heap, (running_by_user.get(lane.user_id, 0), rank, job_id, number, at))
