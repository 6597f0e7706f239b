"""What can be asked of a job."""

import secrets

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from api.dashboard.forms import Form, PageRoute, read_field
from api.dashboard.rendering import go_to, render
from api.dashboard.routes.job import HeadParts, Parts, describe_head
from api.dependencies import Id, Jobs, Queue, Writer
from api.schemas.queue import JobChange
from api.validation import explain_model
from orchestrator.domain.jobs import Job
from orchestrator.domain.teams import Caller
from orchestrator.services.idempotency import Marks
from orchestrator.services.queue import QueueChange

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


@router.post("/hold")
def hold_job(request: Request, job_id: Id, caller: Writer, form: Form, queue: Queue, parts: Parts) -> Response:
    return _show(request, caller, parts, queue.change(caller, job_id, QueueChange(is_held=True)))


@router.post("/release")
def release_job(request: Request, job_id: Id, caller: Writer, form: Form, queue: Queue, parts: Parts) -> Response:
    return _show(request, caller, parts, queue.change(caller, job_id, QueueChange(is_held=False)))


@router.post("/queue")
def change_place(request: Request, job_id: Id, caller: Writer, form: Form, queue: Queue, parts: Parts) -> Response:
    """Priority and class, as they were typed."""
    given = {name: text for name in ("priority", "priority_class") if (text := read_field(form, name))}
    try:
        change = JobChange.model_validate(given).to_change()
    except ValidationError as error:
        raise explain_model(error, body=given, model=JobChange) from None
    return _show(request, caller, parts, queue.change(caller, job_id, change))


@router.post("/retry")
def retry_job(request: Request, job_id: Id, caller: Writer, form: Form, jobs: Jobs) -> Response:
    """A new job that asks for the same; the form's `once` makes it one, however often it is sent."""
    spec = jobs.get(caller, job_id).spec
    repeat = Marks(key=read_field(form, "once") or secrets.token_urlsafe(16)).of(spec.model_dump(mode="json"))
    return go_to(request, f"/jobs/{jobs.create(caller, spec, repeat=repeat).job_id}")


def _show(request: Request, caller: Caller, parts: HeadParts, job: Job) -> Response:
    if "hx-request" in request.headers:
        return render(request, "parts/job_head.html", describe_head(caller, parts, job))
    return go_to(request, f"/jobs/{job.job_id}")
