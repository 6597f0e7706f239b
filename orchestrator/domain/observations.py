"""What an ended attempt teaches: what was predicted for it beside what was measured. Pure.

An estimate that a calibration has changed is taken back to the raw prediction first, so that learning never feeds on
itself. What was told to the user is kept too: that is what the accuracy of estimates is about.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.estimate_terms import CALIBRATION_TERM, Method
from orchestrator.domain.failures import FailureKind
from orchestrator.domain.jobs import Job
from orchestrator.domain.outcomes import AttemptEnd
from orchestrator.domain.pace import Pace
from orchestrator.domain.plan import TrainingPlan
from orchestrator.domain.states import AttemptState

ESTIMATORS: Mapping[Method, int] = {"closed_form": 1, "traced": 3}
"""The version of each way to predict memory; they err in their own ways, so each learns from its own predictions. One
made by other formulas says nothing of these: take a new number, of this method or of all, when formulas change."""
SHORTEST_LENGTH = 64
LONGEST_START_SECONDS = 3600.0
"""From the launch to the first report: two clocks, so it is held within an hour."""
PHASES_OF_TERM: Mapping[str, tuple[str, ...]] = {
    "start": ("launching", "starting", "tokenizing"),
    "loading": ("downloading", "loading_model"),
    "training": ("training",),
    "evaluating": ("evaluating",),
    "saving": ("saving", "uploading"),
}
"""Which phases of a worker each term of a time estimate predicts; `launching` ends with the first report."""


@dataclass(frozen=True, kw_only=True)
class JobKind:
    """What jobs are alike by. `length_tokens` is the rows' maximum length, rounded up to a power of two."""

    base_model: str
    family: str
    method: str
    quantization: str
    length_tokens: int
    device_type: str


@dataclass(frozen=True, kw_only=True)
class Observation:
    """One ended attempt. Predictions are None when the job had none. `estimator` is one of ESTIMATORS, or older.

    `predicted_bytes` and `predicted_seconds` (by term, of the steps that were done) are raw, `told_bytes` and
    `told_seconds` what the user saw. `measured_bytes` is the peak that the prediction is of; `run_seconds` is billed.
    """

    attempt_id: str
    job_id: str
    team_id: str
    kind: JobKind
    ended_at: datetime
    estimator: int
    succeeded: bool
    out_of_memory: bool
    resumed: bool
    predicted_bytes: int | None
    told_bytes: int | None
    reserved_bytes: int
    measured_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    peak_device_bytes: int
    steps: int
    trained_tokens: int
    seen_tokens: int
    predicted_seconds: Mapping[str, float]
    phase_seconds: Mapping[str, float]
    told_seconds: float | None
    run_seconds: float

    def measured_seconds(self, term: str) -> float:
        return sum(self.phase_seconds.get(phase, 0.0) for phase in PHASES_OF_TERM[term])


def name_kind(plan: TrainingPlan, *, base_model: str, family: str, device_type: str) -> JobKind:
    return JobKind(
        base_model=base_model,
        family=family,
        method=plan.method,
        quantization=plan.quantization,
        length_tokens=max(SHORTEST_LENGTH, 1 << (plan.max_seq_tokens - 1).bit_length()),
        device_type=device_type,
    )


def observe_attempt(job: Job, attempt: Attempt, end: AttemptEnd, *, family: str) -> Observation | None:
    """None when nothing was launched or the job has no plan. Several devices teach nothing of times: that they wait for
    one another is in no prediction, and is not to be learned for jobs with one."""
    if attempt.started_at is None or attempt.ended_at is None or job.plan is None:
        return None
    pace = attempt.pace or Pace()
    memory = _part(job.estimate, "memory", attempt.device_kind)
    time = _part(job.estimate, "time", attempt.device_kind)
    breakdown = memory.get("breakdown", {})
    told_bytes = memory.get("total_bytes")
    return Observation(
        attempt_id=attempt.attempt_id,
        job_id=job.job_id,
        team_id=job.team_id,
        kind=name_kind(job.plan, base_model=job.model_name, family=family, device_type=attempt.device_type),
        ended_at=attempt.ended_at,
        estimator=ESTIMATORS[memory.get("method", "closed_form")],
        succeeded=end.state is AttemptState.SUCCEEDED,
        out_of_memory=end.failure is not None and end.failure.kind is FailureKind.OUT_OF_MEMORY,
        resumed=attempt.resumed_from_step is not None,
        predicted_bytes=None if told_bytes is None else told_bytes - breakdown.get(CALIBRATION_TERM, 0),
        told_bytes=told_bytes,
        reserved_bytes=attempt.reserved_bytes,
        measured_bytes=_measure_bytes(attempt, runtime_bytes=breakdown.get("context", breakdown.get("runtime", 0))),
        peak_allocated_bytes=attempt.peak_allocated_bytes,
        peak_reserved_bytes=attempt.peak_reserved_bytes,
        peak_device_bytes=attempt.peak_device_bytes,
        steps=pace.steps,
        trained_tokens=pace.trained_tokens,
        seen_tokens=round(pace.seen_tokens),
        predicted_seconds=_predict_done(time, pace) if job.plan.devices == 1 else {},
        phase_seconds=_phase_seconds(attempt, pace),
        told_seconds=time.get("seconds"),
        run_seconds=(attempt.ended_at - attempt.started_at).total_seconds(),
    )


def _part(estimate: Mapping[str, Any] | None, name: str, kind: str) -> Mapping[str, Any]:
    found = ((estimate or {}).get(name) or {}).get(kind)
    return found if isinstance(found, Mapping) else {}


def _measure_bytes(attempt: Attempt, *, runtime_bytes: int) -> int:
    """On CPU the peak resident set. A GPU's own count is of all that run on it, so there it is the allocator's with the
    predicted context, or the device's count when that is less."""
    if attempt.device_kind == "cpu":
        return attempt.peak_device_bytes
    if not attempt.peak_reserved_bytes:
        return 0
    own = attempt.peak_reserved_bytes + runtime_bytes
    return min(own, attempt.peak_device_bytes) if attempt.peak_device_bytes else own


def _predict_done(time: Mapping[str, Any], pace: Pace) -> dict[str, float]:
    """The raw prediction of what this attempt did: training in proportion to its steps, evaluation to its passes."""
    raw = {str(term): float(seconds) for term, seconds in (time.get("uncalibrated") or {}).items()}
    steps, passes = time.get("steps") or 0, time.get("evaluations") or 0
    shares = {
        "training": pace.steps / steps if steps else 0.0,
        "evaluating": pace.entered.get("evaluating", 0) / passes if passes else 0.0,
    }
    return {term: seconds * shares.get(term, 1.0) for term, seconds in raw.items()}


def _phase_seconds(attempt: Attempt, pace: Pace) -> dict[str, float]:
    found = pace.phase_seconds()
    if attempt.started_at is not None and pace.first_unix is not None:
        waited = pace.first_unix - attempt.started_at.timestamp()
        found["launching"] = min(max(0.0, waited), LONGEST_START_SECONDS)
    return found


def forget_plan(estimate: Mapping[str, Any]) -> dict[str, Any]:
    """Without what was predicted of a plan that is trained no more: compared with another's run it teaches nothing."""
    times = {kind: {**time, "uncalibrated": {}} for kind, time in (estimate.get("time") or {}).items()}
    return {**estimate, "memory": {}, "time": times, "savings": []}
