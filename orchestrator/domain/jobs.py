"""A job as the control plane knows it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.domain.parents import Parent
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import JobState


@dataclass(frozen=True, kw_only=True)
class JobError:
    """Why a job failed, in OpenAI's shape; `param` names the field at fault when there is one."""

    code: str
    message: str
    param: str | None = None


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Another way to run a job with the same effective batch. `footprints` are bytes by device kind, `seconds` the
    expected time by device kind."""

    name: str
    plan: TrainingPlan
    footprints: dict[str, int]
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Job:
    """`plan` and `footprints` (bytes by device kind) are None until the files are validated.

    `phase` is the finer stage shown beside the state. `model_name` is the base model's registry name, and
    `model_revision` what it had when the job was accepted. `parent` is what the job goes on from.
    `not_before_at` holds a retry back. `trained_tokens` is kept current while the job runs. `rank` orders a user's own
    waiting jobs, None for the order in which they were queued; `held_at` is set while somebody holds the job back.
    `alternatives` are further plans of the same effective batch that the scheduler may choose. `held_usd_micros` is
    what the running job holds of its team's budget. `version` grows with each event.
    """

    job_id: str
    team_id: str
    created_by: str
    spec: JobSpec
    seed: int
    model_name: str
    state: JobState
    phase: str | None
    plan: TrainingPlan | None
    footprints: dict[str, int] | None
    estimate: dict[str, Any] | None
    total_steps: int | None
    current_step: int
    trained_tokens: int
    platform_failures: int
    attempts: int
    error: JobError | None
    fine_tuned_model: str | None
    result_files: tuple[str, ...]
    created_at: datetime
    queued_at: datetime | None
    not_before_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested_at: datetime | None
    pause_requested_at: datetime | None
    model_revision: str | None = None
    parent: Parent | None = None
    rank: float | None = None
    held_at: datetime | None = None
    array_id: str | None = None
    preempted_at: tuple[datetime, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    held_usd_micros: int = 0
    version: int = 0


@dataclass(frozen=True, kw_only=True)
class Event:
    """`seq` counts from 1 without holes in each job; it is the cursor of streams."""

    event_id: str
    job_id: str
    seq: int
    created_at: datetime
    level: str
    message: str
    type: str
    data: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class LogRecord:
    """One line of a job's log; `log_id` grows over the whole database and is the cursor of streams."""

    log_id: int
    job_id: str
    attempt_number: int
    seq: int
    at: datetime
    stream: str
    level: str
    text: str


@dataclass(frozen=True, kw_only=True)
class MetricRecord:
    metric_id: int
    job_id: str
    attempt_number: int
    seq: int
    at: datetime
    step: int
    values: dict[str, float]
