"""Traces from files, told apart by what they hold: openb, Philly, history as JSON lines; and the synthetic mix."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, SharedDevice
from orchestrator.simulation import history, philly
from orchestrator.simulation.lora_mix import make_jobs
from orchestrator.simulation.openb import WHOLE_MILLI, TraceError, TraceTask, read_tasks
from orchestrator.simulation.workload import ANY_TYPE, SimulatedJob

SYNTHETIC = "synthetic"


def read_workload(path: Path, devices: Sequence[SharedDevice]) -> tuple[SimulatedJob, ...]:
    """The jobs of a trace file. Shares of a GPU are shares of the largest device of the pool. Raises TraceError."""
    if path.suffix in {".jsonl", ".json"}:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return history.as_workload(history.parse_past(rows))
    with path.open(newline="", encoding="utf-8") as file:
        columns = set(next(csv.reader(file), ()))
    largest = max(device.usable_bytes for device in devices)
    if {"gpu_milli", "num_gpu"} <= columns:
        return _from_openb(read_tasks(path), largest, path)
    if {"timestamp", "num_gpus"} <= columns:
        return tuple(_resize(job, largest) for job in philly.as_workload(philly.read_jobs(path)))
    raise TraceError(f"{path} is neither a list of openb nor of Philly, nor JSON lines")


def synthetic(devices: Sequence[SharedDevice], *, count: int, load: float, seed: int) -> tuple[SimulatedJob, ...]:
    """The made-up LoRA mix for this pool; classes that no device can hold are left out of the load by the pool
    itself."""
    jobs = make_jobs(devices, count=count, load=load, seed=seed)
    largest = max(device.usable_bytes for device in devices)
    return tuple(job for job in jobs if job.queued.footprints[0].bytes_by_kind["cuda"] <= largest)


def _from_openb(tasks: list[TraceTask], whole_bytes: int, path: Path) -> tuple[SimulatedJob, ...]:
    timed = [task for task in tasks if task.shape.gpus and task.arrives_at is not None and task.ends_at is not None]
    if not timed:
        raise TraceError(f"{path} has no times: it can be packed, not simulated")
    return tuple(_from_task(task, whole_bytes) for task in timed)


def _from_task(task: TraceTask, whole_bytes: int) -> SimulatedJob:
    assert task.arrives_at is not None
    assert task.ends_at is not None
    seconds = max(task.ends_at - task.arrives_at, 1.0)
    queued = QueuedJob(
        job_id=task.name,
        team_id="openb",
        user_id="openb",
        priority_class=PriorityClass.IDLE if task.is_best_effort else PriorityClass.NORMAL,
        queued_at=task.arrives_at,
        footprints=(
            Footprint(
                name="as asked",
                bytes_by_kind={"cuda": whole_bytes * task.shape.gpu_milli // WHOLE_MILLI},
                seconds_by_type={ANY_TYPE: seconds},
            ),
        ),
        replicas=task.shape.gpus,
    )
    return SimulatedJob(queued=queued, seconds_by_type={ANY_TYPE: seconds})


def _resize(job: SimulatedJob, whole_bytes: int) -> SimulatedJob:
    """A whole GPU of the trace is a whole device of the pool's largest kind."""
    footprint = replace(job.queued.footprints[0], bytes_by_kind={"cuda": whole_bytes})
    return replace(job, queued=replace(job.queued, footprints=(footprint,)))
