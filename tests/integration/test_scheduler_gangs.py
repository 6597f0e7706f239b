"""Jobs that several devices train: all of them or none, each billed, all given back together. Over real rows and loops,
on both engines, with scripted workers."""

from typing import Any

import pytest

from orchestrator.domain.jobs import Job
from orchestrator.domain.protocol import Stopped, StopReason
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.scheduler.spending import read_spent
from orchestrator.store import devices, ledger
from orchestrator.store.session import Store
from tests.support.control import Rig, add_ready_job, success, training_reports
from tests.support.launchers import GIB, ScriptedLauncher, ScriptedWorker, cpu_device
from tests.support.pool_audit import find_faults, read_history

PAIR = ["node-a/cpu:0", "node-a/cpu:1"]


@pytest.fixture
def rig(store: Store, objects: Any) -> Rig:
    """Two devices of 8 GiB on one node, one on another."""

    def on_stop(worker: ScriptedWorker, stop: StopReason) -> None:
        worker.report(Stopped(reason=stop.reason, step=3))

    declared = [cpu_device("node-a"), cpu_device("node-a", index=1), cpu_device("node-b")]
    launcher = ScriptedLauncher(declared, on_stop=on_stop)
    return Rig(store, objects, launcher, rules=Rules(least_run_seconds=0.0, least_grace_seconds=10.0))


def queue_job(rig: Rig, gib: int, count: int = 1, **spec: Any) -> Job:
    return add_ready_job(rig.store, needs_bytes=gib * GIB, resources={"count": count}, **spec)


def held(rig: Rig) -> dict[str, list[str]]:
    """Job ids by device."""
    found: dict[str, list[str]] = {}
    with rig.store.read() as tx:
        for use in devices.list_uses(tx):
            found.setdefault(use.device_id, []).append(use.job_id)
    return found


def test_a_gang_holds_its_bytes_on_each_device_and_its_order_names_them_in_turn(rig: Rig) -> None:
    job = queue_job(rig, 3, 2)
    rig.step()
    (attempt,) = rig.attempts(job.job_id)
    assert held(rig) == {device_id: [job.job_id] for device_id in PAIR}
    assert [device.device_id for device in attempt.devices] == PAIR
    spec = rig.launcher.worker(attempt.attempt_id).launch.spec
    assert [(grant.index, grant.reserved_bytes) for grant in spec.devices] == [(0, 3 * GIB), (1, 3 * GIB)]
    assert spec.plan.devices == 2
    assert spec.plan.batch_rows == spec.plan.micro_batch_rows * spec.plan.accumulation_steps * 2


def test_a_gang_takes_nothing_until_it_gets_everything(rig: Rig) -> None:
    small = queue_job(rig, 6)
    rig.step()
    (taken,) = held(rig)
    fillers = [queue_job(rig, 6), queue_job(rig, 6)]
    rig.step()
    gang = queue_job(rig, 4, 2)
    rig.step()
    assert rig.job(gang.job_id).state is JobState.QUEUED
    assert all(gang.job_id not in jobs for jobs in held(rig).values())
    for job in (small, *fillers):
        attempt = rig.attempts(job.job_id)[-1]
        rig.report(attempt, *training_reports(1, 15), success(attempt))
        rig.step()
        started = [device_id for device_id, jobs in held(rig).items() if gang.job_id in jobs]
        assert started in ([], PAIR)
    rig.step()
    assert [device_id for device_id, jobs in held(rig).items() if gang.job_id in jobs] == PAIR
    assert taken


def test_two_gangs_never_hold_half_each(rig: Rig) -> None:
    first, second = queue_job(rig, 5, 2), queue_job(rig, 5, 2)
    rig.step()
    assert held(rig) == {device_id: [first.job_id] for device_id in PAIR}
    attempt = rig.attempts(first.job_id)[-1]
    rig.report(attempt, *training_reports(1, 15), success(attempt))
    rig.step()
    rig.step()
    assert rig.job(first.job_id).state is JobState.SUCCEEDED
    assert held(rig) == {device_id: [second.job_id] for device_id in PAIR}


def test_the_bill_has_an_entry_for_each_device_and_the_time_limit_counts_time_once(rig: Rig) -> None:
    job = queue_job(rig, 2, 2)
    rig.step()
    attempt = rig.attempts(job.job_id)[-1]
    rig.report(attempt, *training_reports(1, 15), success(attempt))
    rig.step()
    rig.step()
    (ended,) = rig.attempts(job.job_id)
    assert ended.state is AttemptState.SUCCEEDED
    assert ended.started_at is not None
    assert ended.ended_at is not None
    with rig.store.read() as tx:
        entries = ledger.list_entries(tx, job_id=job.job_id)
        spent = read_spent(tx, job.job_id)
        billed, _ = ledger.sum_for_job(tx, job.job_id)
    ran = ended.ended_at - ended.started_at
    assert [entry.interval for entry in entries] == [1, 2]
    assert [entry.ended_at - entry.started_at for entry in entries] == [ran, ran]
    assert billed == ended.whole_rate.amount_usd_micros(ran) == 2 * ended.rate.amount_usd_micros(ran)
    assert spent.billed_seconds == ran.total_seconds()
    assert find_faults(read_history(rig.store)) == []


def test_a_gang_makes_room_as_a_whole(rig: Rig) -> None:
    gang = queue_job(rig, 6, 2, priority_class="idle")
    rig.step()
    rig.report(rig.attempts(gang.job_id)[-1], *training_reports(1, 3))
    rig.step("watch")
    wanted = [queue_job(rig, 6), queue_job(rig, 6)]
    for _ in range(4):
        rig.step()
    assert rig.job(gang.job_id).state is JobState.QUEUED
    assert all(rig.job(job.job_id).state is JobState.RUNNING for job in wanted)
    assert all(gang.job_id not in jobs for jobs in held(rig).values())
