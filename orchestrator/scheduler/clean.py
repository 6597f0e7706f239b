"""What nobody needs any more: expired uploads, deleted files, old checkpoints, what ended jobs left, old records.

Invariants: an object goes only after nothing points to it or everything that points to it is hidden; a row that says
"there is something to delete" goes after the objects, so that a crash in between is repaired by the next pass. What an
attempt wrote goes only when the attempt is proved gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.domain.artifacts import Adapter, Checkpoint, File, Upload, UploadPart, UploadStatus
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import MANIFEST_NAME, job_prefix
from orchestrator.scheduler.loop import Loop
from orchestrator.store import adapters, attempts, checkpoints, files, idempotency, observations, sweeps, uploads
from orchestrator.store.session import ReadTx, Store

KEPT_CHECKPOINTS = 2
"""Of a running job: the newest, and one more in case that it is damaged."""
IDEMPOTENCY_HOURS = 24
UPLOAD_SLACK = timedelta(minutes=10)
"""An upload may be being completed at the moment at which it expires."""
SWEEP_GRACE = timedelta(hours=1)
"""How long an ended job keeps what it left: time to look at it, and for late uploads to arrive."""
UNFINISHED_UPLOAD_SECONDS = 24 * 3600
BATCH = 100
ROWS_PER_DELETE = 5000

TIDY_STAGE = 1
FORGET_STAGE = sweeps.LAST_STAGE


@dataclass(frozen=True, kw_only=True)
class CleanFacts:
    now: datetime
    uploads: Sequence[Upload]
    files: Sequence[File]
    adapters: Sequence[Adapter]
    running_checkpoints: Sequence[Checkpoint]
    jobs_to_tidy: Sequence[str]
    jobs_to_forget: Sequence[str]
    leftover_parts: Sequence[UploadPart] = ()
    """Of uploads that ended while the object store was away, or whose control plane died then."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Take an ended job to this stage (see `orchestrator.store.sweeps`)."""

    job_id: str
    stage: int


@dataclass(frozen=True, kw_only=True)
class DropRecords:
    """Forget idempotency records from before, observations older than the retention, and uploads to the object store
    that nobody finished."""

    before: datetime


Chore = Upload | UploadPart | File | Adapter | Checkpoint | Sweep | DropRecords


class Clean:
    def __init__(self, store: Store, objects: Objects, *, interval_seconds: float, retention_days: int) -> None:
        self._store = store
        self._objects = objects
        self._interval_seconds = interval_seconds
        self._retention = timedelta(days=retention_days)

    def loop(self) -> Loop[CleanFacts, Chore]:
        return Loop(
            name="clean",
            interval_seconds=self._interval_seconds,
            load=self.load,
            decide=decide_chores,
            apply=self.apply,
            subject=_name_chore,
        )

    def load(self) -> CleanFacts:
        with self._store.read() as tx:
            now = tx.now()
            return CleanFacts(
                now=now,
                uploads=uploads.list_expired(tx, BATCH),
                files=files.list_expired_or_deleted(tx, BATCH),
                adapters=adapters.list_deleted(tx, BATCH),
                running_checkpoints=_read_running_checkpoints(tx),
                jobs_to_tidy=sweeps.list_to_sweep(tx, stage=TIDY_STAGE, finished_before=now - SWEEP_GRACE, limit=BATCH),
                jobs_to_forget=sweeps.list_to_sweep(
                    tx, stage=FORGET_STAGE, finished_before=now - self._retention, limit=BATCH
                ),
                leftover_parts=uploads.list_leftover_parts(tx, BATCH),
            )

    def apply(self, chore: Chore) -> bool:
        match chore:
            case Upload():
                self._expire_upload(chore)
            case UploadPart():
                self._objects.delete(chore.object_key)
                with self._store.write() as tx:
                    uploads.delete_part(tx, chore.part_id)
            case File():
                self._objects.delete(chore.object_key)
                with self._store.write() as tx:
                    files.delete_file_row(tx, chore.file_id)
            case Adapter():
                self._objects.delete_prefix(chore.key_prefix)
                with self._store.write() as tx:
                    adapters.delete_adapter_row(tx, chore.adapter_id)
            case Checkpoint():
                self._drop_checkpoint(chore)
            case Sweep(stage=stage) if stage == TIDY_STAGE:
                self._tidy(chore.job_id)
            case Sweep():
                return self._forget(chore.job_id)
            case DropRecords():
                with self._store.write() as tx:
                    idempotency.delete_older(tx, chore.before)
                    observations.delete_older(tx, tx.now() - self._retention)
                self._objects.abort_stale_uploads(older_than_seconds=UNFINISHED_UPLOAD_SECONDS)
        return False

    def _expire_upload(self, upload: Upload) -> None:
        with self._store.read() as tx:
            parts = uploads.list_parts(tx, upload.upload_id)
        for part in parts:
            self._objects.delete(part.object_key)
        with self._store.write() as tx:
            uploads.apply_upload_status(tx, upload.upload_id, from_=(UploadStatus.PENDING,), to=UploadStatus.EXPIRED)

    def _drop_checkpoint(self, checkpoint: Checkpoint) -> None:
        """The row goes first and the manifest second: from then on nobody takes it for a checkpoint."""
        with self._store.write() as tx:
            is_gone = checkpoints.delete_checkpoint(tx, checkpoint.checkpoint_id)
        if not is_gone:
            return
        self._objects.delete(checkpoint.key_prefix + MANIFEST_NAME)
        self._objects.delete_prefix(checkpoint.key_prefix)

    def _tidy(self, job_id: str) -> None:
        """Keep the published adapter, the newest checkpoint and those that jobs go on from; the rest goes."""
        with self._store.write() as tx:
            newest = checkpoints.find_latest(tx, job_id)
            for checkpoint in checkpoints.list_checkpoints(tx, job_id, limit=ROWS_PER_DELETE).items:
                if newest is not None and checkpoint.checkpoint_id != newest.checkpoint_id:
                    checkpoints.delete_checkpoint(tx, checkpoint.checkpoint_id)
            kept = checkpoints.list_checkpoints(tx, job_id, limit=ROWS_PER_DELETE).items
        self._delete_objects(job_id, kept=kept)
        with self._store.write() as tx:
            sweeps.record_sweep(tx, job_id, TIDY_STAGE)

    def _forget(self, job_id: str) -> bool:
        """Logs, metrics and the last checkpoint; the job, its events, its bill and its adapter stay.

        A checkpoint that a job goes on from stays too, and the job is looked at again when it may go. Logs and metrics
        go after objects: with them gone, a job that keeps a checkpoint is passed over until then.
        """
        with self._store.write() as tx:
            for checkpoint in checkpoints.list_checkpoints(tx, job_id, limit=ROWS_PER_DELETE).items:
                checkpoints.delete_checkpoint(tx, checkpoint.checkpoint_id)
            kept = checkpoints.list_checkpoints(tx, job_id, limit=ROWS_PER_DELETE).items
        self._delete_objects(job_id, kept=kept)
        with self._store.write() as tx:
            if sweeps.delete_output(tx, job_id, ROWS_PER_DELETE) > 0:
                return True
            if not kept:
                sweeps.record_sweep(tx, job_id, FORGET_STAGE)
        return False

    def _delete_objects(self, job_id: str, *, kept: Sequence[Checkpoint]) -> None:
        with self._store.read() as tx:
            adapter = adapters.find_adapter_of_job(tx, job_id)
        prefixes = tuple(thing.key_prefix for thing in (adapter, *kept) if thing is not None)
        for item in self._objects.list(job_prefix(job_id)):
            if not item.key.startswith(prefixes):
                self._objects.delete(item.key)


def decide_chores(facts: CleanFacts) -> list[Chore]:
    """Everything that is due, in an order that frees the most bytes first."""
    return [
        *choose_superseded(facts.running_checkpoints),
        *facts.files,
        *facts.adapters,
        *(upload for upload in facts.uploads if upload.expires_at < facts.now - UPLOAD_SLACK),
        *facts.leftover_parts,
        *(Sweep(job_id=job_id, stage=TIDY_STAGE) for job_id in facts.jobs_to_tidy),
        *(Sweep(job_id=job_id, stage=FORGET_STAGE) for job_id in facts.jobs_to_forget),
        DropRecords(before=facts.now - timedelta(hours=IDEMPOTENCY_HOURS)),
    ]


def choose_superseded(running: Sequence[Checkpoint]) -> list[Checkpoint]:
    """All but the newest of each job, by step and then by attempt."""
    by_job: dict[str, list[Checkpoint]] = {}
    for checkpoint in running:
        by_job.setdefault(checkpoint.job_id, []).append(checkpoint)
    superseded: list[Checkpoint] = []
    for own in by_job.values():
        own.sort(key=lambda checkpoint: (checkpoint.step, checkpoint.attempt_number), reverse=True)
        superseded.extend(own[KEPT_CHECKPOINTS:])
    return superseded


def _read_running_checkpoints(tx: ReadTx) -> list[Checkpoint]:
    return [
        checkpoint
        for attempt in attempts.list_active(tx)
        for checkpoint in checkpoints.list_checkpoints(tx, attempt.job_id, limit=BATCH).items
    ]


def _name_chore(chore: Chore) -> str:
    match chore:
        case Upload():
            return chore.upload_id
        case UploadPart():
            return chore.part_id
        case File():
            return chore.file_id
        case Adapter():
            return chore.adapter_id
        case Checkpoint():
            return chore.checkpoint_id
        case Sweep():
            return f"{chore.job_id} stage {chore.stage}"
        case DropRecords():
            return "records"
