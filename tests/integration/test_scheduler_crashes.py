"""kill -9 of the control plane at every boundary of a job's life, one run for each; then the history is checked."""

from collections import Counter
from itertools import pairwise

import pytest

from orchestrator.domain.jobs import Job
from orchestrator.domain.states import FINAL_JOB_STATES, JobState
from orchestrator.objects.client import Objects
from orchestrator.store import adapters, devices, events, ledger, logs, metrics
from orchestrator.store.session import Store
from tests.support.control import Rig, register_model, success, training_reports, upload_checkpoint
from tests.support.crashes import FragileLauncher, FragileStore, Killed, KillSwitch, fragile_objects
from tests.support.launchers import ScriptedWorker, cpu_device
from tests.support.rows import add_job

STEPS_PER_ROUND = 5
TOTAL_STEPS = 10
MOST_ROUNDS = 40
BOUNDARIES = 40
"""More than a run has: `test_the_boundaries_are_all_covered` fails when it has more."""


class World:
    """Workers that train five steps a round, with a checkpoint after each five, whatever the control plane does."""

    def __init__(self, rig: Rig, objects: Objects) -> None:
        self._rig = rig
        self._objects = objects

    def turn(self) -> None:
        for worker in list(self._rig.launcher.workers.values()):
            if worker.alive:
                self._train(worker)

    def _train(self, worker: ScriptedWorker) -> None:
        spec = worker.launch.spec
        done = max((e.report.step for e in worker.entries if e.report.kind == "progress"), default=None)
        if done is None:
            done = spec.resume_from.step if spec.resume_from else 0
        (attempt,) = [a for a in self._rig.attempts(spec.job_id) if a.attempt_id == spec.attempt_id]
        if done >= TOTAL_STEPS:
            worker.report(success(attempt, step=TOTAL_STEPS))
            return
        worker.report(*training_reports(done + 1, done + STEPS_PER_ROUND))
        worker.report(upload_checkpoint(self._objects, attempt, step=done + STEPS_PER_ROUND))


def _live(url: str, objects: Objects, kill_at: int | None) -> tuple[Rig, Job, KillSwitch]:
    """A job from its submission to its end, with one kill and a restart on the way."""
    switch = KillSwitch(kill_at)
    calm = Store(url)
    register_model(calm)
    with calm.write() as tx:
        job = add_job(tx)
    launcher = FragileLauncher([cpu_device()], switch=switch)
    rig = Rig(FragileStore(url, switch), fragile_objects(objects, switch), launcher)
    outside = Rig(calm, objects, launcher)
    world = World(outside, objects)
    for _ in range(MOST_ROUNDS):
        try:
            rig.step(*(name for name in rig.plane.runners if name != "clean"))
            world.turn()
        except Killed:
            rig.restart()
        with calm.read() as tx:
            is_over = not devices.list_uses(tx)
        if outside.job(job.job_id).state in FINAL_JOB_STATES and is_over:
            break
        outside.make_due(job.job_id)
        rig.pass_time(10)
    return outside, job, switch


def _check_history(rig: Rig, job: Job) -> None:
    tried = rig.attempts(job.job_id)
    assert rig.job(job.job_id).state is JobState.SUCCEEDED
    assert all(attempt.released_at for attempt in tried)
    with rig.store.read() as tx:
        story = events.list_events(tx, job.job_id, limit=100, descending=False).items
        lines = logs.list_logs(tx, job.job_id, limit=1000)
        figures = metrics.list_metrics(tx, job.job_id, limit=1000)
        entries = ledger.list_entries(tx, job_id=job.job_id)
        assert adapters.find_adapter_of_job(tx, job.job_id) is not None
    assert [event.seq for event in story] == list(range(1, len(story) + 1))
    final = [e for e in story if (e.data or {}).get("state") in {state.value for state in FINAL_JOB_STATES}]
    assert final == [story[-1]], "exactly one final event, and it is the last"
    last = tried[-1]
    begun = (last.resumed_from_step or 0) + 1
    assert [r.text for r in lines if r.attempt_number == last.number] == [
        f"step {n}" for n in range(begun, TOTAL_STEPS + 1)
    ]
    assert [r.step for r in figures if r.attempt_number == last.number] == list(range(begun, TOTAL_STEPS + 1))
    assert Counter((r.attempt_number, r.seq) for r in lines).most_common(1)[0][1] == 1
    for earlier, later in pairwise(entries):
        assert earlier.ended_at <= later.started_at, "no moment is billed twice"
    for attempt in tried:
        own = [entry for entry in entries if entry.attempt_id == attempt.attempt_id]
        length = sum((entry.ended_at - entry.started_at).total_seconds() for entry in own)
        if attempt.started_at is not None and attempt.ended_at is not None:
            assert length == pytest.approx((attempt.ended_at - attempt.started_at).total_seconds())


def test_a_run_without_a_kill_needs_one_attempt(sqlite_url: str, objects: Objects) -> None:
    rig, job, _ = _live(sqlite_url, objects, None)
    _check_history(rig, job)
    assert len(rig.attempts(job.job_id)) == 1


def test_the_boundaries_are_all_covered(sqlite_url: str, objects: Objects) -> None:
    _, _, switch = _live(sqlite_url, objects, None)
    assert 25 < len(switch.passed) <= BOUNDARIES
    assert {"before commit", "after commit", "before validate", "before launch", "before release", "after put"} <= set(
        switch.passed
    )


@pytest.mark.parametrize("kill_at", range(BOUNDARIES))
def test_killed_anywhere_the_job_succeeds_and_its_history_is_sound(
    sqlite_url: str, objects: Objects, kill_at: int
) -> None:
    rig, job, switch = _live(sqlite_url, objects, kill_at)
    _check_history(rig, job)
    tried = rig.attempts(job.job_id)
    # Only a kill between the note that the cluster is asked and the asking costs an attempt, and no work is lost by it.
    if len(tried) > 1:
        assert switch.passed[kill_at] in {"after commit", "before launch"}
        assert [launch.spec.attempt_id for launch in rig.launcher.launches] == [tried[-1].attempt_id]
