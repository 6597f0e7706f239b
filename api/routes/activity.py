"""What happens in a job: its events, checkpoints, logs, metrics, attempts and cost; pages, and streams that resume."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from api.dependencies import (
    After,
    Costs,
    Follow,
    Id,
    Jobs,
    LineLimit,
    Order,
    PageLimit,
    Reader,
    StreamCursor,
    WhichLines,
)
from api.feeds import stream_events, stream_logs, stream_metrics
from api.openapi import failures, page_or_stream
from api.requests import JsonRoute
from api.schemas.activity import (
    LOG_ID,
    METRIC_ID,
    AttemptOut,
    CheckpointOut,
    EventOut,
    LogOut,
    MetricOut,
    read_cursor,
)
from api.schemas.costs import JobCostOut
from api.schemas.wire import ListPage, list_page

router = APIRouter(prefix="/v1/fine_tuning/jobs/{job_id}", tags=["Jobs"], route_class=JsonRoute)


@router.get(
    "/events",
    response_model=ListPage[EventOut],
    responses=failures(400, 404) | page_or_stream(ListPage[EventOut]),
    summary="List or follow a job's events",
)
def list_job_events(
    request: Request, job: Follow, cursor: StreamCursor, limit: PageLimit = 20, order: Order = "desc"
) -> ListPage[EventOut] | Response:
    """Newest first, unless `order=asc`. A stream begins with the oldest, or behind Last-Event-ID."""
    if cursor.wanted:
        return stream_events(request, job, cursor.after)
    page = job.jobs.events(job.caller, job.job_id, limit=limit, after=cursor.after, descending=order == "desc")
    return list_page([EventOut.of(event) for event in page.items], has_more=page.has_more)


@router.get(
    "/logs",
    response_model=ListPage[LogOut],
    responses=failures(400, 404) | page_or_stream(ListPage[LogOut]),
    summary="List or follow a job's log",
)
def list_job_logs(
    request: Request,
    job: Follow,
    cursor: StreamCursor,
    which: WhichLines,
    limit: LineLimit = 100,
) -> ListPage[LogOut] | Response:
    """Oldest first, unless `order=desc`: then `after` goes on towards the older ones. A stream is always oldest first,
    and does not search."""
    if cursor.wanted:
        attempt, level = which.attempt, which.level
        return stream_logs(
            request, job, cursor.after, lambda r: attempt in {None, r.attempt_number} and level in {None, r.level}
        )
    after = read_cursor(cursor.after, LOG_ID)
    page = job.jobs.logs(job.caller, job.job_id, after=after, limit=limit, which=which)
    return list_page([LogOut.of(record) for record in page.items], has_more=page.has_more)


@router.get(
    "/metrics",
    response_model=ListPage[MetricOut],
    responses=failures(400, 404) | page_or_stream(ListPage[MetricOut]),
    summary="List or follow a job's metrics",
)
def list_job_metrics(
    request: Request, job: Follow, cursor: StreamCursor, limit: LineLimit = 100
) -> ListPage[MetricOut] | Response:
    """The figures of each step, oldest first."""
    if cursor.wanted:
        return stream_metrics(request, job, cursor.after)
    page = job.jobs.metrics(job.caller, job.job_id, after=read_cursor(cursor.after, METRIC_ID), limit=limit)
    return list_page([MetricOut.of(record) for record in page.items], has_more=page.has_more)


@router.get("/checkpoints", responses=failures(400, 404), summary="List a job's checkpoints")
def list_job_checkpoints(
    job_id: Id, caller: Reader, jobs: Jobs, after: After = None, limit: PageLimit = 10
) -> ListPage[CheckpointOut]:
    """Complete and stored ones, newest first."""
    page = jobs.checkpoints(caller, job_id, limit=limit, after=after)
    job = jobs.get(caller, job_id)
    team = jobs.describe(caller, [job])[job_id].team_name
    return list_page([CheckpointOut.of(item, job, team) for item in page.items], has_more=page.has_more)


@router.get("/attempts", responses=failures(404), summary="List a job's attempts")
def list_job_attempts(job_id: Id, caller: Reader, jobs: Jobs) -> ListPage[AttemptOut]:
    """Every execution, the first one first, with what it measured and why it ended."""
    return list_page([AttemptOut.of(attempt) for attempt in jobs.attempts(caller, job_id)], has_more=False)


@router.get("/cost", responses=failures(404), summary="Show a job's bill")
def get_job_cost(job_id: Id, caller: Reader, costs: Costs) -> JobCostOut:
    return JobCostOut.of(job_id, costs.of_job(caller, job_id))
