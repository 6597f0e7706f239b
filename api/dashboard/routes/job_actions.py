"""What can be asked of a job."""

from fastapi import APIRouter, Request, Response

from api.dashboard.forms import Form, PageRoute
from api.dashboard.rendering import go_to, render
from api.dashboard.routes.job import HeadParts, Parts, describe_head
from api.dependencies import Id, Jobs, Writer
from orchestrator.domain.jobs import Job
from orchestrator.domain.teams import Caller

router = APIRouter(prefix="/jobs/{job_id}", route_class=PageRoute)


@router.post("/cancel")
def cancel_job(request: Request, job_id: Id, caller: Writer, form: Form, jobs: Jobs, parts: Parts) -> Response:
    return _show(request, caller, parts, jobs.cancel(caller, job_id))


@router.post("/pause")
def pause_job(request: Request, job_id: Id, caller: Writer, form: Form, jobs: Jobs, parts: Parts) -> Response:
    return _show(request, caller, parts, jobs.pause(caller, job_id))


@router.post("/resume")
def resume_job(request: Request, job_id: Id, caller: Writer, form: Form, jobs: Jobs, parts: Parts) -> Response:
    return _show(request, caller, parts, jobs.resume(caller, job_id))


def _show(request: Request, caller: Caller, parts: HeadParts, job: Job) -> Response:
    if "hx-request" in request.headers:
        return render(request, "parts/job_head.html", describe_head(caller, parts, job))
    return go_to(request, f"/jobs/{job.job_id}")
