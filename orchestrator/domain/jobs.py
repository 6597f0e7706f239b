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
class Job:
    """`plan` and `footprints` (bytes by device kind) are None until the files are validated.

    `phase` is the finer stage shown beside the state. `model_name` is the base model's registry name, and
    `model_revision` what it had when the job was accepted. `parent` is what the job goes on from.
    `not_before_at` holds a retry back. `trained_tokens` is kept current while the job runs.
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
