"""Turns among borrowers: who has had little goes before who has had much, and a large job does not wait for ever.

A job's level is how many of `Rules.turns_hours` it has attained, in reference-device-hours (least attained service:
Tiresias, NSDI'19). Turns are numbered in halves of levels: an even number is a level, an odd one lies between two.

Large jobs (`large_replicas` devices and more) lose by that order, since they attain fast and rarely find room. So one
that has waited `large_wait_seconds` in all goes before the last level, and one that has waited as long as the pool's
backlog justifies goes right after the first. The backlog is what waits, by its estimates, over what the pool can do: if
everybody waits for a day, nobody can be spared an hour's wait. What a job has waited it keeps, so it is not pushed back
while it runs. Measured in decision 0017.
"""

from collections.abc import Iterable

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Rules, RunningJob
from orchestrator.domain.scheduling.lines import Waiting
from orchestrator.domain.scheduling.shapes import Shapes

_AFTER_FIRST = 1


def count_turns(rules: Rules) -> int:
    """How many turns there are; 1 without turns."""
    return 2 * len(rules.turns_hours) + 1


def backlog_seconds(shapes: Shapes, capacity_micros: int) -> float:
    """How long the pool would need for all that waits, by its estimates."""
    waiting = sum((shape.least_rate or 0) * shape.told_seconds for shape in shapes)
    return waiting / max(capacity_micros, 1)


def is_by_waiting(turn: int | None) -> bool:
    """Whether jobs have this turn because they waited: then the one that came first goes first, whatever its team."""
    return turn is not None and turn % 2 == 1


def by_seniority(waiting: Iterable[Waiting], turns: "Turns", turn: int) -> list[Waiting]:
    """The large jobs that have this turn by waiting, the first to come first."""
    least = turns.rules.large_replicas
    found = [
        each
        for each in waiting
        if each.job.replicas >= least
        and each.job.priority_class is not PriorityClass.IDLE
        and not each.job.is_held
        and turns.of_waiting(each) == turn
    ]
    return sorted(found, key=lambda each: (each.job.queued_at, each.job.job_id))


class Turns:
    """Turns as they stand at one moment. What runs is asked for often, so it is worked out once."""

    def __init__(self, rules: Rules, now: float, *, backlog_seconds: float = 0.0) -> None:
        self.rules = rules
        self.now = now
        self._patience = max(rules.large_patience_seconds, rules.large_backlog_share * backlog_seconds)
        self._running: dict[str, int] = {}
        self._last: int | None = None

    def last_of(self, jobs: Iterable[tuple[RunningJob, int]]) -> int:
        """The last turn that any of these jobs has, each with its rate. Read once; later calls say the same."""
        if self._last is None:
            self._last = max((self.of_running(job, rate) for job, rate in jobs), default=0)
        return self._last

    def of_waiting(self, waiting: Waiting) -> int:
        """The turn of a job that waits; 0 without turns."""
        if not self.rules.turns_hours:
            return 0
        job = waiting.job
        return self._turn(job.attained_seconds, job.replicas, waiting.shape.least_rate or 0, job.queued_at)

    def of_running(self, job: RunningJob, rate_micros: int) -> int:
        """The turn of a job that runs, with what it has attained in this attempt."""
        if not self.rules.turns_hours:
            return 0
        found = self._running.get(job.job_id)
        if found is not None:
            return found
        attained = job.attained_seconds + rate_micros / 1e6 * max(self.now - job.started_at, 0.0)
        turn = self._turn(attained, len(job.holds), rate_micros, job.queued_at)
        self._running[job.job_id] = turn
        return turn

    def _turn(self, attained_seconds: float, replicas: int, rate_micros: int, queued_at: float) -> int:
        turn = 2 * sum(attained_seconds >= hours * 3600 for hours in self.rules.turns_hours)
        if turn <= _AFTER_FIRST or replicas < self.rules.large_replicas:
            return turn
        ran_seconds = attained_seconds * 1e6 / max(rate_micros, 1)
        waited = self.now - queued_at - ran_seconds
        if waited >= self._patience:
            return _AFTER_FIRST
        if waited >= self.rules.large_wait_seconds:
            return min(turn, 2 * len(self.rules.turns_hours) - 1)
        return turn
