"""What happens in a job: events, checkpoints, logs, metrics and attempts; pages and streams show the same objects."""

from typing import Any, Literal

from api.schemas.wire import Identified, Wire, find_unix, unix
from orchestrator.domain.artifacts import Checkpoint, build_model_name
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.errors import InvalidRequestError
from orchestrator.domain.failures import FAILURE_RULES
from orchestrator.domain.jobs import Event, Job, LogRecord, MetricRecord

LOG_ID = "ftlog-"
METRIC_ID = "ftmetric-"
MAX_ID_DIGITS = 18
"""What certainly fits into a database's 64 bits."""
OPENAI_METRICS = {
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    "mean_token_accuracy": "train_mean_token_accuracy",
}


def read_cursor(after: str | None, prefix: str) -> int:
    """The number in a row's id; 0 for none. Raises InvalidRequestError when it is not such an id."""
    if after is None:
        return 0
    number = after.removeprefix(prefix)
    if number == after or not (number.isascii() and number.isdecimal() and len(number) <= MAX_ID_DIGITS):
        raise InvalidRequestError(f"after: {after!r} is not an id like {prefix}123", param="after")
    return int(number)


class EventOut(Identified):
    object: Literal["fine_tuning.job.event"]
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None

    @classmethod
    def of(cls, event: Event) -> "EventOut":
        return cls.model_validate(
            {
                "id": event.event_id,
                "object": "fine_tuning.job.event",
                "created_at": unix(event.created_at),
                "level": event.level,
                "message": event.message,
                "type": event.type,
                "data": event.data,
            }
        )


class LogOut(Identified):
    """One line of a job's log."""

    object: Literal["fine_tuning.job.log"]
    attempt: int
    seq: int
    at: float
    """Unix seconds with milliseconds, by the worker's clock."""
    stream: str
    """stdout, stderr, or tunepool for the service's own lines."""
    level: str
    text: str

    @classmethod
    def of(cls, record: LogRecord) -> "LogOut":
        return cls(
            id=f"{LOG_ID}{record.log_id}",
            object="fine_tuning.job.log",
            attempt=record.attempt_number,
            seq=record.seq,
            at=round(record.at.timestamp(), 3),
            stream=record.stream,
            level=record.level,
            text=record.text,
        )


class MetricOut(Identified):
    """The figures of one step: train_loss, eval_loss, learning_rate, grad_norm, tokens_per_second, …"""

    object: Literal["fine_tuning.job.metric"]
    attempt: int
    seq: int
    at: float
    step: int
    values: dict[str, float]

    @classmethod
    def of(cls, record: MetricRecord) -> "MetricOut":
        return cls(
            id=f"{METRIC_ID}{record.metric_id}",
            object="fine_tuning.job.metric",
            attempt=record.attempt_number,
            seq=record.seq,
            at=round(record.at.timestamp(), 3),
            step=record.step,
            values=record.values,
        )


class CheckpointOut(Identified):
    """A complete checkpoint. `metrics` uses OpenAI's names."""

    object: Literal["fine_tuning.job.checkpoint"]
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    metrics: dict[str, float]
    step_number: int
    attempt: int
    size_bytes: int

    @classmethod
    def of(cls, checkpoint: Checkpoint, job: Job, team_name: str) -> "CheckpointOut":
        """Its name is that of the fine-tuned model that the job has made or would make, and the step."""
        model_name = job.fine_tuned_model or build_model_name(
            base_model=job.model_name, team_name=team_name, suffix=job.spec.suffix, job_id=job.job_id
        )
        return cls(
            id=checkpoint.checkpoint_id,
            object="fine_tuning.job.checkpoint",
            created_at=unix(checkpoint.created_at),
            fine_tuned_model_checkpoint=f"{model_name}:ckpt-step-{checkpoint.step}",
            fine_tuning_job_id=checkpoint.job_id,
            metrics={"step": float(checkpoint.step)} | _openai_metrics(checkpoint.metrics),
            step_number=checkpoint.step,
            attempt=checkpoint.attempt_number,
            size_bytes=sum(file.size_bytes for file in checkpoint.files),
        )


def _openai_metrics(metrics: dict[str, float]) -> dict[str, float]:
    return {OPENAI_METRICS.get(name, name): value for name, value in metrics.items()}


class FailureOut(Wire):
    code: str
    message: str
    blame: Literal["user", "platform", "nobody"]
    """Who pays for the lost time: the team or the platform."""
    hint: str


class AttemptOut(Identified):
    """One execution of a job, on one device or several."""

    object: Literal["fine_tuning.job.attempt"]
    number: int
    state: str
    phase: str | None
    device_id: str
    node: str
    device_type: str
    device_ids: list[str]
    """All its devices, in the order of the training processes' ranks; `device_id` is the first."""
    reserved_bytes: int
    """On each of them; the peaks are the highest on any."""
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_device_bytes: int
    resumed_from_step: int | None
    failure: FailureOut | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    released_at: int | None
    """When the device was free again, with proof."""

    @classmethod
    def of(cls, attempt: Attempt) -> "AttemptOut":
        return cls(
            id=attempt.attempt_id,
            object="fine_tuning.job.attempt",
            number=attempt.number,
            state=attempt.state.value,
            phase=attempt.phase,
            device_id=attempt.device_id,
            node=attempt.node_name,
            device_type=attempt.device_type,
            device_ids=[device.device_id for device in attempt.devices],
            reserved_bytes=attempt.reserved_bytes,
            peak_allocated_bytes=attempt.peak_allocated_bytes,
            peak_reserved_bytes=attempt.peak_reserved_bytes,
            peak_device_bytes=attempt.peak_device_bytes,
            resumed_from_step=attempt.resumed_from_step,
            failure=_failure_of(attempt),
            created_at=unix(attempt.created_at),
            started_at=find_unix(attempt.started_at),
            ended_at=find_unix(attempt.ended_at),
            released_at=find_unix(attempt.released_at),
        )


def _failure_of(attempt: Attempt) -> FailureOut | None:
    if attempt.failure_kind is None:
        return None
    rule = FAILURE_RULES[attempt.failure_kind]
    return FailureOut(
        code=attempt.failure_kind.value,
        message=attempt.failure_message or rule.hint,
        blame=rule.blame.value,
        hint=rule.hint,
    )
