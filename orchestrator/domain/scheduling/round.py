"""One pass of the scheduler: every job that can start is started, in order; the rest may preempt, pin, or wait."""

from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop, heappush

from orchestrator.domain.scheduling.actions import Decision, Preempt, PreemptionRule, Start
from orchestrator.domain.scheduling.facts import Footprint, Hold, Lock, Pin, PriorityClass, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import CLASSES_BY_LEVEL, IDLE_LEVELS, WITHIN_LEVELS, Level, walk_line
from orchestrator.domain.scheduling.overlay import Overlay
from orchestrator.domain.scheduling.pins import find_pins
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy
from orchestrator.domain.scheduling.preemption import Eviction, Evictions, Starter, attained_turn
from orchestrator.domain.scheduling.rooms import Ask
from orchestrator.domain.scheduling.shapes import Shape, Spot
from orchestrator.domain.scheduling.sharing import goes_first, may_share_pinned
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import Tally, allowed_types, by_type, has_means

_ALL_CLASSES = tuple(PriorityClass)


class Round:
    """Use: `run()`, read what was decided, ask about jobs while the rooms still show its end, then `close()`."""

    def __init__(self, state: State, policy: PlacementPolicy, now: float) -> None:
        self.state = state
        self.rules = state.rules
        self.now = now
        self.overlay = Overlay(state, now)
        self.starts: list[Start] = []
        self.preemptions: list[Preempt] = []
        self.policy = policy
        self._tallies: dict[str, Tally] = {}
        self._taken: list[Waiting] = []
        self._arrays = dict(state.arrays)
        self._full: set[tuple[Spot, frozenset[str] | None]] = set()
        self._no_victims: set[tuple[object, ...]] = set()
        self._unpinnable: set[Shape] = set()
        self._leaving: set[str] = set()
        self._has_grown = False
        self._evictions = Evictions(state.rooms, policy, self.tally, self.rules, now)

    def run(self) -> None:
        """Decide. Starts over from the first level whenever a start gives room back (a pin or lock that is done)."""
        self._drain()
        self._take_over_locks()
        self._take_over_pins()
        while self._walk():
            self._full.clear()
            self._no_victims.clear()
            self._has_grown = False

    def decision(self) -> Decision:
        """What was decided."""
        pins = tuple(pin for job_id in sorted(self.overlay.pins) for pin in self.overlay.pins[job_id])
        locks = tuple(lock for job_id in sorted(self.overlay.locks) for lock in self.overlay.locks[job_id])
        return Decision(starts=tuple(self.starts), preemptions=tuple(self.preemptions), pins=pins, locks=locks)

    def close(self) -> None:
        """Leave the state as it was found."""
        self.overlay.undo()
        for waiting in self._taken:
            waiting.is_taken = False

    def tally(self, team_id: str) -> Tally:
        """The team's figures, as this pass has changed them."""
        tally = self._tallies.get(team_id)
        if tally is None:
            tally = Tally.open(self.state.books[team_id], self.state.lines[team_id], self.now)
            self._tallies[team_id] = tally
        return tally

    # Before the walk

    def _drain(self) -> None:
        draining = [device_id for device_id, device in self.state.devices.items() if device.draining]
        found = {job_id for device_id in draining for job_id in self.state.running_on.get(device_id, ())}
        for job_id in sorted(found):
            job = self.state.running[job_id]
            if job.checkpointable and not job.is_stopping:
                self._ask_to_leave(job, PreemptionRule.DRAIN, None)

    def _take_over_locks(self) -> None:
        by_job: dict[str, list[Lock]] = {}
        for lock in self.state.locks:
            device = self.state.devices.get(lock.device_id)
            is_good = device is not None and device.schedulable and lock.until_at > self.now
            if is_good and lock.job_id in self.state.waiting:
                by_job.setdefault(lock.job_id, []).append(lock)
        for job_id, locks in by_job.items():
            leaving = [job for job in self.state.running.values() if job.is_stopping and job.stopping_for == job_id]
            self.overlay.lock(job_id, tuple(locks), leaving)
            waiting = self.state.waiting[job_id]
            self.tally(waiting.job.team_id).promise(waiting.shape.least_rate or 0, 0)

    def _take_over_pins(self) -> None:
        """Holders keep their devices while these are the soonest that estimates promise; nobody may push them back."""
        by_job: dict[str, list[Pin]] = {}
        for pin in self.state.pins:
            by_job.setdefault(pin.job_id, []).append(pin)
        kept = {job_id: tuple(pins) for job_id, pins in by_job.items() if self._keeps_pins(job_id, pins)}
        for job_id, pins in kept.items():
            self.overlay.pin(job_id, pins)
        for job_id, pins in kept.items():
            self._refresh_pins(self.state.waiting[job_id], pins)

    def _keeps_pins(self, job_id: str, pins: list[Pin]) -> bool:
        waiting = self.state.waiting.get(job_id)
        if waiting is None or len(pins) != waiting.job.replicas or not self.is_ready(waiting):
            return False
        devices = [self.state.devices.get(pin.device_id) for pin in pins]
        if not all(device is not None and device.schedulable for device in devices):
            return False
        tally = self.tally(waiting.job.team_id)
        least = waiting.shape.least_rate
        if least is None or least > tally.to_ceiling:
            return False
        return has_means(waiting.job, waiting.shape.spots, tally.budget_left)

    def _refresh_pins(self, waiting: Waiting, pins: tuple[Pin, ...]) -> None:
        """Same devices, by today's estimates; others only where the old ones have slipped and others are sooner."""
        job_id = waiting.job.job_id
        stay = [self._when(waiting, pin) for pin in pins]
        at = max(stay)
        if at > max(pin.at for pin in pins):
            moved = self.soonest(waiting)
            if moved and moved[0].at < at:
                self.overlay.unpin(job_id)
                self.overlay.pin(job_id, moved)
                return
        self.overlay.unpin(job_id)
        self.overlay.pin(job_id, tuple(replace(pin, at=at) for pin in pins))

    def _when(self, waiting: Waiting, pin: Pin) -> float:
        own = self.overlay.own_offers(waiting.job.job_id).get(pin.device_id, 0)
        free = self.state.rooms.devices[pin.device_id].free_bytes + own
        at = self.now
        for moment, size_bytes in self.overlay.departures(pin.device_id):
            if free >= pin.bytes:
                break
            free, at = free + size_bytes, moment
        return at if free >= pin.bytes else float("inf")

    # The walk

    def _walk(self) -> bool:
        """Consider everybody once, in order. True when room was given back: then it has to be done again."""
        turns = range(len(self.rules.turns_hours) + 1)
        return any(
            self._walk_level(level, turn)
            for level in Level
            for turn in (turns if level is Level.BORROWING else (None,))
        )

    def _walk_level(self, level: Level, turn: int | None) -> bool:
        """The teams of one level, the lowest share first; after each start the team's share is higher."""
        lines: dict[str, Iterator[Waiting]] = {}
        heap: list[tuple[float, str]] = []
        for team_id, line in self.state.lines.items():
            classes = self._classes(team_id, level)
            if line.has(classes):
                lines[team_id] = self._line(team_id, level, turn)
                heap.append((self.tally(team_id).share, team_id))
        heapify(heap)
        while heap:
            _, team_id = heappop(heap)
            for waiting in lines[team_id]:
                has_started = self._consider(waiting, level)
                if self._has_grown:
                    return True
                if has_started:
                    heappush(heap, (self.tally(team_id).share, team_id))
                    break
        return False

    def _classes(self, team_id: str, level: Level) -> tuple[PriorityClass, ...]:
        terms = self.state.books[team_id].terms
        return _ALL_CLASSES if level is Level.IDLE and terms.idle_when_exhausted else CLASSES_BY_LEVEL[level]

    def _line(self, team_id: str, level: Level, turn: int | None) -> Iterator[Waiting]:
        tally = self.tally(team_id)

        def skips(waiting: Waiting) -> bool:
            if waiting.is_taken:
                return True
            return turn is not None and attained_turn(waiting.job.attained_seconds, self.rules) != turn

        return walk_line(tally.lines, self._classes(team_id, level), tally.users, skips)

    def _consider(self, waiting: Waiting, level: Level) -> bool:
        """Start the job, or have others leave for it, or pin devices for it. True when it starts."""
        if not self.is_ready(waiting):
            return False
        job_id = waiting.job.job_id
        if job_id in self.overlay.locks:
            return self._consider_owner(waiting, level)
        if self._try_start(waiting, level):
            return True
        if not self._try_preempt(waiting, level):
            self._try_pin(waiting, level)
        return False

    def _consider_owner(self, waiting: Waiting, level: Level) -> bool:
        """The share of a job that devices are locked for is promised already."""
        tally, rate = self.tally(waiting.job.team_id), waiting.shape.least_rate or 0
        tally.promise(-rate, 0)
        if self._try_start(waiting, level):
            return True
        tally.promise(rate, 0)
        return False

    def is_ready(self, waiting: Waiting) -> bool:
        """Nothing but room and means holds the job back."""
        job = waiting.job
        if job.is_held or job.not_before_at > self.now:
            return False
        return not (
            job.array_limit is not None
            and job.array_id is not None
            and self._arrays.get(job.array_id, 0) >= job.array_limit
        )

    # Starting

    def _try_start(self, waiting: Waiting, level: Level) -> bool:
        for spot, footprint, types in self.affordable(waiting, level):
            device_ids = self._find_devices(waiting, (spot, footprint), types, level)
            if device_ids is not None:
                self._start(waiting, spot, footprint, device_ids, level)
                return True
        return False

    def affordable(self, waiting: Waiting, level: Level) -> Iterator[tuple[Spot, Footprint, frozenset[str] | None]]:
        """The footprints within share and budget, with the device types that they are restricted to."""
        tally = self.tally(waiting.job.team_id)
        headroom = tally.to_ceiling
        if level in WITHIN_LEVELS:
            headroom = min(headroom, tally.to_guarantee)
        budget = self._budget(waiting, level)
        for spot, footprint in zip(waiting.shape.spots, waiting.job.footprints, strict=True):
            types = allowed_types(spot, footprint, headroom=headroom, budget_left=budget)
            if spot.rates and types != frozenset():
                yield spot, footprint, types

    def _budget(self, waiting: Waiting, level: Level) -> int | None:
        """What the job may still cost; None when that plays no part: an exhausted team's jobs may run as idle."""
        left, job = self.tally(waiting.job.team_id).budget_left, waiting.job
        if level is not Level.IDLE or not self.state.books[job.team_id].terms.idle_when_exhausted:
            return left
        return left if has_means(job, waiting.shape.spots, left) else None

    def _find_devices(
        self, waiting: Waiting, way: tuple[Spot, Footprint], types: frozenset[str] | None, level: Level
    ) -> tuple[str, ...] | None:
        """Devices open to everybody first, then pinned ones that the job may use."""
        spot = way[0]
        offers = self.overlay.own_offers(waiting.job.job_id)
        ask = _ask_of(waiting, spot, types, offers)
        if offers or not ({(spot, None), (spot, types)} & self._full):
            device_ids = self.policy.choose(self.state.rooms, ask)
            if device_ids is not None:
                return device_ids
            if not offers:
                self._full.add((spot, types))
        shared = may_share_pinned(self.overlay, self.state, waiting, way, level, self.now)
        if not shared:
            return None
        return self.policy.choose(self.state.rooms, replace(ask, offers={**shared, **offers}))

    def _start(
        self, waiting: Waiting, spot: Spot, footprint: Footprint, device_ids: tuple[str, ...], level: Level
    ) -> None:
        job, tally = waiting.job, self.tally(waiting.job.team_id)
        rooms = [self.state.rooms.devices[device_id] for device_id in device_ids]
        holds = tuple(Hold(device_id=room.device_id, bytes=spot.ask.needs_on(room) or 0) for room in rooms)
        rate = sum(self.state.rate_of(hold) for hold in holds)
        is_borrowing = rate > tally.to_guarantee
        seconds = by_type(footprint.seconds_by_type, rooms[0].device_type, 0.0)
        is_free = self._budget(waiting, level) is None
        cost = 0 if is_free else by_type(footprint.cost_usd_micros, rooms[0].device_type, 0)
        self._let_go(job.job_id)
        self.overlay.start(holds, self.now + seconds)
        tally.promise(rate, cost)
        tally.charge(job.user_id, rate, seconds, self.rules)
        self._take(waiting)
        self.starts.append(
            Start(
                job_id=job.job_id,
                footprint=footprint,
                holds=holds,
                rate_micros=rate,
                is_borrowing=is_borrowing,
                runs_as=PriorityClass.IDLE if level in IDLE_LEVELS else job.priority_class,
            )
        )

    def _take(self, waiting: Waiting) -> None:
        waiting.is_taken = True
        self._taken.append(waiting)
        array_id = waiting.job.array_id
        if array_id is not None:
            self._arrays[array_id] = self._arrays.get(array_id, 0) + 1

    def _let_go(self, job_id: str) -> None:
        """A job that starts needs its pins and locks no longer; what they kept from others is there again."""
        if job_id in self.overlay.pins or job_id in self.overlay.locks:
            self.overlay.unpin(job_id)
            self.overlay.unlock(job_id)
            self._has_grown = True

    # Making room

    def _try_preempt(self, waiting: Waiting, level: Level) -> bool:
        if not self.rules.preemption or level in IDLE_LEVELS or waiting.shape.least_rate is None:
            return False
        job, tally = waiting.job, self.tally(waiting.job.team_id)
        if level in WITHIN_LEVELS and waiting.shape.least_rate > tally.to_guarantee:
            return False
        over = max(0.0, waiting.shape.least_rate - tally.to_ceiling)
        turn = attained_turn(job.attained_seconds, self.rules)
        starter = Starter(job=job, level=level, turn=turn, rate_micros=waiting.shape.least_rate, over_micros=over)
        for spot, footprint in zip(waiting.shape.spots, job.footprints, strict=True):
            types = allowed_types(spot, footprint, headroom=float("inf"), budget_left=tally.budget_left)
            key = (job.team_id, job.priority_class, level, turn, spot, types)
            if types == frozenset() or key in self._no_victims:
                continue
            ask = _ask_of(waiting, spot, types, self._preemption_offers(job.job_id, level))
            running = {k: v for k, v in self.state.running.items() if k not in self._leaving}
            eviction = self._evictions.choose(starter, ask, running)
            if eviction is not None:
                self._evict(waiting, spot, footprint, eviction)
                return True
            self._no_victims.add(key)
        return False

    def _preemption_offers(self, job_id: str, level: Level) -> dict[str, int]:
        """Devices where room may be made for it: its own, and those that holders pinned in vain."""
        pinned = self.overlay.pinned.items()
        first = {device_id: 0 for device_id, pin in pinned if goes_first(self.state, pin, level)}
        return {**first, **self.overlay.own_offers(job_id)}

    def _evict(self, waiting: Waiting, spot: Spot, footprint: Footprint, eviction: Eviction) -> None:
        """Ask the victims to leave and keep what the job needs, free already or not, for it alone."""
        job = waiting.job
        graces = [self._ask_to_leave(victim.job, victim.rule, job.job_id) for victim in eviction.victims]
        until_at = self.now + max(graces) + self.rules.lock_seconds
        rooms = [self.state.rooms.devices[device_id] for device_id in eviction.device_ids]
        self._let_go(job.job_id)
        locks = tuple(
            Lock(
                device_id=room.device_id,
                bytes=spot.ask.needs_on(room) or 0,
                job_id=job.job_id,
                until_at=until_at,
            )
            for room in rooms
        )
        self.overlay.lock(job.job_id, locks, [victim.job for victim in eviction.victims])
        cost = max((by_type(footprint.cost_usd_micros, room.device_type, 0) for room in rooms), default=0)
        self.tally(job.team_id).promise(waiting.shape.least_rate or 0, cost)
        self._take(waiting)

    def _ask_to_leave(self, job: RunningJob, rule: PreemptionRule, for_job_id: str | None) -> float:
        grace = max(self.rules.least_grace_seconds, 2 * job.checkpoint_seconds)
        self._leaving.add(job.job_id)
        tally = self.tally(job.team_id)
        tally.leaving_micros += tally.book.rate_of(job.job_id)
        self.preemptions.append(Preempt(job_id=job.job_id, rule=rule, for_job_id=for_job_id, grace_seconds=grace))
        return grace

    def _try_pin(self, waiting: Waiting, level: Level) -> None:
        """Let a long waiter hold the devices that it will get first."""
        job = waiting.job
        if len(self.overlay.pins) >= self.rules.most_holders or job.job_id in self.overlay.pins:
            return
        if self.now - job.queued_at <= self.rules.pin_after_seconds or level in IDLE_LEVELS:
            return
        if waiting.shape in self._unpinnable or not any(self.affordable(waiting, level)):
            return
        pins = self.soonest(waiting)
        if pins:
            self.overlay.pin(job.job_id, pins)
        else:
            self._unpinnable.add(waiting.shape)

    def ask_of(self, waiting: Waiting, spot: Spot, types: frozenset[str] | None) -> Ask:
        """What the job asks of the rooms, with what is pinned or locked to it."""
        return _ask_of(waiting, spot, types, self.overlay.own_offers(waiting.job.job_id))

    def soonest(self, waiting: Waiting) -> tuple[Pin, ...]:
        """The pins of the footprint that can start soonest, in one of the types that the team can pay."""
        job_id = waiting.job.job_id
        offers = self.overlay.own_offers(job_id)
        found: tuple[Pin, ...] = ()
        for spot, _, types in self.affordable(waiting, Level.BORROWING):
            ask = _ask_of(waiting, spot, types, offers)
            pins = find_pins(job_id, ask, self.state.rooms, self.overlay, self.now)
            if pins and (not found or pins[0].at < found[0].at):
                found = pins
        return found


def _ask_of(waiting: Waiting, spot: Spot, types: frozenset[str] | None, offers: dict[str, int]) -> Ask:
    if not offers and types is None and not waiting.job.warm_nodes:
        return spot.ask
    allowed = spot.ask.device_types if types is None else types
    return replace(spot.ask, device_types=allowed, offers=offers, warm_nodes=waiting.job.warm_nodes)
