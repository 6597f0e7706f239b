"""One pass under way: the facts, what was decided so far, and the questions that every step asks of both."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.domain.scheduling.actions import Decision, Preempt, PreemptionRule, Start
from orchestrator.domain.scheduling.device_index import BinKey
from orchestrator.domain.scheduling.facts import Footprint, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.overlay import Overlay
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy
from orchestrator.domain.scheduling.rooms import Ask
from orchestrator.domain.scheduling.shapes import Shape, Spot
from orchestrator.domain.scheduling.state import State
from orchestrator.domain.scheduling.tallies import Tally, allowed_types, has_means

_FAILURES_TOGETHER = 32


class Pass:
    """`alive` are the shapes that may still fit somewhere; it only shrinks until room is given back (`has_grown`).

    `full` are the spots, with the device types that they were restricted to, for which no open device was found.
    """

    def __init__(self, state: State, policy: PlacementPolicy, now: float) -> None:
        self.state = state
        self.rules = state.rules
        self.policy = policy
        self.now = now
        self.turns = state.turns(now)
        self.overlay = Overlay(state, now)
        self.starts: list[Start] = []
        self.preemptions: list[Preempt] = []
        self.leaving: set[str] = set()
        self.arrays = dict(state.arrays)
        self.alive: set[Shape] = set()
        self.full: set[tuple[Spot, frozenset[str] | None]] = set()
        self.has_grown = False
        self._failures = 0
        self._most: dict[int, dict[BinKey, int]] = {}
        self._tallies: dict[str, Tally] = {}
        self._taken: list[Waiting] = []

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

    def look_around(self) -> None:
        """Find out which shapes may fit, on the rooms as they are now."""
        self.full.clear()
        self.has_grown = False
        self._failures = 0
        self.alive = self._find_alive()

    def _find_alive(self) -> set[Shape]:
        self._most.clear()
        pinned = self._most_pinned()
        alive = {
            shape
            for shape in self.state.shapes.others
            if any(self._may_fit(spot) or self.has_pinned_room(spot) for spot in shape.spots)
        }
        for family in self.state.shapes.families.values():
            most = self._most_free(1 if family.is_loose else family.ask.replicas)
            either = {key: max(free, pinned.get(key, -1)) for key, free in most.items()} if pinned else most
            alive.update(family.fitting({**pinned, **either}))
        return alive

    def _most_pinned(self) -> dict[BinKey, int]:
        """By bin, the most bytes that a pinned device has free."""
        most: dict[BinKey, int] = {}
        for device_id in self.overlay.pinned:
            room = self.state.rooms.devices[device_id]
            key = (room.usable_bytes, room.device_type, room.kind)
            most[key] = max(most.get(key, -1), room.free_bytes)
        return most

    def _most_free(self, replicas: int) -> dict[BinKey, int]:
        most = self._most.get(replicas)
        if most is None:
            most = self._most[replicas] = self.state.rooms.most_free(replicas)
        return most

    def _may_fit(self, spot: Spot) -> bool:
        """Whether open devices may hold the spot; False is certain, True leaves a gang's details to be seen."""
        ask = spot.ask
        is_loose = ask.replicas > 1 and (ask.exclusive or not ask.same_node)
        most = self._most_free(1 if is_loose else ask.replicas)
        if is_loose:
            return any(most.get(key, -1) >= ask.bytes_by_kind[key[2]] for key, _ in spot.needs)
        return any(most.get(key, -1) >= needed for key, needed in spot.needs)

    def has_pinned_room(self, spot: Spot) -> bool:
        """Whether a device that somebody has pinned has the bytes now."""
        for device_id in self.overlay.pinned:
            room = self.state.rooms.devices[device_id]
            if room.free_bytes > 0:
                needed = spot.ask.needs_on(room)
                if needed is not None and needed <= room.free_bytes:
                    return True
        return False

    def note_failure(self, shape: Shape) -> None:
        """Drop the shape from those alive once none of its spots has a device left, whoever asks.

        Where one has failed others often would too, so now and then all are looked at together.
        """
        if all((spot, None) in self.full and not self.has_pinned_room(spot) for spot in shape.spots if spot.rates):
            self.alive.discard(shape)
        self._failures += 1
        if self._failures == _FAILURES_TOGETHER:
            self._failures = 0
            self.alive &= self._find_alive()

    def tally(self, team_id: str) -> Tally:
        """The team's figures, as this pass has changed them."""
        tally = self._tallies.get(team_id)
        if tally is None:
            tally = Tally.open(self.state.books[team_id], self.state.lines[team_id], self.now)
            self._tallies[team_id] = tally
        return tally

    def is_ready(self, waiting: Waiting) -> bool:
        """Nothing but room and means holds the job back."""
        job = waiting.job
        if job.is_held or job.not_before_at > self.now:
            return False
        if job.array_limit is None or job.array_id is None:
            return True
        return self.arrays.get(job.array_id, 0) < job.array_limit

    def affordable(self, waiting: Waiting, level: Level) -> Iterator[tuple[Spot, Footprint, frozenset[str] | None]]:
        """The footprints within share and budget, with the device types that they are restricted to."""
        tally = self.tally(waiting.job.team_id)
        headroom = tally.to_ceiling
        if level in WITHIN_LEVELS:
            headroom = min(headroom, tally.to_guarantee)
        budget = self.budget(waiting, level)
        for spot, footprint in zip(waiting.shape.spots, waiting.job.footprints, strict=True):
            types = allowed_types(spot, footprint, headroom=headroom, budget_left=budget)
            if spot.rates and types != frozenset():
                yield spot, footprint, types

    def budget(self, waiting: Waiting, level: Level) -> int | None:
        """What the job may still cost; None when that plays no part: an exhausted team's jobs may run as idle."""
        left, job = self.tally(waiting.job.team_id).budget_left, waiting.job
        if left is None or level is not Level.IDLE or not self.state.books[job.team_id].terms.idle_when_exhausted:
            return left
        return left if has_means(job, waiting.shape.spots, left) else None

    def ask_of(self, waiting: Waiting, spot: Spot, types: frozenset[str] | None) -> Ask:
        """What the job asks of the rooms, with what is pinned or locked to it."""
        offers = self.overlay.own_offers(waiting.job.job_id)
        if not offers and types is None and not waiting.job.warm_nodes:
            return spot.ask
        allowed = spot.ask.device_types if types is None else types
        return replace(spot.ask, device_types=allowed, offers=offers, warm_nodes=waiting.job.warm_nodes)

    def take(self, waiting: Waiting) -> None:
        """Nobody considers the job again in this pass."""
        waiting.is_taken = True
        self._taken.append(waiting)

    def let_go(self, job_id: str) -> None:
        """The job needs its pins and locks no longer; what they kept from others is there again."""
        if job_id in self.overlay.pins or job_id in self.overlay.locks:
            self.overlay.unpin(job_id)
            self.overlay.unlock(job_id)
            self.has_grown = True

    def grace_of(self, job: RunningJob) -> float:
        """How long the job may take to leave, in seconds."""
        return max(self.rules.least_grace_seconds, 2 * job.checkpoint_seconds)

    def ask_to_leave(self, job: RunningJob, rule: PreemptionRule, for_job_id: str | None) -> float:
        """Preempt a running job. The grace that it has, in seconds."""
        grace = self.grace_of(job)
        self.leaving.add(job.job_id)
        tally = self.tally(job.team_id)
        tally.leaving_micros += tally.book.rate_of(job.job_id)
        self.preemptions.append(Preempt(job_id=job.job_id, rule=rule, for_job_id=for_job_id, grace_seconds=grace))
        return grace
