"""A made-up mix of LoRA jobs by bytes, for pools of mixed device sizes: seven one-device classes and two-device gangs.

The classes go from a small model in 4-bit (5 to 8 GiB) to a 30B-class one (46 to 62 GiB); 3 per cent are gangs of two
devices with 70 to 78 GiB each, on one node. Durations are log-normal (median 40 min, sigma 1.5, cut at 2 days),
arrivals Poisson. `load` is the share of the pool's bytes that is asked for, in the mean over time.

The study (1.7) does not give the classes' shares, but that of the big ones shows in its table: where nearly nobody else
waits, the mean wait over that of big jobs is their share, 0.080 to 0.082 in four rows (142/1,745, 260/3,240, 190/2,346
and 326/4,015 min). The other shares are ours.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, SharedDevice
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob

GIB = 1024**3
LARGE_BYTES = 45 * GIB
MEDIAN_SECONDS = 2_400.0
SIGMA = 1.5
LONGEST_SECONDS = 2 * 86_400.0
TEAMS = ("team-a", "team-b", "team-c")
USERS_PER_TEAM = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SizeClass:
    """`share` of all jobs; sizes are uniform between the bounds, in GiB per replica."""

    share: float
    least_gib: float
    most_gib: float
    replicas: int = 1


CLASSES = (
    SizeClass(share=0.24, least_gib=5, most_gib=8),
    SizeClass(share=0.20, least_gib=8, most_gib=12),
    SizeClass(share=0.15, least_gib=12, most_gib=16),
    SizeClass(share=0.14, least_gib=16, most_gib=22),
    SizeClass(share=0.10, least_gib=24, most_gib=32),
    SizeClass(share=0.09, least_gib=32, most_gib=44),
    SizeClass(share=0.05, least_gib=46, most_gib=62),
    SizeClass(share=0.03, least_gib=70, most_gib=78, replicas=2),
)

SHELVES = (("g80", 80, 2, 4), ("g48", 48, 1, 8), ("g24", 24, 4, 4))
"""Device type, GiB, nodes, devices per node: 1,408 GiB on seven nodes."""


def mixed_pool() -> tuple[SharedDevice, ...]:
    """The pool of the churn experiment; a device counts for its bytes, the largest for one."""
    return tuple(
        SharedDevice(
            device_id=f"{device_type}-{node}/{number}",
            node_name=f"{device_type}-{node}",
            device_type=device_type,
            kind="cuda",
            usable_bytes=gib * GIB,
            weight_micros=1_000_000 * gib // SHELVES[0][1],
        )
        for device_type, gib, nodes, devices in SHELVES
        for node in range(nodes)
        for number in range(devices)
    )


def make_jobs(
    devices: Sequence[SharedDevice], *, count: int, load: float, seed: int, most_factor: float = 3.0
) -> tuple[SimulatedJob, ...]:
    """Jobs for this pool, by arrival. The scheduler is told 1 to `most_factor` times (uniform) what they take."""
    source = random.Random(seed)
    drawn = [_draw(source) for _ in range(count)]
    asked = sum(size * replicas * seconds for size, replicas, seconds in drawn) / count
    gap = asked / (load * sum(device.usable_bytes for device in devices))
    at, jobs = 0.0, []
    for number, (size, replicas, seconds) in enumerate(drawn):
        at += source.expovariate(1 / gap)
        team = source.choice(TEAMS)
        queued = QueuedJob(
            job_id=f"job-{number:06d}",
            team_id=team,
            user_id=f"{team}-{source.randrange(USERS_PER_TEAM)}",
            priority_class=PriorityClass.NORMAL,
            queued_at=at,
            footprints=(
                Footprint(
                    name="as asked",
                    bytes_by_kind={"cuda": size},
                    seconds_by_type={ANY_TYPE: seconds * source.uniform(1.0, most_factor)},
                ),
            ),
            replicas=replicas,
        )
        jobs.append(SimulatedJob(queued=queued, seconds_by_type={ANY_TYPE: seconds}))
    return tuple(jobs)


def _draw(source: random.Random) -> tuple[int, int, float]:
    """Bytes per replica, replicas, seconds."""
    kind = source.choices(CLASSES, weights=[each.share for each in CLASSES])[0]
    size = int(source.uniform(kind.least_gib, kind.most_gib) * GIB)
    seconds = min(source.lognormvariate(log(MEDIAN_SECONDS), SIGMA), LONGEST_SECONDS)
    return size, kind.replicas, max(seconds, 1.0)
