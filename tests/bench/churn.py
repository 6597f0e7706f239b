"""Mixed sizes that come and go: a made-up LoRA mix on devices of 80, 48 and 24 GiB (scheduling study, 1.7).

    python -m tests.bench.churn --load 0.75 --seeds 3 [--policy tunepool|plain] [--json]

`tunepool` is the production decision with turns at 0.1, 0.4 and 1.6 reference-device-hours that spare larger jobs
(decisions 0017 and 0020), `plain` without turns. 8,000 jobs per seed, the first tenth is not counted; estimates are
over by 1 to 3 times; stopping takes 30 s and going on 60 s. Big is 45 GiB and more. Three seeds leave a standard error
of some minutes, so go by the spread.
"""

import argparse
import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import mean, stdev
from typing import Any

from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.engine import Simulation
from orchestrator.simulation.lora_mix import LARGE_BYTES, make_jobs, mixed_pool
from orchestrator.simulation.metrics import percentile
from orchestrator.simulation.presets import DEFAULT, SHORT_TURNS
from orchestrator.simulation.workload import Timing
from tests.bench.machine import print_table

RULES = {"tunepool": SHORT_TURNS, "plain": DEFAULT}
FIRST_SEED = 42
WARM_UP = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--load", type=float, default=0.75)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=8_000)
    parser.add_argument("--policy", choices=tuple(RULES), default="tunepool")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    one = partial(churn, policy=asked.policy, load=asked.load, count=asked.jobs)
    numbers = range(FIRST_SEED, FIRST_SEED + asked.seeds)
    with ProcessPoolExecutor(max_workers=min(asked.seeds, os.cpu_count() or 1)) as pool:
        runs = list(pool.map(one, numbers))
    means = {name: round(mean(run[name] for run in runs), 2) for name in runs[0] if name != "seed"}
    spread = {name: round(stdev([run[name] for run in runs]), 2) if len(runs) > 1 else 0.0 for name in means}
    if asked.json:
        print(json.dumps({"policy": asked.policy, "load": asked.load, "mean": means, "sd": spread, "runs": runs}))
        return
    rows = [[name, f"{means[name]:.2f}", f"{spread[name]:.2f}"] for name in means]
    print_table(f"Churn at load {asked.load:g}, {asked.policy}, {asked.seeds} seeds", ["figure", "mean", "sd"], rows)


def churn(seed: int, *, policy: str, load: float, count: int) -> dict[str, Any]:
    """One seed's figures; waits are all the time without devices."""
    devices = mixed_pool()
    jobs = make_jobs(devices, count=count, load=load, seed=seed)
    simulation = Simulation(Planner(RULES[policy]), devices, [], timing=Timing())
    simulation.add(jobs)
    records = simulation.run()
    big = {job.queued.job_id for job in jobs if job.queued.footprints[0].bytes_by_kind["cuda"] >= LARGE_BYTES}
    counted = [records.jobs[job.queued.job_id] for job in jobs[int(WARM_UP * count) :]]
    waits = [job.wait_seconds / 60 for job in counted]
    big_waits = [job.wait_seconds / 60 for job in counted if job.job_id in big]
    return {
        "seed": seed,
        "wait_minutes_mean": mean(waits),
        "wait_minutes_p95": percentile(waits, 0.95),
        "wait_minutes_p99": percentile(waits, 0.99),
        "big_wait_minutes_mean": mean(big_waits),
        "big_wait_hours_p99": percentile(big_waits, 0.99) / 60,
        "preemptions": sum(len(job.preemptions) for job in records.jobs.values()),
        "lost_device_hours": sum(job.lost_device_seconds for job in records.jobs.values()) / 3600,
        "passes": records.passes,
        "decision_ms_mean": 1000 * records.decision_seconds / max(records.passes, 1),
    }


if __name__ == "__main__":
    main()
