"""Teams share a pool: reclaim, classes, drains, budgets, holds, and a reason for every wait. Over real rows and loops,
on both engines, with scripted workers."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.attempts import Attempt
from orchestrator.domain.jobs import Job
from orchestrator.domain.priority import PriorityClass
from orchestrator.domain.protocol import Stopped, StopReason
from orchestrator.domain.scheduling.facts import Rules
from orchestrator.domain.spec import JobShape
from orchestrator.domain.states import AttemptState, JobState
from orchestrator.domain.teams import Role, Team
from orchestrator.services.arrays import Arrays
from orchestrator.services.pool import NodeWish, Pool
from orchestrator.services.queue import Queue, QueueChange
from orchestrator.services.submissions import Submissions
from orchestrator.services.why import Candidate, WhyReader
from orchestrator.store import attempts, events, jobs, ledger, teams
from orchestrator.store.budgets import read_budget
from orchestrator.store.scheduling import read_pool_facts, read_queued
from orchestrator.store.session import Store
from orchestrator.store.tables.attempts import attempts as attempt_rows
from orchestrator.store.tables.jobs import jobs as job_rows
from tests.support.callers import as_role, make_caller
from tests.support.control import Rig, add_ready_job, training_reports, upload_checkpoint
from tests.support.launchers import GIB, ScriptedLauncher, ScriptedWorker, cpu_device
from tests.support.registries import OneModel
from tests.support.rows import add_array, add_team

HOUR = {"time": {"cpu": {"seconds": 3600.0, "high_seconds": 3600.0, "low_seconds": 3600.0}}}
"""At the rig's price of $3.60 an hour, a job with a quarter of the device may cost $0.90."""


@pytest.fixture
def rig(store: Store, objects: Any) -> Rig:
    """One device of 8 GiB; workers save and stop when they are asked."""

    def on_stop(worker: ScriptedWorker, stop: StopReason) -> None:
        worker.report(Stopped(reason=stop.reason, step=3))

    launcher = ScriptedLauncher([cpu_device("node-a", total_bytes=8 * GIB)], on_stop=on_stop)
    return Rig(store, objects, launcher, rules=Rules(least_run_seconds=0.0, least_grace_seconds=10.0))


def make_team(rig: Rig, **terms: Any) -> Team:
    with rig.store.write() as tx:
        team = add_team(tx)
        return teams.record_terms(tx, team.team_id, terms) if terms else team


def queue_job(rig: Rig, team: Team, gib: int, **spec: Any) -> Job:
    return add_ready_job(rig.store, needs_bytes=gib * GIB, estimate=HOUR, team_id=team.team_id, **spec)


def train(rig: Rig, job: Job, *, checkpoint_at: int | None = None) -> Attempt:
    """Let the job's attempt report its first steps."""
    attempt = rig.attempts(job.job_id)[-1]
    rig.report(attempt, *training_reports(1, 3))
    if checkpoint_at is not None:
        rig.report(attempt, upload_checkpoint(rig.objects, attempt, step=checkpoint_at))
    rig.step("watch")
    return attempt


def messages(rig: Rig, job: Job) -> list[str]:
    with rig.store.read() as tx:
        return [event.message for event in events.list_events(tx, job.job_id, limit=100, descending=False).items]


def state_of(rig: Rig, job: Job) -> JobState:
    return rig.job(job.job_id).state


def test_a_guaranteed_team_takes_back_what_a_borrower_has(rig: Rig) -> None:
    owner, borrower = make_team(rig, guarantee_micros=1_000_000), make_team(rig)
    borrowed = queue_job(rig, borrower, 6)
    rig.step()
    attempt = train(rig, borrowed, checkpoint_at=3)
    wanted = queue_job(rig, owner, 6)
    rig.step("place")
    assert rig.attempts(borrowed.job_id)[-1].preempt_rule == "reclaim"
    assert rig.job(wanted.job_id).phase == "waits_for_preempted"
    rig.step("watch", "watch", "reap", "place")  # asked, saved and ended, proved gone, and the room given on
    assert state_of(rig, borrowed) is JobState.QUEUED
    assert state_of(rig, wanted) is JobState.RUNNING
    victim = rig.job(borrowed.job_id)
    assert victim.queued_at == borrowed.queued_at
    assert victim.platform_failures == 0
    assert len(victim.preempted_at) == 1
    found = next(a for a in rig.attempts(borrowed.job_id) if a.attempt_id == attempt.attempt_id)
    assert (found.state, found.preempted_for) == (AttemptState.INTERRUPTED, wanted.job_id)
    said = messages(rig, borrowed)
    assert any(f"must make room for {wanted.job_id} within 10 s: a team takes back" in text for text in said)
    assert any("keeps its place in the queue and goes on from step 3" in text for text in said)


def test_freed_bytes_wait_for_the_job_that_they_were_freed_for(rig: Rig) -> None:
    owner, borrower = make_team(rig, guarantee_micros=1_000_000), make_team(rig)
    borrowed = queue_job(rig, borrower, 6)
    rig.step()
    train(rig, borrowed, checkpoint_at=3)
    wanted = queue_job(rig, owner, 6)
    rig.step("place", "watch", "watch", "reap")
    small = queue_job(rig, borrower, 3)
    rig.restart()  # what is locked is in the rows, not in the leader's memory
    rig.step("lead", "place")
    assert state_of(rig, wanted) is JobState.RUNNING
    assert state_of(rig, small) is JobState.QUEUED


def test_bytes_that_were_left_and_not_given_back_are_not_asked_for_twice(rig: Rig) -> None:
    owner, borrower = make_team(rig, guarantee_micros=1_000_000), make_team(rig)
    borrowed = [queue_job(rig, borrower, 2) for _ in range(4)]
    rig.step()
    for job in borrowed:
        train(rig, job, checkpoint_at=3)
    first = queue_job(rig, owner, 2)
    rig.step("place", "watch", "watch")  # the victim has ended, and is not proved gone
    second = queue_job(rig, owner, 2)
    rig.step("place")
    victims = [a.preempted_for for job in borrowed for a in rig.attempts(job.job_id) if a.preempt_rule]
    assert sorted(filter(None, victims)) == sorted([first.job_id, second.job_id])


def test_nobody_is_stopped_when_preemption_is_off(rig: Rig) -> None:
    rig.plane = rig.build(rules=Rules(preemption=False))
    owner, borrower = make_team(rig, guarantee_micros=1_000_000), make_team(rig)
    borrowed = queue_job(rig, borrower, 6)
    rig.step()
    queue_job(rig, owner, 6)
    rig.step()
    assert rig.attempts(borrowed.job_id)[-1].preempt_rule is None


def test_a_normal_job_takes_the_place_of_an_idle_one(rig: Rig) -> None:
    team = make_team(rig)
    idle = queue_job(rig, team, 6, priority_class=PriorityClass.IDLE)
    rig.step()
    train(rig, idle, checkpoint_at=3)
    normal = queue_job(rig, team, 6)
    rig.step()
    rig.step()
    rig.step()
    assert rig.attempts(idle.job_id)[0].preempt_rule == "class"
    assert state_of(rig, normal) is JobState.RUNNING
    assert state_of(rig, idle) is JobState.QUEUED


def test_with_turns_a_job_that_had_its_turn_leaves_and_comes_back(rig: Rig) -> None:
    rules = Rules(turns_hours=(1.0, 8.0), least_run_seconds=600.0, least_grace_seconds=10.0)
    rig.plane = rig.build(rules=rules)
    one, other = make_team(rig), make_team(rig)
    old = queue_job(rig, one, 6)
    rig.step()
    attempt = train(rig, old, checkpoint_at=3)
    new = queue_job(rig, other, 6)
    rig.step("place")
    assert rig.attempts(old.job_id)[-1].preempt_rule is None, "it has not run for an hour"
    with rig.store.write() as tx:
        began = tx.now() - timedelta(hours=2)
        where = attempt_rows.c.attempt_id == attempt.attempt_id
        tx.execute(update(attempt_rows).where(where).values(started_at=began, created_at=began))
    rig.plane = rig.build(rules=rules)
    rig.step("lead", "place", "watch", "watch", "reap", "place")
    assert (state_of(rig, old), state_of(rig, new)) == (JobState.QUEUED, JobState.RUNNING)
    assert rig.attempts(old.job_id)[-1].preempt_rule == "turns"
    words = "it has run for its turn, and another job has had less so far."
    assert f"The job must make room for {new.job_id} within 10 s: {words}" in messages(rig, old)
    with rig.store.read() as tx:
        facts = read_pool_facts(tx)
        (waiting,) = read_queued(tx, [rig.job(old.job_id)], facts.market)
    assert waiting.attained_seconds == pytest.approx(2 * 3600 * 6 / 8, abs=60), "what it had counts when it comes back"
    rig.step("place")
    assert rig.attempts(new.job_id)[-1].preempt_rule is None, "who had more does not take the place back"
    with rig.store.write() as tx:
        jobs.request_cancel(tx, new.job_id)
    rig.step()
    rig.step()
    assert state_of(rig, old) is JobState.RUNNING
    again = rig.attempts(old.job_id)[-1]
    assert (again.number, again.resumed_from_step) == (2, 3)
    with rig.store.read() as tx:
        (running,) = read_pool_facts(tx).running
    assert running.attained_seconds == waiting.attained_seconds


def test_a_drained_node_is_emptied_and_its_jobs_go_on_elsewhere(rig: Rig) -> None:
    admin = as_role(make_caller(rig.store), Role.ADMIN)
    job = queue_job(rig, make_team(rig), 6)
    rig.step()
    train(rig, job, checkpoint_at=3)
    rig.launcher.devices.append(cpu_device("node-b", total_bytes=16 * GIB))
    rig.step("survey")
    Pool(rig.store).set_node(admin, "node-a", NodeWish.DRAIN)
    rig.step()
    rig.step()
    rig.step()
    assert state_of(rig, job) is JobState.RUNNING
    assert rig.attempts(job.job_id)[-1].node_name == "node-b"
    assert rig.attempts(job.job_id)[0].preempt_rule == "drain"


def test_a_cordoned_node_takes_nothing_until_it_is_uncordoned(rig: Rig) -> None:
    admin = as_role(make_caller(rig.store), Role.ADMIN)
    rig.step("lead", "survey")
    Pool(rig.store).set_node(admin, "node-a", NodeWish.CORDON)
    job = queue_job(rig, make_team(rig), 1)
    rig.step()
    assert rig.job(job.job_id).phase == "no_device_fits"
    Pool(rig.store).set_node(admin, "node-a", NodeWish.UNCORDON)
    rig.step()
    assert state_of(rig, job) is JobState.RUNNING


def test_a_budget_is_held_at_the_start_and_settled_at_the_end(rig: Rig) -> None:
    team = make_team(rig, budget_usd_micros=1_000_000)
    first, second = queue_job(rig, team, 2), queue_job(rig, team, 2)
    rig.step()
    assert (state_of(rig, first), state_of(rig, second)) == (JobState.RUNNING, JobState.QUEUED)
    assert rig.job(first.job_id).held_usd_micros == 900_000
    assert rig.job(second.job_id).phase == "over_budget"
    assert any("of at most" in text or "left in this period" in text for text in messages(rig, second))
    assert any("90 % of team" in text for text in messages(rig, first))
    attempt = train(rig, first)
    with rig.store.write() as tx:
        started_at = tx.now() - timedelta(seconds=100)
        where = attempt_rows.c.attempt_id == attempt.attempt_id
        tx.execute(update(attempt_rows).where(where).values(started_at=started_at, created_at=started_at))
        jobs.request_cancel(tx, first.job_id)
    rig.step()
    rig.step()
    assert state_of(rig, first) is JobState.CANCELLED
    with rig.store.read() as tx:
        billed, _ = ledger.sum_for_job(tx, first.job_id)
        state = read_budget(tx, team)
    assert 25_000 <= billed <= 26_000
    assert state.billed_usd_micros == billed
    rig.step("place")
    assert state_of(rig, second) is JobState.RUNNING


def test_an_exhausted_team_may_go_on_as_idle(rig: Rig) -> None:
    poor, other = make_team(rig, budget_usd_micros=0, when_exhausted="idle"), make_team(rig)
    job = queue_job(rig, poor, 6)
    rig.step()
    train(rig, job, checkpoint_at=3)
    assert rig.attempts(job.job_id)[-1].runs_as is PriorityClass.IDLE
    paying = queue_job(rig, other, 6)
    rig.step()
    rig.step()
    rig.step()
    assert state_of(rig, paying) is JobState.RUNNING
    assert state_of(rig, job) is JobState.QUEUED


def test_a_held_job_waits_until_it_is_released(rig: Rig) -> None:
    caller = make_caller(rig.store)
    with rig.store.read() as tx:
        team = teams.get_team(tx, caller.team_id)
    job = queue_job(rig, team, 1)
    Queue(rig.store).change(caller, job.job_id, QueueChange(is_held=True))
    rig.step()
    assert rig.job(job.job_id).phase == "held"
    Queue(rig.store).change(caller, job.job_id, QueueChange(is_held=False))
    rig.step()
    assert state_of(rig, job) is JobState.RUNNING


def test_an_array_runs_as_many_jobs_at_once_as_it_may(rig: Rig) -> None:
    """The planner rests while nothing changes; a new limit is a change."""
    caller = make_caller(rig.store)
    with rig.store.write() as tx:
        team, array = teams.get_team(tx, caller.team_id), add_array(tx, caller.team_id, max_parallel=1)
    members = [queue_job(rig, team, 1, array_id=array.array_id) for _ in range(4)]

    def running() -> int:
        rig.step("place")
        return sum(state_of(rig, job) is JobState.RUNNING for job in members)

    rig.step("lead", "survey")
    assert running() == 1
    assert running() == 1
    assert {rig.job(job.job_id).phase for job in members[1:]} == {"array_limit"}
    service = Arrays(rig.store, Submissions(rig.store, OneModel()))
    service.set_max_parallel(caller, array.array_id, 3)
    assert running() == 3
    service.set_max_parallel(caller, array.array_id, 1)
    assert running() == 3
    service.set_max_parallel(caller, array.array_id, None)
    assert running() == 4


def test_why_names_the_reason_the_place_and_what_would_help(rig: Rig) -> None:
    caller = make_caller(rig.store)
    with rig.store.read() as tx:
        team = teams.get_team(tx, caller.team_id)
    running, waiting = queue_job(rig, team, 6), queue_job(rig, team, 4)
    rig.step()
    found = WhyReader(rig.store, Rules()).explain(caller, waiting.job_id)
    assert found.wait is not None
    assert (found.wait.code, found.position, found.of) == ("waits_for_room", 1, 1)
    (attempt,) = rig.attempts(running.job_id)
    assert found.expected_start_at == pytest.approx(attempt.created_at.timestamp() + 3600, abs=60)
    assert {hint.code.value for hint in found.hints} == {"smaller_footprint", "after_job"}
    assert any(hint.facts.get("job_id") == running.job_id for hint in found.hints)


def test_a_job_that_nobody_submitted_is_foretold_by_the_same_decision(rig: Rig) -> None:
    """At once beside what runs, behind what waits, never where it does not fit; and nothing of it stays."""
    caller = make_caller(rig.store)
    with rig.store.read() as tx:
        team = teams.get_team(tx, caller.team_id)
    reader = WhyReader(rig.store, Rules())
    running = queue_job(rig, team, 6)
    rig.step()
    (attempt,) = rig.attempts(running.job_id)
    assert reader.foretell(caller, candidate(1)) == pytest.approx(attempt.created_at.timestamp(), abs=60)
    free_at = attempt.created_at.timestamp() + 3600
    assert reader.foretell(caller, candidate(6)) == pytest.approx(free_at, abs=60)
    waiting = queue_job(rig, team, 6)
    assert reader.foretell(caller, candidate(6)) == pytest.approx(free_at + 3600, abs=120)
    assert reader.foretell(caller, candidate(600)) is None
    assert (reader.explain(caller, waiting.job_id).position, reader.explain(caller, waiting.job_id).of) == (1, 1)


def candidate(gib: int) -> Candidate:
    return Candidate(
        shape=JobShape(model="smol"),
        bytes_by_kind={"cpu": gib * GIB, "cuda": gib * GIB},
        seconds_by_type={"*": 3600.0},
        costs_by_type={},
    )


def test_what_came_lately_is_expected_to_come_again_and_to_go_ahead(rig: Rig) -> None:
    """An urgent job that came twelve hours less a minute ago is expected again, before the device is free."""
    caller = make_caller(rig.store)
    with rig.store.write() as tx:
        team = teams.record_terms(tx, caller.team_id, {"guarantee_micros": 1_000_000})
    past = queue_job(rig, team, 6, priority_class=PriorityClass.URGENT)
    rig.step()
    (attempt,) = rig.attempts(past.job_id)
    ends_at = attempt.created_at.timestamp() + 3600
    waiting = queue_job(rig, team, 4)
    reader = WhyReader(rig.store, Rules())
    assert reader.explain(caller, waiting.job_id).expected_start_at == pytest.approx(ends_at, abs=60)
    with rig.store.write() as tx:
        came = tx.now() - timedelta(hours=11, minutes=59)
        tx.execute(update(job_rows).where(job_rows.c.job_id == past.job_id).values(queued_at=came))
    told = reader.explain(caller, waiting.job_id).expected_start_at
    assert told == pytest.approx(ends_at + 3600, abs=60)


def test_an_attempt_that_was_never_launched_gives_way_at_once(rig: Rig) -> None:
    owner, borrower = make_team(rig, guarantee_micros=1_000_000), make_team(rig)
    borrowed = queue_job(rig, borrower, 6)
    rig.step("lead", "survey", "place")
    wanted = queue_job(rig, owner, 6)
    rig.step("place", "launch", "place")
    (attempt,) = rig.attempts(borrowed.job_id)
    assert attempt.state is AttemptState.INTERRUPTED
    assert state_of(rig, wanted) is JobState.RUNNING
    with rig.store.read() as tx:
        assert attempts.list_unreleased(tx)[0].job_id == wanted.job_id
