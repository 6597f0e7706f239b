"""Arrays of jobs on the wire: submitted as one job and the values that vary, shown with each job's state."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from api.schemas.submissions import EXAMPLE, JobCreate
from api.schemas.wire import Asked, Identified, Wire, unix
from api.validation import explain_model
from orchestrator.domain.arrays import Variant, Variation, expand
from orchestrator.services.arrays import ArrayDetail, ArrayView, Member, Terms

MaxParallel = Annotated[int, Field(ge=1, le=1_000_000)] | None


class ArrayCreate(Asked):
    """One job, and what varies: every combination becomes a job."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": EXAMPLE,
                    "vary": {"lora.r": [8, 16, 32], "training.learning_rate": [1e-4, 2e-4]},
                    "max_parallel": 2,
                }
            ]
        }
    )

    job: JobCreate
    """As for POST /v1/fine_tuning/jobs."""
    vary: Annotated[dict[str, list[Any]], Field(min_length=1, max_length=16)]
    """Values by the path of a job's field, such as `lora.r`. All combinations are made, 256 jobs at most."""
    max_parallel: MaxParallel = None
    """How many of the jobs may run at once; null for as many as there is room for."""
    name: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """For people; the job's suffix or model when it is left out."""

    def to_variants(self) -> list[Variant]:
        """Raises InvalidRequestError, naming the value, for a combination that is not a job."""
        fields = self.job.model_dump(mode="json", exclude_unset=True)
        return [_to_variant(variation) for variation in expand(fields, self.vary)]

    def to_terms(self) -> Terms:
        return Terms(name=self.name, max_parallel=self.max_parallel, team=self.job.team)


def _to_variant(variation: Variation) -> Variant:
    try:
        spec = JobCreate.model_validate(variation.fields).to_spec()
    except ValidationError as invalid:
        raise variation.locate(explain_model(invalid, body=variation.fields, model=JobCreate)) from invalid
    return Variant(variation=variation, spec=spec)


class ArrayChange(Asked):
    model_config = ConfigDict(json_schema_extra={"examples": [{"max_parallel": 4}]})

    max_parallel: MaxParallel
    """How many of the jobs may run at once from now on; null for as many as there is room for."""


class ArrayJob(Wire):
    """One of the array's jobs; GET /v1/fine_tuning/jobs/{id} has all of it."""

    id: str
    status: str
    varied: dict[str, Any]
    """The fields in which the array's jobs differ, by their path with dots."""
    best_eval_loss: float | None
    """The least loss on the validation file so far."""
    fine_tuned_model: str | None

    @classmethod
    def of(cls, member: Member) -> "ArrayJob":
        job = member.job
        return cls(
            id=job.job_id,
            status=job.state.value,
            varied=dict(member.varied),
            best_eval_loss=member.best_eval_loss,
            fine_tuned_model=job.fine_tuned_model,
        )


class ArrayOut(Identified):
    object: Literal["fine_tuning.job_array"]
    name: str
    team: str
    """The team's name."""
    created_by: str
    """The id of the API key that submitted the array."""
    created_at: int
    max_parallel: int | None
    total: int
    """How many jobs the array has."""
    counts: dict[str, int]
    """How many of its jobs are in each state; states of no job are left out."""

    @classmethod
    def of(cls, view: ArrayView) -> "ArrayOut":
        return cls(**_fields(view))


class ArrayDetailOut(ArrayOut):
    """An array with its jobs."""

    best_job_id: str | None
    """The job with the least loss on the validation file so far."""
    jobs: list[ArrayJob]
    """In the order in which they were submitted."""

    @classmethod
    def of_detail(cls, found: ArrayDetail) -> "ArrayDetailOut":
        losses = ((member.best_eval_loss, member.job.job_id) for member in found.members)
        judged = [(loss, job_id) for loss, job_id in losses if loss is not None]
        return cls(
            **_fields(found),
            best_job_id=min(judged)[1] if judged else None,
            jobs=[ArrayJob.of(member) for member in found.members],
        )


def _fields(view: ArrayView) -> dict[str, Any]:
    array = view.array
    return {
        "id": array.array_id,
        "object": "fine_tuning.job_array",
        "name": array.name,
        "team": view.team_name,
        "created_by": array.created_by,
        "created_at": unix(array.created_at),
        "max_parallel": array.max_parallel,
        "total": sum(view.counts.values()),
        "counts": {state.value: number for state, number in view.counts.items()},
    }
