"""The waiting jobs of one team, sorted once: by class, priority, user, and within a user's own jobs by rank and id.

A lane holds the jobs of one user with one class and one priority. Which lane is next depends on how much each user
runs, so that is decided during a pass (order.py).
"""

from bisect import bisect_left, insort
from collections.abc import Collection
from dataclasses import dataclass, field
from math import inf

from orchestrator.domain.scheduling.facts import PriorityClass, QueuedJob
from orchestrator.domain.scheduling.shapes import Shape


@dataclass(kw_only=True, slots=True, eq=False)
class Waiting:
    """A queued job with what placement needs to know of it."""

    job: QueuedJob
    shape: Shape
    rank: float
    is_taken: bool = False
    """Set while a pass that starts it is under way."""


@dataclass(kw_only=True, slots=True, eq=False)
class Lane:
    """Entries are (rank, job id, job): ids are unique, so jobs are never compared."""

    user_id: str
    entries: list[tuple[float, str, Waiting]] = field(default_factory=list)


class Lines:
    """One team's lanes by class and priority."""

    def __init__(self) -> None:
        self._lanes: dict[PriorityClass, dict[int, dict[str, Lane]]] = {each: {} for each in PriorityClass}
        self.shapes: dict[Shape, int] = {}
        self._least_rate: float | None = None

    def add(self, waiting: Waiting) -> None:
        job = waiting.job
        lanes = self._lanes[job.priority_class].setdefault(job.priority, {})
        lane = lanes.get(job.user_id)
        if lane is None:
            lane = lanes[job.user_id] = Lane(user_id=job.user_id)
        insort(lane.entries, (waiting.rank, job.job_id, waiting), key=_entry_key)
        if waiting.shape not in self.shapes:
            self._least_rate = None
        self.shapes[waiting.shape] = self.shapes.get(waiting.shape, 0) + 1

    def remove(self, waiting: Waiting) -> None:
        job = waiting.job
        priorities = self._lanes[job.priority_class]
        lane = priorities[job.priority][job.user_id]
        del lane.entries[bisect_left(lane.entries, (waiting.rank, job.job_id), key=_entry_key)]
        if not lane.entries:
            del priorities[job.priority][job.user_id]
            if not priorities[job.priority]:
                del priorities[job.priority]
        self.shapes[waiting.shape] -= 1
        if not self.shapes[waiting.shape]:
            del self.shapes[waiting.shape]
            self._least_rate = None

    @property
    def least_rate(self) -> float:
        """The least that any of the jobs would count for, in micros; infinity when none of them can run."""
        if self._least_rate is None:
            rates = (shape.least_rate for shape in self.shapes if shape.least_rate is not None)
            self._least_rate = min(rates, default=inf)
        return self._least_rate

    def forget_rates(self) -> None:
        """The pool has changed, and with it what jobs count for."""
        self._least_rate = None

    def has_any(self, shapes: Collection[Shape]) -> bool:
        """Whether a job of one of these shapes waits."""
        if len(shapes) > len(self.shapes):
            return any(shape in shapes for shape in self.shapes)
        return any(shape in self.shapes for shape in shapes)

    def has(self, priority_class: PriorityClass) -> bool:
        """Whether a job of this class waits."""
        return bool(self._lanes[priority_class])

    def priorities(self, classes: tuple[PriorityClass, ...]) -> list[int]:
        """All priorities among these classes, the highest first."""
        return sorted({priority for each in classes for priority in self._lanes[each]}, reverse=True)

    def lanes(self, classes: tuple[PriorityClass, ...], priority: int) -> list[Lane]:
        """The lanes with this priority, in no particular order."""
        return [lane for each in classes for lane in self._lanes[each].get(priority, {}).values()]


def _entry_key(entry: tuple[float, str, Waiting] | tuple[float, str]) -> tuple[float, str]:
    return entry[0], entry[1]
