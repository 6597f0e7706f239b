"""The queue as people see it: the order in which jobs would start if there were room for all of them."""

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import CLASSES_BY_LEVEL, WITHIN_LEVELS, Level, walk_line
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import Tally
from orchestrator.domain.scheduling.turns import by_seniority, count_turns, is_by_waiting


def queue_order(state: State, now: float) -> Iterator[Waiting]:
    """Every job that may start now but for room and means, first to last. Held jobs and later ones have no place."""
    tallies = {team_id: Tally.open(state.books[team_id], lines, now) for team_id, lines in state.lines.items()}
    taken: set[str] = set()
    for level in Level:
        for turn in range(count_turns(state.rules)) if level is Level.BORROWING else (None,):
            yield from _level_order(_Queue(state, tallies, taken, now), level, turn)


class _Queue:
    """One level's walk over all teams. Each job taken counts as started, for shares and turns of users."""

    def __init__(self, state: State, tallies: dict[str, Tally], taken: set[str], now: float) -> None:
        self.state = state
        self.tallies = tallies
        self._taken = taken
        self._now = now
        self._turns = state.turns(now)

    def line(self, team_id: str, level: Level, turn: int | None) -> Iterator[Waiting]:
        tally, turns = self.tallies[team_id], self._turns

        def skips(waiting: Waiting) -> bool:
            job = waiting.job
            if job.job_id in self._taken or job.not_before_at > self._now:
                return True
            if level in WITHIN_LEVELS and (waiting.shape.least_rate or 0) > tally.to_guarantee:
                return True
            return turn is not None and turns.of_waiting(waiting) != turn

        return walk_line(tally.lines, _classes(level), tally.users, skips)

    def take_long_waiters(self, turn: int) -> Iterator[Waiting]:
        """Those who have their turn because they waited, the first to come first."""
        for waiting in by_seniority(self.state.waiting.values(), self._turns, turn):
            job = waiting.job
            if job.job_id not in self._taken and job.not_before_at <= self._now:
                self.take(waiting)
                yield waiting

    def take(self, waiting: Waiting) -> None:
        job, rate = waiting.job, waiting.shape.least_rate or 0
        seconds = min((s for footprint in job.footprints for s in footprint.seconds_by_type.values()), default=0.0)
        self._taken.add(job.job_id)
        tally = self.tallies[job.team_id]
        tally.promise(rate, 0)
        tally.charge(job.user_id, rate, seconds, self.state.rules)


def _classes(level: Level) -> tuple[PriorityClass, ...]:
    return CLASSES_BY_LEVEL[level]


def _level_order(queue: _Queue, level: Level, turn: int | None) -> Iterator[Waiting]:
    if is_by_waiting(turn):
        assert turn is not None
        yield from queue.take_long_waiters(turn)
        return
    lines = {
        team_id: queue.line(team_id, level, turn)
        for team_id, line in queue.state.lines.items()
        if any(line.has(each) for each in _classes(level))
    }
    heap = [(queue.tallies[team_id].share, team_id) for team_id in lines]
    heapify(heap)
    while heap:
        _, team_id = heappop(heap)
        waiting = next(lines[team_id], None)
        if waiting is None:
            continue
        queue.take(waiting)
        yield waiting
        heappush(heap, (queue.tallies[team_id].share, team_id))
