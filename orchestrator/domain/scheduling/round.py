"""One pass of the scheduler: every job that can start is started, in order; the rest may preempt, pin, or wait."""

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush

from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.facts import PriorityClass
from orchestrator.domain.scheduling.holding import Holding
from orchestrator.domain.scheduling.lines import Lines, Waiting
from orchestrator.domain.scheduling.order import CLASSES_BY_LEVEL, WITHIN_LEVELS, Level, walk_line
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy
from orchestrator.domain.scheduling.room_making import RoomMaking
from orchestrator.domain.scheduling.starting import try_start, try_start_locked
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import Tally
from orchestrator.domain.scheduling.turns import count_turns

_ALL_CLASSES = tuple(PriorityClass)


class Round:
    """Use: `run()`, read `found` (what was decided, and the rooms at the end of it), then `close()`."""

    def __init__(self, state: State, policy: PlacementPolicy, now: float) -> None:
        self.found = Pass(state, policy, now)
        self.holding = Holding(self.found)
        self._making = RoomMaking(self.found)
        self._special: set[str] = set()
        self._special_teams: set[str] = set()

    def run(self) -> None:
        """Decide. Starts over from the first level whenever a start gives room back (a pin or lock that is done)."""
        self._making.drain()
        self.holding.take_over_locks()
        self.holding.take_over_pins()
        self._look_around()
        while self._walk():
            self._look_around()

    def _look_around(self) -> None:
        """`_special` are the jobs with pins or locks of their own: they are considered whatever their shape."""
        self._making.forget()
        self.found.look_around()
        overlay, waiting = self.found.overlay, self.found.state.waiting
        self._special = overlay.pins.keys() | overlay.locks.keys()
        self._special_teams = {waiting[job_id].job.team_id for job_id in self._special}

    def close(self) -> None:
        """Leave the state as it was found."""
        self.found.close()

    def _walk(self) -> bool:
        """Consider everybody once, in order. True when room was given back: then it has to be done again."""
        turns = range(count_turns(self.found.rules))
        return any(
            self._walk_level(level, turn)
            for level in Level
            for turn in (turns if level is Level.BORROWING else (None,))
        )

    def _walk_level(self, level: Level, turn: int | None) -> bool:
        """The teams of one level, the lowest share first; after each start the team's share is higher."""
        lines: dict[str, Iterator[Waiting]] = {}
        heap: list[tuple[float, str]] = []
        for team_id, line in self.found.state.lines.items():
            if self._has_business(team_id, line, level, turn):
                lines[team_id] = self._line(team_id, level, turn)
                heap.append((self.found.tally(team_id).share, team_id))
        heapify(heap)
        while heap:
            _, team_id = heappop(heap)
            for waiting in lines[team_id]:
                has_started = self._consider(waiting, level)
                if self.found.has_grown:
                    return True
                if has_started:
                    heappush(heap, (self.found.tally(team_id).share, team_id))
                    break
        return False

    def _has_business(self, team_id: str, line: Lines, level: Level, turn: int | None) -> bool:
        """Whether any job of the team may start, have others leave, or pin devices at this level."""
        classes = self._classes(team_id, level)
        if not line.has(classes):
            return False
        if team_id in self._special_teams:
            return True
        tally, least = self.found.tally(team_id), line.least_rate
        if level in WITHIN_LEVELS and least > tally.to_guarantee:
            return False
        if least > tally.to_ceiling and not any(self._making.has_own(team_id, each) for each in classes):
            return False
        if self.holding.has_place(level):
            return True
        hopes = (self._making.hopeful(team_id, each, level, turn or 0) for each in classes)
        return line.has_any(self.found.alive) or any(line.has_any(hope) for hope in hopes)

    def _classes(self, team_id: str, level: Level) -> tuple[PriorityClass, ...]:
        terms = self.found.state.books[team_id].terms
        return _ALL_CLASSES if level is Level.IDLE and terms.idle_when_exhausted else CLASSES_BY_LEVEL[level]

    def _line(self, team_id: str, level: Level, turn: int | None) -> Iterator[Waiting]:
        tally = self.found.tally(team_id)
        skips = self._skipper(team_id, tally, level, turn)
        return walk_line(tally.lines, self._classes(team_id, level), tally.users, skips)

    def _skipper(self, team_id: str, tally: Tally, level: Level, turn: int | None) -> Callable[[Waiting], bool]:
        """What need not be considered: most jobs, most of the time, so the cheapest tests come first."""
        found, making, holding = self.found, self._making, self.holding
        alive, special, is_within = found.alive, self._special, level in WITHIN_LEVELS

        def skips(waiting: Waiting) -> bool:
            shape, job = waiting.shape, waiting.job
            if waiting.is_taken:
                return True
            if turn is not None and found.turns.of_waiting(waiting) != turn:
                return True
            if job.job_id in special:
                return False
            if shape.least_rate is None or (is_within and shape.least_rate > tally.to_guarantee):
                return True
            if shape in alive or (holding.has_place(level) and holding.may_pin(waiting)):
                return False
            return shape not in making.hopeful(team_id, job.priority_class, level, turn or 0)

        return skips

    def _consider(self, waiting: Waiting, level: Level) -> bool:
        """Start the job, or have others leave for it, or pin devices for it. True when it starts."""
        found = self.found
        if not found.is_ready(waiting):
            return False
        if waiting.job.job_id in found.overlay.locks:
            return try_start_locked(found, waiting, level)
        if try_start(found, waiting, level):
            return True
        found.note_failure(waiting.shape)
        if not self._making.try_preempt(waiting, level):
            self.holding.try_pin(waiting, level)
        return False
