"""Orders of a queue that others use, to compare with: strict first come first served, skipping, EASY backfill.

They decide over a flat pool of whole devices, through the methods of the production planner.
"""

from orchestrator.domain.scheduling.actions import Decision, Start
from orchestrator.domain.scheduling.facts import QueuedJob
from orchestrator.simulation.flat import FlatPool, told_seconds


class Fifo(FlatPool):
    """The first in line holds up everybody behind it."""

    def decide(self, now: float) -> Decision:
        waiting = sorted(self.queued.values(), key=lambda job: (job.queued_at, job.job_id))
        free = list(self.free)
        starts: list[Start] = []
        for place, job in enumerate(waiting):
            if job.replicas > len(free):
                starts += self.pass_by(waiting[place:], free, now, starts)
                break
            starts.append(self.start(job, [free.pop() for _ in range(job.replicas)]))
        return Decision(starts=tuple(starts), preemptions=(), pins=())

    def pass_by(self, held_up: list[QueuedJob], free: list[str], now: float, started: list[Start]) -> list[Start]:
        """Who may go ahead of the first that does not fit: here nobody."""
        return []


class Skip(Fifo):
    """Whoever fits goes ahead, however long the first in line has waited."""

    def pass_by(self, held_up: list[QueuedJob], free: list[str], now: float, started: list[Start]) -> list[Start]:
        found = []
        for job in held_up:
            if not free:
                break
            if job.replicas <= len(free):
                found.append(self.start(job, [free.pop() for _ in range(job.replicas)]))
        return found


class Easy(Fifo):
    """Others go ahead only where the first in line does not start later for it, by the estimates (Lifka, 1995)."""

    def pass_by(self, held_up: list[QueuedJob], free: list[str], now: float, started: list[Start]) -> list[Start]:
        head = held_up[0]
        ends = [(max(job.expected_end_at, now), len(job.holds)) for job in self.running.values()]
        ends += [(now + self._told(start), len(start.holds)) for start in started]
        at, spare = _reserve(head.replicas, len(free), sorted(ends))
        found = []
        for job in held_up[1:]:
            if not free:
                break
            ends_in_time = now + told_seconds(job) <= at
            if job.replicas > len(free) or not (ends_in_time or job.replicas <= spare):
                continue
            spare -= 0 if ends_in_time else job.replicas
            found.append(self.start(job, [free.pop() for _ in range(job.replicas)]))
        return found

    def _told(self, start: Start) -> float:
        return told_seconds(self.queued[start.job_id])


def _reserve(needed: int, free: int, ends: list[tuple[float, int]]) -> tuple[float, int]:
    """When so many devices will be free, and how many will be to spare then."""
    for at, count in ends:
        free += count
        if free >= needed:
            return at, free - needed
    return float("inf"), 0
