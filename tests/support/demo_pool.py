"""A pool as the API would answer for it: two GPUs of one's own, one of another team's, jobs in every state."""

import math
from typing import Any

from tests.support.stub_api import StubApi, as_json, as_list

JOBS = "/v1/fine_tuning/jobs"
GIB = 2**30
NOW = 1_790_000_000
STEPS = 200
HOSTILE = "evil\x1b[31m[red]model[/red]\u202e\nx"
PEAKS = {"allocated_bytes": 7 * GIB, "reserved_bytes": 9 * GIB, "device_bytes": 11 * GIB, "total_bytes": 12 * GIB}


def job_id(number: int) -> str:
    return f"ftjob-0199abcd1234567890abcdef{number:08x}"


def a_job(number: int, status: str, **changes: Any) -> dict[str, Any]:
    """Created `number` hours before NOW."""
    cost = {"billed_usd_micros": 1_234_567 * number, "billed_usd": "1", "lost_usd_micros": 0, "lost_usd": "0"}
    job = {
        **{"id": job_id(number), "status": status, "model": "smollm2-135m-instruct", "created_at": NOW - 3600 * number},
        **{"training_file": "file-1", "seed": 7, "cost": {**cost, "final": False}, "priority": 0, "warnings": []},
        "progress": a_progress(0),
    }
    return {**job, **changes}


def a_progress(step: int) -> dict[str, Any]:
    return {"step": step, "total_steps": STEPS, "percent": 100 * step / STEPS, "trained_tokens": 100 * step}


def running_job(step: int = 80) -> dict[str, Any]:
    estimate = {"kind": "cuda", "memory": {"cuda": {**PEAKS, "breakdown": {}}}}
    progress = {"progress": a_progress(step), "started_at": NOW - 100, "estimated_finish": NOW + 734}
    return a_job(1, "running", phase="training", estimate=estimate, model="meta-llama/Llama-3.1-8B", **progress)


def the_jobs() -> list[dict[str, Any]]:
    error = {"code": "out_of_memory", "message": "4 GiB were not enough", "param": None}
    return [
        running_job(),
        a_job(2, "queued", priority=5),
        a_job(3, "queued", model=HOSTILE),
        a_job(4, "paused"),
        a_job(5, "succeeded", finished_at=NOW - 7200, progress=a_progress(STEPS)),
        a_job(6, "failed", finished_at=NOW - 90_000 * 3, error=error),
    ]


def a_use(number: int, gib: int, peak_gib: int, *, visible: bool = True) -> dict[str, Any]:
    ids = (
        {"attempt_id": f"attempt-{number}", "job_id": job_id(number)}
        if visible
        else {"attempt_id": None, "job_id": None}
    )
    return {**ids, "reserved_bytes": gib * GIB, "peak_device_bytes": peak_gib * GIB, "draining": False}


def a_device(name: str, uses: list[dict[str, Any]], *, online: bool = True) -> dict[str, Any]:
    reserved = sum(use["reserved_bytes"] for use in uses)
    sizes = {"usable_bytes": 24 * GIB, "reserved_bytes": reserved, "free_bytes": 24 * GIB - reserved}
    kind = {"device_type": "nvidia-rtx-4090", "kind": "cuda"}
    return {"id": name, "node": name.split("/", maxsplit=1)[0], **kind, **sizes, "online": online, "uses": uses}


def the_devices() -> list[dict[str, Any]]:
    return [
        a_device("gpu-1/cuda:0", [a_use(1, 12, 10), a_use(9, 5, 0, visible=False)]),
        a_device("gpu-2.example.internal/cuda:0", []),
        a_device("gpu-3/cuda:0", [], online=False),
    ]


def the_metrics(steps: int = 80, *, attempt: int = 1, first: int = 1) -> list[dict[str, Any]]:
    """A loss that falls from about 3.4 to about 1.2, evaluated every 20 steps."""
    found = []
    for step in range(first, steps + 1):
        loss = 2.4 * math.exp(-step / 40) + 1.0
        values = {"train_loss": loss, "learning_rate": 2e-4 * (1 - step / STEPS), "tokens_per_second": 5000.0 + step}
        row = {"attempt": attempt, "at": NOW - 100.0 + step, "step": step}
        found.append({"id": f"ftmetric-{2 * step}", **row, "values": values})
        if step % 20 == 0:
            found.append({"id": f"ftmetric-{2 * step + 1}", **row, "values": {"eval_loss": loss + 0.2}})
    return found


def an_attempt() -> dict[str, Any]:
    device = {"device_id": "gpu-1/cuda:0", "device_type": "nvidia-rtx-4090", "reserved_bytes": 12 * GIB}
    peaks = {"peak_allocated_bytes": 6 * GIB, "peak_reserved_bytes": 8 * GIB, "peak_device_bytes": 10 * GIB}
    return {"id": "attempt-1", "number": 1, "state": "running", **device, **peaks}


def serve_pool(api: StubApi) -> None:
    jobs = the_jobs()
    api.on("GET", "/v1/pool", as_json({"object": "pool", "devices": the_devices()}))
    api.on("GET", JOBS, as_list(*jobs))
    for job in jobs:
        runs = job["id"] == job_id(1)
        api.on("GET", f"{JOBS}/{job['id']}", as_json(job))
        api.on("GET", f"{JOBS}/{job['id']}/attempts", as_list(*([an_attempt()] if runs else [])))
        api.on("GET", f"{JOBS}/{job['id']}/metrics", as_list(*(the_metrics() if runs else [])), as_list())
        api.on("GET", f"{JOBS}/{job['id']}/events", as_list())
