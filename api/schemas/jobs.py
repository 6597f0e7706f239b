"""The fine-tuning job on the wire: OpenAI's fields exactly, Tunepool's own beside them."""

from typing import Any, Literal

from api.schemas.adapters import ParentOut
from api.schemas.wire import Identified, Money, Wire, find_unix, unix, usd
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.pace import estimate_finish, predict_finish
from orchestrator.domain.plan import BASE_LEARNING_RATE
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.spec import (
    Auto,
    LoraSpec,
    QuantizationSpec,
    ResourcesSpec,
    TrainingSpec,
)
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.services.jobs import JobExtras


class HyperparametersOut(Wire):
    """'auto' until the files are validated, then the numbers that are used."""

    n_epochs: Auto | int
    batch_size: Auto | int
    learning_rate_multiplier: Auto | float

    @classmethod
    def of(cls, job: Job) -> "HyperparametersOut":
        asked, plan = job.spec.method.supervised.hyperparameters, job.plan
        if plan is None:
            return cls(
                n_epochs=asked.n_epochs,
                batch_size=asked.batch_size,
                learning_rate_multiplier=asked.learning_rate_multiplier,
            )
        return cls(
            n_epochs=plan.epochs,
            batch_size=plan.batch_rows,
            learning_rate_multiplier=float(f"{plan.learning_rate / BASE_LEARNING_RATE:.6g}"),
        )


class SupervisedOut(Wire):
    hyperparameters: HyperparametersOut


class MethodOut(Wire):
    type: Literal["supervised"]
    supervised: SupervisedOut


class JobErrorOut(Wire):
    code: str
    message: str
    param: str | None


class Progress(Wire):
    step: int
    total_steps: int | None
    percent: float | None
    trained_tokens: int


class JobCost(Wire):
    """What the job's ledger sums up to so far."""

    currency: Money
    billed_usd_micros: int
    billed_usd: str
    lost_usd_micros: int
    """Worth of the time that the platform lost; charged to nobody."""
    lost_usd: str
    final: bool
    """Whether nothing will be added."""


class JobEnd(Wire):
    """What ends a stream."""

    id: str
    object: Literal["fine_tuning.job"]
    status: str


class JobOut(Identified):
    """A fine-tuning job. The first block is OpenAI's, the second Tunepool's."""

    object: Literal["fine_tuning.job"]
    created_at: int
    error: JobErrorOut | None
    fine_tuned_model: str | None
    """Set once the adapter is published."""
    finished_at: int | None
    hyperparameters: HyperparametersOut
    model: str
    organization_id: str
    """The team's id."""
    result_files: list[str]
    seed: int
    status: Literal["validating_files", "queued", "running", "pausing", "paused", "succeeded", "failed", "cancelled"]
    trained_tokens: int | None
    """Set at the end; `progress` has the number so far."""
    training_file: str
    validation_file: str | None
    estimated_finish: int | None
    integrations: list[dict[str, Any]]
    metadata: dict[str, str] | None
    method: MethodOut

    suffix: str | None
    team: str
    """The team's name."""
    created_by: str
    """The id of the API key that submitted the job."""
    parent: ParentOut | None
    """What `model` names when that is no base model; training starts from its weights."""
    phase: str | None
    """The finer stage: loading_model, training, uploading, …"""
    queued_at: int | None
    started_at: int | None
    cancel_requested: bool
    pause_requested: bool
    progress: Progress
    attempt: int
    """How many attempts there were so far."""
    lora: LoraSpec
    quantization: QuantizationSpec
    training: TrainingSpec
    resources: ResourcesSpec
    priority: int
    priority_class: PriorityClass
    held: bool
    """Whether somebody holds the job back."""
    array_id: str | None
    preemptions: int
    """How often the job has made room for another one."""
    max_cost_usd: str | None
    cost: JobCost
    plan: dict[str, Any] | None
    """Every number that the worker uses, without 'auto'; null until the files are validated."""
    estimate: dict[str, Any] | None
    """Predicted memory, time and cost; null until the files are validated."""
    adapter_id: str | None
    warnings: list[str]

    @classmethod
    def of(cls, job: Job, extras: JobExtras) -> "JobOut":
        spec, hyperparameters = job.spec, HyperparametersOut.of(job)
        final = job.state in FINAL_JOB_STATES
        return cls(
            id=job.job_id,
            object="fine_tuning.job",
            created_at=unix(job.created_at),
            error=_error_of(job),
            fine_tuned_model=job.fine_tuned_model,
            finished_at=find_unix(job.finished_at),
            hyperparameters=hyperparameters,
            model=spec.model,
            organization_id=job.team_id,
            result_files=list(job.result_files),
            seed=job.seed,
            status=job.state.value,
            trained_tokens=job.trained_tokens if final else None,
            training_file=spec.training_file,
            validation_file=spec.validation_file,
            estimated_finish=_estimate_finish(job, extras.attempt),
            integrations=[],
            metadata=spec.metadata,
            method=MethodOut(type="supervised", supervised=SupervisedOut(hyperparameters=hyperparameters)),
            suffix=spec.suffix,
            team=extras.team_name,
            created_by=job.created_by,
            parent=ParentOut.find(job.parent.lineage if job.parent else None),
            phase=job.phase,
            queued_at=find_unix(job.queued_at),
            started_at=find_unix(job.started_at),
            cancel_requested=job.cancel_requested_at is not None,
            pause_requested=job.pause_requested_at is not None,
            progress=_progress_of(job),
            attempt=job.attempts,
            lora=spec.lora,
            quantization=spec.quantization,
            training=spec.training,
            resources=spec.resources,
            priority=spec.priority,
            priority_class=spec.priority_class,
            held=job.held_at is not None,
            array_id=job.array_id,
            preemptions=len(job.preempted_at),
            max_cost_usd=None if spec.max_cost_usd_micros is None else usd(spec.max_cost_usd_micros),
            cost=_cost_of(extras, final=final),
            plan=None if job.plan is None else job.plan.model_dump(mode="json"),
            estimate=job.estimate,
            adapter_id=None if extras.adapter is None else extras.adapter.adapter_id,
            warnings=_warnings_of(job),
        )


def _error_of(job: Job) -> JobErrorOut | None:
    error = job.error
    return None if error is None else JobErrorOut(code=error.code, message=error.message, param=error.param)


def _progress_of(job: Job) -> Progress:
    percent = round(100 * job.current_step / job.total_steps, 2) if job.total_steps else None
    return Progress(
        step=job.current_step, total_steps=job.total_steps, percent=percent, trained_tokens=job.trained_tokens
    )


def _cost_of(extras: JobExtras, *, final: bool) -> JobCost:
    return JobCost(
        currency="usd",
        billed_usd_micros=extras.billed_usd_micros,
        billed_usd=usd(extras.billed_usd_micros),
        lost_usd_micros=extras.lost_usd_micros,
        lost_usd=usd(extras.lost_usd_micros),
        final=final,
    )


def _warnings_of(job: Job) -> list[str]:
    if job.state is JobState.QUEUED and job.estimate is not None and job.estimate.get("device_id") is None:
        return ["No device that the pool had when the files were checked could hold this job."]
    return []


def _estimate_finish(job: Job, attempt: Attempt | None) -> int | None:
    """From the attempt's own steps and evaluations; until it has reported one, as it was predicted."""
    if job.state is not JobState.RUNNING or not job.total_steps or attempt is None:
        return None
    began_at, seen_at = attempt.started_at, attempt.last_contact_at
    done = job.current_step - (attempt.resumed_from_step or 0)
    if began_at is None or seen_at is None:
        return None
    if done <= 0:
        share = 1 - (attempt.resumed_from_step or 0) / job.total_steps
        terms = _predicted_terms(job, attempt)
        return find_unix(predict_finish(terms, share_left=share, began_at=began_at, seen_at=seen_at))
    if attempt.pace is not None and job.plan is not None:
        finish = estimate_finish(
            attempt.pace,
            job.plan,
            step=job.current_step,
            total_steps=job.total_steps,
            evaluates=job.spec.validation_file is not None,
            seen_at=seen_at,
            end_seconds=_predicted_terms(job, attempt).get("saving", 0.0),
        )
        if finish is not None:
            return unix(finish)
    left = job.total_steps - job.current_step
    return unix(seen_at + (seen_at - began_at) / done * left)


def _predicted_terms(job: Job, attempt: Attempt) -> dict[str, float]:
    """Seconds by term on this kind of device; empty when nothing was predicted."""
    predicted = ((job.estimate or {}).get("time") or {}).get(attempt.device_kind) or {}
    return {term: float(seconds) for term, seconds in (predicted.get("breakdown") or {}).items()}
