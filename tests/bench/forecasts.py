"""How right the told starts are: the LoRA mix with durations known within 20 per cent.

    python -m tests.bench.forecasts [--load 0.9] [--jobs 3000] [--error 0.2] [--every 20] [--seed 42] [--json]

At every twentieth arrival the starts of all waiting jobs are foretold from the facts of the moment, and compared with
the starts that came. The aim: within a factor of 1.5 for 80 per cent of them. Waits below a minute are not judged.
"""

import argparse
import json
from statistics import median
from time import perf_counter

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.simulation.foresight import check_forecasts, with_estimates
from orchestrator.simulation.lora_mix import make_jobs, mixed_pool
from tests.bench.machine import print_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--load", type=float, default=0.9)
    parser.add_argument("--jobs", type=int, default=3_000)
    parser.add_argument("--error", type=float, default=0.2)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    pool = mixed_pool()
    jobs = make_jobs(pool, count=asked.jobs, load=asked.load, seed=asked.seed)
    began = perf_counter()
    found = check_forecasts(
        pool, [], with_estimates(jobs, error=asked.error, seed=asked.seed), rules=Rules(), every=asked.every
    )
    ratios = [each.told_seconds / each.came_seconds for each in found if each.told_seconds is not None]
    figures = {
        "forecasts": len(found),
        "within_1.5_percent": round(100 * sum(each.is_within(1.5) for each in found) / max(len(found), 1), 1),
        "within_2_percent": round(100 * sum(each.is_within(2.0) for each in found) / max(len(found), 1), 1),
        "median_told_over_came": round(median(ratios), 3) if ratios else 0.0,
        "beyond_the_bound": sum(each.told_seconds is None for each in found),
        "seconds": round(perf_counter() - began, 1),
    }
    if asked.json:
        print(json.dumps({"load": asked.load, "error": asked.error, "jobs": asked.jobs, **figures}))
        return
    print_table("Told starts", ["figure", "value"], [[name, str(value)] for name, value in figures.items()])


if __name__ == "__main__":
    main()
