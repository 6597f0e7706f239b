"""One job: its state and charts, its log, what happened, what was asked and predicted, and what came out."""

import secrets
import time
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from api.dashboard.forms import PageRoute
from api.dashboard.rendering import render
from api.dashboard.views.burn import draw_burn
from api.dashboard.views.jobs import FINAL, WORDS, find_actions, show_jobs
from api.dashboard.views.memory import show_prediction
from api.dashboard.views.settings import show_settings
from api.dashboard.views.snippets import show_adapter, show_job
from api.dashboard.views.timeline import lay_out_life, mark_events
from api.dependencies import Adapters, Costs, Id, Jobs, Reader, Why
from api.schemas.activity import AttemptOut, CheckpointOut, EventOut, LogOut
from api.schemas.adapters import AdapterOut
from api.schemas.costs import JobCostOut
from api.schemas.jobs import JobOut
from api.schemas.why import WhyOut
from orchestrator.domain.errors import IllegalTransitionError
from orchestrator.domain.jobs import Job
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.queries import LineQuery
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Caller
from orchestrator.services.adapters import Adapters as AdaptersService
from orchestrator.services.costs import Costs as CostsService
from orchestrator.services.jobs import Jobs as JobsService
from orchestrator.services.why import WhyReader

router = APIRouter(prefix="/jobs", route_class=PageRoute)
EVENTS_READ = 300
"""Of them the messages are shown; losses are events too, at most a hundred an attempt, and are in the charts."""
CHECKPOINTS_SHOWN = 20
LINES_SHOWN = 200
"""Of the log, without scripts; with them it is read as it is scrolled."""


@dataclass(frozen=True)
class HeadParts:
    """The use cases that the head of the page is made of."""

    jobs: JobsService
    costs: CostsService
    why: WhyReader


async def _head_parts(jobs: Jobs, costs: Costs, why: Why) -> HeadParts:
    return HeadParts(jobs, costs, why)


Parts = Annotated[HeadParts, Depends(_head_parts)]


@router.get("/{job_id}")
def show_job_page(
    request: Request, job_id: Id, caller: Reader, jobs: Jobs, adapters: Adapters, parts: Parts
) -> Response:
    found = jobs.get(caller, job_id)
    head = describe_head(caller, parts, found)
    job: JobOut = head["job"]
    attempts: list[AttemptOut] = head["attempts"]
    checkpoints = jobs.checkpoints(caller, job_id, limit=CHECKPOINTS_SHOWN)
    lines = jobs.logs(caller, job_id, limit=LINES_SHOWN, which=LineQuery(descending=True))
    url = str(request.base_url).rstrip("/")
    values: dict[str, Any] = {
        **head,
        "classes": [kind.value for kind in PriorityClass],
        "checkpoints": [CheckpointOut.of(item, found, job.team) for item in checkpoints.items],
        "lines": [LogOut.of(line) for line in reversed(lines.items)],
        "settings": show_settings(found.spec, job, attempts),
        "job_snippets": show_job(found.spec.model_dump(mode="json", exclude_defaults=True), url=url),
        "predicted_bytes": _predicted_bytes(job, attempts),
        **_describe_adapter(caller, adapters, job, url),
    }
    return render(request, "job.html", values)


@router.get("/{job_id}/head")
def show_head(request: Request, job_id: Id, caller: Reader, jobs: Jobs, parts: Parts) -> Response:
    """What changes while a job runs, to be put into the page that is open."""
    return render(request, "parts/job_head.html", describe_head(caller, parts, jobs.get(caller, job_id)))


def describe_head(caller: Caller, parts: HeadParts, found: Job) -> dict[str, Any]:
    job = show_jobs(parts.jobs, caller, [found])[0]
    attempts = [AttemptOut.of(attempt) for attempt in parts.jobs.attempts(caller, job.id)]
    events = parts.jobs.events(caller, job.id, limit=EVENTS_READ)
    told = [EventOut.of(event) for event in events.items if event.type == "message"]
    bill = JobCostOut.of(job.id, parts.costs.of_job(caller, job.id))
    predicted, limit = (job.estimate or {}).get("cost_usd_micros"), found.spec.max_cost_usd_micros
    now = time.time()
    life = lay_out_life(job, attempts, now=now)
    return {
        "job": job,
        "why": _find_why(caller, parts.why, found),
        "word": WORDS[found.state],
        "final": job.status in FINAL,
        "actions": find_actions(job),
        "attempts": attempts,
        "bill": bill,
        "burn": draw_burn(bill, attempts, predicted=predicted, limit=limit, now=int(now)),
        "limit_usd_micros": limit,
        "events": told,
        "last_event_id": events.items[0].event_id if events.items else "",
        "more_events": events.has_more,
        "once": secrets.token_urlsafe(16),
        "memory": show_prediction(job, attempts),
        "life": life,
        "marks": mark_events(told, life),
        "predicted_cost": predicted,
        "predicted_seconds": _predicted_seconds(job, attempts),
        "ran_seconds": (job.finished_at or now) - job.started_at if job.started_at else None,
        "left_seconds": max(0.0, job.estimated_finish - now) if job.estimated_finish else None,
    }


def _find_why(caller: Caller, why: WhyReader, found: Job) -> WhyOut | None:
    """None for a job that does not wait; it may have started since it was read."""
    if found.state is not JobState.QUEUED:
        return None
    try:
        return WhyOut.of(why.explain(caller, found.job_id))
    except IllegalTransitionError:
        return None


def _kind_of(job: JobOut, attempts: list[AttemptOut]) -> str:
    if attempts:
        return "cpu" if "/cpu" in attempts[-1].device_id else "cuda"
    return str((job.estimate or {}).get("kind"))


def _predicted_bytes(job: JobOut, attempts: list[AttemptOut]) -> int | None:
    predicted = ((job.estimate or {}).get("memory") or {}).get(_kind_of(job, attempts))
    return None if predicted is None else int(predicted["total_bytes"])


def _predicted_seconds(job: JobOut, attempts: list[AttemptOut]) -> float | None:
    predicted = ((job.estimate or {}).get("time") or {}).get(_kind_of(job, attempts))
    return None if predicted is None else float(predicted["seconds"])


def _describe_adapter(caller: Caller, adapters: AdaptersService, job: JobOut, url: str) -> dict[str, Any]:
    if job.adapter_id is None:
        return {"adapter": None, "manifest": None, "adapter_snippets": []}
    adapter = adapters.get(caller, job.adapter_id)
    shown = AdapterOut.of(adapter)
    return {"adapter": shown, "manifest": adapter.manifest, "adapter_snippets": show_adapter(shown, url=url)}
