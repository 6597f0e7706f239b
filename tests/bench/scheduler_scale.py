"""How long one decision takes on a large pool: from an empty start, and after each single event once the pool is full.

The jobs are those of the scheduling study (1.7): LoRA jobs of 5 to 62 GiB, some gangs of two, sizes to a quarter of a
GiB, three users a team. Each event is one job that ends, is submitted or is cancelled; what the pass decides is applied
outside of the measured time.

`python -m tests.bench.scheduler_scale --devices 10000 --queued 100000 --teams 200 --json`
"""

import argparse
import gc
import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from random import Random

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import Decision, Start
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.planner import Planner
from tests.bench.machine import describe_machine, percentile, print_table

GIB = 1024**3
START_AT = 1_800_000_000.0
NODES = (("a100", 80, 8, 2.0), ("l40s", 48, 8, 1.0), ("rtx4090", 24, 8, 0.5), ("rtx4090", 24, 8, 0.5))
SIZES = ((5, 8), (9, 12), (13, 16), (18, 22), (26, 34), (38, 44), (46, 62))
SHARES = (0.25, 0.2, 0.18, 0.15, 0.1, 0.07, 0.05)


@dataclass(frozen=True, kw_only=True)
class Size:
    devices: int
    queued: int
    teams: int
    events: int


class Bench:
    """A pool, its planner, and what has to be known to carry out decisions."""

    def __init__(self, size: Size, seed: int) -> None:
        self.random = Random(seed)
        self.size = size
        self.now = START_AT
        self.planner = Planner()
        self.queued: dict[str, QueuedJob] = {}
        self.running: dict[str, RunningJob] = {}
        self.ends: list[tuple[float, str]] = []
        self.count = 0

    def build(self) -> None:
        """An empty pool with a full queue."""
        devices = [self._device(number) for number in range(self.size.devices)]
        self.planner.set_devices(devices)
        total = sum(device.weight_micros for device in devices)
        self.planner.set_teams(
            TeamTerms(
                team_id=f"team{number:04}",
                name=f"team {number}",
                guarantee_micros=total // (2 * self.size.teams),
                weight=1.0 + number % 3,
                usage=self.random.uniform(0, 100_000),
                usage_at=START_AT,
            )
            for number in range(self.size.teams)
        )
        for _ in range(self.size.queued):
            self.submit()

    def submit(self) -> None:
        job = self._job()
        self.queued[job.job_id] = job
        self.planner.put_queued(job)

    def cancel(self) -> None:
        job_id = self.random.choice(list(self.queued)) if len(self.queued) < 2_000 else next(iter(self.queued))
        del self.queued[job_id]
        self.planner.drop_queued(job_id)

    def finish(self) -> None:
        """The job that was expected to end next ends, at that moment."""
        while True:
            at, job_id = heappop(self.ends)
            if job_id in self.running:
                break
        self.now = max(self.now, at)
        del self.running[job_id]
        self.planner.drop_running(job_id)

    def finish_until(self, moment: float) -> None:
        """All jobs that are expected to end by then end."""
        while self.ends and self.ends[0][0] <= moment:
            _, job_id = heappop(self.ends)
            if self.running.pop(job_id, None) is not None:
                self.planner.drop_running(job_id)
        self.now = moment

    def apply(self, decision: Decision) -> None:
        for start in decision.starts:
            self._start(start)
        for each in decision.preemptions:
            del self.running[each.job_id]
            self.planner.drop_running(each.job_id)
        self.planner.set_pins(decision.pins)
        self.planner.set_locks(decision.locks)

    def decide(self) -> tuple[float, float, Decision]:
        """Seconds of one pass by the wall clock and of the processor, and what it decided."""
        started, cpu_started = time.perf_counter(), time.process_time()
        decision = self.planner.decide(self.now)
        return time.perf_counter() - started, time.process_time() - cpu_started, decision

    def _device(self, number: int) -> SharedDevice:
        node = number // 8
        device_type, gib, _, weight = NODES[node % len(NODES)]
        return SharedDevice(
            device_id=f"node{node:05}/{number % 8}",
            node_name=f"node{node:05}",
            device_type=device_type,
            kind="cuda",
            usable_bytes=gib * GIB,
            weight_micros=int(weight * 1_000_000),
        )

    def _job(self) -> QueuedJob:
        random, self.count = self.random, self.count + 1
        least, most = random.choices(SIZES, SHARES)[0]
        is_gang = random.random() < 0.03
        quarters = random.randint(70 * 4, 78 * 4) if is_gang else random.randint(least * 4, most * 4)
        seconds = min(random.lognormvariate(7.8, 1.5), 172_800.0)
        team = random.randrange(self.size.teams)
        return QueuedJob(
            job_id=f"job{self.count:08}",
            team_id=f"team{team:04}",
            user_id=f"user{team}-{random.randrange(3)}",
            priority_class=random.choices(list(PriorityClass), (0.05, 0.85, 0.1))[0],
            queued_at=self.now - random.uniform(0, 86_400),
            replicas=2 if is_gang else 1,
            footprints=(
                Footprint(name="as asked", bytes_by_kind={"cuda": quarters * GIB // 4}, seconds_by_type={"*": seconds}),
            ),
        )

    def _start(self, start: Start) -> None:
        job = self.queued.pop(start.job_id)
        self.planner.drop_queued(job.job_id)
        running = RunningJob(
            job_id=job.job_id,
            team_id=job.team_id,
            user_id=job.user_id,
            priority_class=start.runs_as,
            holds=start.holds,
            started_at=self.now,
            expected_end_at=self.now + start.footprint.seconds_by_type["*"],
            saved_at=self.now,
            queued_at=job.queued_at,
        )
        self.running[job.job_id] = running
        heappush(self.ends, (running.expected_end_at, job.job_id))
        self.planner.put_running(running)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--queued", type=int, default=100_000)
    parser.add_argument("--teams", type=int, default=200)
    parser.add_argument("--events", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    size = Size(devices=given.devices, queued=given.queued, teams=given.teams, events=given.events)
    figures = measure(size, given.seed)
    if given.json:
        print(json.dumps({"machine": describe_machine(), **figures}, indent=2))
    else:
        title = f"Scheduler passes: {size.devices} devices, {size.queued} queued jobs, {size.teams} teams"
        print_table(title, list(figures), [[f"{value:g}" for value in figures.values()]])


def measure(size: Size, seed: int) -> dict[str, float]:
    """Seconds of the first pass over an empty pool, and of passes after one event each."""
    bench = Bench(size, seed)
    bench.build()
    gc.collect()
    full, full_cpu, decision = bench.decide()
    started = len(decision.starts)
    bench.apply(decision)
    _settle(bench)
    seconds, cpu_seconds, starts = [], [], 0
    events: tuple[Callable[[], None], ...] = (bench.finish, bench.finish, bench.submit, bench.cancel)
    for number in range(size.events):
        events[number % len(events)]()
        taken, cpu_taken, decision = bench.decide()
        seconds.append(taken)
        cpu_seconds.append(cpu_taken)
        starts += len(decision.starts)
        bench.apply(decision)
    return {
        "devices": size.devices,
        "queued": size.queued,
        "teams": size.teams,
        "full_pass_seconds": full,
        "full_pass_cpu_seconds": full_cpu,
        "full_pass_starts": started,
        "events": size.events,
        "event_pass_median_seconds": percentile(seconds, 0.5),
        "event_pass_median_cpu_seconds": percentile(cpu_seconds, 0.5),
        "event_pass_p95_seconds": percentile(seconds, 0.95),
        "event_pass_max_seconds": max(seconds),
        "event_pass_starts": starts,
        "demand_seconds": _measure_demand(bench),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _measure_demand(bench: Bench) -> float:
    """How long it takes to say what a full pool lacks; the median of five."""
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        bench.planner.demand(bench.now)
        seconds.append(time.perf_counter() - started)
    return percentile(seconds, 0.5)


def _settle(bench: Bench) -> None:
    """A pass each quarter of an hour for an hour, with the jobs that end and come meanwhile: a pool at work."""
    for _ in range(4):
        bench.finish_until(bench.now + 900)
        while len(bench.queued) < bench.size.queued:
            bench.submit()
        bench.apply(bench.decide()[2])


if __name__ == "__main__":
    main()
