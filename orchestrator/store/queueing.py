"""The planner of production, for the loop that places and for those who ask why: kept in memory between passes and
brought up to date with what has changed in the rows.

Invariant: nothing in it is truth. Dropped at any moment and filled again, it decides the same.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.scheduling.planner import Planner
from orchestrator.domain.scheduling.views import Market
from orchestrator.store import arrays, attempts, devices, nodes, queue, teams
from orchestrator.store.scheduling import PoolFacts, read_pool_facts, read_queued
from orchestrator.store.session import ReadTx

JOBS_PER_READ = 2000
"""Changed jobs that one pass takes in; the rest follow in the next ones."""
PAUSE_SECONDS_PER_JOB = 4e-5
"""Behind a long queue even looking for changes is dear: a thousand jobs, 40 ms; a hundred thousand, four seconds."""
LONGEST_REST_SECONDS = 2.0
"""Without any change in the rows a pass is made this often, because estimates and clocks move on."""


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """What the rows looked like: while it is the same, nothing has changed that a decision depends on."""

    versions: Mapping[str, int]
    due: int
    uses: Sequence[object]
    devices: Sequence[object]
    terms: Sequence[object]
    nodes: Sequence[object]
    array_limits: Mapping[str, int]


class Queueing:
    """`waiting` are the versions of the queued jobs that the planner knows; `is_complete` once these are all."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._mark: _Mark | None = None
        self._rest_until = 0.0
        self._pause_until = 0.0
        self.forget()

    def forget(self) -> None:
        """Start over: the next read takes everything in."""
        self.planner = Planner(self._rules)
        self.waiting: dict[str, int] = {}
        self.is_complete = False
        self._running: set[str] = set()
        self._market: Market | None = None
        self._limits: Mapping[str, int] = {}

    def refresh(self, tx: ReadTx) -> PoolFacts | None:
        """Take over what has changed. None when nothing has, and the last pass was not long ago."""
        if time.monotonic() < self._pause_until:
            return None
        mark = self._read_mark(tx)
        self._pause_until = time.monotonic() + len(mark.versions) * PAUSE_SECONDS_PER_JOB
        if mark == self._mark and time.monotonic() < self._rest_until:
            return None
        facts = read_pool_facts(tx)
        self._take_pool(facts)
        self._take_queue(tx, mark, facts.market)
        self.is_complete = self.waiting == mark.versions
        self._mark = mark if self.is_complete else None
        self._rest_until = time.monotonic() + LONGEST_REST_SECONDS
        return facts

    def hurry(self) -> None:
        """Something that was decided has not been applied, or somebody asks: do not rest."""
        self._mark = None
        self._pause_until = 0.0

    def _read_mark(self, tx: ReadTx) -> _Mark:
        return _Mark(
            versions=queue.list_versions(tx),
            due=queue.count_due(tx, tx.now()),
            uses=[(use.attempt_id, use.draining) for use in devices.list_uses(tx)]
            + [attempt.preempt_rule for attempt in attempts.list_active(tx)],
            devices=[(d.device_id, d.online, d.usable_bytes, d.device_type) for d in devices.list_devices(tx)],
            terms=teams.list_teams(tx),
            nodes=nodes.list_nodes(tx),
            array_limits=arrays.list_limits(tx),
        )

    def _take_pool(self, facts: PoolFacts) -> None:
        planner = self.planner
        planner.set_devices(facts.devices)
        planner.set_teams(facts.teams)
        for gone in self._running - {job.job_id for job in facts.running}:
            planner.drop_running(gone)
        for job in facts.running:
            planner.put_running(job)
        self._running = {job.job_id for job in facts.running}
        planner.set_locks(facts.locks)
        planner.set_pins(facts.pins)

    def _take_queue(self, tx: ReadTx, mark: _Mark, market: Market) -> None:
        versions, limits = mark.versions, mark.array_limits
        if market != self._market or limits != self._limits:
            self._market, self._limits = market, limits
            known: Mapping[str, int] = {}
        else:
            known = self.waiting
        for gone in [job_id for job_id in self.waiting if job_id not in versions]:
            self.planner.drop_queued(gone)
            del self.waiting[gone]
        changed = [job_id for job_id, version in versions.items() if known.get(job_id) != version]
        for job_id in changed[JOBS_PER_READ:]:
            self.waiting.pop(job_id, None)
        found = queue.list_jobs_of(tx, changed[:JOBS_PER_READ])
        for job in read_queued(tx, [job for job in found if job.footprints], market):
            self.planner.put_queued(job)
        self.waiting |= {job.job_id: job.version for job in found}
