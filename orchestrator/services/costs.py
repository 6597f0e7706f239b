"""What jobs cost: the ledger, and what the attempt that still runs has added since."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.domain.attempts import Attempt, LedgerEntry
from orchestrator.domain.jobs import Job
from orchestrator.domain.states import FINAL_ATTEMPT_STATES, FINAL_JOB_STATES
from orchestrator.domain.teams import Caller
from orchestrator.store import attempts, jobs, ledger, teams
from orchestrator.store.session import ReadTx, Store


@dataclass(frozen=True, kw_only=True)
class Bill:
    """`billed` is the team's, `lost` nobody's; `running` is the interval so far of an attempt that has not ended, and
    is part of `billed_usd_micros`. `final` when nothing can be added any more."""

    billed_usd_micros: int
    lost_usd_micros: int
    running_usd_micros: int
    final: bool
    entries: tuple[LedgerEntry, ...]
    attempt_numbers: Mapping[str, int]
    """By attempt id: what the entries' attempts are called."""


@dataclass(frozen=True, kw_only=True)
class Spend:
    """What a team's jobs on one base model cost in a period, what runs now included."""

    team_id: str
    team_name: str
    model: str
    billed_usd_micros: int
    lost_usd_micros: int


@dataclass(frozen=True, kw_only=True)
class DaySpend:
    """`day` is its beginning; days are UTC's."""

    day: datetime
    billed_usd_micros: int
    lost_usd_micros: int


def running_usd_micros(found: Attempt, now: datetime) -> int:
    """What an attempt has cost so far that is in no ledger entry yet: from its launch to the last proof of life.

    After the last contact nothing is added, because time without proof of life is not billed.
    """
    if found.started_at is None or found.state in FINAL_ATTEMPT_STATES:
        return 0
    until = min(now, found.last_contact_at or found.started_at)
    return found.whole_rate.amount_usd_micros(until - found.started_at)


def read_bill(tx: ReadTx, job: Job) -> Bill:
    entries = tuple(ledger.list_entries(tx, job_id=job.job_id))
    tried = attempts.list_attempts(tx, job.job_id)
    running = sum(running_usd_micros(attempt, tx.now()) for attempt in tried)
    return Bill(
        billed_usd_micros=sum(entry.amount_usd_micros for entry in entries if entry.billed) + running,
        lost_usd_micros=sum(entry.amount_usd_micros for entry in entries if not entry.billed),
        running_usd_micros=running,
        final=job.state in FINAL_JOB_STATES,
        entries=entries,
        attempt_numbers={attempt.attempt_id: attempt.number for attempt in tried},
    )


@dataclass(frozen=True)
class Costs:
    store: Store

    def of_job(self, caller: Caller, job_id: str) -> Bill:
        with self.store.read() as tx:
            return read_bill(tx, jobs.get_job(tx, job_id, caller.visible_team_id))

    def of_team(
        self, caller: Caller, *, since: datetime | None = None, until: datetime | None = None
    ) -> tuple[int, int]:
        """(billed, lost) of all jobs of the caller's team, or of the pool for an admin, in micro-dollars.

        Billed holds what runs now, up to its last sign of life. A period counts what began in it: at `since` or later
        and before `until`.
        """
        team_id = caller.visible_team_id
        with self.store.read() as tx:
            billed, lost = ledger.sum_for_team(tx, team_id, since=since, until=until)
            running = sum(usd_micros for _, _, usd_micros in _list_running(tx, team_id, since, until))
        return billed + running, lost

    def by_team_and_model(self, caller: Caller, *, since: datetime, until: datetime) -> tuple[Spend, ...]:
        """Of the caller's team, or of all teams for an admin; the most expensive first. Sums up to `of_team`."""
        team_id = caller.visible_team_id
        with self.store.read() as tx:
            sums = ledger.sum_by_team_and_model(tx, team_id, since=since, until=until)
            for attempt, _, usd_micros in _list_running(tx, team_id, since, until):
                key = (attempt.team_id, jobs.get_job(tx, attempt.job_id).model_name)
                billed, lost = sums.get(key, (0, 0))
                sums[key] = (billed + usd_micros, lost)
            names = {team.team_id: team.name for team in teams.list_teams(tx)}
        found = (
            Spend(team_id=team, team_name=names[team], model=model, billed_usd_micros=billed, lost_usd_micros=lost)
            for (team, model), (billed, lost) in sums.items()
        )
        return tuple(sorted(found, key=lambda spend: (-spend.billed_usd_micros, spend.team_name, spend.model)))

    def by_day(self, caller: Caller, *, since: datetime, days: int) -> tuple[DaySpend, ...]:
        """One for each day from `since`, the beginning of one, on, the empty ones too."""
        team_id, until = caller.visible_team_id, since + timedelta(days=days)
        with self.store.read() as tx:
            sums = ledger.sum_by_day(tx, team_id, since=since, until=until)
            for _, began, usd_micros in _list_running(tx, team_id, since, until):
                billed, lost = sums.get(began.date(), (0, 0))
                sums[began.date()] = (billed + usd_micros, lost)
        spans = [since + timedelta(days=number) for number in range(days)]
        found = [sums.get(day.date(), (0, 0)) for day in spans]
        return tuple(
            DaySpend(day=day, billed_usd_micros=billed, lost_usd_micros=lost)
            for day, (billed, lost) in zip(spans, found, strict=True)
        )


def _list_running(
    tx: ReadTx, team_id: str | None, since: datetime | None, until: datetime | None
) -> Iterator[tuple[Attempt, datetime, int]]:
    """Attempts of a team, or of the pool for None, that run and began within the period: when, and their cost so
    far in micro-dollars."""
    for attempt in attempts.list_active(tx):
        began = attempt.started_at
        is_within = began is not None and (since is None or began >= since) and (until is None or began < until)
        if began is not None and is_within and team_id in {None, attempt.team_id}:
            yield attempt, began, running_usd_micros(attempt, tx.now())
