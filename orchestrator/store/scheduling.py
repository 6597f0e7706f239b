"""Everything that a scheduling decision is made from, read in one transaction."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sqlalchemy import select, update

from orchestrator.domain.jobs import Job
from orchestrator.domain.pool import DeviceUse
from orchestrator.domain.scheduling.facts import Lock, Pin, QueuedJob, RunningJob, SharedDevice, TeamTerms
from orchestrator.domain.scheduling.views import (
    Market,
    read_market,
    sum_attained,
    view_device,
    view_queued,
    view_running,
    view_team,
)
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Team
from orchestrator.store import arrays, attempts, checkpoints, devices, nodes, queue, teams, usage
from orchestrator.store.budgets import read_budget
from orchestrator.store.prices import read_price
from orchestrator.store.session import ReadTx, WriteTx
from orchestrator.store.tables.attempts import attempts as attempt_rows
from orchestrator.store.tables.jobs import jobs


@dataclass(frozen=True, kw_only=True)
class PoolFacts:
    """All but the queue. `now` is the database's clock, POSIX seconds."""

    devices: tuple[SharedDevice, ...]
    teams: tuple[TeamTerms, ...]
    running: tuple[RunningJob, ...]
    locks: tuple[Lock, ...]
    pins: tuple[Pin, ...]
    market: Market
    now: float


def read_pool_facts(tx: ReadTx) -> PoolFacts:
    all_devices = devices.list_devices(tx)
    prices = {name: read_price(tx, name) for name in {device.device_type for device in all_devices}}
    market = read_market(all_devices, prices)
    said = {node.node_name: node for node in nodes.list_nodes(tx)}
    uses = _by_device(devices.list_uses(tx))
    locks, pins = read_claims(tx)
    return PoolFacts(
        devices=tuple(view_device(d, uses.get(d.device_id, ()), said.get(d.node_name), market) for d in all_devices),
        teams=tuple(view_team(team, _read_left(tx, team)) for team in teams.list_teams(tx)),
        running=tuple(read_running(tx, market)),
        locks=locks,
        pins=pins,
        market=market,
        now=tx.now().timestamp(),
    )


def _read_left(tx: ReadTx, team: Team) -> int | None:
    return None if team.budget_usd_micros is None else read_budget(tx, team).left_usd_micros


def read_running(tx: ReadTx, market: Market) -> list[RunningJob]:
    """Every job with an attempt that has not ended."""
    active = attempts.list_active(tx)
    found = {job.job_id: job for job in queue.list_jobs_of(tx, [attempt.job_id for attempt in active])}
    saved = checkpoints.list_newest_moments(tx, [attempt.attempt_id for attempt in active])
    attained = _read_attained(tx, (job for job in found.values() if job.attempts > 1), market)
    return [
        view_running(
            found[attempt.job_id],
            attempt,
            saved_at=saved.get(attempt.attempt_id),
            attained_seconds=attained.get(attempt.job_id, 0.0),
        )
        for attempt in active
    ]


def _read_attained(tx: ReadTx, of: Iterable[Job], market: Market) -> Mapping[str, float]:
    """What the ended attempts of these jobs ran, in reference-device-seconds, also what was lost or billed to nobody:
    turns go by what a job has had."""
    found = usage.list_device_seconds(tx, [job.job_id for job in of])
    return {job_id: sum_attained(by_type, market) for job_id, by_type in found.items()}


def read_queued(tx: ReadTx, waiting: Iterable[Job], market: Market) -> list[QueuedJob]:
    """These queued jobs as the decision sees them."""
    waiting = list(waiting)
    limits, warm = arrays.list_limits(tx), list_warm_nodes(tx)
    attained = _read_attained(tx, (job for job in waiting if job.attempts), market)
    return [
        view_queued(
            job,
            market,
            array_limit=limits.get(job.array_id) if job.array_id else None,
            warm_nodes=warm.get(job.model_name, ()),
            attained_seconds=attained.get(job.job_id, 0.0),
        )
        for job in waiting
    ]


def list_warm_nodes(tx: ReadTx) -> Mapping[str, frozenset[str]]:
    """Nodes that have trained on each base model before, and so have it in their cache."""
    query = (
        select(jobs.c.model_name, attempt_rows.c.node_name)
        .join(attempt_rows, attempt_rows.c.job_id == jobs.c.job_id)
        .where(attempt_rows.c.last_contact_at.is_not(None))
        .distinct()
    )
    found: dict[str, set[str]] = {}
    for row in tx.rows(query):
        found.setdefault(row["model_name"], set()).add(row["node_name"])
    return {model: frozenset(names) for model, names in found.items()}


def read_claims(tx: ReadTx) -> tuple[tuple[Lock, ...], tuple[Pin, ...]]:
    """What waiting jobs have locked and pinned, as the last decision said."""
    query = select(jobs.c.job_id, jobs.c.claims).where(jobs.c.state == JobState.QUEUED, jobs.c.claims.is_not(None))
    locks: list[Lock] = []
    pins: list[Pin] = []
    for row in tx.rows(query.order_by(jobs.c.job_id)):
        locks += [Lock(job_id=row["job_id"], **item) for item in row["claims"].get("locks", ())]
        pins += [Pin(job_id=row["job_id"], **item) for item in row["claims"].get("pins", ())]
    return tuple(locks), tuple(pins)


def record_claims(tx: WriteTx, job_id: str, locks: Iterable[Lock], pins: Iterable[Pin]) -> None:
    """Replace what a waiting job has locked and pinned."""
    claims = {
        "locks": [{"device_id": lock.device_id, "bytes": lock.bytes, "until_at": lock.until_at} for lock in locks],
        "pins": [{"device_id": pin.device_id, "bytes": pin.bytes, "at": pin.at} for pin in pins],
    }
    kept = {name: items for name, items in claims.items() if items}
    tx.execute(update(jobs).where(jobs.c.job_id == job_id).values(claims=kept or None))


def _by_device(uses: Iterable[DeviceUse]) -> dict[str, list[DeviceUse]]:
    found: dict[str, list[DeviceUse]] = {}
    for use in uses:
        found.setdefault(use.device_id, []).append(use)
    return found
