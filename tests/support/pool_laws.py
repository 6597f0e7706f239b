"""Laws that every decision keeps, worked out from the facts by plain arithmetic and not by the scheduler's own code."""

from collections.abc import Iterable, Iterator

from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.scheduling.actions import Decision, PreemptionRule
from orchestrator.domain.scheduling.facts import Footprint, QueuedJob, RunningJob, SharedDevice
from tests.support.pools import Pool


def assert_lawful(pool: Pool, decision: Decision) -> None:
    """The starts and preemptions of a decision that was not carried out yet."""
    _assert_each_start_is_whole(pool, decision)
    _assert_no_device_overflows(pool, decision)
    _assert_limits_hold(pool, decision)
    _assert_victims_may_be_asked(pool, decision)
    _assert_nobody_leaves_in_vain(pool, decision)
    _assert_pins_are_possible(pool, decision)


def _assert_each_start_is_whole(pool: Pool, decision: Decision) -> None:
    assert len({start.job_id for start in decision.starts}) == len(decision.starts)
    for start in decision.starts:
        job = pool.queued[start.job_id]
        assert not job.is_held
        assert job.not_before_at <= pool.now
        assert start.footprint in job.footprints
        devices = [pool.devices[hold.device_id] for hold in start.holds]
        assert len({device.device_id for device in devices}) == len(devices) == job.replicas
        if job.same_node:
            assert len({device.node_name for device in devices}) == 1
        for device, hold in zip(devices, start.holds, strict=True):
            assert device.schedulable
            assert may_run_on(job, start.footprint, device)
            assert hold.bytes == needed_on(job, start.footprint, device)


def _assert_no_device_overflows(pool: Pool, decision: Decision) -> None:
    """Running, started, held and locked bytes fit together on every device that something was added to."""
    starts = {start.job_id: start for start in decision.starts}
    touched = {hold.device_id for start in decision.starts for hold in start.holds}
    for device_id in touched:
        used = taken_bytes(pool, decision, device_id)
        used += sum(h.bytes for start in starts.values() for h in start.holds if h.device_id == device_id)
        used += locked_bytes(pool, decision, device_id)
        assert used <= pool.devices[device_id].usable_bytes


def _assert_limits_hold(pool: Pool, decision: Decision) -> None:
    for team_id in {pool.queued[start.job_id].team_id for start in decision.starts}:
        terms = pool.teams[team_id]
        starts = [start for start in decision.starts if pool.queued[start.job_id].team_id == team_id]
        if terms.ceiling_micros is not None:
            rates = sum(start.rate_micros for start in starts)
            assert team_rate(pool, pool.running.values(), team_id) + rates <= terms.ceiling_micros
        if terms.budget_left_usd_micros is not None and not terms.idle_when_exhausted:
            spent = sum(cost_on(s.footprint, pool.devices[s.holds[0].device_id]) for s in starts)
            assert spent <= max(0, terms.budget_left_usd_micros)
    for array_id in {job.array_id for job in pool.queued.values() if job.array_id is not None}:
        started = [s for s in decision.starts if pool.queued[s.job_id].array_id == array_id]
        if started:
            limit = pool.queued[started[0].job_id].array_limit
            assert limit is not None
            assert sum(job.array_id == array_id for job in pool.running.values()) + len(started) <= limit


def _assert_victims_may_be_asked(pool: Pool, decision: Decision) -> None:
    assert len({each.job_id for each in decision.preemptions}) == len(decision.preemptions)
    locked = {lock.job_id for lock in decision.locks}
    for each in decision.preemptions:
        victim = pool.running[each.job_id]
        assert not victim.is_stopping
        if each.rule is PreemptionRule.DRAIN:
            assert any(pool.devices[hold.device_id].draining for hold in victim.holds)
            continue
        assert each.for_job_id in locked
        starter = pool.queued[each.for_job_id]
        if is_spared(pool, victim):
            assert each.rule is PreemptionRule.RECLAIM
            assert count_preemptions(pool, starter) == 0
        assert starter.priority_class is not PriorityClass.IDLE
        if each.rule is PreemptionRule.RECLAIM:
            assert starter.team_id != victim.team_id
        elif each.rule is PreemptionRule.MOVE:
            (hold,) = victim.holds
            gets = [
                lock for lock in decision.locks if (lock.job_id, lock.device_id) == (starter.job_id, hold.device_id)
            ]
            assert victim.checkpointable
            assert [lock for lock in gets if lock.bytes > hold.bytes]
            assert may_run_elsewhere(pool, decision, victim)
        else:
            assert victim.checkpointable


def is_spared(pool: Pool, job: RunningJob) -> bool:
    """Whether the job has just begun, or was preempted too often of late."""
    is_young = pool.now - job.started_at < pool.rules.least_run_seconds
    return is_young or count_preemptions(pool, job) >= pool.rules.most_preemptions


def count_preemptions(pool: Pool, job: RunningJob | QueuedJob) -> int:
    return len([at for at in job.preempted_at if at > pool.now - pool.rules.preemption_window_seconds])


def may_run_elsewhere(pool: Pool, decision: Decision, victim: RunningJob) -> bool:
    """Whether another device of the same kind that is open has the bytes for a job that moves. Rooms that several jobs
    move to are not added up."""
    here = pool.devices[victim.holds[0].device_id]
    starts = [hold for start in decision.starts for hold in start.holds]
    for device in pool.devices.values():
        used = taken_bytes(pool, decision, device.device_id) + locked_bytes(pool, decision, device.device_id)
        used += sum(hold.bytes for hold in starts if hold.device_id == device.device_id)
        is_other = device.schedulable and device.kind == here.kind and device.device_id != here.device_id
        is_allowed = victim.device_types is None or device.device_type in victim.device_types
        if is_other and is_allowed and victim.holds[0].bytes <= device.usable_bytes - used:
            return True
    return False


def _assert_nobody_leaves_in_vain(pool: Pool, decision: Decision) -> None:
    """Each victim has bytes on a device that the starter could not do without, unless it is about a ceiling."""
    starts = [hold for start in decision.starts for hold in start.holds]
    asked = {each.job_id: each.for_job_id for each in decision.preemptions if each.for_job_id is not None}
    for job_id, starter_id in asked.items():
        victim, starter = pool.running[job_id], pool.queued[starter_id]
        if victim.team_id == starter.team_id and pool.teams[starter.team_id].ceiling_micros is not None:
            continue
        others = {other for other, for_id in asked.items() if for_id == starter_id and other != job_id}
        needed_on = {lock.device_id: lock.bytes for lock in decision.locks if lock.job_id == starter_id}
        is_needed = []
        for hold in victim.holds:
            free = pool.devices[hold.device_id].usable_bytes - taken_bytes(pool, decision, hold.device_id)
            free -= sum(start.bytes for start in starts if start.device_id == hold.device_id)
            free += sum(
                left.bytes for other in others for left in pool.running[other].holds if left.device_id == hold.device_id
            )
            is_needed.append(free < needed_on.get(hold.device_id, 0))
        locks = (*decision.locks, *pool.locks)  # one may have ended after the victim was asked
        locked_by_others = any(lock.job_id != starter_id and lock.device_id in needed_on for lock in locks)
        assert any(is_needed) or locked_by_others


def _assert_pins_are_possible(pool: Pool, decision: Decision) -> None:
    by_job = {pin.job_id for pin in decision.pins}
    assert len(by_job) <= pool.rules.most_holders
    assert len({pin.device_id for pin in decision.pins}) == len(decision.pins)
    for pin in decision.pins:
        job, device = pool.queued[pin.job_id], pool.devices[pin.device_id]
        assert any(may_run_on(job, footprint, device) for footprint in job.footprints)
    assert not by_job & {start.job_id for start in decision.starts}


def find_left_waiting(pool: Pool) -> list[str]:
    """After a decision was carried out: jobs that fit open devices within all limits, and wait nevertheless."""
    return [job.job_id for job in _ready(pool) if any(_fits_now(pool, job, each) for each in job.footprints)]


def find_unreclaimed(pool: Pool, before: dict[str, RunningJob]) -> list[str]:
    """Jobs within their team's guarantee that one borrower's job could make room for, and that nobody was asked for.

    `before` are the jobs that ran when the decision was made. One victim is enough for a law: what several could do
    together depends on whom they leave within a guarantee.
    """
    found = []
    for job in _ready(pool):
        if job.priority_class is PriorityClass.IDLE or job.replicas > 1:
            continue
        to_guarantee = pool.teams[job.team_id].guarantee_micros - promised_rate(pool, job.team_id)
        for footprint in job.footprints:
            types = {each for each, rate in _rates(pool, job, footprint).items() if rate <= to_guarantee}
            victims = _borrowers(pool, job, before)
            if any(_would_fit(pool, job, footprint, victim, types) for victim in victims):
                found.append(job.job_id)
    return found


def _borrowers(pool: Pool, job: QueuedJob, before: dict[str, RunningJob]) -> Iterator[RunningJob]:
    for victim in before.values():
        now = pool.running[victim.job_id]
        is_exempt = is_spared(pool, victim) and count_preemptions(pool, job) > 0
        if now.is_stopping or is_exempt or victim.team_id == job.team_id:
            continue
        staying = [each for each in before.values() if not pool.running[each.job_id].is_stopping]
        if team_rate(pool, staying, victim.team_id) > pool.teams[victim.team_id].guarantee_micros:
            yield victim


def _would_fit(pool: Pool, job: QueuedJob, footprint: Footprint, victim: RunningJob, types: set[str]) -> bool:
    for hold in victim.holds:
        device = pool.devices.get(hold.device_id)
        if device is None or not _is_open(pool, device) or not _can_pay(pool, job, footprint, device):
            continue
        if device.device_type in types and may_run_on(job, footprint, device):
            free = free_bytes(pool, device.device_id) + hold.bytes
            if needed_on(job, footprint, device) <= free:
                return True
    return False


def _ready(pool: Pool) -> Iterator[QueuedJob]:
    locked = {lock.job_id for lock in pool.locks}
    for job in pool.queued.values():
        running = sum(each.array_id == job.array_id for each in pool.running.values() if job.array_id is not None)
        is_full = job.array_limit is not None and job.array_id is not None and running >= job.array_limit
        if not (job.is_held or job.not_before_at > pool.now or is_full or job.job_id in locked):
            yield job


def _fits_now(pool: Pool, job: QueuedJob, footprint: Footprint) -> bool:
    groups: dict[tuple[str, str], int] = {}
    for device in pool.devices.values():
        if not _is_open(pool, device) or not may_run_on(job, footprint, device):
            continue
        if not _can_pay(pool, job, footprint, device):
            continue
        if needed_on(job, footprint, device) <= free_bytes(pool, device.device_id):
            key = (device.device_type, device.node_name if job.same_node else "")
            groups[key] = groups.get(key, 0) + 1
    return max(groups.values(), default=0) >= job.replicas


def _can_pay(pool: Pool, job: QueuedJob, footprint: Footprint, device: SharedDevice) -> bool:
    terms = pool.teams[job.team_id]
    rate = _rates(pool, job, footprint).get(device.device_type)
    if rate is None:
        return False
    if terms.ceiling_micros is not None and rate + promised_rate(pool, job.team_id) > terms.ceiling_micros:
        return False
    if terms.budget_left_usd_micros is None:
        return True
    owners = {lock.job_id for lock in pool.locks} & pool.queued.keys()
    kept = sum(
        max((c for f in pool.queued[owner].footprints for c in f.cost_usd_micros.values()), default=0)
        for owner in owners
        if pool.queued[owner].team_id == job.team_id
    )
    return cost_on(footprint, device) <= terms.budget_left_usd_micros - kept


def _is_open(pool: Pool, device: SharedDevice) -> bool:
    return device.schedulable and all(pin.device_id != device.device_id for pin in pool.pins)


def free_bytes(pool: Pool, device_id: str) -> int:
    """What is free for somebody without a lock there, after a decision was carried out."""
    nothing = Decision(starts=(), preemptions=(), pins=(), locks=pool.locks)
    used = taken_bytes(pool, nothing, device_id) + locked_bytes(pool, nothing, device_id)
    return pool.devices[device_id].usable_bytes - used


def taken_bytes(pool: Pool, decision: Decision, device_id: str) -> int:
    """Held and running bytes."""
    running = sum(h.bytes for job in pool.running.values() for h in job.holds if h.device_id == device_id)
    return running + pool.devices[device_id].held_bytes


def locked_bytes(pool: Pool, decision: Decision, device_id: str) -> int:
    """What locks take from what is free: not what the victims still occupy."""
    asked = {each.job_id: each.for_job_id for each in decision.preemptions}
    locked = 0
    for lock in decision.locks:
        if lock.device_id != device_id:
            continue
        leaving = sum(
            hold.bytes
            for job in pool.running.values()
            if lock.job_id in {job.stopping_for, asked.get(job.job_id)}
            for hold in job.holds
            if hold.device_id == device_id
        )
        locked += max(0, lock.bytes - leaving)
    return locked


def may_run_on(job: QueuedJob, footprint: Footprint, device: SharedDevice) -> bool:
    allowed = job.device_types is None or device.device_type in job.device_types
    needed = footprint.bytes_by_kind.get(device.kind)
    return allowed and needed is not None and needed <= device.usable_bytes


def needed_on(job: QueuedJob, footprint: Footprint, device: SharedDevice) -> int:
    return device.usable_bytes if job.exclusive else footprint.bytes_by_kind[device.kind]


def cost_on(footprint: Footprint, device: SharedDevice) -> int:
    costs = footprint.cost_usd_micros
    return costs.get(device.device_type, costs.get("*", 0))


def team_rate(pool: Pool, running: Iterable[RunningJob], team_id: str) -> int:
    """The team's share of the pool, in micros of a reference device, each hold rounded up."""
    return sum(
        -(-pool.devices[hold.device_id].weight_micros * hold.bytes // pool.devices[hold.device_id].usable_bytes)
        for job in running
        if job.team_id == team_id
        for hold in job.holds
        if hold.device_id in pool.devices
    )


def promised_rate(pool: Pool, team_id: str) -> int:
    """What the team has, and what devices are locked for."""
    owners = {lock.job_id for lock in pool.locks} & pool.queued.keys()
    jobs = [pool.queued[owner] for owner in owners if pool.queued[owner].team_id == team_id]
    pending = sum(min(_rates_of_all(pool, job), default=0) for job in jobs)
    return team_rate(pool, pool.running.values(), team_id) + pending


def _rates_of_all(pool: Pool, job: QueuedJob) -> list[int]:
    return [rate for footprint in job.footprints for rate in _rates(pool, job, footprint).values()]


def _rates(pool: Pool, job: QueuedJob, footprint: Footprint) -> dict[str, int]:
    """The most that the job counts for on each device type."""
    rates: dict[str, int] = {}
    for device in pool.devices.values():
        if device.schedulable and may_run_on(job, footprint, device):
            needed = needed_on(job, footprint, device)
            rate = -(-device.weight_micros * needed // device.usable_bytes) * job.replicas
            rates[device.device_type] = max(rates.get(device.device_type, 0), rate)
    return rates
