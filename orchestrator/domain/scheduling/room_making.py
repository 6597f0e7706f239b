"""Having others leave for a job, and keeping what it needs for it alone until it runs."""

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.context import Pass
from orchestrator.domain.scheduling.evictions import Eviction, VictimsOn, choose_eviction
from orchestrator.domain.scheduling.facts import Footprint, Lock, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.order import WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.preemption import (
    GroupKey,
    Starter,
    Victim,
    as_victim,
    attained_turn,
    victim_group,
)
from orchestrator.domain.scheduling.rooms import Ask
from orchestrator.domain.scheduling.shapes import Spot
from orchestrator.domain.scheduling.sharing import goes_first
from orchestrator.domain.scheduling.tallies import allowed_types, by_type


class RoomMaking:
    """Preemption within one pass. What was tried in vain is not tried again until somebody was asked to leave."""

    def __init__(self, found: Pass) -> None:
        self._found = found
        self._victims: dict[GroupKey, VictimsOn] = {}
        self._in_vain: set[tuple[GroupKey, Spot, frozenset[str] | None]] = set()
        self._spent: dict[GroupKey, set[object]] = {}
        self._borrowers: list[str] | None = None
        self._idle_teams = [team_id for team_id, book in found.state.books.items() if book.classes[PriorityClass.IDLE]]

    def forget(self) -> None:
        """Judge everything anew: the figures have changed."""
        self._victims.clear()
        self._in_vain.clear()
        self._spent.clear()
        self._borrowers = None

    def group(self, waiting: Waiting, level: Level) -> GroupKey | None:
        """The key of all starters with the same victims as this one; None if it cannot have any."""
        if waiting.shape.least_rate is None:
            return None
        tally = self._found.tally(waiting.job.team_id)
        has_borrowers = any(team_id != waiting.job.team_id for team_id in self._borrowing_teams())
        starter = self._starter(waiting, level)
        return victim_group(starter, tally, has_borrowers, bool(self._idle_teams), self._found.rules)

    def is_spent(self, group: GroupKey, waiting: Waiting) -> bool:
        """Whether all of the job's spots were tried in vain for this group, on any device type."""
        spots = [spot for spot in waiting.shape.spots if spot.rates]
        return all((group, spot, None) in self._in_vain for spot in spots)

    def try_preempt(self, waiting: Waiting, level: Level) -> bool:
        """Have others leave for the job, if the rules allow it and it then fits on actual devices."""
        found, job = self._found, waiting.job
        group = self.group(waiting, level)
        tally = found.tally(job.team_id)
        if group is None or (level in WITHIN_LEVELS and (waiting.shape.least_rate or 0) > tally.to_guarantee):
            return False
        starter = self._starter(waiting, level)
        headroom = tally.to_ceiling + starter.over_micros
        if level in WITHIN_LEVELS:
            headroom = min(headroom, tally.to_guarantee)
        for spot, footprint in zip(waiting.shape.spots, job.footprints, strict=True):
            types = allowed_types(spot, footprint, headroom=headroom, budget_left=tally.budget_left)
            key = (group, spot, types)
            if not spot.rates or types == frozenset() or key in self._in_vain:
                continue
            eviction = choose_eviction(
                found.state.rooms,
                starter,
                self._ask(waiting, spot, types, level),
                self._victims_on(starter, group),
                found.tally,
            )
            if eviction is not None:
                self._evict(waiting, spot, footprint, eviction)
                return True
            self._in_vain.add(key)
        return False

    def drain(self) -> None:
        """Have jobs with checkpoints leave the devices that are being drained."""
        state = self._found.state
        draining = [device_id for device_id, device in state.devices.items() if device.draining]
        for job_id in sorted({job_id for device_id in draining for job_id in state.running_on.get(device_id, ())}):
            job = state.running[job_id]
            if job.checkpointable and not job.is_stopping:
                self._found.ask_to_leave(job, PreemptionRule.DRAIN, None)

    def _starter(self, waiting: Waiting, level: Level) -> Starter:
        rate = waiting.shape.least_rate or 0
        over = max(0.0, rate - self._found.tally(waiting.job.team_id).to_ceiling)
        turn = attained_turn(waiting.job.attained_seconds, self._found.rules)
        return Starter(job=waiting.job, level=level, turn=turn, rate_micros=rate, over_micros=over)

    def _borrowing_teams(self) -> list[str]:
        if self._borrowers is None:
            teams = self._found.state.books
            self._borrowers = [team_id for team_id in teams if self._found.tally(team_id).above_guarantee > 0]
        return self._borrowers

    def _victims_on(self, starter: Starter, group: GroupKey) -> VictimsOn:
        """All jobs that may have to leave for this group, by device."""
        found = self._victims.get(group)
        if found is None:
            by_device: dict[str, list[Victim]] = {}
            for victim in sorted(self._all_victims(starter), key=lambda victim: victim.key):
                for hold in victim.job.holds:
                    by_device.setdefault(hold.device_id, []).append(victim)
            found = self._victims[group] = by_device
        return found

    def _all_victims(self, starter: Starter) -> list[Victim]:
        found = self._found
        team_ids = {starter.job.team_id, *self._idle_teams, *self._borrowing_teams()}
        jobs: list[RunningJob] = [
            job
            for team_id in team_ids
            for job in found.state.books[team_id].running.values()
            if job.job_id not in found.leaving
        ]
        victims = (as_victim(starter, job, found.tally, found.rules, found.now) for job in jobs)
        return [victim for victim in victims if victim is not None]

    def _ask(self, waiting: Waiting, spot: Spot, types: frozenset[str] | None, level: Level) -> Ask:
        """Room may also be made on devices that holders pinned whom this job does not have to respect."""
        found = self._found
        ask = found.ask_of(waiting, spot, types)
        pinned = {d: 0 for d, pin in found.overlay.pinned.items() if goes_first(found.state, pin, level)}
        if not pinned:
            return ask
        return Ask(
            bytes_by_kind=ask.bytes_by_kind,
            replicas=ask.replicas,
            same_node=ask.same_node,
            exclusive=ask.exclusive,
            device_types=ask.device_types,
            offers={**pinned, **ask.offers},
        )

    def _evict(self, waiting: Waiting, spot: Spot, footprint: Footprint, eviction: Eviction) -> None:
        """Ask the victims to leave and keep what the job needs, free already or not, for it alone."""
        found, job = self._found, waiting.job
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
