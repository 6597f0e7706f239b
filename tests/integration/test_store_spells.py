"""Since when devices are there, on both engines: spells that surveys begin, prolong and end, and what idled in them."""

from collections.abc import Sequence
from datetime import timedelta
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import update

from orchestrator.domain.attempts import HeldDevice
from orchestrator.domain.idle import sum_idle
from orchestrator.domain.pricing import Rate
from orchestrator.domain.teams import Role
from orchestrator.domain.usage_sums import Dimension, Period
from orchestrator.runtime.launcher import DeclaredDevice
from orchestrator.services.usage import UsageReader
from orchestrator.store import devices, holds, nodes, spells
from orchestrator.store.session import Store, WriteTx
from orchestrator.store.tables.attempts import attempts as attempt_rows
from orchestrator.store.tables.pool import device_spells
from tests.support.callers import as_role, make_caller
from tests.support.launchers import cpu_device
from tests.support.rows import add_running_attempt

HOUR = timedelta(hours=1)
MICROSECOND = timedelta(microseconds=1)
A, B = cpu_device("node-a"), cpu_device("node-b")


def survey(store: Store, *declared: DeclaredDevice) -> None:
    with store.write() as tx:
        devices.record_devices(tx, declared)


def age(tx: WriteTx, by: timedelta) -> None:
    """Let all spells have begun and been seen so much earlier."""
    for row in tx.rows(device_spells.select()):
        of = (device_spells.c.device_id == row["device_id"]) & (device_spells.c.since_at == row["since_at"])
        tx.execute(update(device_spells).where(of).values(since_at=row["since_at"] - by, until_at=row["until_at"] - by))


def list_spells(store: Store) -> Sequence[Any]:
    with store.read() as tx:
        return spells.list_spells(tx, Period(), limit=100)


def test_a_survey_prolongs_what_it_sees_again(store: Store) -> None:
    survey(store, A, B)
    with store.write() as tx:
        age(tx, spells.LONGEST_GAP / 2)
    survey(store, A, B)
    found = list_spells(store)
    assert [spell.device_id for spell in found] == [A.device_id, B.device_id]
    for spell in found:
        assert spells.LONGEST_GAP / 2 <= spell.until_at - spell.since_at < spells.LONGEST_GAP


def test_what_was_away_or_was_not_watched_is_in_no_spell(store: Store) -> None:
    survey(store, A, B)
    survey(store, A)
    survey(store, A, B)
    assert [spell.device_id for spell in list_spells(store)] == [A.device_id, B.device_id, B.device_id]
    with store.write() as tx:
        age(tx, spells.LONGEST_GAP + MICROSECOND)
    survey(store, A)
    first, second = (spell for spell in list_spells(store) if spell.device_id == A.device_id)
    assert second.since_at - first.until_at > spells.LONGEST_GAP
    assert second.since_at == second.until_at


def test_a_cordoned_node_offers_nothing_and_a_resting_one_does(store: Store) -> None:
    survey(store, A, B)
    with store.write() as tx:
        nodes.record_node(tx, "node-a", cordoned=True)
        nodes.record_node(tx, "node-b", cordoned=True, automatic=True)
        age(tx, timedelta(seconds=30))
    survey(store, A, B)
    with store.read() as tx:
        assert spells.list_open_since(tx).keys() == {B.device_id}
    cordoned, resting = list_spells(store)
    assert cordoned.until_at == cordoned.since_at
    assert resting.until_at > resting.since_at


def test_idle_is_what_no_attempt_held_on_any_device_whether_it_ended_or_not(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    survey(store, A, B)
    with store.write() as tx:
        end = tx.now()
        begin = end - 4 * HOUR
        tx.execute(update(device_spells).values(since_at=begin, until_at=end))
        on_b = HeldDevice(
            device_id=B.device_id,
            device_type="cpu",
            rate=Rate(price_usd_micros_per_hour=0, reserved_bytes=1, device_bytes=2),
        )
        ended, running = add_running_attempt(tx), add_running_attempt(tx, more_devices=[on_b])
        on_a: dict[str, Any] = {"device_id": A.device_id, "rate_reserved_bytes": 1, "rate_device_bytes": 4}
        for attempt, values in (
            (ended, {"created_at": begin - HOUR, "released_at": begin + HOUR, "ended_at": end, "state": "succeeded"}),
            (running, {"created_at": end - 2 * HOUR}),
        ):
            of = attempt_rows.c.attempt_id == attempt.attempt_id
            tx.execute(update(attempt_rows).where(of).values(**on_a, **values))
    with store.read() as tx:
        found = sum_idle(
            spells.list_spells(tx, Period(), limit=9),
            holds.list_held(tx, Period(), limit=9),
            Period(),
            [Dimension.DEVICE],
        )
    hour = HOUR // MICROSECOND
    assert found == {(A.device_id,): 4 * hour - Fraction(3 * hour, 4), (B.device_id,): Fraction(3 * hour)}
    caller = make_caller(store)
    admin = as_role(caller, Role.ADMIN)
    late = Period(since=end - HOUR)
    sums = UsageReader(store).sums(admin, late, [Dimension.DEVICE_TYPE])
    assert sums.idle == {("cpu",): 2 * hour - Fraction(3 * hour, 4)}
    assert list(sums.groups) == [("cpu",)], "a group that only idled is there"
    by_team = UsageReader(store).sums(admin, late, [Dimension.TEAM])
    assert (by_team.idle, by_team.idle_total) == (None, 2 * hour - Fraction(3 * hour, 4))
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.services.usage.MAX_SLICES", 1)
        too_much = UsageReader(store).sums(admin, late, [Dimension.DEVICE_TYPE])
    assert (too_much.idle, too_much.idle_total) == (None, None)
    theirs = UsageReader(store).sums(as_role(caller, Role.MEMBER), late, [Dimension.DEVICE_TYPE])
    assert (theirs.idle, theirs.idle_total, dict(theirs.groups)) == (None, None, {})
