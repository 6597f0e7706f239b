"""What each team has in use now, and what it has used: the figures that order the queue.

Sums are kept as whole numbers, so that the books after any history of changes are exactly those of a fresh start.
Usage decays with a half-life. A job that runs is charged at least for min(its estimate, the start charge), from its
first moment on, so that a burst of starts cannot outrun the books.
"""

import heapq
from collections import Counter
from math import floor, log

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Rules, RunningJob, TeamTerms
from orchestrator.domain.usage import decay

_FRACTION = 1 << 24
"""Steps of the decay factor that sums are kept in."""


class UsageClock:
    """Usage of what runs, in micro-device-seconds, at any moment.

    A job younger than its start charge counts for the charge, an older one for the decayed integral of its rate.
    """

    def __init__(self, rules: Rules) -> None:
        self._half_life = rules.half_life_seconds
        self._entries: dict[str, tuple[int, float, float]] = {}
        self._young: list[tuple[float, str]] = []
        self._old: set[str] = set()
        self._young_charges_ms = 0
        self._old_by_period: dict[int, list[int]] = {}
        self._now = float("-inf")

    def add(self, job_id: str, rate: int, started_at: float, charged_seconds: float) -> None:
        self._entries[job_id] = (rate, started_at, charged_seconds)
        self._young_charges_ms += rate * round(charged_seconds * 1000)
        heapq.heappush(self._young, (started_at + charged_seconds, job_id))

    def remove(self, job_id: str) -> None:
        entry = self._entries.pop(job_id)
        if job_id in self._old:
            self._old.discard(job_id)
            self._count_old(entry, -1)
        else:
            self._young_charges_ms -= entry[0] * round(entry[2] * 1000)

    def at(self, now: float) -> float:
        """The usage of all that runs, in micro-device-seconds."""
        if now < self._now:
            self._restart()
        self._now = now
        while self._young and self._young[0][0] <= now:
            until, job_id = heapq.heappop(self._young)
            entry = self._entries.get(job_id)
            if entry is not None and job_id not in self._old and entry[1] + entry[2] == until:
                self._young_charges_ms -= entry[0] * round(entry[2] * 1000)
                self._old.add(job_id)
                self._count_old(entry, 1)
        return self._young_charges_ms / 1000 + self._integral(now)

    def _integral(self, now: float) -> float:
        total = 0.0
        for period in sorted(self._old_by_period):
            rates, weighted = self._old_by_period[period]
            decayed = weighted / _FRACTION * 2.0 ** (period - now / self._half_life)
            total += (rates - decayed) * self._half_life / log(2)
        return total

    def _count_old(self, entry: tuple[int, float, float], sign: int) -> None:
        rate, started_at, _ = entry
        halves = started_at / self._half_life
        period = floor(halves)
        sums = self._old_by_period.setdefault(period, [0, 0])
        sums[0] += sign * rate
        sums[1] += sign * round(rate * 2.0 ** (halves - period) * _FRACTION)
        if sums == [0, 0]:
            del self._old_by_period[period]

    def _restart(self) -> None:
        entries = self._entries
        self._entries, self._young, self._old = {}, [], set()
        self._young_charges_ms, self._old_by_period = 0, {}
        for job_id, (rate, started_at, charged) in entries.items():
            self.add(job_id, rate, started_at, charged)


class TeamBook:
    """One team: `rate_micros` is the share of the pool that it has, `users` how many jobs each of its users runs."""

    def __init__(self, terms: TeamTerms, rules: Rules) -> None:
        self.terms = terms
        self.rate_micros = 0
        self.stopping_micros = 0
        self.users: Counter[str] = Counter()
        self.classes: Counter[PriorityClass] = Counter()
        self.running: dict[str, RunningJob] = {}
        self._rules = rules
        self._clock = UsageClock(rules)
        self._rates: dict[str, int] = {}

    def add(self, job: RunningJob, rate: int) -> None:
        self.running[job.job_id] = job
        self._rates[job.job_id] = rate
        self.rate_micros += rate
        self.stopping_micros += rate if job.is_stopping else 0
        self.users[job.user_id] += 1
        self.classes[job.priority_class] += 1
        charged = min(max(job.expected_end_at - job.started_at, 0.0), self._rules.start_charge_seconds)
        self._clock.add(job.job_id, rate, job.started_at, charged)

    def remove(self, job_id: str) -> None:
        job = self.running.pop(job_id)
        rate = self._rates.pop(job_id)
        self.rate_micros -= rate
        self.stopping_micros -= rate if job.is_stopping else 0
        self.classes[job.priority_class] -= 1
        self.users[job.user_id] -= 1
        if not self.users[job.user_id]:
            del self.users[job.user_id]
        self._clock.remove(job_id)

    @property
    def to_guarantee(self) -> int:
        """How much more the team may have before it borrows, in micros."""
        return self.terms.guarantee_micros - self.rate_micros

    def rate_of(self, job_id: str) -> int:
        return self._rates[job_id]

    def usage(self, now: float) -> float:
        """Decayed usage with what runs, in reference-device-seconds."""
        left = decay(self.terms.usage, now - self.terms.usage_at, self._rules.half_life_seconds)
        return left + self._clock.at(now) / 1e6
