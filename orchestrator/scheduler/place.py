"""Which waiting job starts now, on which device, and who makes room for it.

Invariants: a device's reservations, counting attempts that have ended but are not proved gone, never exceed its bytes.
A job gets at most one active attempt, at the price that holds when it is placed. Running jobs never hold more money
than is left of their team's budget. A leader whose lease is gone decides nothing.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from orchestrator.domain.errors import LeaseLostError
from orchestrator.domain.scheduling.actions import PREEMPTION_REASONS, Preempt, Start, Wait, WaitCode
from orchestrator.domain.scheduling.demand import Demand, Lack
from orchestrator.domain.scheduling.facts import Lock, Pin, Rules
from orchestrator.domain.scheduling.sentences import wait_sentence
from orchestrator.domain.states import JobState
from orchestrator.scheduler.elastic import end_rest
from orchestrator.scheduler.lead import Leadership
from orchestrator.scheduler.loop import Loop
from orchestrator.scheduler.starting import Starter
from orchestrator.store import attempts, events, jobs, leader
from orchestrator.store.events import Level
from orchestrator.store.lacks import record_lacks
from orchestrator.store.queueing import Queueing
from orchestrator.store.scheduling import PoolFacts, record_claims
from orchestrator.store.session import Store, WriteTx

EXPLAINED_PER_PASS = 100
"""Waiting jobs, from the front of the queue, whose reason is kept with them; of the others it is found when asked."""
SAID_ONCE = frozenset({WaitCode.BEHIND, WaitCode.NO_ROOM})
"""Reasons that come and go with every start: an event says the first one, later ones only show as the phase."""
NEEDS_SECONDS, NEEDS_SHARE = 1.0, 50
"""Between two looks at what the pool lacks: a second at least, and fifty times as long as one takes."""
NEEDS_AGAIN_SECONDS = 60.0
PIN_SLACK_SECONDS = 60.0
"""A pin whose expected moment moved by less is not written again."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What a waiting job has locked and pinned from now on, and whom it asks to make room for it."""

    job_id: str
    locks: tuple[Lock, ...]
    pins: tuple[Pin, ...]
    preemptions: tuple[Preempt, ...]


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What jobs wait for that the pool does not have, and the nodes that are to be woken for them."""

    lacks: tuple[Lack, ...]
    wakes: tuple[str, ...]


Act = Start | Preempt | Claims | Wait | Needs


class Place:
    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        starter: Starter,
        *,
        rules: Rules,
        addable_types: Collection[str] = (),
    ) -> None:
        """`addable_types` are device types that the pool can grow by; any that it ever had, if none are named."""
        self._store = store
        self._leadership = leadership
        self._starter = starter
        self._queueing = Queueing(rules)
        self._phases: dict[str, str] = {}
        self._addable_types = addable_types
        self._needs: Needs | None = None
        self._needs_at, self._needs_due = 0.0, 0.0

    def loop(self, *, interval_seconds: float) -> Loop[PoolFacts | None, Act]:
        return Loop(
            name="place",
            interval_seconds=interval_seconds,
            load=self.load,
            decide=self.decide,
            apply=self.apply,
            subject=lambda act: "demand" if isinstance(act, Needs) else act.job_id,
            wakes=("launch", "watch"),
        )

    def load(self) -> PoolFacts | None:
        try:
            with self._store.read() as tx:
                return self._queueing.refresh(tx)
        except Exception:
            self._queueing.forget()
            raise

    def decide(self, facts: PoolFacts | None) -> Sequence[Act]:
        """Starts first, then who makes room, then why the others wait, and what is lacking.

        What a node that is woken will hold is not said to fit nowhere.
        """
        if facts is None:
            return ()
        decision = self._queueing.planner.decide(facts.now)
        drains = [preempt for preempt in decision.preemptions if preempt.for_job_id is None]
        started = {start.job_id for start in decision.starts}
        claims = _changed_claims(facts, decision.locks, decision.pins, decision.preemptions)
        waits = self._explain(facts, started)
        may_wake = any(device.resting for device in facts.devices)
        needs = self._find_needs(facts, at_once=may_wake and any(w.code is WaitCode.NO_DEVICE for w in waits))
        if any(each.wakes for each in needs):
            waits = [wait for wait in waits if wait.code is not WaitCode.NO_DEVICE]
        return [*decision.starts, *drains, *claims, *waits, *needs]

    def _find_needs(self, facts: PoolFacts, *, at_once: bool) -> list[Needs]:
        """Said when it is another one than before, while nodes are to be woken, and again now and then: another leader
        may have said something else meanwhile."""
        began = time.monotonic()
        if began < self._needs_due and not at_once:
            return []
        found = self._queueing.planner.demand(facts.now, self._addable_types) if self._queueing.waiting else Demand()
        ended = time.monotonic()
        self._needs_due = ended + max(NEEDS_SECONDS, NEEDS_SHARE * (ended - began))
        nodes = {device.device_id: device.node_name for device in facts.devices}
        needs = Needs(lacks=found.lacks, wakes=tuple(sorted({nodes[device_id] for device_id in found.wakes})))
        is_old = ended - self._needs_at >= NEEDS_AGAIN_SECONDS
        return [needs] if needs != self._needs or needs.wakes or is_old else []

    def _explain(self, facts: PoolFacts, started: set[str]) -> list[Wait]:
        """The reasons that have changed, of the jobs at the front and of those that may not start at all."""
        planner = self._queueing.planner
        first = planner.front(facts.now, EXPLAINED_PER_PASS + len(started))
        front = [job_id for job_id in first if job_id not in started]
        kept = set(front)
        rest = [j for j in self._queueing.waiting if j not in kept and j not in self._phases and j not in started]
        known = [job_id for job_id in (*front, *rest[:EXPLAINED_PER_PASS]) if planner.has_queued(job_id)]
        found = planner.explain_all(known, facts.now)
        self._phases = {j: phase for j, phase in self._phases.items() if j in self._queueing.waiting}
        return [wait for wait in found.values() if wait and self._phases.get(wait.job_id) != wait.code.value]

    def apply(self, act: Act) -> None:
        with self._store.write() as tx:
            self._require_leadership(tx)
            match act:
                case Start():
                    if not self._starter.start(tx, act):
                        self._queueing.hurry()
                case Preempt():
                    self._preempt(tx, act)
                case Claims():
                    self._claim(tx, act)
                case Wait():
                    self._note_wait(tx, act)
                case Needs():
                    record_lacks(tx, act.lacks)
                    for node_name in act.wakes:
                        end_rest(tx, node_name, why="jobs wait for it")
        if isinstance(act, Wait):
            self._phases[act.job_id] = act.code.value
        elif isinstance(act, Needs):
            self._needs, self._needs_at = act, time.monotonic()

    def _require_leadership(self, tx: WriteTx) -> None:
        """Under the scheduler's lock: whoever leads now decides alone until the transaction ends."""
        tx.lock_scheduler()
        holder = leader.find_leader(tx)
        if holder is None or holder.owner != self._leadership.owner or holder.expires_at <= tx.now():
            raise LeaseLostError("Another control plane leads now.")

    def _claim(self, tx: WriteTx, claims: Claims) -> None:
        job = jobs.lock_job(tx, claims.job_id)
        if job.state is not JobState.QUEUED:
            return
        record_claims(tx, job.job_id, claims.locks, claims.pins)
        for preempt in claims.preemptions:
            self._preempt(tx, preempt)

    def _preempt(self, tx: WriteTx, preempt: Preempt) -> None:
        """Ask the victim to leave. One that ended meanwhile, or leaves already, is let be."""
        attempt = next((a for a in attempts.list_active(tx) if a.job_id == preempt.job_id), None)
        if attempt is None or attempt.preempt_rule is not None or attempt.lease_owner != self._leadership.owner:
            return
        rule = preempt.rule
        attempts.request_preemption(
            tx,
            attempt.attempt_id,
            attempt.lease_token,
            rule=rule.value,
            for_job_id=preempt.for_job_id,
            grace_seconds=preempt.grace_seconds,
        )
        jobs.record_preemption(tx, preempt.job_id)
        for_whom = f" for {preempt.for_job_id}" if preempt.for_job_id else ""
        message = f"The job must make room{for_whom} within {preempt.grace_seconds:.0f} s: {PREEMPTION_REASONS[rule]}."
        data: dict[str, Any] = {"rule": rule.value, "for_job_id": preempt.for_job_id, "attempt": attempt.number}
        events.append_event(tx, preempt.job_id, level="warn", message=message, data=data)
        log.info("preempted", job=preempt.job_id, rule=rule.value, by=preempt.for_job_id)

    def _note_wait(self, tx: WriteTx, wait: Wait) -> None:
        job = jobs.lock_job(tx, wait.job_id)
        if job.state is not JobState.QUEUED or job.phase == wait.code.value:
            return
        jobs.record_progress(tx, job.job_id, phase=wait.code.value)
        if job.phase is None or wait.code not in SAID_ONCE:
            level: Level = "warn" if wait.code in {WaitCode.NO_DEVICE, WaitCode.OVER_BUDGET} else "info"
            events.append_event(
                tx,
                job.job_id,
                level=level,
                message=f"The job waits. {wait_sentence(wait)}",
                data={"wait": wait.code.value, **wait.facts},
            )


def _changed_claims(
    facts: PoolFacts, locks: Sequence[Lock], pins: Sequence[Pin], preemptions: Sequence[Preempt]
) -> list[Claims]:
    """Of each job whose locks or pins are other ones now, or that asks somebody to leave."""
    before = {job_id: _claims_of(job_id, facts.locks, facts.pins) for job_id in _claimers(facts.locks, facts.pins)}
    after = {job_id: _claims_of(job_id, locks, pins) for job_id in _claimers(locks, pins)}
    found = []
    for job_id in sorted(before.keys() | after.keys()):
        was, now = before.get(job_id, ((), ())), after.get(job_id, ((), ()))
        asks = tuple(preempt for preempt in preemptions if preempt.for_job_id == job_id)
        if asks or not _is_same(was, now):
            found.append(Claims(job_id=job_id, locks=now[0], pins=now[1], preemptions=asks))
    return found


def _claimers(locks: Sequence[Lock], pins: Sequence[Pin]) -> set[str]:
    return {lock.job_id for lock in locks} | {pin.job_id for pin in pins}


def _claims_of(job_id: str, locks: Sequence[Lock], pins: Sequence[Pin]) -> tuple[tuple[Lock, ...], tuple[Pin, ...]]:
    return tuple(lock for lock in locks if lock.job_id == job_id), tuple(pin for pin in pins if pin.job_id == job_id)


def _is_same(was: tuple[tuple[Lock, ...], tuple[Pin, ...]], now: tuple[tuple[Lock, ...], tuple[Pin, ...]]) -> bool:
    if was[0] != now[0] or len(was[1]) != len(now[1]):
        return False
    return all(
        (old.device_id, old.bytes) == (new.device_id, new.bytes) and abs(old.at - new.at) < PIN_SLACK_SECONDS
        for old, new in zip(was[1], now[1], strict=True)
    )
