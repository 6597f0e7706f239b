"""How a trained adapter becomes visible: verified in the object store, then one transaction for everything.

Invariants: the adapter's row, the success, the last ledger entry and the event are written together or not at all; a
wish to cancel that was written before them wins. Everything before that transaction may be done again: verification
reads what it wrote, and the result file has a name that follows from the attempt's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from orchestrator.domain import outcomes
from orchestrator.domain.artifacts import Adapter, File, FilePurpose, FileStatus
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.failures import Failure
from orchestrator.domain.jobs import Job, MetricRecord
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.protocol import Succeeded
from orchestrator.domain.states import AttemptState
from orchestrator.objects.client import Objects
from orchestrator.objects.layout import file_key
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.results import write_results_csv
from orchestrator.scheduler.sentences import describe_bytes
from orchestrator.store import adapters, attempts, events, files, jobs, metrics
from orchestrator.store.session import Store, WriteTx

PARALLEL_PUBLICATIONS = 2
METRICS_PER_READ = 5000
RESULTS_NAME = "step_metrics.csv"

VerifyAdapter = Callable[[Job, Attempt, Succeeded], Adapter | Failure]
"""Read every byte of what the worker uploaded and create the manifest only if absent. The failure says what is wrong.

Verifying again gives the same adapter. Raises ObjectsUnavailableError.
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Verifying:
    attempt: Attempt
    job: Job


class Publish:
    def __init__(
        self, store: Store, objects: Objects, leadership: Leadership, *, verify_adapter: VerifyAdapter
    ) -> None:
        self._store = store
        self._objects = objects
        self._leadership = leadership
        self._verify_adapter = verify_adapter

    def loop(self, *, interval_seconds: float) -> Loop[Sequence[Verifying], Verifying]:
        return Loop(
            name="publish",
            interval_seconds=interval_seconds,
            load=self.load,
            decide=lambda waiting: waiting,
            apply=self.apply,
            subject=lambda waiting: waiting.attempt.attempt_id,
            parallel=PARALLEL_PUBLICATIONS,
            wakes=("reap",),
        )

    def load(self) -> Sequence[Verifying]:
        with self._store.read() as tx:
            return [
                Verifying(attempt=attempt, job=jobs.get_job(tx, attempt.job_id))
                for attempt in attempts.list_active(tx)
                if attempt.state is AttemptState.VERIFYING and attempt.lease_owner == self._leadership.owner
            ]

    def apply(self, waiting: Verifying) -> None:
        attempt, job = waiting.attempt, waiting.job
        if job.cancel_requested_at is not None:
            with self._store.write() as tx:
                self._end(tx, attempt, outcomes.cancelled())
            return
        assert attempt.result is not None, "the move to verifying stores the result"
        verified = self._verify_adapter(job, attempt, attempt.result)
        if isinstance(verified, Failure):
            with self._store.write() as tx:
                self._end(tx, attempt, outcomes.failed(verified.kind, verified.message))
            log.warning("an adapter did not pass its checks", attempt=attempt.attempt_id, reason=verified.message)
            return
        results = self._store_results(attempt)
        with self._store.write() as tx:
            self._publish(tx, waiting, verified, results)

    def _store_results(self, attempt: Attempt) -> File:
        """The CSV file of the job's metrics, under an id that is the same each time."""
        body = write_results_csv(self._read_metrics(attempt.job_id))
        file_id = "file-" + attempt.attempt_id.removeprefix("attempt-")
        key = file_key(attempt.team_id, file_id)
        self._objects.put(key, body, content_type="text/csv")
        return File(
            file_id=file_id,
            team_id=attempt.team_id,
            created_at=attempt.created_at,
            filename=RESULTS_NAME,
            purpose=FilePurpose.RESULTS,
            size_bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            status=FileStatus.PROCESSED,
            status_details=None,
            report=None,
            expires_at=None,
            object_key=key,
        )

    def _read_metrics(self, job_id: str) -> list[MetricRecord]:
        found: list[MetricRecord] = []
        with self._store.read() as tx:
            while page := metrics.list_metrics(tx, job_id, found[-1].metric_id if found else 0, METRICS_PER_READ):
                found += page
        return found

    def _publish(self, tx: WriteTx, waiting: Verifying, adapter: Adapter, results: File) -> None:
        """Attempt first, job second: the order of locks. The wish to cancel is read under the job's lock."""
        attempt = attempts.lock_attempt(tx, waiting.attempt.attempt_id, waiting.attempt.lease_token)
        job = jobs.lock_job(tx, attempt.job_id)
        if job.cancel_requested_at is not None:
            self._end(tx, attempt, outcomes.cancelled())
            return
        adapters.insert_adapter(tx, replace(adapter, created_at=tx.now()))
        files.insert_file(tx, replace(results, created_at=tx.now()))
        size = sum(file.size_bytes for file in adapter.files)
        message = (
            f"The adapter {adapter.name} is verified: {len(adapter.files)} files, {describe_bytes(size)}, "
            "all checksums agree."
        )
        data = {"adapter_id": adapter.adapter_id, "fine_tuned_model": adapter.name}
        events.append_event(tx, job.job_id, message=message, data=data)
        assert attempt.result is not None
        changes = {
            "fine_tuned_model": adapter.name,
            "result_files": (results.file_id,),
            "current_step": attempt.result.step,
            "trained_tokens": attempt.result.trained_tokens,
        }
        self._end(tx, attempt, outcomes.succeeded(), changes)
        log.info("adapter published", job=job.job_id, adapter=adapter.adapter_id)

    def _end(self, tx: WriteTx, attempt: Attempt, end: AttemptEnd, changes: dict[str, object] | None = None) -> None:
        """The bill stops where training did: the last contact was the worker's last proof of life."""
        ended_at = attempt.last_contact_at or tx.now()
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, end, ended_at=ended_at, changes=changes)
