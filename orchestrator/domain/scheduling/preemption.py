"""Who has to make room for whom. Whole jobs only, and only by a rule that cannot be turned around.

- reclaim: the starter stays within its team's guarantee, the victim's team is above its own;
- class: the victim runs as idle, or has a lower class within the starter's own team;
- fairness (off by default): among borrowers, the starter's share with the job is below the victim's without it;
- turns (off by default): among borrowers, the starter has had less by a whole level, or has waited too long (turns.py).

Nobody is asked who has no checkpoints (unless reclaimed). Who started less than the minimum run time ago or was
preempted too often of late is spared: asked only by reclaim, when all others do not suffice, because a guarantee is a
promise; and not by a job that was preempted of late itself, or two could stop each other in turn.
"""

from dataclasses import dataclass
from math import inf

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import PreemptionRule
from orchestrator.domain.scheduling.facts import QueuedJob, Rules, RunningJob
from orchestrator.domain.scheduling.order import CLASS_RANKS, WITHIN_LEVELS, Level
from orchestrator.domain.scheduling.tallies import Tally, TallyOf
from orchestrator.domain.scheduling.turns import Turns


@dataclass(frozen=True, kw_only=True, slots=True)
class Starter:
    """The job that wants room. `rate_micros` is the least that it would count for.

    `over_micros` is by how much that exceeds its team's ceiling: then only its own team's jobs can make room.
    `most_by_turn_micros` is the most that a job may count for that is stopped because it had its turn.
    `may_ask_spared` is whether it may fall back on those who are spared otherwise.
    """

    team_id: str
    priority_class: PriorityClass
    level: Level
    turn: int
    rate_micros: int
    over_micros: float = 0
    most_by_turn_micros: float = inf
    may_ask_spared: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Victim:
    """`key` orders victims, the first to go first. Those who `is_spared` come last."""

    job: RunningJob
    rule: PreemptionRule
    rate_micros: int
    is_spared: bool
    key: tuple[bool, bool, float, float, float, str]


def is_exempt(victim: RunningJob, rules: Rules, now: float) -> bool:
    """Whether the job is spared, or leaves already."""
    if victim.is_stopping or now - victim.started_at < rules.least_run_seconds:
        return True
    return count_preemptions(victim, rules, now) >= rules.most_preemptions


def count_preemptions(job: RunningJob | QueuedJob, rules: Rules, now: float) -> int:
    """How often it was preempted of late."""
    return sum(at > now - rules.preemption_window_seconds for at in job.preempted_at)


def choose_rule(
    starter: Starter, victim: RunningJob, victim_rate: int, tally_of: TallyOf, turns: Turns
) -> PreemptionRule | None:
    """The rule by which the starter may take the victim's place, or None. Exemptions are judged before."""
    is_own = victim.team_id == starter.team_id
    if starter.over_micros > 0 and not is_own:
        return None
    if not is_own and starter.level in WITHIN_LEVELS and tally_of(victim.team_id).above_guarantee > 0:
        return PreemptionRule.RECLAIM
    if not victim.checkpointable:
        return None
    if victim.priority_class is PriorityClass.IDLE:
        return PreemptionRule.CLASS
    if is_own and CLASS_RANKS[starter.priority_class] < CLASS_RANKS[victim.priority_class]:
        return PreemptionRule.CLASS
    return _rule_among_borrowers(starter, victim, victim_rate, tally_of, turns)


def _rule_among_borrowers(
    starter: Starter, victim: RunningJob, victim_rate: int, tally_of: TallyOf, turns: Turns
) -> PreemptionRule | None:
    rules = turns.rules
    if starter.level is not Level.BORROWING or not (rules.borrower_fairness or rules.turns_hours):
        return None
    theirs = tally_of(victim.team_id)
    if theirs.above_guarantee <= 0:
        return None
    if rules.borrower_fairness and victim.team_id != starter.team_id:
        with_job = borrowed_share(tally_of(starter.team_id), starter.rate_micros)
        if with_job < borrowed_share(theirs, -victim_rate):
            return PreemptionRule.FAIRNESS
    if rules.turns_hours and starter.turn < turns.of_running(victim, victim_rate):
        return PreemptionRule.TURNS
    return None


def borrowed_share(tally: Tally, change_micros: int = 0) -> float:
    """What the team borrows per weight, once all that was asked to leave has left."""
    weight = tally.book.terms.weight
    borrowed = max(0, tally.above_guarantee + change_micros)
    if weight > 0:
        return borrowed / weight
    return inf if borrowed else 0.0


def as_victim(starter: Starter, job: RunningJob, tally_of: TallyOf, turns: Turns) -> Victim | None:
    """The job as a victim of the starter, None if no rule allows it. Spared ones last; idle first, then of the team
    furthest above its share, then least work lost, then newest."""
    now = turns.now
    is_spared = is_exempt(job, turns.rules, now)
    if job.is_stopping or (is_spared and starter.level not in WITHIN_LEVELS):
        return None
    tally = tally_of(job.team_id)
    rate = tally.book.rate_of(job.job_id)
    rule = choose_rule(starter, job, rate, tally_of, turns)
    if rule is None or (is_spared and rule is not PreemptionRule.RECLAIM):
        return None
    lost = rate * max(now - job.saved_at, 0.0)
    key = (
        is_spared,
        job.priority_class is not PriorityClass.IDLE,
        -borrowed_share(tally),
        lost,
        -job.started_at,
        job.job_id,
    )
    return Victim(job=job, rule=rule, rate_micros=rate, is_spared=is_spared, key=key)
