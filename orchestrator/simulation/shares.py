"""What each team had of the pool against what it was due: by weight, as far as it had demand (max-min)."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.simulation.records import Records

STEP_SECONDS = 3600.0


@dataclass(kw_only=True, slots=True)
class Hour:
    """Device-seconds in one step: by team what it had, and what it would have taken."""

    had: dict[str, float] = field(default_factory=dict)
    wanted: dict[str, float] = field(default_factory=dict)


def due_shares(wanted: Mapping[str, float], weights: Mapping[str, float], available: float) -> dict[str, float]:
    """Max-min by weight: nobody gets more than it wants, what is left goes to the others. Unnamed weights are 1."""
    due: dict[str, float] = {}
    open_teams = {team: amount for team, amount in wanted.items() if amount > 0}
    left = available
    while open_teams and left > 1e-9:
        total = sum(weights.get(team, 1.0) for team in open_teams)
        if total <= 0:
            break
        level = left / total
        content = {team: amount for team, amount in open_teams.items() if amount <= level * weights.get(team, 1.0)}
        if not content:
            return due | {team: level * weights.get(team, 1.0) for team in open_teams}
        for team, amount in content.items():
            due[team] = amount
            left -= amount
            del open_teams[team]
    return due | dict.fromkeys(open_teams, 0.0)


def hours(records: Records, *, step_seconds: float = STEP_SECONDS) -> dict[int, Hour]:
    """What teams had and wanted in each step of the run. A job wants what it runs on, from arrival to end."""
    found: dict[int, Hour] = {}
    for job in records.jobs.values():
        ends_at = job.ended_at if job.ended_at is not None else records.ended_at
        for at, length in _steps(job.arrived_at, ends_at, step_seconds):
            wanted = found.setdefault(at, Hour()).wanted
            wanted[job.team_id] = wanted.get(job.team_id, 0.0) + length * _needs(job.needs_micros, job.replicas)
        for each in job.intervals:
            ended_at = each.ended_at if each.ended_at is not None else records.ended_at
            for at, length in _steps(each.started_at, ended_at, step_seconds):
                had = found.setdefault(at, Hour()).had
                had[job.team_id] = had.get(job.team_id, 0.0) + length * each.rate_micros / 1e6
    return found


def deficits(records: Records, weights: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """By team: device-hours due and not had, summed over hours, and as a share of all that was due to it.

    `worst_day_percent` is the same share over the worst 24 hours. What a team had above its due in one hour does not
    make up for another hour, except within that figure.
    """
    missing: dict[str, float] = {}
    owed: dict[str, float] = {}
    days: dict[str, dict[int, list[float]]] = {}
    for at, hour in hours(records).items():
        due = due_shares(hour.wanted, weights, sum(hour.had.values()))
        for team, amount in due.items():
            had = hour.had.get(team, 0.0)
            missing[team] = missing.get(team, 0.0) + max(amount - had, 0.0)
            owed[team] = owed.get(team, 0.0) + amount
            day = days.setdefault(team, {}).setdefault(at * int(STEP_SECONDS) // 86_400, [0.0, 0.0])
            day[0] += amount - had
            day[1] += amount
    return {
        team: {
            "due_device_hours": round(owed[team] / 3600, 2),
            "deficit_device_hours": round(missing[team] / 3600, 2),
            "deficit_percent": round(100 * missing[team] / owed[team], 2) if owed[team] else 0.0,
            "worst_day_percent": round(
                max((100 * max(short, 0.0) / day for short, day in days[team].values() if day > 0), default=0.0), 2
            ),
        }
        for team in sorted(owed)
    }


def _needs(needs_micros: int, replicas: int) -> float:
    return needs_micros / 1e6 if needs_micros else float(replicas)


def _steps(started_at: float, ended_at: float, step: float) -> list[tuple[int, float]]:
    """The steps that an interval touches, each with the seconds of it."""
    found = []
    at = int(started_at // step)
    while at * step < ended_at:
        length = min(ended_at, (at + 1) * step) - max(started_at, at * step)
        if length > 0:
            found.append((at, length))
        at += 1
    return found
