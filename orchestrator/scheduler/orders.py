"""The one message that an attempt gets, built from rows, presigned URLs and the checkpoint to go on from.

Invariant: nothing in it outlives its use: URLs and the upload grant expire, and no credential of ours is inside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.domain.artifacts import File
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.parents import Parent
from orchestrator.domain.pool import Device
from orchestrator.domain.protocol import AttemptSpec, DeviceGrant, ModelSource, ParentSource, RemoteFile
from orchestrator.objects.client import Objects
from orchestrator.scheduler.grants import Grants
from orchestrator.scheduler.limits import RunLimit, choose_run_limit
from orchestrator.scheduler.resume import FoundCheckpoint, checkpoint_source
from orchestrator.scheduler.spending import read_spent
from orchestrator.store import attempts, devices, files, jobs
from orchestrator.store.session import ReadTx

DescribeModel = Callable[[Job], ModelSource]
"""Where workers find the job's base model. Raises NotFoundError or InvalidRequestError; may ask S3 or the hub."""


@dataclass(frozen=True, kw_only=True)
class OrderSettings:
    """`work_root` and `cache_dir` are folders on the nodes. Input URLs live for `input_url_seconds`."""

    attempt_lease_seconds: int
    stop_grace_seconds: int
    input_url_seconds: int
    work_root: str
    cache_dir: str


@dataclass(frozen=True, kw_only=True)
class OrderInputs:
    """Everything about an attempt that the database knows."""

    attempt: Attempt
    job: Job
    devices: Sequence[Device]
    training_file: File
    validation_file: File | None
    earlier: Sequence[Attempt]
    limit: RunLimit | None


def read_inputs(tx: ReadTx, attempt: Attempt, *, grace_seconds: int) -> OrderInputs:
    """Raises NotFoundError when a file is gone."""
    job = jobs.get_job(tx, attempt.job_id)
    spec = job.spec
    validation = spec.validation_file
    known = {device.device_id: device for device in devices.list_devices(tx)}
    return OrderInputs(
        attempt=attempt,
        job=job,
        devices=[known[held.device_id] for held in attempt.devices],
        training_file=files.get_file(tx, spec.training_file, job.team_id),
        validation_file=files.get_file(tx, validation, job.team_id) if validation else None,
        earlier=[other for other in attempts.list_attempts(tx, job.job_id) if other.number < attempt.number],
        limit=choose_run_limit(
            rate=attempt.whole_rate,
            spent=read_spent(tx, job.job_id),
            max_cost_usd_micros=spec.max_cost_usd_micros,
            max_runtime_seconds=spec.resources.max_runtime_seconds,
            grace_seconds=grace_seconds,
        ),
    )


class Orders:
    def __init__(
        self, objects: Objects, grants: Grants, describe_model: DescribeModel, settings: OrderSettings
    ) -> None:
        self._objects = objects
        self._grants = grants
        self._describe_model = describe_model
        self._settings = settings

    def build(self, inputs: OrderInputs, found: FoundCheckpoint | None) -> AttemptSpec:
        """Raises NotFoundError or InvalidRequestError when the base model cannot be had any more."""
        attempt, job, settings = inputs.attempt, inputs.job, self._settings
        assert job.plan is not None, "a job is queued only with a plan"
        model = self._describe_model(job)
        validation, seconds = inputs.validation_file, settings.input_url_seconds
        device, *more_devices = _grant_devices(inputs)
        return AttemptSpec(
            job_id=job.job_id,
            attempt_id=attempt.attempt_id,
            number=attempt.number,
            plan=job.plan,
            model=model,
            training_file=remote_file(self._objects, inputs.training_file, "training.jsonl", seconds=seconds),
            validation_file=(
                remote_file(self._objects, validation, "validation.jsonl", seconds=seconds) if validation else None
            ),
            resume_from=checkpoint_source(self._objects, found, seconds=seconds) if found else None,
            device=device,
            more_devices=tuple(more_devices),
            upload=self._grants.issue(attempt),
            lease_seconds=settings.attempt_lease_seconds,
            run_limit_seconds=inputs.limit.stop_seconds if inputs.limit else None,
            run_limit_reason=inputs.limit.reason if inputs.limit else None,
            work_dir=f"{settings.work_root}/{attempt.attempt_id}",
            cache_dir=settings.cache_dir,
            spec_echo=_echo(inputs, model),
            parent=parent_source(self._objects, job.parent, seconds=seconds) if job.parent else None,
        )


def _grant_devices(inputs: OrderInputs) -> list[DeviceGrant]:
    """In the order of the ranks."""
    return [
        DeviceGrant(
            device_id=device.device_id,
            kind=device.kind,
            index=device.index,
            device_bytes=device.usable_bytes,
            reserved_bytes=held.rate.reserved_bytes,
        )
        for device, held in zip(inputs.devices, inputs.attempt.devices, strict=True)
    ]


def remote_file(objects: Objects, file: File, name: str, *, seconds: int) -> RemoteFile:
    """`name` is ours: a user's file name never reaches a node's disk."""
    url = objects.presign_get(file.object_key, seconds)
    return RemoteFile(name=name, url=url, size_bytes=file.size_bytes, sha256=file.sha256)


def parent_source(objects: Objects, parent: Parent, *, seconds: int) -> ParentSource:
    """The weights alone: how they are shaped is in the plan."""
    weights = parent.weights
    url = objects.presign_get(parent.key_prefix + weights.name, seconds)
    return ParentSource(
        name=parent.name,
        weights=RemoteFile(name=weights.name, url=url, size_bytes=weights.size_bytes, sha256=weights.sha256),
    )


def _echo(inputs: OrderInputs, model: ModelSource) -> dict[str, Any]:
    """What the manifest says of the adapter's origin: the job as it was asked for, and hashes of what went in."""
    validation = inputs.validation_file
    return {
        "job_id": inputs.job.job_id,
        "seed": inputs.job.seed,
        "spec": inputs.job.spec.model_dump(mode="json"),
        "base_model": {"name": model.name, "revision": model.revision},
        "parent": inputs.job.parent.lineage if inputs.job.parent else None,
        "training_file": {"id": inputs.training_file.file_id, "sha256": inputs.training_file.sha256},
        "validation_file": {"id": validation.file_id, "sha256": validation.sha256} if validation else None,
    }
