"""Rows for tests, made by the store's own functions, with every detail that a test does not care about filled in."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from orchestrator.domain.arrays import JobArray
from orchestrator.domain.artifacts import Adapter, Checkpoint, File, FilePurpose, FileStatus
from orchestrator.domain.attempts import Attempt, HeldDevice
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.ids import (
    new_adapter_id,
    new_array_id,
    new_checkpoint_id,
    new_file_id,
    new_job_id,
    new_team_id,
)
from orchestrator.domain.jobs import Job
from orchestrator.domain.pricing import Rate
from orchestrator.domain.protocol import Entry, LogLine, Metric, StoredFile
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.domain.teams import ApiKey, Role, Team
from orchestrator.store import arrays, attempts, files, jobs, keys, teams
from orchestrator.store.session import ReadTx, WriteTx

GIB = 2**30
RATE = Rate(price_usd_micros_per_hour=2_400_000, reserved_bytes=6 * GIB, device_bytes=24 * GIB)


def add_team(tx: WriteTx, name: str | None = None) -> Team:
    return teams.insert_team(tx, name=name or new_team_id())


def add_key(tx: WriteTx, team_id: str, *, role: Role = Role.MEMBER) -> ApiKey:
    secret = new_file_id()
    return keys.insert_key(
        tx, team_id=team_id, name="laptop", role=role, prefix="tp-", secret_sha256=secret, expires_at=None
    )


def make_file(tx: ReadTx, team_id: str, **changes: Any) -> File:
    file_id = changes.pop("file_id", None) or new_file_id()
    values: dict[str, Any] = {
        "created_at": tx.now(),
        "filename": "tickets.jsonl",
        "purpose": FilePurpose.FINE_TUNE,
        "size_bytes": 1234,
        "sha256": "0" * 64,
        "status": FileStatus.UPLOADED,
        "status_details": None,
        "report": None,
        "expires_at": None,
        "object_key": f"teams/{team_id}/files/{file_id}",
        **changes,
    }
    return File(file_id=file_id, team_id=team_id, **values)


def add_file(tx: WriteTx, team_id: str, **changes: Any) -> File:
    return files.insert_file(tx, make_file(tx, team_id, **changes))


def add_job(
    tx: WriteTx, team_id: str | None = None, *, job_id: str | None = None, array_id: str | None = None, **spec: Any
) -> Job:
    """A job in validating_files."""
    team_id = team_id or add_team(tx).team_id
    if "training_file" not in spec:
        spec["training_file"] = add_file(tx, team_id).file_id
    if not files.lock_files(tx, [spec["training_file"]], team_id):
        raise InvalidRequestError("no such file", param="training_file")
    asked = JobSpec(**{"model": "smol", **spec})
    return jobs.insert_job(
        tx,
        jobs.NewJob(
            job_id=job_id or new_job_id(),
            team_id=team_id,
            created_by="key-1",
            spec=asked,
            seed=7,
            model_name=asked.model,
            array_id=array_id,
        ),
        message="The job is created.",
    )


def add_array(tx: WriteTx, team_id: str, *, max_parallel: int | None = None) -> JobArray:
    """Without jobs; they name it."""
    array = JobArray(
        array_id=new_array_id(),
        team_id=team_id,
        created_by="key-1",
        name="sweep",
        max_parallel=max_parallel,
        created_at=tx.now(),
    )
    arrays.insert_array(tx, array)
    return array


def add_queued_job(tx: WriteTx, team_id: str | None = None, **spec: Any) -> Job:
    job = add_job(tx, team_id, **spec)
    return jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="The files are valid.")


def add_attempt(
    tx: WriteTx,
    job: Job,
    *,
    rate: Rate = RATE,
    device_id: str = "node-1/cuda:0",
    rate_micros: int = 0,
    more_devices: Sequence[HeldDevice] = (),
) -> Attempt:
    """Move a queued job to running, with an attempt that is assigned."""
    jobs.apply_job_transition(tx, job.job_id, JobState.RUNNING, message="The job has a device.")
    return attempts.insert_attempt(
        tx,
        attempts.NewAttempt(
            job_id=job.job_id,
            device_id=device_id,
            node_name="node-1",
            device_type="nvidia-rtx-4090",
            reserved_bytes=rate.reserved_bytes,
            rate=rate,
            rate_micros=rate_micros,
            more_devices=tuple(more_devices),
            lease_owner="control-1",
            lease_seconds=120,
        ),
    )


def add_running_attempt(tx: WriteTx, job: Job | None = None, **options: Any) -> Attempt:
    attempt = add_attempt(tx, job or add_queued_job(tx), **options)
    for state in (AttemptState.LAUNCHING, AttemptState.RUNNING):
        attempt = attempts.apply_attempt_transition(tx, attempt.attempt_id, attempt.lease_token, state)
    return attempt


def make_checkpoint(attempt: Attempt, *, step: int, created_at: datetime) -> Checkpoint:
    return Checkpoint(
        checkpoint_id=new_checkpoint_id(),
        job_id=attempt.job_id,
        attempt_id=attempt.attempt_id,
        attempt_number=attempt.number,
        step=step,
        key_prefix=f"jobs/{attempt.job_id}/step-{step}/",
        files=(StoredFile(name="state.json", size_bytes=10, sha256="1" * 64),),
        metrics={"train_loss": 1.5},
        created_at=created_at,
    )


def make_adapter(attempt: Attempt, *, created_at: datetime, name: str | None = None) -> Adapter:
    adapter_id = new_adapter_id()
    return Adapter(
        adapter_id=adapter_id,
        name=name or f"ft:smol:team::{adapter_id}",
        job_id=attempt.job_id,
        team_id=attempt.team_id,
        attempt_id=attempt.attempt_id,
        base_model="smol",
        key_prefix=f"jobs/{attempt.job_id}/adapter/",
        files=(StoredFile(name="adapter_model.safetensors", size_bytes=10, sha256="1" * 64),),
        manifest={"version": 1},
        created_at=created_at,
    )


def make_lines(first: int, last: int) -> list[Entry]:
    """Log entries `first` to `last`, both included, with their seq as text."""
    return [
        Entry(seq=seq, at_unix=1_790_000_000 + seq, report=LogLine(stream="stdout", text=f"line {seq}"))
        for seq in range(first, last + 1)
    ]


def make_metrics(first: int, last: int) -> list[Entry]:
    return [
        Entry(seq=seq, at_unix=1_790_000_000 + seq, report=Metric(step=seq, values={"train_loss": 1 / seq}))
        for seq in range(first, last + 1)
    ]
