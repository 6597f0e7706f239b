"""The queue as the scheduler reads it."""

from datetime import datetime

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.store import queue
from orchestrator.store.scheduling import read_pool_facts, read_queued
from orchestrator.store.session import ReadTx


def order_queue(tx: ReadTx, at: datetime) -> list[str]:
    """The ids of queued jobs that may start at this moment, by their places in the queue."""
    facts, planner = read_pool_facts(tx), Planner(Rules())
    planner.set_teams(facts.teams)
    waiting = read_queued(tx, queue.list_waiting(tx), facts.market)
    for job in waiting:
        planner.put_queued(job)
    places = {job.job_id: planner.position(job.job_id, at.timestamp()) for job in waiting}
    return sorted((job_id for job_id, place in places.items() if place), key=lambda job_id: places[job_id] or 0)
