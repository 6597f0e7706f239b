"""One pass of the scheduler: every job that can start is started, in order; the rest may preempt, pin, or wait."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.holding import Holding
from orchestrator.domain.scheduling.lines import Lines, Waiting
from orchestrator.domain.scheduling.order import CLASSES_BY_LEVEL, IDLE_LEVELS, WITHIN_LEVELS, Level, walk_line
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy
from orchestrator.domain.scheduling.room_making import RoomMaking
from orchestrator.domain.scheduling.shapes import Shape
from orchestrator.domain.scheduling.starting import try_start, try_start_locked
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import Tally
from orchestrator.domain.scheduling.turns import by_seniority, count_turns, is_by_waiting

_ALL_CLASSES = tuple(PriorityClass)


class Round:
    """Use: `run()`, read `found` (what was decided, and the rooms at the end of it), then `close()`."""

    def __init__(self, state: State, policy: PlacementPolicy, now: float) -> None:
        self.found = Pass(state, policy, now)
        self.holding = Holding(self.found)
        self.making = RoomMaking(self.found)
        self.special_ids: set[str] = set()
        self._special: dict[str, list[Waiting]] = {}

    def run(self) -> None:
        """Decide. Starts over from the first level whenever a start gives room back (a pin or lock that is done)."""
        self.making.drain()
        self.holding.take_over_locks()
        self.holding.take_over_pins()
        self._walk_all()
        if self._move():
            self._walk_all()

    def _walk_all(self) -> None:
        self._look_around()
        while self._walk():
            self._look_around()

    def _look_around(self) -> None:
        """`_special` are the jobs with pins or locks of their own: they are considered whatever their shape."""
        self.making.forget()
        self.found.look_around()
        overlay, waiting = self.found.overlay, self.found.state.waiting
        self.special_ids = overlay.pins.keys() | overlay.locks.keys()
        self._special = {}
        for job_id in sorted(self.special_ids):
            each = waiting[job_id]
            self._special.setdefault(each.job.team_id, []).append(each)

    def has_special(self, tally: Tally) -> bool:
        """Whether a job of this team has pins or locks of its own."""
        return tally.book.terms.team_id in self._special

    def close(self) -> None:
        """Leave the state as it was found."""
        self.found.close()

    def _walk(self) -> bool:
        """Consider everybody once, in order. True when room was given back: then it has to be done again."""
        hours = self.found.rules.turns_hours
        turns = tuple(range(count_turns(self.found.rules))) if hours else (None,)
        return any(
            self._walk_level(level, turn)
            for level in Level
            for turn in (turns if level is Level.BORROWING else (None,))
        )

    def _move(self) -> bool:
        """Once nobody else can start, have smaller jobs move out of a holder's way. True when that gave room back."""
        holders = [self.found.state.waiting[job_id] for job_id in sorted(self.found.overlay.pins)]
        holders.sort(key=lambda each: (each.rank, each.job.job_id))
        has_moved = False
        for each in holders:
            has_moved |= self.making.try_move(each)
        return has_moved

    def _walk_level(self, level: Level, turn: int | None) -> bool:
        """The teams of one level, the lowest share first; after each start the team's share is higher."""
        if turn is not None and is_by_waiting(turn):
            return self._walk_long_waiters(level, turn)
        lines: dict[str, _Line] = {}
        heap: list[tuple[float, str]] = []
        for team_id in self._teams(level):
            waiting_lines = self.found.state.lines[team_id]
            line = self._line(team_id, waiting_lines, level, turn)
            if line is not None:
                lines[team_id] = line
                heap.append((self.found.tally(team_id).share, team_id))
        heapify(heap)
        while heap:
            _, team_id = heappop(heap)
            if self._advance(lines[team_id], level):
                heappush(heap, (self.found.tally(team_id).share, team_id))
            if self.found.has_grown:
                return True
        return False

    def _walk_long_waiters(self, level: Level, turn: int) -> bool:
        """Those who have their turn because they waited, the first to come first."""
        found = self.found
        for waiting in by_seniority(found.state.waiting.values(), found.turns, turn):
            tally = found.tally(waiting.job.team_id)
            if self._may_have_business(tally, level) and not _Filter(self, tally, level, turn).skips(waiting):
                self._consider(waiting, level)
                if found.has_grown:
                    return True
        return False

    def _teams(self, level: Level) -> Iterable[str]:
        """The teams that may have business at this level, by a first rough look."""
        found, state = self.found, self.found.state
        if level in WITHIN_LEVELS:
            return [
                team_id
                for team_id, lines in state.lines.items()
                if team_id in self._special or lines.least_rate <= state.books[team_id].to_guarantee
            ]
        is_idle = level in IDLE_LEVELS
        if found.alive or self.holding.has_place(level) or not (is_idle or self.making.is_quiet):
            return state.lines
        return self._special

    def _advance(self, line: "_Line", level: Level) -> bool:
        """Consider the team's next jobs until one starts; False when none is left."""
        if not line.has_business():
            return False
        return any(self._consider(waiting, level) or self.found.has_grown for waiting in line.jobs)

    def _line(self, team_id: str, lines: Lines, level: Level, turn: int | None) -> "_Line | None":
        """The team's jobs that may start, have others leave, or pin devices at this level; None without any."""
        terms = self.found.state.books[team_id].terms
        is_open = level is Level.IDLE and terms.idle_when_exhausted
        classes = tuple(each for each in (_ALL_CLASSES if is_open else CLASSES_BY_LEVEL[level]) if lines.has(each))
        if not classes:
            return None
        tally = self.found.tally(team_id)
        filtered = _Filter(self, tally, level, turn)
        if self._may_have_business(tally, level) and filtered.wants_any(lines, classes):
            jobs = walk_line(lines, classes, tally.users, filtered.skips)
            return _Line(jobs=jobs, has_business=lambda: filtered.wants_any(lines, classes))
        special = [each for each in self._special.get(team_id, ()) if each.job.priority_class in classes]
        if not special:
            return None
        special.sort(key=lambda each: (-each.job.priority, tally.users.get(each.job.user_id, 0), each.rank))
        return _Line(jobs=(each for each in special if not filtered.skips(each)), has_business=lambda: True)

    def _may_have_business(self, tally: Tally, level: Level) -> bool:
        """Whether the least of the team's jobs would be within the share that goes with the level."""
        least = tally.lines.least_rate
        if level in WITHIN_LEVELS and least > tally.to_guarantee:
            return False
        return least <= tally.to_ceiling or any(self.making.has_own(tally.book, each) for each in PriorityClass)

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
        if not self.making.try_preempt(waiting, level):
            self.holding.try_pin(waiting, level)
        return False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One team's jobs at one level, in order. `has_business` turns false once none of them could do anything."""

    jobs: Iterator[Waiting]
    has_business: Callable[[], bool]


class _Filter:
    """What of one team's line need not be considered: most of it, most of the time, so it has to be found out fast."""

    def __init__(self, round_: Round, tally: Tally, level: Level, turn: int | None) -> None:
        self._round = round_
        self._tally = tally
        self._level = level
        self._turn = turn
        self._is_within = level in WITHIN_LEVELS
        self._alive = round_.found.alive
        self._special = round_.special_ids
        self._has_place = round_.holding.has_place(level)
        self._generation = round_.making.generation
        self._hopeful: dict[PriorityClass, set[Shape]] = {}

    def wants_any(self, lines: Lines, classes: tuple[PriorityClass, ...]) -> bool:
        """Whether anybody is left over at all."""
        has_place = self._has_place and self._round.holding.has_place(self._level)
        if has_place or lines.has_any(self._alive) or self._round.has_special(self._tally):
            return True
        return any(lines.has_any(self._hopes(each)) for each in classes)

    def skips(self, waiting: Waiting) -> bool:
        shape = waiting.shape
        if waiting.is_taken:
            return True
        if shape not in self._alive and waiting.job.job_id not in self._special:
            is_waited_for = self._has_place and self._may_pin(waiting)
            if not is_waited_for and shape not in self._hopes(waiting.job.priority_class):
                return True
        least = shape.least_rate
        if least is None or (self._is_within and least > self._tally.to_guarantee):
            return least is None or waiting.job.job_id not in self._round.found.overlay.locks
        return self._turn is not None and self._turn != self._turn_of(waiting)

    def _hopes(self, priority_class: PriorityClass) -> set[Shape]:
        making = self._round.making
        if self._generation != making.generation:
            self._hopeful.clear()
            self._generation = making.generation
        hopes = self._hopeful.get(priority_class)
        if hopes is None:
            hopes = making.hopeful(self._tally.book, priority_class, self._level, self._turn or 0)
            self._hopeful[priority_class] = hopes
        return hopes

    def _may_pin(self, waiting: Waiting) -> bool:
        return self._round.holding.has_place(self._level) and self._round.holding.may_pin(waiting)

    def _turn_of(self, waiting: Waiting) -> int:
        return self._round.found.turns.of_waiting(waiting)
