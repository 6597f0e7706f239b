"""How right the told starts and ends are: the LoRA mix with durations known within 20 per cent.

    python -m tests.bench.forecasts [--load 0.75] [--jobs 1500] [--error 0.2] [--every 5] [--seeds 3] [--json]

At every fifth arrival the starts of all waiting jobs are foretold from the facts of the moment, and compared with the
starts that came; the told end is the told start and what the job is said to take. The aim: within a factor of 1.5 for
80 per cent. Waits below a minute are not judged. A job that waits long is judged again and again, so its forecasts
hang together: go by the spread over seeds.
"""

import argparse
import json
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import mean, median, stdev
from time import perf_counter

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.simulation.foresight import Foretold, check_forecasts, with_estimates
from orchestrator.simulation.lora_mix import make_jobs, mixed_pool
from tests.bench.machine import print_table

FIRST_SEED = 42
WAITS_MINUTES = ((1, 10), (10, 60), (60, 100_000))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0] if __doc__ else None)
    parser.add_argument("--load", type=float, default=0.75)
    parser.add_argument("--jobs", type=int, default=1_500)
    parser.add_argument("--error", type=float, default=0.2)
    parser.add_argument("--every", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    one = partial(foretell, load=asked.load, count=asked.jobs, error=asked.error, every=asked.every)
    with ProcessPoolExecutor(max_workers=min(asked.seeds, os.cpu_count() or 1)) as pool:
        runs = list(pool.map(one, range(FIRST_SEED, FIRST_SEED + asked.seeds)))
    names = [name for name in runs[0] if all(name in run for run in runs)]
    means = {name: round(mean(run[name] for run in runs), 2) for name in names}
    spread = {name: round(stdev([run[name] for run in runs]), 2) if len(runs) > 1 else 0.0 for name in names}
    if asked.json:
        print(json.dumps({"load": asked.load, "error": asked.error, "mean": means, "sd": spread, "runs": runs}))
        return
    rows = [[name, f"{means[name]:g}", f"{spread[name]:g}"] for name in names]
    print_table(f"Told starts and ends, {asked.seeds} seeds", ["figure", "mean", "sd"], rows)


def foretell(seed: int, *, load: float, count: int, error: float, every: int) -> dict[str, float]:
    """One seed's figures, in per cent of the forecasts unless the name says otherwise."""
    pool = mixed_pool()
    jobs = with_estimates(make_jobs(pool, count=count, load=load, seed=seed), error=error, seed=seed)
    began = perf_counter()
    found = check_forecasts(pool, [], jobs, rules=Rules(), every=every)
    figures = {
        "forecasts": float(len(found)),
        "start_within_1.5": _percent([each.is_within(1.5) for each in found]),
        "start_within_2": _percent([each.is_within(2.0) for each in found]),
        "end_within_1.5": _percent([each.ends_within(1.5) for each in found]),
        "start_early_by_1.5": _percent([_is_early(each) for each in found]),
        "start_late_by_1.5": _percent([not each.is_within(1.5) and not _is_early(each) for each in found]),
        "beyond_the_bound": _percent([each.told_seconds is None for each in found]),
        "median_told_over_came": median(each.told_seconds / each.came_seconds for each in found if each.told_seconds)
        if any(each.told_seconds for each in found)
        else 0.0,
        "seconds": round(perf_counter() - began, 1),
    }
    for least, most in WAITS_MINUTES:
        some = [each for each in found if least * 60 <= each.came_seconds < most * 60]
        if some:
            figures[f"start_within_1.5_of_waits_from_{least}_min"] = _percent([each.is_within(1.5) for each in some])
    return figures


def _is_early(each: Foretold) -> bool:
    return each.told_seconds is not None and each.told_seconds < each.came_seconds and not each.is_within(1.5)


def _percent(values: Sequence[bool]) -> float:
    return round(100 * sum(values) / max(len(values), 1), 1)


if __name__ == "__main__":
    main()
