"""All jobs: filtered, searched, sorted, paged; several cancelled or compared at once."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response

from api.dashboard.forms import Form, PageRoute
from api.dashboard.rendering import go_to, render, wants_fragment
from api.dashboard.views.jobs import WORDS, show_jobs
from api.dependencies import After, Jobs, Reader, WhichJobs, Writer
from orchestrator.domain.errors import IllegalTransitionError, InvalidRequestError
from orchestrator.domain.queries import JobQuery
from orchestrator.domain.teams import Caller
from orchestrator.services.jobs import Jobs as JobsService

router = APIRouter(prefix="/jobs", route_class=PageRoute)
PAGE_JOBS = 50
MOST_COMPARED = 8
MOST_AT_ONCE = 100
SORTS = {"created": "newest", "model": "model", "status": "state", "tokens": "tokens trained"}
Said = Annotated[str, Query(max_length=64, pattern=r"^[0-9]*(-[0-9]+)?$")]


@router.get("")
def show_list(
    request: Request, caller: Reader, jobs: Jobs, which: WhichJobs, after: After = None, cancelled: Said = ""
) -> Response:
    page = jobs.list(caller, which=which, limit=PAGE_JOBS, after=after)
    counts = jobs.count(caller)
    values: dict[str, Any] = {
        "jobs": show_jobs(jobs, caller, page.items),
        "has_more": page.has_more,
        "next_query": _query(which, after=page.items[-1].job_id) if page.items else "",
        "is_first": after is None,
        "counts": {state.value: number for state, number in counts.items()},
        "total": sum(counts.values()),
        "which": which,
        "chosen": {state.value for state in which.states or ()},
        "words": {state.value: word for state, word in WORDS.items()},
        "sorts": SORTS,
        "query": _query(which),
        "here_query": _query(which, after=after),
        "cancelled": cancelled.split("-") if cancelled else [],
    }
    return render(request, "parts/job_list.html" if wants_fragment(request) else "jobs.html", values)


def _query(which: JobQuery, *, after: str | None = None) -> str:
    pairs = [("status", state.value) for state in which.states or ()]
    pairs += [("search", which.text)] if which.text else []
    pairs += [("sort", which.sort)] if which.sort != "created" else []
    pairs += [] if which.descending else [("order", "asc")]
    return urlencode(pairs + ([("after", after)] if after else []))


@router.post("/compare")
def compare_chosen(request: Request, caller: Reader, form: Form) -> Response:
    chosen = _read_chosen(form, most=MOST_COMPARED)
    return go_to(request, f"/compare?{urlencode([('job', job_id) for job_id in chosen])}")


@router.post("/cancel")
def cancel_chosen(request: Request, caller: Writer, form: Form, jobs: Jobs) -> Response:
    """One by one; those that had ended before are counted."""
    done, ended = _cancel_all(caller, jobs, _read_chosen(form, most=MOST_AT_ONCE))
    return go_to(request, f"/jobs?cancelled={done}-{ended}")


def _read_chosen(form: Form, *, most: int) -> list[str]:
    """The ids of the jobs that are ticked. Raises InvalidRequestError for none, and for too many."""
    chosen = [str(job_id) for job_id in form.getlist("job")]
    if not 0 < len(chosen) <= most:
        raise InvalidRequestError(f"tick from 1 to {most} jobs; {len(chosen)} are ticked", param="job")
    return chosen


def _cancel_all(caller: Caller, jobs: JobsService, chosen: list[str]) -> tuple[int, int]:
    """How many are cancelled, and how many had ended before."""
    done = 0
    for job_id in chosen:
        try:
            jobs.cancel(caller, job_id)
        except IllegalTransitionError:
            continue
        done += 1
    return done, len(chosen) - done
