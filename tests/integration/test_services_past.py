"""Who held what when, shares against guarantees, and the log of what was changed, on both engines."""

from collections.abc import Sequence
from datetime import timedelta

import pytest
from sqlalchemy import update

from orchestrator.domain.attempts import HeldDevice
from orchestrator.domain.errors import NotFoundError
from orchestrator.domain.outcomes import succeeded
from orchestrator.domain.queries import AuditQuery
from orchestrator.domain.scheduling.facts import Lock, Pin
from orchestrator.domain.states import AttemptState
from orchestrator.domain.teams import Caller, Role
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.services import pool as pool_service
from orchestrator.services import teams as teams_service
from orchestrator.services.keys import Keys
from orchestrator.services.pool import NodeWish, Pool
from orchestrator.services.teams import Teams
from orchestrator.store import attempts, devices
from orchestrator.store.scheduling import record_claims
from orchestrator.store.session import Store
from orchestrator.store.tables.attempts import attempts as attempt_rows
from tests.support.callers import as_role, make_caller
from tests.support.rows import GIB, RATE, add_queued_job, add_running_attempt

DEVICE = DeclaredDevice(
    device_id="node-1/cuda:0",
    node_name="node-1",
    device_type="nvidia-rtx-4090",
    kind="cuda",
    index=0,
    total_bytes=24 * GIB,
)


@pytest.fixture
def caller(store: Store) -> Caller:
    return make_caller(store, name="vision")


@pytest.fixture
def admin(caller: Caller) -> Caller:
    return as_role(caller, Role.ADMIN)


SECOND_DEVICE = HeldDevice(device_id="node-1/cuda:1", device_type="nvidia-rtx-4090", rate=RATE)


def hold(
    store: Store,
    caller: Caller,
    *,
    hours_ago: float,
    for_hours: float | None,
    micros: int = 500_000,
    more_devices: Sequence[HeldDevice] = (),
) -> str:
    """An attempt that held half a device; it lasts when `for_hours` is None."""
    with store.write() as tx:
        job = add_queued_job(tx, caller.team_id)
        attempt = add_running_attempt(tx, job, rate_micros=micros, more_devices=more_devices)
        began = tx.now() - timedelta(hours=hours_ago)
        if for_hours is not None:
            token = attempt.lease_token
            attempts.apply_attempt_transition(tx, attempt.attempt_id, token, AttemptState.VERIFYING)
            attempts.end_attempt(tx, attempt.attempt_id, token, succeeded(), ended_at=tx.now())
            attempts.release_attempt(tx, attempt.attempt_id, token)
        until = None if for_hours is None else began + timedelta(hours=for_hours)
        tx.execute(
            update(attempt_rows)
            .where(attempt_rows.c.attempt_id == attempt.attempt_id)
            .values(created_at=began, released_at=until)
        )
    return attempt.attempt_id


def test_the_past_has_what_lasts_and_what_ended_within_it(
    store: Store, caller: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold(store, caller, hours_ago=40, for_hours=3)
    crossing = hold(store, caller, hours_ago=30, for_hours=8)
    short = hold(store, caller, hours_ago=5, for_hours=1)
    lasting = hold(store, caller, hours_ago=3, for_hours=None)
    past = Pool(store).history(caller, hours=24)
    assert [found.attempt_id for found in past.holds] == [crossing, short, lasting]
    assert [found.until_at is None for found in past.holds] == [False, False, True]
    assert past.until_at - past.since_at == timedelta(hours=24)
    assert past.team_names[caller.team_id] == "vision"
    monkeypatch.setattr(pool_service, "MOST_HOLDS", 1)
    newest = Pool(store).history(admin, hours=24)
    assert [found.attempt_id for found in newest.holds] == [short, lasting]
    assert newest.since_at == newest.holds[0].until_at


def test_shares_are_ones_own_and_against_the_guarantee_of_then(
    store: Store, caller: Caller, admin: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_caller(store, name="audio")
    hold(store, caller, hours_ago=10, for_hours=2)
    hold(store, other, hours_ago=10, for_hours=None)
    Teams(store).set_terms(admin, "vision", {"guarantee_micros": 3_000_000})
    mine = Teams(store).shares(caller, days=1)
    assert [share.team.name for share in mine.shares] == ["vision"]
    assert mine.shares[0].guarantee_micros[0] == 0
    assert mine.shares[0].guarantee_micros[-1] == 3_000_000
    held_hours = sum(mine.shares[0].held_micros) * mine.grid.slot.total_seconds() / 3600
    assert held_hours == pytest.approx(2 * 500_000, rel=0.02)
    both = Teams(store).shares(admin, days=1)
    assert [share.team.name for share in both.shares] == ["audio", "vision"]
    assert both.shares[0].held_micros[-1] == pytest.approx(500_000)
    one = Teams(store).shares(admin, days=1, team_id=caller.team_id)
    assert [(share.team, share.guarantee_micros) for share in one.shares] == [
        (share.team, share.guarantee_micros) for share in mine.shares
    ]
    assert sum(one.shares[0].held_micros) == pytest.approx(sum(mine.shares[0].held_micros), rel=0.01)
    with pytest.raises(NotFoundError):
        Teams(store).shares(caller, days=1, team_id=other.team_id)
    monkeypatch.setattr(teams_service, "MOST_HOLDS", 1)
    cut = Teams(store).shares(caller, days=1)
    assert cut.grid.since_at > both.grid.since_at
    assert len(cut.shares[0].held_micros) == len(cut.grid.starts) == len(cut.shares[0].guarantee_micros)


def test_what_held_several_devices_counts_on_each_and_as_one_attempt(
    store: Store, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_service, "MOST_HOLDS", 2)
    monkeypatch.setattr(teams_service, "MOST_HOLDS", 2)
    hold(store, caller, hours_ago=5, for_hours=2, micros=1_000_001, more_devices=[SECOND_DEVICE])
    past = Pool(store).history(caller, hours=24)
    assert [found.device_id for found in past.holds] == ["node-1/cuda:0", "node-1/cuda:1"]
    assert [found.rate_micros for found in past.holds] == [500_001, 500_000]
    assert [found.reserved_bytes for found in past.holds] == [RATE.reserved_bytes] * 2
    assert past.until_at - past.since_at == timedelta(hours=24), "one attempt is less than two"
    mine = Teams(store).shares(caller, days=1)
    assert sum(mine.shares[0].held_micros) * mine.grid.slot.total_seconds() / 3600 == pytest.approx(2_000_002, rel=0.02)
    for _ in range(2):
        hold(store, caller, hours_ago=3, for_hours=1, more_devices=[SECOND_DEVICE])
    assert Teams(store).shares(caller, days=1).grid.since_at > mine.grid.since_at, "holds of two attempts were read"


def test_the_log_is_filtered_by_who_what_and_when(store: Store, caller: Caller, admin: Caller) -> None:
    other = make_caller(store, Role.ADMIN, name="audio")
    made = Keys(store).create(admin, name="CI", role=Role.MEMBER, team="audio")
    Keys(store).revoke(other, made.key.key_id)
    Teams(store).set_terms(admin, "vision", {"weight_millis": 2000})

    def actions(who: Caller, **which: object) -> list[str]:
        log = Teams(store).audit_log(who, which=AuditQuery(**which))  # type: ignore[arg-type]
        return [entry.action for entry in log.items]

    assert actions(admin) == ["team.terms", "key.revoke", "key.create"]
    assert actions(admin, actor=other.key_id) == ["key.revoke"]
    assert actions(admin, action="key") == ["key.revoke", "key.create"]
    assert actions(admin, action="key.create") == ["key.create"]
    assert actions(admin, action="ke") == actions(admin, action="k%") == []
    assert actions(admin, team_id=caller.team_id) == ["team.terms"]
    assert actions(caller) == ["team.terms"]
    assert actions(caller, team_id=other.team_id) == []
    newest = Teams(store).audit_log(admin).items[0].at
    assert actions(admin, since=newest) == ["team.terms"]
    assert actions(admin, until=newest) == ["key.revoke", "key.create"]
    assert Teams(store).audit_actions(admin) == ("key.create", "key.revoke", "team.terms")
    assert Teams(store).audit_actions(caller) == ("team.terms",)


def test_the_log_has_only_the_terms_that_became_others(store: Store, admin: Caller) -> None:
    terms = {"guarantee_micros": 1_000_000, "ceiling_micros": None, "weight_millis": 1000}
    for _ in range(2):
        Teams(store).set_terms(admin, "vision", terms)
    (entry,) = Teams(store).audit_log(admin).items
    assert entry.data == {"guarantee_micros": {"from": 0, "to": 1_000_000}}


def test_prices_and_nodes_are_in_the_log(store: Store, admin: Caller) -> None:
    with store.write() as tx:
        devices.record_devices(tx, [DEVICE])
    Pool(store).set_price(admin, device_type="cpu", usd_micros_per_hour=5)
    Pool(store).set_node(admin, "node-1", NodeWish.DRAIN)
    log = Teams(store).audit_log(admin).items
    assert [(entry.action, entry.subject) for entry in log] == [("node.drain", "node-1"), ("price.set", "cpu")]
    assert log[1].data == {"usd_micros_per_hour": 5}
    assert [node.node_name for node in Pool(store).nodes(admin)] == ["node-1"]
    Pool(store).set_node(admin, "node-1", NodeWish.UNCORDON)
    assert Pool(store).nodes(admin) == ()


def test_a_device_shows_what_waiting_jobs_claim_of_it(store: Store, caller: Caller) -> None:
    with store.write() as tx:
        devices.record_devices(tx, [DEVICE])
        job = add_queued_job(tx, caller.team_id)
        at = tx.now().timestamp() + 60
        lock = Lock(device_id=DEVICE.device_id, bytes=3 * GIB, job_id=job.job_id, until_at=at)
        pin = Pin(device_id=DEVICE.device_id, job_id=job.job_id, bytes=5 * GIB, at=at + 60)
        record_claims(tx, job.job_id, [lock], [pin])
    claims = Pool(store).list(caller)[0].claims
    assert [(claim.kind, claim.bytes, claim.team_id) for claim in claims] == [
        ("lock", 3 * GIB, caller.team_id),
        ("pin", 5 * GIB, caller.team_id),
    ]
    assert claims[1].at - claims[0].at == timedelta(seconds=60)
