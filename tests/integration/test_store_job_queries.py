"""Lists of jobs by state, by what they hold, and in an order of one's choice, page by page, on both engines."""

import pytest

from orchestrator.domain.jobs import Job
from orchestrator.domain.queries import JobQuery, JobSort
from orchestrator.domain.states import JobState
from orchestrator.store import jobs
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store
from tests.support.rows import add_job, add_queued_job, add_team


@pytest.fixture
def team_id(store: Store) -> str:
    """A team with five jobs of two models and two states, among another team's."""
    with store.write() as tx:
        team_id = add_team(tx).team_id
        for number in range(5):
            add = add_queued_job if number % 2 else add_job
            job = add(tx, team_id, model=f"model-{number % 3}", metadata={"run": f"N{number}_100%"})
            jobs.record_progress(tx, job.job_id, trained_tokens=number * 7 % 5)
        add_job(tx, model="model-1", metadata={"run": "N1_100%"})
    return team_id


def _list(store: Store, team_id: str, query: JobQuery) -> list[Job]:
    """All pages of two."""
    found: list[Job] = []
    while True:
        with store.read() as tx:
            after = found[-1].job_id if found else None
            page = list_jobs(tx, JobFilter(team_id=team_id), which=query, limit=2, after=after)
        found += page.items
        if not page.has_more:
            return found


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", ["created", "model", "status", "tokens"])
def test_every_order_is_whole_and_stable_over_pages(
    store: Store, team_id: str, sort: JobSort, descending: bool
) -> None:
    def key(job: Job) -> tuple[str | int, ...]:
        first = {"created": 0, "model": job.model_name, "status": job.state.value, "tokens": job.trained_tokens}[sort]
        return (first, job.created_at.isoformat(), job.job_id)

    found = _list(store, team_id, JobQuery(sort=sort, descending=descending))
    assert len(found) == 5
    assert found == sorted(found, key=key, reverse=descending)


def test_states_and_text_choose_together(store: Store, team_id: str) -> None:
    def models(query: JobQuery) -> set[str]:
        return {job.model_name for job in _list(store, team_id, query)}

    assert len(_list(store, team_id, JobQuery(states=[JobState.QUEUED]))) == 2
    assert _list(store, team_id, JobQuery(states=[])) == []
    assert models(JobQuery(text="MODEL-2")) == {"model-2"}
    assert models(JobQuery(text="n4_100%")) == {"model-1"}
    assert _list(store, team_id, JobQuery(text="n4%100")) == [], "a wildcard is a character like any other"
    assert models(JobQuery(text="model", states=[JobState.QUEUED])) == {"model-1", "model-0"}
    first = _list(store, team_id, JobQuery())[0]
    assert _list(store, team_id, JobQuery(text=first.job_id[-12:].upper())) == [first]
