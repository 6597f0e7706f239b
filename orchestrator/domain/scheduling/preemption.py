"""Who has to make room for whom. Whole jobs only, and only by a rule that cannot be turned around.

- reclaim: the starter stays within its team's guarantee, the victim's team is above its own;
- class: the victim runs as idle, or has a lower class within the starter's own team;
- fairness (off by default): among borrowers, the starter's share with the job is below the victim's without it;
- turns (off by default): among borrowers, the starter has attained less by a whole level.

Nobody is asked who started less than the minimum run time ago, has no checkpoints (unless reclaimed), or was preempted
too often of late.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.facts import PriorityClass, QueuedJob, Rules, RunningJob
from orchestrator.domain.scheduling.order import WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.placement_policies import PlacementPolicy
from orchestrator.domain.scheduling.rooms import Ask, Rooms
from orchestrator.domain.scheduling.tallies import Tally, TallyOf

_RANKS = {PriorityClass.URGENT: 0, PriorityClass.NORMAL: 1, PriorityClass.IDLE: 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Starter:
    """The job that wants room. `rate_micros` is the least that it would count for.

    `over_micros` is by how much that exceeds its team's ceiling: then only its own team's jobs can make room.
    """

    job: QueuedJob
    level: Level
    turn: int
    rate_micros: int
    over_micros: float = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    job: RunningJob
    rule: PreemptionRule
    rate_micros: int


@dataclass(kw_only=True, slots=True)
class Eviction:
    """Victims, and the devices on which the starter fits once they are gone."""

    victims: list[Victim]
    device_ids: tuple[str, ...] = field(default=())


def attained_turn(attained_seconds: float, rules: Rules) -> int:
    """The level of a job's attained reference-device-seconds; 0 without turns."""
    return sum(attained_seconds >= hours * 3600 for hours in rules.turns_hours)


def is_exempt(victim: RunningJob, rules: Rules, now: float) -> bool:
    """Whether the job may not be preempted now by any rule."""
    if victim.is_stopping or now - victim.started_at < rules.least_run_seconds:
        return True
    recent = sum(at > now - rules.preemption_window_seconds for at in victim.preempted_at)
    return recent >= rules.most_preemptions


def choose_rule(
    starter: Starter, victim: RunningJob, victim_rate: int, tally_of: TallyOf, rules: Rules
) -> PreemptionRule | None:
    """The rule by which the starter may take the victim's place, or None. Exemptions are judged before."""
    job = starter.job
    theirs = tally_of(victim.team_id)
    is_own = victim.team_id == job.team_id
    if starter.over_micros > 0 and not is_own:
        return None
    if not is_own and starter.level in WITHIN_LEVELS and theirs.above_guarantee > 0:
        return PreemptionRule.RECLAIM
    if not victim.checkpointable:
        return None
    if victim.priority_class is PriorityClass.IDLE:
        return PreemptionRule.CLASS
    if is_own and _RANKS[job.priority_class] < _RANKS[victim.priority_class]:
        return PreemptionRule.CLASS
    return _rule_among_borrowers(starter, victim, victim_rate, tally_of, rules)


def _rule_among_borrowers(
    starter: Starter, victim: RunningJob, victim_rate: int, tally_of: TallyOf, rules: Rules
) -> PreemptionRule | None:
    theirs, own = tally_of(victim.team_id), tally_of(starter.job.team_id)
    if theirs.above_guarantee <= 0:
        return None
    is_other = victim.team_id != starter.job.team_id
    if rules.borrower_fairness and is_other:
        with_job = _borrowed_share(own, starter.rate_micros)
        if with_job < _borrowed_share(theirs, -victim_rate):
            return PreemptionRule.FAIRNESS
    if rules.turns_hours and starter.turn < attained_turn(victim.attained_seconds, rules):
        return PreemptionRule.TURNS
    return None


def _borrowed_share(tally: Tally, change_micros: int) -> float:
    weight = tally.book.terms.weight
    borrowed = max(0, tally.above_guarantee + change_micros)
    return borrowed / weight if weight > 0 else float("inf") if borrowed else 0.0


class Evictions:
    """Chooses victims for one starter at a time, on the rooms of a pass. Leaves the rooms as they are."""

    def __init__(self, rooms: Rooms, policy: PlacementPolicy, tally_of: TallyOf, rules: Rules, now: float) -> None:
        self._rooms = rooms
        self._policy = policy
        self._tally_of = tally_of
        self._rules = rules
        self._now = now

    def choose(self, starter: Starter, ask: Ask, running: Mapping[str, RunningJob]) -> Eviction | None:
        """The victims that make room for all replicas, none of them needless; None if no choice of them does."""
        taken: list[Victim] = []
        device_ids: tuple[str, ...] | None = None
        try:
            for victim in self._in_order(starter, running.values()):
                self._leave(victim)
                taken.append(victim)
                if self._may_fit(starter, taken, ask):
                    device_ids = self._policy.choose(self._rooms, ask)
                    if device_ids is not None:
                        break
            if device_ids is None:
                return None
            self._put_back_needless(starter, taken, ask, device_ids)
            return Eviction(victims=taken, device_ids=device_ids)
        finally:
            for victim in taken:
                self._return(victim)

    def _in_order(self, starter: Starter, running: Iterable[RunningJob]) -> Iterator[Victim]:
        """Idle first, then of the team furthest above its share, least work lost, newest. Judged anew after each."""
        left = {job.job_id: job for job in running if not is_exempt(job, self._rules, self._now)}
        while True:
            candidates = [victim for job in left.values() if (victim := self._as_victim(starter, job)) is not None]
            if not candidates:
                return
            victim = min(candidates, key=self._key)
            del left[victim.job.job_id]
            yield victim

    def _as_victim(self, starter: Starter, job: RunningJob) -> Victim | None:
        rate = self._tally_of(job.team_id).book.rate_of(job.job_id)
        rule = choose_rule(starter, job, rate, self._tally_of, self._rules)
        return None if rule is None else Victim(job=job, rule=rule, rate_micros=rate)

    def _key(self, victim: Victim) -> tuple[bool, float, float, float, str]:
        job = victim.job
        above = _borrowed_share(self._tally_of(job.team_id), 0)
        lost = victim.rate_micros * max(self._now - job.saved_at, 0.0)
        return job.priority_class is not PriorityClass.IDLE, -above, lost, -job.started_at, job.job_id

    def _may_fit(self, starter: Starter, taken: list[Victim], ask: Ask) -> bool:
        """One replica must fit a device that the last victim leaves, or nothing has changed for the starter."""
        if starter.over_micros > 0:
            return sum(victim.rate_micros for victim in taken) >= starter.over_micros
        rooms, victim = self._rooms.devices, taken[-1]
        return any(hold.device_id in rooms and ask.fits(rooms[hold.device_id]) for hold in victim.job.holds)

    def _put_back_needless(self, starter: Starter, taken: list[Victim], ask: Ask, device_ids: tuple[str, ...]) -> None:
        rooms = [self._rooms.devices[device_id] for device_id in device_ids]
        for victim in reversed(list(taken)):
            self._return(victim)
            spared = sum(other.rate_micros for other in taken) - victim.rate_micros
            is_needless = starter.over_micros <= 0 or spared >= starter.over_micros
            if is_needless and all(ask.fits(room) for room in rooms):
                taken.remove(victim)
            else:
                self._leave(victim)

    def _leave(self, victim: Victim) -> None:
        self._tally_of(victim.job.team_id).leaving_micros += victim.rate_micros
        for hold in victim.job.holds:
            if hold.device_id in self._rooms.devices:
                self._rooms.give(hold.device_id, hold.bytes)

    def _return(self, victim: Victim) -> None:
        self._tally_of(victim.job.team_id).leaving_micros -= victim.rate_micros
        for hold in victim.job.holds:
            if hold.device_id in self._rooms.devices:
                self._rooms.take(hold.device_id, hold.bytes)
