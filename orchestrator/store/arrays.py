"""Arrays of jobs: what holds for all of them together. Their jobs are in the table of jobs."""

from sqlalchemy import RowMapping, func, insert, select, update

from orchestrator.domain.arrays import JobArray
from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.jobs import Job
from orchestrator.domain.pages import Page
from orchestrator.domain.states import JobState
from orchestrator.store.jobs import read_job
from orchestrator.store.keyset import Listing, read_page
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.jobs import job_arrays, jobs


def insert_array(tx: WriteTx, array: JobArray) -> None:
    tx.execute(
        insert(job_arrays).values(
            array_id=array.array_id,
            team_id=array.team_id,
            created_by=array.created_by,
            name=array.name,
            max_parallel=array.max_parallel,
            created_at=array.created_at,
        )
    )


def get_array(tx: ReadTx, array_id: str, team_id: str | None = None) -> JobArray:
    query = select(job_arrays).where(job_arrays.c.array_id == array_id)
    row = tx.row(query if team_id is None else query.where(job_arrays.c.team_id == team_id))
    if row is None:
        raise NotFoundError(f"No such array: {array_id}")
    return _array(row)


def list_arrays(tx: ReadTx, team_id: str | None, *, limit: int = 20, after: str | None = None) -> Page[JobArray]:
    """Newest first; of one team, or of all for None."""
    listing = Listing(
        table=job_arrays,
        key=job_arrays.c.array_id,
        order_by=(job_arrays.c.created_at, job_arrays.c.array_id),
        where=() if team_id is None else (job_arrays.c.team_id == team_id,),
    )
    return read_page(tx, listing, _array, limit=limit, after=after)


def record_max_parallel(tx: WriteTx, array_id: str, max_parallel: int | None) -> None:
    tx.execute(update(job_arrays).where(job_arrays.c.array_id == array_id).values(max_parallel=max_parallel))


def list_members(tx: ReadTx, array_id: str) -> list[Job]:
    """In the order in which they were submitted."""
    query = select(jobs).where(jobs.c.array_id == array_id).order_by(jobs.c.created_at, jobs.c.job_id)
    return [read_job(row) for row in tx.rows(query)]


def lock_members(tx: WriteTx, array_id: str) -> list[Job]:
    """As `list_members`; no one else changes them until the transaction ends."""
    query = select(jobs).where(jobs.c.array_id == array_id).order_by(jobs.c.created_at, jobs.c.job_id)
    return [read_job(row) for row in tx.rows(query.with_for_update())]


def count_states(tx: ReadTx, array_ids: list[str]) -> dict[str, dict[JobState, int]]:
    """By array: how many of its jobs are in each state that one of them is in."""
    query = select(jobs.c.array_id, jobs.c.state, func.count().label("number")).where(jobs.c.array_id.in_(array_ids))
    counts: dict[str, dict[JobState, int]] = {array_id: {} for array_id in array_ids}
    for row in tx.rows(query.group_by(jobs.c.array_id, jobs.c.state)):
        counts[row["array_id"]][JobState(row["state"])] = row["number"]
    return counts


def list_limits(tx: ReadTx) -> dict[str, int]:
    """`max_parallel` of each array that has one and a job that waits."""
    waits = select(jobs.c.array_id).where(jobs.c.state == JobState.QUEUED, jobs.c.array_id.is_not(None))
    query = select(job_arrays.c.array_id, job_arrays.c.max_parallel).where(
        job_arrays.c.max_parallel.is_not(None), job_arrays.c.array_id.in_(waits)
    )
    return {row["array_id"]: row["max_parallel"] for row in tx.rows(query)}


def _array(row: RowMapping) -> JobArray:
    return JobArray(
        array_id=row["array_id"],
        team_id=row["team_id"],
        created_by=row["created_by"],
        name=row["name"],
        max_parallel=row["max_parallel"],
        created_at=row["created_at"],
    )
