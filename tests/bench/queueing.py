"""How long jobs wait: a window of the Philly trace on a flat pool of whole GPUs, under one order of the queue.

    python -m tests.bench.queueing --trace JOBS.csv --from-day 60 --to-day 70 --gpus 456 --policy tunepool [--json]

`tunepool` is the production decision with turns (decision 0017). Durations are known to it and to EASY only as
estimates, over by 1 to 5 times (uniform, seed 42; `--most-factor 1` makes them exact). Preemption keeps all progress
and costs 60 s of the job's devices when it goes on. Waits are all the time without devices. The trace is public
(msr-fiddle/ philly-traces, flattened by Sia's authors) and not part of the project.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from orchestrator.domain.scheduling.planner import Planner
from orchestrator.simulation.attained import LeastAttained
from orchestrator.simulation.baselines import Easy, Fifo, Skip
from orchestrator.simulation.engine import Decider, Simulation
from orchestrator.simulation.metrics import summarize
from orchestrator.simulation.philly import as_workload, flat_pool, read_jobs
from orchestrator.simulation.presets import TURNS
from orchestrator.simulation.workload import Timing
from tests.bench.machine import print_table

POLICIES = ("tunepool", "fifo", "skip", "easy", "las")
TIMING = Timing(stop_seconds=0.0, resume_seconds=60.0, checkpoint_seconds=float("inf"), tick_seconds=300.0)


def main() -> None:
    asked = _arguments()
    found = replay(
        asked.trace,
        days=(asked.from_day, asked.to_day),
        gpus=asked.gpus,
        policy=asked.policy,
        most_factor=asked.most_factor,
        seed=asked.seed,
    )
    if asked.json:
        print(json.dumps(found))
        return
    title = f"Days {asked.from_day:g} to {asked.to_day:g} on {asked.gpus} GPUs, {asked.policy}"
    parts = (("completion", "completion_hours"), ("wait", "wait_hours"), ("wait, 8 GPUs +", "wait_hours_8_and_more"))
    rows = [[name, *(f"{value:.2f}" for value in found[key].values())] for name, key in parts]
    print_table(title, ["hours", "mean", "p50", "p95", "p99", "max"], rows)
    print(f"\n{found['preemption']}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--trace", type=Path, required=True)
    parser.add_argument("--from-day", type=float, required=True)
    parser.add_argument("--to-day", type=float, required=True)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--policy", choices=POLICIES, required=True)
    parser.add_argument("--most-factor", type=float, default=5.0, help="estimates are 1 to this many times the truth")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def replay(
    trace: Path, *, days: tuple[float, float], gpus: int, policy: str, most_factor: float = 5.0, seed: int = 42
) -> dict[str, Any]:
    """Run the window to the end of its last job. A job that is larger than the pool is left out and counted."""
    jobs = read_jobs(trace, from_day=days[0], to_day=days[1])
    fitting = [job for job in jobs if job.gpus <= gpus]
    simulation = Simulation(make_decider(policy), flat_pool(gpus), [], timing=TIMING, starts_at=days[0] * 86_400)
    simulation.add(as_workload(fitting, most_factor=most_factor, seed=seed))
    settings = {
        "policy": policy,
        "from_day": days[0],
        "to_day": days[1],
        "gpus": gpus,
        "estimates": f"1 to {most_factor:g} times the truth, seed {seed}",
        "too_large": len(jobs) - len(fitting),
    }
    return {**settings, **summarize(simulation.run())}


def make_decider(policy: str) -> Decider:
    """The decider of that name."""
    if policy == "tunepool":
        return Planner(TURNS)
    return {"fifo": Fifo, "skip": Skip, "easy": Easy, "las": LeastAttained}[policy]()


if __name__ == "__main__":
    main()
