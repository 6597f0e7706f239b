"""Which jobs a list shows, and in what order: pages by key, over one team or all."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, or_, select

from orchestrator.domain.jobs import Job
from orchestrator.domain.pages import Page
from orchestrator.domain.queries import ALL_JOBS, JobQuery, JobSort
from orchestrator.domain.states import JobState
from orchestrator.store.jobs import read_job
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx
from orchestrator.store.tables.jobs import job_metadata, jobs


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """All that is given must hold. `metadata` holds pairs that the job's metadata must contain."""

    team_id: str | None = None
    states: Collection[JobState] | None = None
    metadata: Mapping[str, str] | None = None
    metadata_is_null: bool = False
    model: str | None = None


_SORT_COLUMNS: Mapping[JobSort, tuple[Column[Any], ...]] = {
    "created": (),
    "model": (jobs.c.model_name,),
    "status": (jobs.c.state,),
    "tokens": (jobs.c.trained_tokens,),
}


def list_jobs(
    tx: ReadTx,
    job_filter: JobFilter,
    *,
    limit: int = 20,
    after: str | None = None,
    which: JobQuery = ALL_JOBS,
) -> Page[Job]:
    """Newest first, unless `which` says otherwise."""
    order = (*_SORT_COLUMNS[which.sort], jobs.c.created_at, jobs.c.job_id)
    where = [*_matches(job_filter), *_matches_query(which)]
    listing = Listing(table=jobs, key=jobs.c.job_id, order_by=order, where=where)
    return read_page(tx, listing, read_job, limit=limit, after=after, descending=which.descending)


def _matches(job_filter: JobFilter) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if job_filter.team_id is not None:
        where.append(jobs.c.team_id == job_filter.team_id)
    if job_filter.states is not None:
        where.append(jobs.c.state.in_(sorted(job_filter.states)))
    if job_filter.model is not None:
        where.append(jobs.c.model_name == job_filter.model)
    if job_filter.metadata_is_null:
        where.append(jobs.c.has_metadata.is_(False))
    for key, value in (job_filter.metadata or {}).items():
        pair = job_metadata.alias()
        holds = select(pair.c.job_id).where(pair.c.job_id == jobs.c.job_id, pair.c.key == key, pair.c.value == value)
        where.append(holds.exists())
    return where


def _matches_query(which: JobQuery) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if which.states is not None:
        where.append(jobs.c.state.in_(sorted(which.states)))
    if which.text:
        where.append(_contains(which.text))
    return where


def _contains(text: str) -> ColumnElement[bool]:
    columns = (jobs.c.job_id, jobs.c.model_name, jobs.c.fine_tuned_model)
    pair = job_metadata.alias()
    of_job = select(pair.c.job_id).where(pair.c.job_id == jobs.c.job_id, pair.c.value.icontains(text, autoescape=True))
    return or_(*(column.icontains(text, autoescape=True) for column in columns), of_job.exists())
