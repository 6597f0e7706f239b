"""Having others leave for a job, and keeping what it needs for it alone until it runs."""

from collections.abc import Iterable
from dataclasses import replace
from math import inf

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.books import TeamBook
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.evictions import Eviction
from orchestrator.domain.scheduling.facts import Footprint, Lock
from orchestrator.domain.scheduling.hunts import MOST_RUNNING, Hunt
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.moving import Moving
from orchestrator.domain.scheduling.order import CLASS_RANKS, IDLE_LEVELS, WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.preemption import Starter, count_preemptions, is_exempt
from orchestrator.domain.scheduling.rooms import Ask
from orchestrator.domain.scheduling.shapes import Shape, Spot
from orchestrator.domain.scheduling.sharing import goes_first
from orchestrator.domain.scheduling.tallies import allowed_types, by_type

GroupKey = tuple[object, ...]


class RoomMaking:
    """Preemption within one pass. Starters with the same victims share a hunt; a change of figures ends all hunts."""

    def __init__(self, found: Pass) -> None:
        self._found = found
        self._hunts: dict[GroupKey, Hunt] = {}
        self._hopeful: dict[GroupKey, set[Shape]] = {}
        self.generation = 0
        self._borrowers: set[str] | None = None
        books = found.state.books
        self._idle_teams = [team_id for team_id, book in books.items() if book.classes[PriorityClass.IDLE]]

    @property
    def is_quiet(self) -> bool:
        """Whether no borrower could have anybody leave, judged roughly: no idle jobs run, and no urgent ones wait."""
        rules, lines = self._found.rules, self._found.state.lines.values()
        if rules.borrower_fairness or rules.turns_hours or self._idle_teams:
            return not rules.preemption
        return not rules.preemption or not any(each.has(PriorityClass.URGENT) for each in lines)

    def forget(self) -> None:
        """Judge everything anew: the figures have changed."""
        self.generation += 1
        self._hunts.clear()
        self._hopeful.clear()
        self._borrowers = None

    def hopeful(self, book: TeamBook, priority_class: PriorityClass, level: Level, turn: int) -> set[Shape]:
        """The shapes that others might leave for, when a job of this sort asks."""
        key = self._group(book, priority_class, level, turn)
        if key is None:
            return set()
        team_id = book.terms.team_id
        hopeful = self._hopeful.get(key)
        if hopeful is None:
            if level in WITHIN_LEVELS:
                hopeful = {shape for shape in self._found.state.shapes if shape.least_rate is not None}
            else:
                hopeful = self._find_hopeful(self._hunt(key, team_id, priority_class, level, turn))
            self._hopeful[key] = hopeful
        return hopeful

    def _find_hopeful(self, hunt: Hunt) -> set[Shape]:
        """Borrowers have few victims and many shapes, so all victims are found first."""
        most, shapes = hunt.load_all(), self._found.state.shapes
        hopeful = {
            shape for shape in shapes.others if any(spot.rates and hunt.may_hold(spot.ask) for spot in shape.spots)
        }
        for family in shapes.families.values():
            hopeful.update(family.fitting(most))
        return hopeful

    def has_own(self, book: TeamBook, priority_class: PriorityClass) -> bool:
        """Whether the team itself runs something of a lower class."""
        rank = CLASS_RANKS[priority_class]
        return any(count and CLASS_RANKS[each] > rank for each, count in book.classes.items())

    def _group(self, book: TeamBook, priority_class: PriorityClass, level: Level, turn: int) -> GroupKey | None:
        """What decides on the victims of a starter; None if it cannot have any.

        A team's own idle jobs are everybody's victims, so only urgent jobs have victims that are nobody else's.
        """
        rules = self._found.rules
        if level in IDLE_LEVELS or not rules.preemption:
            return None
        is_within = level in WITHIN_LEVELS
        team_id, borrowers = book.terms.team_id, self._borrowing_teams()
        has_borrowers = len(borrowers) > (team_id in borrowers)
        has_own = self.has_own(book, priority_class)
        is_fair = rules.borrower_fairness and has_borrowers and not is_within
        has_turns = not is_within and turn < self._last_turn()
        if not (has_own or self._idle_teams or is_fair or has_turns or (is_within and has_borrowers)):
            return None
        is_particular = (has_own and priority_class is PriorityClass.URGENT) or is_fair
        own = (team_id, priority_class) if is_particular else None
        return is_within, own, turn if has_turns else None

    def _last_turn(self) -> int:
        """The last turn of any job that runs and may be asked to leave; 0 without turns."""
        found = self._found
        if not found.rules.turns_hours:
            return 0
        return found.turns.last_of(
            (job, book.rate_of(job.job_id))
            for book in found.state.books.values()
            for job in book.running.values()
            if not is_exempt(job, found.rules, found.now)
        )

    def _hunt(self, key: GroupKey, team_id: str, priority_class: PriorityClass, level: Level, turn: int) -> Hunt:
        hunt = self._hunts.get(key)
        if hunt is None:
            starter = Starter(team_id=team_id, priority_class=priority_class, level=level, turn=turn, rate_micros=0)
            hunt = self._hunts[key] = Hunt(self._found, starter, self._victim_teams(team_id, level))
        return hunt

    def _victim_teams(self, team_id: str, level: Level) -> Iterable[str]:
        rules, teams = self._found.rules, {team_id, *self._idle_teams}
        if level in WITHIN_LEVELS or rules.borrower_fairness or rules.turns_hours:
            teams.update(self._borrowing_teams())
        return teams

    def _borrowing_teams(self) -> set[str]:
        if self._borrowers is None:
            teams = self._found.state.books
            self._borrowers = {team_id for team_id in teams if self._found.tally(team_id).above_guarantee > 0}
        return self._borrowers

    def try_preempt(self, waiting: Waiting, level: Level) -> bool:
        """Have others leave for the job, if the rules allow it and it then fits on actual devices."""
        found, job = self._found, waiting.job
        rate, tally = waiting.shape.least_rate or 0, found.tally(job.team_id)
        headroom = min(tally.to_ceiling, tally.to_guarantee) if level in WITHIN_LEVELS else tally.to_ceiling
        over = max(0.0, rate - tally.to_ceiling) if level not in WITHIN_LEVELS else 0
        if over > 0 and not self.has_own(tally.book, job.priority_class):
            return False
        turn = found.turns.of_waiting(waiting)
        hopeful = self.hopeful(tally.book, job.priority_class, level, turn)
        if waiting.shape not in hopeful:
            return False
        starter = Starter(
            team_id=job.team_id,
            priority_class=job.priority_class,
            level=level,
            turn=turn,
            rate_micros=rate,
            over_micros=over,
            may_ask_spared=count_preemptions(job, found.rules, found.now) == 0,
            most_by_turn_micros=rate if found.rules.turns_spare_larger else inf,
        )
        is_limited = over > 0
        for spot, footprint in zip(waiting.shape.spots, job.footprints, strict=True):
            types = allowed_types(spot, footprint, headroom=headroom + over, budget_left=tally.budget_left)
            is_limited = is_limited or types is not None
            if not spot.rates or types == frozenset():
                continue
            if self._make_room(waiting, (spot, footprint), types, starter):
                return True
        if not is_limited:
            hopeful.discard(waiting.shape)
        return False

    def _make_room(
        self, waiting: Waiting, way: tuple[Spot, Footprint], types: frozenset[str] | None, starter: Starter
    ) -> bool:
        key = self._group(self._found.state.books[starter.team_id], starter.priority_class, starter.level, starter.turn)
        if key is None:
            return False
        ask = self._ask(waiting, way[0], types, starter.level)
        if self._found.rules.borrower_fairness and starter.level is Level.BORROWING:
            hunt = Hunt(self._found, starter, self._victim_teams(starter.team_id, starter.level))
        else:
            hunt = self._hunt(key, starter.team_id, starter.priority_class, starter.level, starter.turn)
        eviction = hunt.choose(starter, ask)
        if eviction is None:
            return False
        self._evict(waiting, way, eviction)
        return True

    def try_move(self, waiting: Waiting) -> bool:
        """Have smaller jobs move out of a holder's way, to where they go on at once."""
        rules, running = self._found.rules, self._found.state.running
        if not (rules.preemption and rules.moves) or len(running) > MOST_RUNNING:
            return False
        found = Moving(self._found).find(waiting)
        if found is None:
            return False
        self._evict(waiting, *found)
        return True

    def drain(self) -> None:
        """Have jobs with checkpoints leave the devices that are being drained."""
        state = self._found.state
        draining = [device_id for device_id, device in state.devices.items() if device.draining]
        for job_id in sorted({job_id for device_id in draining for job_id in state.running_on.get(device_id, ())}):
            job = state.running[job_id]
            if job.checkpointable and not job.is_stopping:
                self._found.ask_to_leave(job, PreemptionRule.DRAIN, None)

    def _ask(self, waiting: Waiting, spot: Spot, types: frozenset[str] | None, level: Level) -> Ask:
        """Room may also be made on devices that holders pinned whom this job does not have to respect."""
        found = self._found
        ask = found.ask_of(waiting, spot, types)
        pinned = {d: 0 for d, pin in found.overlay.pinned.items() if goes_first(found.state, pin, waiting, level)}
        return replace(ask, offers={**pinned, **ask.offers}) if pinned else ask

    def _evict(self, waiting: Waiting, way: tuple[Spot, Footprint], eviction: Eviction) -> None:
        """Ask the victims to leave and keep what the job needs, free already or not, for it alone."""
        found, job, (spot, footprint) = self._found, waiting.job, way
        graces = [found.ask_to_leave(victim.job, victim.rule, job.job_id) for victim in eviction.victims]
        until_at = found.now + max(graces) + found.rules.lock_seconds
        rooms = [found.state.rooms.devices[device_id] for device_id in eviction.device_ids]
        found.let_go(job.job_id)
        locks = tuple(
            Lock(device_id=room.device_id, bytes=spot.ask.needs_on(room) or 0, job_id=job.job_id, until_at=until_at)
            for room in rooms
        )
        found.overlay.lock(job.job_id, locks, [victim.job for victim in eviction.victims])
        cost = max((by_type(footprint.cost_usd_micros, room.device_type, 0) for room in rooms), default=0)
        found.tally(job.team_id).promise(waiting.shape.least_rate or 0, cost)
        found.take(waiting)
        self.forget()
