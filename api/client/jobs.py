"""Fine-tuning jobs: submit, look, follow, stop."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, TypedDict, Unpack

from api.client.errors import WaitTimeoutError
from api.client.results import Attempt, Checkpoint, Cost, Event, Job, LogLine, MetricPoint, Page
from api.client.tail import R, follow_rows, read_pages
from api.client.transport import Params, Transport
from api.client.waits import Why

JOBS = "/v1/fine_tuning/jobs"
EVENTS_PER_PAGE, LINES_PER_PAGE = 100, 1000
"""The most that the API gives."""


class JobFields(TypedDict, total=False):
    """The fields of a job, as in the API's documentation; `model` and `training_file` are enough."""

    model: str
    training_file: str
    validation_file: str | None
    method: Mapping[str, Any]
    suffix: str | None
    seed: int | None
    metadata: Mapping[str, str] | None
    lora: Mapping[str, Any]
    quantization: Mapping[str, Any]
    training: Mapping[str, Any]
    resources: Mapping[str, Any]
    priority: int
    priority_class: str
    max_cost_usd: str | None
    team: str | None


class ChangeFields(TypedDict, total=False):
    """As in the API's documentation."""

    priority: int
    priority_class: str
    held: bool
    before: str
    micro_batch_size: int
    gradient_checkpointing: bool
    device_type: str
    flexible: bool


class EstimateFields(JobFields, total=False):
    """A job's fields; without `training_file` its rows may be described."""

    rows: int
    tokens: int
    longest_row_tokens: int


class Jobs:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, *, idempotency_key: str | None = None, **fields: Unpack[JobFields]) -> Job:
        """Submit a job. Repeats of one call make one job; so do calls with the same idempotency key within a day."""
        return Job.model_validate(self._transport.post(JOBS, fields, idempotency_key=idempotency_key))

    def get(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.get(f"{JOBS}/{job_id}"))

    def list(
        self, *, limit: int = 20, after: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Page[Job]:
        """One page, newest first; `metadata` keeps the jobs that hold these pairs."""
        filters = {f"metadata[{name}]": value for name, value in (metadata or {}).items()}
        page = self._transport.get(JOBS, {"limit": limit, "after": after, **filters})
        return Page(tuple(Job.model_validate(item) for item in page["data"]), page["has_more"])

    def cancel(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.post(f"{JOBS}/{job_id}/cancel"))

    def pause(self, job_id: str) -> Job:
        """Ask the job to save a checkpoint and to give its device back."""
        return Job.model_validate(self._transport.post(f"{JOBS}/{job_id}/pause"))

    def resume(self, job_id: str) -> Job:
        return Job.model_validate(self._transport.post(f"{JOBS}/{job_id}/resume"))

    def change(self, job_id: str, **changes: Unpack[ChangeFields]) -> Job:
        """Change how a job waits: its priority, class, hold, order or size; what is not given stays."""
        return Job.model_validate(self._transport.patch(f"{JOBS}/{job_id}", changes))

    def why(self, job_id: str) -> Why:
        """Why a queued job waits. Raises ApiError with status 409 for a job that does not."""
        return Why.model_validate(self._transport.get(f"{JOBS}/{job_id}/why"))

    def events(self, job_id: str, *, follow: bool = False, after: str | None = None) -> Iterator[Event]:
        """Events, oldest first; with `follow` until the job is over."""
        return self._rows(Event, f"{JOBS}/{job_id}/events", {"order": "asc"}, follow=follow, after=after)

    def logs(
        self,
        job_id: str,
        *,
        follow: bool = False,
        after: str | None = None,
        attempt: int | None = None,
        level: str | None = None,
    ) -> Iterator[LogLine]:
        """Log lines, oldest first; with `follow` until the job is over. `after` is the id of the last line seen."""
        return self._rows(
            LogLine, f"{JOBS}/{job_id}/logs", {"attempt": attempt, "level": level}, follow=follow, after=after
        )

    def metrics(self, job_id: str, *, follow: bool = False, after: str | None = None) -> Iterator[MetricPoint]:
        """Figures by step, oldest first; with `follow` until the job is over."""
        return self._rows(MetricPoint, f"{JOBS}/{job_id}/metrics", {}, follow=follow, after=after)

    def cost(self, job_id: str) -> Cost:
        return Cost.model_validate(self._transport.get(f"{JOBS}/{job_id}/cost"))

    def attempts(self, job_id: str) -> tuple[Attempt, ...]:
        """Every execution of the job, the first one first."""
        found = read_pages(self._transport, f"{JOBS}/{job_id}/attempts", Attempt, {})
        return tuple(sorted(found, key=lambda attempt: attempt.number))

    def checkpoints(self, job_id: str) -> tuple[Checkpoint, ...]:
        """Complete checkpoints, newest first."""
        return tuple(read_pages(self._transport, f"{JOBS}/{job_id}/checkpoints", Checkpoint, {"limit": 100}))

    def wait(self, job_id: str, *, timeout_seconds: float | None = None, poll_seconds: float = 2.0) -> Job:
        """Return the job once it is over, however it ended. Raises WaitTimeoutError; the job goes on then."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            job = self.get(job_id)
            if job.is_final:
                return job
            if deadline is not None and time.monotonic() + poll_seconds > deadline:
                raise WaitTimeoutError(f"{job_id} is still {job.status} after {timeout_seconds:g} s")
            time.sleep(poll_seconds)

    def _rows(self, kind: type[R], path: str, params: Params, *, follow: bool, after: str | None) -> Iterator[R]:
        if follow:
            return follow_rows(self._transport, path, kind, params, after=after)
        limit = EVENTS_PER_PAGE if kind is Event else LINES_PER_PAGE
        return read_pages(self._transport, path, kind, {**params, "after": after, "limit": limit})
