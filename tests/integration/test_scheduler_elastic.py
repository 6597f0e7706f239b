"""A pool that grows and shrinks, over real rows and loops: what is lacking is said and asked for, idle nodes rest."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.elastic import DeviceGroup
from orchestrator.domain.pool import Node
from orchestrator.domain.scheduling.demand import Lack
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Role
from orchestrator.scheduler import place
from orchestrator.scheduler.elastic import REQUEST_AGAIN_SECONDS, ElasticTerms, Rest
from orchestrator.services.pool import NodeWish, Pool
from orchestrator.services.teams import Teams
from orchestrator.store import events, jobs, lacks, nodes
from orchestrator.store.session import Store
from orchestrator.store.tables.attempts import attempts as attempt_rows
from orchestrator.store.tables.pool import device_spells
from orchestrator.store.tables.pool import nodes as node_rows
from tests.support.callers import as_role, make_caller
from tests.support.control import Rig, add_ready_job
from tests.support.launchers import GIB, ScriptedLauncher, cpu_device

TERMS = ElasticTerms(asks=True, idle_seconds=600.0)
WHOLE = DeviceGroup(device_type="cpu", bytes_by_index={0: 8 * GIB})


@pytest.fixture
def build(store: Store, objects: Any) -> Callable[..., Rig]:
    """A pool of one device of 8 GiB that was surveyed."""

    def make(terms: ElasticTerms = TERMS) -> Rig:
        rig = Rig(store, objects, ScriptedLauncher([cpu_device("node-a")]), elastic=terms)
        rig.step("lead", "survey")
        return rig

    return make


def look(rig: Rig) -> None:
    """Let the scheduler look, without the pause that it makes between two looks at what is lacking."""
    rig.plane = rig.build()
    rig.step("lead", "survey", "place", "elastic")


def lacking(rig: Rig) -> list[Lack]:
    with rig.store.read() as tx:
        return lacks.list_lacks(tx)


def node(rig: Rig, name: str = "node-a") -> Node | None:
    with rig.store.read() as tx:
        return next((node for node in nodes.list_nodes(tx) if node.node_name == name), None)


def age(rig: Rig, seconds: float) -> None:
    """Let all that the pool has seen be so much longer ago."""
    with rig.store.write() as tx:
        ago = tx.now() - timedelta(seconds=seconds)
        tx.execute(update(device_spells).values(since_at=ago))
        tx.execute(update(attempt_rows).where(attempt_rows.c.released_at.is_not(None)).values(released_at=ago))
        tx.execute(update(node_rows).values(changed_at=ago))


def actions(rig: Rig) -> list[tuple[str, str]]:
    admin = as_role(make_caller(rig.store), Role.ADMIN)
    return [(entry.action, entry.subject) for entry in Teams(rig.store).audit_log(admin).items]


def test_what_waiting_jobs_lack_is_written_down_and_asked_for(build: Callable[..., Rig]) -> None:
    rig = build()
    first = add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    assert (rig.job(first.job_id).state, lacking(rig)) == (JobState.RUNNING, [])
    waiting = [add_ready_job(rig.store, needs_bytes=4 * GIB) for _ in range(3)]
    look(rig)
    assert lacking(rig) == [Lack(device_type="cpu", usable_bytes=8 * GIB, together=1, groups=2, jobs=3)]
    assert rig.launcher.requests[-1] == (WHOLE, WHOLE, WHOLE), "what is in use counts, too"
    rig.launcher.devices += [cpu_device("node-b"), cpu_device("node-c")]
    look(rig)
    look(rig)
    assert {rig.job(job.job_id).state for job in waiting} == {JobState.RUNNING}
    assert lacking(rig) == []
    assert not rig.launcher.requests[-1], "nothing more is asked for"


def test_what_another_leader_said_meanwhile_is_put_right(
    build: Callable[..., Rig], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NEEDS_SECONDS", "NEEDS_SHARE", "NEEDS_AGAIN_SECONDS"):
        monkeypatch.setattr(place, name, 0)
    rig = build()
    rig.step("place")
    with rig.store.write() as tx:
        lacks.record_lacks(tx, [Lack(device_type="other", usable_bytes=1, together=1, groups=1, jobs=1)])
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    rig.step("place")
    assert lacking(rig) == []


def test_a_request_is_made_when_it_changes_and_now_and_then(build: Callable[..., Rig]) -> None:
    rig = build()
    rig.step("elastic", "elastic")
    assert rig.launcher.requests == [()], "what a control plane before it asked for is taken back"
    rig.pass_time(REQUEST_AGAIN_SECONDS)
    rig.launcher.available = False
    rig.step("lead", "elastic")
    assert rig.launcher.requests == [()]
    rig.launcher.available = True
    rig.pass_time(1)
    rig.step("elastic")
    assert rig.launcher.requests == [(), ()]


def test_nothing_is_asked_for_and_no_node_rests_unless_the_settings_say_so(build: Callable[..., Rig]) -> None:
    rig = build(ElasticTerms())
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    age(rig, 1e6)
    rig.step("elastic")
    assert (len(lacking(rig)), rig.launcher.requests, node(rig)) == (1, [], None)


def test_an_idle_node_rests_and_comes_back_when_a_job_needs_it(build: Callable[..., Rig]) -> None:
    rig = build()
    age(rig, 300)
    look(rig)
    assert node(rig) is None
    age(rig, 601)
    look(rig)
    resting = node(rig)
    assert resting is not None
    assert resting.is_resting
    assert resting.drain_requested_at is None
    assert actions(rig) == [("node.rest", "node-a")]
    job = add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    rig.step("place")
    assert (rig.job(job.job_id).state, lacking(rig)) == (JobState.RUNNING, [])
    with rig.store.read() as tx:
        said = [event.message for event in events.list_events(tx, job.job_id, limit=9, descending=False).items]
    assert not any("No device" in message for message in said)
    assert actions(rig) == [("node.wake", "node-a"), ("node.rest", "node-a")]
    rig.step("elastic")
    woken = node(rig)
    assert woken is not None
    assert woken.cordoned_at is None


def test_only_as_many_nodes_are_woken_as_jobs_need(build: Callable[..., Rig]) -> None:
    rig = build()
    rig.launcher.devices.append(cpu_device("node-b"))
    look(rig)
    age(rig, 601)
    look(rig)
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    assert sorted(name for action, name in actions(rig) if action == "node.rest") == ["node-a", "node-b"]
    assert [name for action, name in actions(rig) if action == "node.wake"] == ["node-a"]


def test_a_node_that_was_used_of_late_does_not_rest(build: Callable[..., Rig]) -> None:
    rig = build()
    job = add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    age(rig, 601)
    rig.step("elastic")
    assert node(rig) is None, "something runs there"
    with rig.store.write() as tx:
        jobs.request_cancel(tx, job.job_id)
    rig.step("place", "launch", "watch", "reap")
    rig.step("place", "launch", "watch", "reap", "elastic")
    assert rig.attempts(job.job_id)[-1].released_at is not None
    assert node(rig) is None, "it is free for a moment only"


def test_a_resting_node_that_left_is_new_when_it_comes_again(build: Callable[..., Rig]) -> None:
    rig = build()
    age(rig, 601)
    look(rig)
    rig.launcher.lose_node("node-a")
    look(rig)
    gone = node(rig)
    assert gone is not None
    assert gone.cordoned_at is None


def test_what_an_admin_says_counts_for_more(build: Callable[..., Rig]) -> None:
    rig = build()
    admin = as_role(make_caller(rig.store), Role.ADMIN)
    Pool(rig.store).set_node(admin, "node-a", NodeWish.CORDON)
    age(rig, 601)
    look(rig)
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    found = node(rig)
    assert found is not None
    assert (found.automatic, found.cordoned_at is not None) == (False, True)
    Pool(rig.store).set_node(admin, "node-a", NodeWish.UNCORDON)
    with rig.store.write() as tx:
        jobs.request_cancel(tx, jobs.list_in_state(tx, [JobState.QUEUED], 1)[0].job_id)
    look(rig)
    found = node(rig)
    assert found is not None
    assert found.cordoned_at is None, "it may be idle for as long again"


def test_a_node_on_which_something_was_started_at_the_last_moment_does_not_rest(build: Callable[..., Rig]) -> None:
    rig = build()
    age(rig, 601)
    elastic = rig.plane.runners["elastic"]._loop
    decided = elastic.decide(elastic.load())
    assert Rest(node_name="node-a", begins=True) in decided
    add_ready_job(rig.store, needs_bytes=6 * GIB)
    look(rig)
    for act in decided:
        elastic.apply(act)
    assert node(rig) is None
