"""The Microsoft Philly trace as a flat list: `timestamp, duration, num_gpus, gpu_time, cluster`.

Source: Jeon et al., USENIX ATC'19; the list as flattened by the authors of Sia (repository siasosp23/artifacts). A
`cluster` is one of 15 virtual clusters, here a team. Day 0 begins with the first job of the whole list.
"""

import csv
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, SharedDevice
from orchestrator.simulation.openb import TraceError
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob

DAY_SECONDS = 86_400.0
WHOLE_GPU_BYTES = 1 << 30
"""A flat pool of whole GPUs: the number plays no part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TraceJob:
    """`arrives_at` is seconds from the first job of the list."""

    name: str
    arrives_at: float
    seconds: float
    gpus: int
    team: str


def read_jobs(path: Path, *, from_day: float = 0.0, to_day: float = float("inf")) -> list[TraceJob]:
    """The jobs that arrive in the window, by arrival. Raises TraceError."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"timestamp", "duration", "num_gpus", "cluster"} - set(reader.fieldnames or ())
        if missing:
            raise TraceError(f"{path} has no column {', '.join(sorted(missing))}")
        rows = [_parse(path, line, row) for line, row in enumerate(reader, 2)]
    if not rows:
        raise TraceError(f"{path} has no jobs")
    first = min(row[0] for row in rows)
    jobs = [
        TraceJob(name=f"job-{line:06d}", arrives_at=at - first, seconds=seconds, gpus=gpus, team=team)
        for line, (at, seconds, gpus, team) in enumerate(rows)
        if from_day * DAY_SECONDS <= at - first < to_day * DAY_SECONDS and gpus > 0
    ]
    return sorted(jobs, key=lambda job: (job.arrives_at, job.name))


def _parse(path: Path, line: int, row: dict[str, str]) -> tuple[float, float, int, str]:
    try:
        at = datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp()
        return at, max(float(row["duration"]), 1.0), int(float(row["num_gpus"])), row["cluster"]
    except (TypeError, ValueError) as error:
        raise TraceError(f"{path}, line {line}: {error}") from error


def as_workload(jobs: list[TraceJob], *, most_factor: float = 5.0, seed: int = 42) -> tuple[SimulatedJob, ...]:
    """Jobs whose durations the scheduler knows only as estimates, over by 1 to `most_factor` times (uniform)."""
    source = random.Random(seed)
    return tuple(_as_simulated(job, source.uniform(1.0, most_factor)) for job in jobs)


def _as_simulated(job: TraceJob, factor: float) -> SimulatedJob:
    queued = QueuedJob(
        job_id=job.name,
        team_id=job.team,
        user_id=job.team,
        priority_class=PriorityClass.NORMAL,
        queued_at=job.arrives_at,
        footprints=(
            Footprint(
                name="as asked",
                bytes_by_kind={"cuda": WHOLE_GPU_BYTES},
                seconds_by_type={ANY_TYPE: job.seconds * factor},
            ),
        ),
        replicas=job.gpus,
        same_node=False,
    )
    return SimulatedJob(queued=queued, seconds_by_type={ANY_TYPE: job.seconds})


def flat_pool(gpus: int) -> tuple[SharedDevice, ...]:
    """So many equal GPUs, each on a node of its own."""
    return tuple(
        SharedDevice(
            device_id=f"gpu-{number:05d}",
            node_name=f"node-{number // 8:05d}",
            device_type="gpu",
            kind="cuda",
            usable_bytes=WHOLE_GPU_BYTES,
        )
        for number in range(gpus)
    )
