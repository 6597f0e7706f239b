"""Fine-tuning jobs: submitted, shown, stopped."""

from fastapi import APIRouter

from api.dependencies import After, Id, Jobs, MetadataFilter, PageLimit, Queue, Reader, Repeats, WhichJobs, Why, Writer
from api.openapi import failures
from api.requests import JsonRoute
from api.schemas.jobs import JobOut
from api.schemas.queue import JobChange
from api.schemas.submissions import JobCreate
from api.schemas.why import WhyOut
from api.schemas.wire import ListPage, list_page
from orchestrator.domain.jobs import Job
from orchestrator.domain.teams import Caller
from orchestrator.services.jobs import Jobs as JobsService

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["Jobs"], route_class=JsonRoute)


def show(jobs: JobsService, caller: Caller, job: Job) -> JobOut:
    return JobOut.of(job, jobs.describe(caller, [job])[job.job_id])


@router.post("", responses=failures(400, 409, 413, 429), summary="Submit a job")
def create_job(body: JobCreate, caller: Writer, jobs: Jobs, repeats: Repeats) -> JobOut:
    """`model` and `training_file` are enough. What can be known to be wrong is refused at once, with the field's name;
    the rows are tokenized next (`validating_files`), then the job waits for a device (`queued`)."""
    repeat = repeats.of(body.model_dump(mode="json", exclude_unset=True))
    return show(jobs, caller, jobs.create(caller, body.to_spec(), repeat=repeat, team=body.team))


@router.get("", responses=failures(400), summary="List jobs")
def list_jobs(
    caller: Reader,
    jobs: Jobs,
    metadata: MetadataFilter,
    which: WhichJobs,
    after: After = None,
    limit: PageLimit = 20,
) -> ListPage[JobOut]:
    """Newest first, unless `sort` and `order` say otherwise. `metadata[key]=value` keeps the jobs that have this pair,
    `metadata=null` those that have none."""
    page = jobs.list(
        caller, metadata=metadata.pairs, metadata_is_null=metadata.is_null, which=which, limit=limit, after=after
    )
    extras = jobs.describe(caller, page.items)
    return list_page([JobOut.of(job, extras[job.job_id]) for job in page.items], has_more=page.has_more)


@router.get("/{job_id}", responses=failures(404), summary="Retrieve a job")
def get_job(job_id: Id, caller: Reader, jobs: Jobs) -> JobOut:
    return show(jobs, caller, jobs.get(caller, job_id))


@router.patch("/{job_id}", responses=failures(400, 404, 409, 413), summary="Change how a job waits")
def change_job(job_id: Id, body: JobChange, caller: Writer, jobs: Jobs, queue: Queue) -> JobOut:
    """Priority, class, hold, order among one's own, and size: a smaller micro-batch or checkpointing keeps the result
    and may start the job earlier. Each change is an event of the job."""
    return show(jobs, caller, queue.change(caller, job_id, body.to_change()))


@router.get("/{job_id}/why", responses=failures(404, 409), summary="Explain why a job waits")
def get_job_why(job_id: Id, caller: Reader, why: Why) -> WhyOut:
    """One reason, the place in the queue, and what would let the job start. 409 when it does not wait."""
    return WhyOut.of(why.explain(caller, job_id))


@router.post("/{job_id}/cancel", responses=failures(404, 409), summary="Cancel a job")
def cancel_job(job_id: Id, caller: Writer, jobs: Jobs) -> JobOut:
    """Final: the job can end in nothing but `cancelled` from here on. Safe to repeat; 409 when it ended otherwise."""
    return show(jobs, caller, jobs.cancel(caller, job_id))


@router.post("/{job_id}/pause", responses=failures(404, 409), summary="Pause a job")
def pause_job(job_id: Id, caller: Writer, jobs: Jobs) -> JobOut:
    """It saves a checkpoint, gives its device back and costs nothing until it is resumed. Safe to repeat."""
    return show(jobs, caller, jobs.pause(caller, job_id))


@router.post("/{job_id}/resume", responses=failures(404, 409), summary="Resume a job")
def resume_job(job_id: Id, caller: Writer, jobs: Jobs) -> JobOut:
    """A paused job is queued again and goes on from its last checkpoint. Safe to repeat."""
    return show(jobs, caller, jobs.resume(caller, job_id))
