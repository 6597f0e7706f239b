"""Whether teams get what they were promised: shares of borrowers by weight, and guarantees given back in time.

    python -m tests.bench.fairness [--days 4] [--seeds 3] [--json]

The pool is that of the churn benchmark, 32 devices of three sizes. Three teams of weights 1, 2 and 3 ask for more than
the pool has, of the same mix of jobs, all the time. The share of each in what all of them had is compared with its
weight, over all windows of 24 hours that begin on an hour and in which every team wanted more than it had: in points
of all that was had, and in per cent of what the team was due. The books remember the hours before anybody had to wait,
when the pool was divided by demand, and make up for them at first; so there are figures for windows from 6 hours on,
and for those from 36 hours on.

Then a fourth team with a guarantee of three reference devices (17 per cent of the pool) comes and goes: at each coming
it submits jobs, gangs among them, that just keep within its guarantee, and the time until the last of them runs is
taken. Nothing here takes time but stopping (30 s of a grace of 60 s), so within the grace is the aim.
"""

import argparse
import json
import os
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import cycle
from statistics import mean

from orchestrator.domain.scheduling.facts import Rules, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.lora_mix import GIB, make_jobs, mixed_pool
from orchestrator.simulation.metrics import percentile
from orchestrator.simulation.records import Records
from orchestrator.simulation.shares import hours
from orchestrator.simulation.workload import SimulatedJob
from tests.bench.machine import print_table

WEIGHTS = {"team-a": 1.0, "team-b": 2.0, "team-c": 3.0}
GUARANTEED = "team-g"
GUARANTEE_MICROS = 3_000_000
LOAD = 2.4
"""Of the whole pool by all borrowers: each of them alone asks for 0.8 of it, and the heaviest is due half."""

DAY_HOURS = 24
FILLED_HOURS = 6
SETTLED_HOURS = 36
FIRST_SEED = 42


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--days", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    numbers = range(FIRST_SEED, FIRST_SEED + asked.seeds)
    with ProcessPoolExecutor(max_workers=min(asked.seeds, os.cpu_count() or 1)) as pool:
        shares = list(pool.map(partial(share_borrowed, days=asked.days), numbers))
        returns = list(pool.map(partial(come_back, days=asked.days), numbers))
    if asked.json:
        print(json.dumps({"shares": shares, "returns": returns}))
        return
    rows = [[name, *(f"{run[name]:.2f}" for run in shares)] for name in shares[0]]
    print_table("Shares of borrowers over 24 hours", ["figure", *(f"seed {n}" for n in numbers)], rows)
    rows = [[name, *(f"{run[name]:.2f}" for run in returns)] for name in returns[0]]
    print_table("A guaranteed team comes back", ["figure", *(f"seed {n}" for n in numbers)], rows)


def share_borrowed(seed: int, *, days: float, rules: Rules | None = None) -> dict[str, float]:
    """How far the teams' shares were from their weights, by windows that began after the pool was full, and after its
    books had settled."""
    devices = mixed_pool()
    records = _run(devices, borrowers(devices, days=days, seed=seed), days, rules)
    figures: dict[str, float] = {}
    for name, first in (("full", FILLED_HOURS), ("settled", SETTLED_HOURS)):
        points = [100 * abs(each) for each in deviations(records, WEIGHTS, first_hour=first)]
        off = [each * sum(WEIGHTS.values()) / weight for each, weight in zip(points, cycle(WEIGHTS.values()))]
        figures |= {
            f"{name}: windows": float(len(points) // len(WEIGHTS)),
            f"{name}: points off, mean": mean(points or [0.0]),
            f"{name}: points off, p95": percentile(points, 0.95),
            f"{name}: points off, worst": max(points, default=0.0),
            f"{name}: per cent of due off, p95": percentile(off, 0.95),
            f"{name}: per cent of due off, worst": max(off, default=0.0),
        }
    return figures


def come_back(seed: int, *, days: float, rules: Rules | None = None) -> dict[str, float]:
    """The time until a guaranteed team had what it asked for within its guarantee, over all its comings."""
    devices = mixed_pool()
    bursts = guaranteed_bursts(devices, days=days, seed=seed)
    jobs = [*borrowers(devices, days=days, seed=seed), *(job for burst in bursts for job in burst)]
    records = _run(devices, jobs, days, rules)
    waits = [max(_start_wait(records, job) for job in burst) for burst in bursts]
    singles = [_start_wait(records, job) for burst in bursts for job in burst]
    return {
        "returns": float(len(waits)),
        "within_grace_percent": 100 * mean(wait <= Rules().least_grace_seconds for wait in waits),
        "seconds_p50": percentile(waits, 0.5),
        "seconds_worst": max(waits),
        "jobs": float(len(singles)),
        "jobs_within_grace_percent": 100 * mean(wait <= Rules().least_grace_seconds for wait in singles),
    }


def borrowers(devices: Sequence[SharedDevice], *, days: float, seed: int) -> list[SimulatedJob]:
    """Jobs of the LoRA mix that arrive over so many days, more of each team than the pool has room for."""
    source = random.Random(seed)
    found: list[SimulatedJob] = []
    count = 2_000
    while not found or found[-1].queued.queued_at < days * 86_400:
        found = list(make_jobs(devices, count=count, load=LOAD, seed=seed))
        count *= 2
    teams = sorted(WEIGHTS)
    return [
        replace(job, queued=replace(job.queued, team_id=source.choice(teams)))
        for job in found
        if job.queued.queued_at < days * 86_400
    ]


def guaranteed_bursts(devices: Sequence[SharedDevice], *, days: float, seed: int) -> list[list[SimulatedJob]]:
    """Every 5 to 9 hours from the first half day on, jobs of half an hour to two hours that together keep within the
    guarantee."""
    source = random.Random(seed + 1)
    drawn = iter(make_jobs(devices, count=4_000, load=LOAD, seed=seed + 1))
    largest = max(device.usable_bytes for device in devices)
    bursts: list[list[SimulatedJob]] = []
    at = 43_200.0
    while at < days * 86_400 - 4 * 3_600:
        left, burst = GUARANTEE_MICROS * largest // 1_000_000 - GIB, []
        for job in drawn:
            left -= job.queued.footprints[0].bytes_by_kind["cuda"] * job.queued.replicas
            if left < 0:
                break
            seconds = {"*": source.uniform(1_800, 7_200)}
            footprint = replace(job.queued.footprints[0], seconds_by_type=seconds)
            name = f"return-{len(bursts)}-{len(burst)}"
            queued = replace(job.queued, job_id=name, team_id=GUARANTEED, queued_at=at, footprints=(footprint,))
            burst.append(SimulatedJob(queued=queued, seconds_by_type=seconds))
        if burst:
            bursts.append(burst)
        at += source.uniform(5 * 3_600, 9 * 3_600)
    return bursts


def deviations(records: Records, weights: dict[str, float], *, first_hour: int) -> list[float]:
    """By window and team, its share (0..1) less the one that its weight stands for. Windows begin on the hours from the
    first on, and count when all teams wanted more than they had in every hour."""
    by_hour = hours(records)
    found: list[float] = []
    for first in range(first_hour, max(by_hour) - DAY_HOURS):
        window = [by_hour[at] for at in range(first, first + DAY_HOURS)]
        if any(hour.wanted.get(team, 0.0) <= hour.had.get(team, 0.0) for hour in window for team in weights):
            continue
        had = {team: sum(hour.had.get(team, 0.0) for hour in window) for team in weights}
        found += [had[team] / sum(had.values()) - weights[team] / sum(weights.values()) for team in weights]
    return found


def _run(devices: Sequence[SharedDevice], jobs: Sequence[SimulatedJob], days: float, rules: Rules | None) -> Records:
    teams = [TeamTerms(team_id=name, name=name, weight=weight) for name, weight in WEIGHTS.items()]
    teams.append(TeamTerms(team_id=GUARANTEED, name=GUARANTEED, guarantee_micros=GUARANTEE_MICROS))
    simulation = Simulation(Planner(rules), devices, teams)
    simulation.add(jobs)
    return simulation.run(until=days * 86_400)


def _start_wait(records: Records, job: SimulatedJob) -> float:
    """Seconds until the job first ran; infinity if it never did."""
    intervals = records.jobs[job.queued.job_id].intervals
    return intervals[0].started_at - job.queued.queued_at if intervals else float("inf")


if __name__ == "__main__":
    main()
