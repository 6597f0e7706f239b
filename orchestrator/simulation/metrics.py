"""What a simulation's records say: waits, completion times by size, shares of teams, what preemption cost."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.simulation.records import JobRecord, Records
from orchestrator.simulation.shares import deficits

HOUR_SECONDS = 3600.0
SIZE_CLASSES = ((1, 1, "1"), (2, 4, "2-4"), (5, 7, "5-7"), (8, 15, "8-15"), (16, 1 << 30, "16+"))
LARGE_REPLICAS = 8


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0..1) of the values lie, by the nearest rank; 0 without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))] if ordered else 0.0


def spread(seconds: Iterable[float]) -> dict[str, float]:
    """Mean, p50, p95, p99 and max in hours."""
    values = list(seconds)
    found = {"mean": sum(values) / len(values) if values else 0.0}
    found |= {name: percentile(values, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
    found["max"] = max(values, default=0.0)
    return {name: round(value / HOUR_SECONDS, 4) for name, value in found.items()}


def summarize(records: Records, *, weights: Mapping[str, float] | None = None) -> dict[str, Any]:
    """All figures, in hours unless the name says otherwise. Waits are all the time without devices, not only the first.

    `weights` are those of teams, for what each was due; without them all weigh the same.
    """
    done = records.done()
    large = [job for job in done if job.replicas >= LARGE_REPLICAS]
    return {
        "jobs": len(records.jobs),
        "jobs_done": len(done),
        "completion_hours": spread(job.completion_seconds for job in done),
        "wait_hours": spread(job.wait_seconds for job in done),
        "wait_hours_8_and_more": spread(job.wait_seconds for job in large),
        "by_size": {name: _of_size(done, least, most) for least, most, name in SIZE_CLASSES},
        "share_deficit_by_team": deficits(records, weights or {}),
        "preemption": _preemption(records),
        "passes": records.passes,
        "decision_ms_mean": round(1000 * records.decision_seconds / max(records.passes, 1), 3),
    }


def _of_size(done: list[JobRecord], least: int, most: int) -> dict[str, Any]:
    found = [job for job in done if least <= job.replicas <= most]
    return {
        "jobs": len(found),
        "completion_hours": spread(job.completion_seconds for job in found),
        "wait_hours": spread(job.wait_seconds for job in found),
    }


def _preemption(records: Records) -> dict[str, Any]:
    jobs = list(records.jobs.values())
    by_rule: dict[str, int] = {}
    for job in jobs:
        for rule in job.preemptions:
            by_rule[rule.value] = by_rule.get(rule.value, 0) + 1
    used = sum(
        each.rate_micros / 1e6 * _length(each.started_at, each.ended_at) for job in jobs for each in job.intervals
    )
    lost = sum(job.lost_device_seconds for job in jobs)
    return {
        "count": sum(by_rule.values()),
        "by_rule": dict(sorted(by_rule.items())),
        "jobs_preempted": sum(bool(job.preemptions) for job in jobs),
        "most_of_one_job": max((len(job.preemptions) for job in jobs), default=0),
        "lost_device_hours": round(lost / HOUR_SECONDS, 3),
        "lost_percent_of_used": round(100 * lost / used, 3) if used else 0.0,
    }


def _length(started_at: float, ended_at: float | None) -> float:
    return (ended_at if ended_at is not None else started_at) - started_at
