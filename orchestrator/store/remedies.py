"""What is known of a job whose attempt ran out of memory, in the transaction that ends the attempt."""

from sqlalchemy import func, select

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.placement import DeviceRoom, find_together
from orchestrator.domain.remedies import ShortJob
from orchestrator.store.devices import list_devices
from orchestrator.store.session import ReadTx
from orchestrator.store.tables.attempts import attempts


def read_short_job(tx: ReadTx, attempt: Attempt, job: Job) -> ShortJob | None:
    """None when there is nothing to change: no plan, or a device that is not known any more."""
    devices = list_devices(tx)
    device = next((device for device in devices if device.device_id == attempt.device_id), None)
    if device is None or job.plan is None:
        return None
    rooms = [
        DeviceRoom(
            device_id=other.device_id,
            device_type=other.device_type,
            kind=other.kind,
            total_bytes=other.usable_bytes,
            free_bytes=other.usable_bytes,
            schedulable=other.online,
        )
        for other in devices
    ]
    return ShortJob(
        plan=job.plan,
        spec=job.spec,
        footprints=job.footprints or {},
        rooms=find_together(rooms, job.plan.devices),
        attempt_number=attempt.number,
        kind=device.kind,
        reserved_bytes=attempt.reserved_bytes,
        peak_bytes=attempt.peak_reserved_bytes if device.kind == "cuda" else attempt.peak_device_bytes,
        remedies_before=_count_earlier(tx, attempt),
    )


def _count_earlier(tx: ReadTx, attempt: Attempt) -> int:
    """The job's earlier attempts that ran out of memory: each was followed by a remedy."""
    query = select(func.count().label("number")).where(
        attempts.c.job_id == attempt.job_id,
        attempts.c.failure_kind == FailureKind.OUT_OF_MEMORY,
        attempts.c.number < attempt.number,
    )
    row = tx.row(query)
    assert row is not None
    return int(row["number"])
