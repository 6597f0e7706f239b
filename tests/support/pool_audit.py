"""An offline check of what a pool did, from its rows alone: attempts, events, ledger."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from orchestrator.domain.attempts import Attempt, LedgerEntry
from orchestrator.domain.jobs import Event, Job
from orchestrator.domain.scheduling.actions import PreemptionRule, WaitCode
from orchestrator.store import attempts, devices, events, ledger
from orchestrator.store.job_lists import JobFilter, list_jobs
from orchestrator.store.session import Store

SHORT_WAIT = timedelta(seconds=5)
"""A job that starts sooner than this needs no explanation."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Everything that is known of a pool whose jobs are over. `capacity` is usable bytes by device."""

    capacity: dict[str, int]
    jobs: tuple[Job, ...]
    attempts: tuple[Attempt, ...]
    entries: tuple[LedgerEntry, ...]
    events: dict[str, tuple[Event, ...]]


def read_history(store: Store) -> History:
    with store.read() as tx:
        found = list_jobs(tx, JobFilter(), limit=100).items
        return History(
            capacity={device.device_id: device.usable_bytes for device in devices.list_devices(tx)},
            jobs=tuple(found),
            attempts=tuple(attempt for job in found for attempt in attempts.list_attempts(tx, job.job_id)),
            entries=tuple(ledger.list_entries(tx)),
            events={
                job.job_id: tuple(events.list_events(tx, job.job_id, limit=1000, descending=False).items)
                for job in found
            },
        )


def find_faults(history: History) -> list[str]:
    """One sentence for each thing that must not be; empty when all is well."""
    return [
        *_overcommitted(history),
        *_partial_gangs(history),
        *_side_by_side(history.attempts),
        *_wrong_bills(history),
        *_unexplained(history),
        *_nameless_preemptions(history),
    ]


def _overcommitted(history: History) -> Iterator[str]:
    """From its assignment to the proof that its processes are gone an attempt holds its bytes."""
    moves: dict[str, list[tuple[datetime, int]]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.released_at is None:
            yield f"{attempt.attempt_id} never gave {attempt.device_id} back"
            continue
        for held in attempt.devices:
            moves[held.device_id].append((attempt.created_at, held.rate.reserved_bytes))
            moves[held.device_id].append((attempt.released_at, -held.rate.reserved_bytes))
    for device_id, found in moves.items():
        held = 0
        for at, change in sorted(found, key=lambda move: (move[0], move[1])):
            held += change
            if held > history.capacity[device_id]:
                yield f"{device_id} held {held} of {history.capacity[device_id]} bytes at {at}"


def _partial_gangs(history: History) -> Iterator[str]:
    """An attempt has as many devices as its job asked for, each once, all of its node."""
    asked = {job.job_id: job.spec.resources.count for job in history.jobs}
    for attempt in history.attempts:
        held = {device.device_id for device in attempt.devices}
        if len(held) != asked[attempt.job_id] or any(not name.startswith(f"{attempt.node_name}/") for name in held):
            wanted = f"{asked[attempt.job_id]} devices of {attempt.node_name}"
            yield f"{attempt.attempt_id} held {sorted(held)} and not {wanted}"


def _side_by_side(found: Sequence[Attempt]) -> Iterator[str]:
    by_job: dict[str, list[Attempt]] = defaultdict(list)
    for attempt in sorted(found, key=lambda attempt: attempt.number):
        by_job[attempt.job_id].append(attempt)
    for job_id, mine in by_job.items():
        for earlier, later in itertools.pairwise(mine):
            if earlier.ended_at is None or earlier.ended_at > later.created_at:
                yield f"{job_id} had attempts {earlier.number} and {later.number} at once"


def _wrong_bills(history: History) -> Iterator[str]:
    by_attempt: dict[str, list[LedgerEntry]] = defaultdict(list)
    for entry in history.entries:
        by_attempt[entry.attempt_id].append(entry)
        amount = entry.rate.amount_usd_micros(entry.ended_at - entry.started_at)
        if amount != entry.amount_usd_micros:
            yield f"an entry of {entry.attempt_id} says {entry.amount_usd_micros} and should say {amount}"
    for attempt in history.attempts:
        entries = by_attempt[attempt.attempt_id]
        if attempt.started_at is None:
            continue
        assert attempt.ended_at is not None
        ran = attempt.ended_at - attempt.started_at
        covered: dict[str | None, timedelta] = {}
        for entry in entries:
            covered[entry.device_id] = covered.get(entry.device_id, timedelta()) + entry.ended_at - entry.started_at
        if covered != {device.device_id: ran for device in attempt.devices}:
            yield f"the bill of {attempt.attempt_id} covers {covered}, and each device has {ran}"


def _unexplained(history: History) -> Iterator[str]:
    codes = {code.value for code in WaitCode}
    for job in history.jobs:
        since: datetime | None = None
        is_explained = False
        for event in history.events[job.job_id]:
            data = event.data or {}
            if data.get("state") == "queued":
                since, is_explained = event.created_at, False
            elif data.get("wait") in codes:
                is_explained = True
            elif data.get("state") == "running" and since is not None:
                if event.created_at - since > SHORT_WAIT and not is_explained:
                    yield f"{job.job_id} waited from {since} to {event.created_at} and nobody said why"
                since = None


def _nameless_preemptions(history: History) -> Iterator[str]:
    rules = {rule.value for rule in PreemptionRule}
    for attempt in history.attempts:
        if attempt.preempt_rule is None:
            continue
        said = [event.data or {} for event in history.events[attempt.job_id]]
        named = [data for data in said if data.get("attempt") == attempt.number and data.get("rule") in rules]
        if not named or (named[0]["for_job_id"] is None) != (attempt.preempt_rule == PreemptionRule.DRAIN.value):
            yield f"{attempt.attempt_id} was preempted and the event does not say by which rule, for whom"
