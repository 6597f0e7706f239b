"""Arrays of jobs: one submission, many jobs, a limit on how many run at once."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from api.client.jobs import JobFields
from api.client.results import Result
from api.client.tail import read_pages
from api.client.transport import Transport

ARRAYS = "/v1/fine_tuning/job_arrays"


class ArrayJob(Result):
    """`varied` has the fields in which the array's jobs differ, by their path with dots."""

    id: str
    status: str
    varied: Mapping[str, Any]
    best_eval_loss: float | None = None
    fine_tuned_model: str | None = None


class JobArray(Result):
    """`counts` has how many jobs are in each state. `jobs` is empty in a list."""

    id: str
    name: str
    team: str
    created_at: int
    max_parallel: int | None
    total: int
    counts: Mapping[str, int]
    best_job_id: str | None = None
    jobs: tuple[ArrayJob, ...] = ()


class Arrays:
    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(
        self,
        job: JobFields,
        vary: Mapping[str, Sequence[Any]],
        *,
        max_parallel: int | None = None,
        name: str | None = None,
        idempotency_key: str | None = None,
    ) -> JobArray:
        """Submit every combination of the values in `vary`, such as `{"lora.r": [8, 16]}`: all jobs or none.

        Repeats of one call make one array; so do calls with the same idempotency key within a day.
        """
        body = {"job": job, "vary": vary, "max_parallel": max_parallel, "name": name}
        return JobArray.model_validate(self._transport.post(ARRAYS, body, idempotency_key=idempotency_key))

    def get(self, array_id: str) -> JobArray:
        return JobArray.model_validate(self._transport.get(f"{ARRAYS}/{array_id}"))

    def list(self) -> Iterator[JobArray]:
        """Newest first."""
        return read_pages(self._transport, ARRAYS, JobArray, {"limit": 100})

    def set_max_parallel(self, array_id: str, max_parallel: int | None) -> JobArray:
        """How many of its jobs may run at once from now on; None for as many as there is room for."""
        return JobArray.model_validate(self._transport.patch(f"{ARRAYS}/{array_id}", {"max_parallel": max_parallel}))

    def cancel(self, array_id: str) -> JobArray:
        """Cancel every job of it that has not ended."""
        return JobArray.model_validate(self._transport.post(f"{ARRAYS}/{array_id}/cancel"))
