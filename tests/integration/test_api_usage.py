"""Usage over HTTP: who sees what, figures that are the ledger's, CSV that no spreadsheet calculates, and FOCUS 1.2."""

import csv
import io
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import httpx2
import pytest

from orchestrator.domain.attempts import LedgerEntry
from orchestrator.domain.pricing import Rate
from orchestrator.domain.spec import JobSpec
from orchestrator.domain.states import JobState
from orchestrator.domain.teams import Role
from orchestrator.domain.usage_sums import Period
from orchestrator.services.usage import LINES_PER_READ, UsageReader
from orchestrator.store import jobs, ledger
from orchestrator.store.session import Store
from orchestrator.store.tables.pool import device_spells
from tests.support.callers import make_caller
from tests.support.rows import GIB, add_file, add_running_attempt, add_team
from tests.support.servers import ApiServer

USAGE = "/v1/usage"
BEGIN = datetime(2026, 10, 31, 23, 30, 0, 250_000, tzinfo=UTC)
RATE = Rate(price_usd_micros_per_hour=2_400_001, reserved_bytes=7 * GIB, device_bytes=24 * GIB)
FORMULA = '=HYPERLINK("http://x","y")'
MANDATORY = {
    "BilledCost": False,
    "BillingAccountId": False,
    "BillingAccountName": True,
    "BillingCurrency": False,
    "BillingPeriodEnd": False,
    "BillingPeriodStart": False,
    "ChargeCategory": False,
    "ChargeClass": True,
    "ChargeDescription": True,
    "ChargePeriodEnd": False,
    "ChargePeriodStart": False,
    "ContractedCost": False,
    "EffectiveCost": False,
    "InvoiceIssuerName": False,
    "ListCost": False,
    "PricingQuantity": True,
    "PricingUnit": True,
    "ProviderName": False,
    "PublisherName": False,
    "ServiceCategory": False,
    "ServiceName": False,
}
"""Columns of feature level Mandatory in FOCUS 1.2, and whether each may be null (its specification, June 2025)."""


@dataclass(frozen=True)
class World:
    server: ApiServer
    entries: list[LedgerEntry]
    keys: dict[str, str]

    def get(self, key: str = "admin", **params: str) -> httpx2.Response:
        with self.server.http(self.keys[key]) as http:
            return http.get(USAGE, params=params)

    def json(self, key: str = "admin", **params: str) -> Any:
        answer = self.get(key, **params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def table(self, key: str = "admin", **params: str) -> list[dict[str, str]]:
        answer = self.get(key, **params)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/csv")
        assert answer.headers["content-disposition"].startswith("attachment")
        return list(csv.DictReader(io.StringIO(answer.text)))


def add_entries(store: Store, team_id: str, key_id: str, hours: list[bool]) -> list[LedgerEntry]:
    """A job with one attempt and an hour for each of these, billed or not, from one to the next."""
    with store.write() as tx:
        new = jobs.NewJob(
            job_id=f"ftjob-{team_id[-8:]}",
            team_id=team_id,
            created_by=key_id,
            spec=JobSpec(model="@tiny", training_file=add_file(tx, team_id).file_id, metadata={"cost": "=1+1"}),
            seed=1,
            model_name="@tiny",
        )
        job = jobs.insert_job(tx, new, message="The job is created.")
        job = jobs.apply_job_transition(tx, job.job_id, JobState.QUEUED, message="Valid.")
        attempt = add_running_attempt(tx, job)
        for number, billed in enumerate(hours):
            begins = BEGIN + timedelta(hours=number)
            ends = begins + timedelta(hours=1, microseconds=number)
            entry = LedgerEntry(
                attempt_id=attempt.attempt_id,
                interval=number + 1,
                job_id=job.job_id,
                team_id=team_id,
                device_type="nvidia-rtx-4090",
                started_at=begins,
                ended_at=ends,
                rate=RATE,
                amount_usd_micros=RATE.amount_usd_micros(ends - begins),
                billed=billed,
                created_at=tx.now(),
                device_id="node-1/cuda:1" if number == 1 else None,  # as old entries, which have none
            )
            ledger.append_entry(tx, entry)
        return ledger.list_entries(tx, job_id=job.job_id)


@pytest.fixture
def world(api_server: ApiServer) -> World:
    store, create = api_server.services.store, api_server.services.keys.create
    teams = {name: api_server.make_team(name) for name in ("vision", "speech")}
    made = create(api_server.admin, name=FORMULA, role=Role.MEMBER, team="vision")
    entries = add_entries(store, teams["vision"], made.key.key_id, [True, False, True])
    entries += add_entries(store, teams["speech"], "key-gone", [True])
    keys = {"admin": api_server.admin_key, "vision": made.secret, "speech": api_server.make_key(team="speech")}
    return World(api_server, entries, keys)


def billed(entries: list[LedgerEntry]) -> int:
    return sum(entry.amount_usd_micros for entry in entries if entry.billed)


def test_a_team_sees_its_own_and_an_admin_everything(world: World) -> None:
    everything = world.json(group_by="team")
    assert {row["team"]: row["entries"] for row in everything["data"]} == {"vision": 3, "speech": 1}
    assert everything["total"]["billed_usd_micros"] == billed(world.entries)
    assert everything["total"]["lost_usd_micros"] == world.entries[1].amount_usd_micros
    assert world.json("vision")["total"]["billed_usd_micros"] == billed(world.entries[:3])
    assert [row["team"] for row in world.json("speech")["data"]] == ["speech"]
    assert world.json("speech", group_by="user")["data"][0]["user_name"] is None
    assert len(world.table("speech", format="focus")) == 1


def test_time_is_of_the_device_that_the_ledger_names_or_else_the_attempts(world: World) -> None:
    found = {row["device"]: row for row in world.json("vision", group_by="device")["data"]}
    assert {name: row["entries"] for name, row in found.items()} == {"node-1/cuda:0": 2, "node-1/cuda:1": 1}
    assert found["node-1/cuda:1"]["lost_usd_micros"] == world.entries[1].amount_usd_micros


def test_days_are_of_utc_and_useful_time_stands_apart(world: World) -> None:
    found = world.json("vision", group_by="day,user,model,device_type")
    assert [row["day"] for row in found["data"]] == ["2026-10-31", "2026-11-01"]
    second = found["data"][1]
    assert (second["model"], second["user_name"], second["team"]) == ("@tiny", FORMULA, None)
    assert second["failed_device_seconds"] == pytest.approx(3600 * 7 / 24)
    assert second["useful_device_seconds"] == pytest.approx(3600 * 7 / 24)
    assert second["preempted_device_seconds"] == 0
    november = world.json("vision", since="2026-11-01")
    assert november["total"]["entries"] == 2
    assert november["since"] == 1793491200
    assert world.json("vision", until="2026-11-01T00:30:00.25+00:00")["total"]["entries"] == 1


def test_what_idled_is_told_to_admins_by_device_type_and_day(world: World) -> None:
    """The device was there for two hours around midnight; nobody's attempt was on it."""
    with world.server.services.store.write() as tx:
        spell = {"device_id": "n/cuda:0", "device_type": "nvidia-rtx-4090", "is_open": False}
        tx.execute(device_spells.insert().values(since_at=BEGIN, until_at=BEGIN + timedelta(hours=2), **spell))
    window = {"since": "2026-10-31", "until": "2026-11-02"}
    found = world.json(group_by="device_type,day", **window)
    assert [(row["day"], row["idle_device_seconds"]) for row in found["data"]] == [
        ("2026-10-31", 1799.75),
        ("2026-11-01", 5400.25),
    ]
    assert found["total"]["idle_device_seconds"] == 7200
    by_device = world.json(group_by="device", **window)["data"]
    assert {row["device"]: row["idle_device_seconds"] for row in by_device}["n/cuda:0"] == 7200
    assert {row["idle_device_seconds"] for row in world.json(group_by="team", **window)["data"]} == {None}
    theirs = world.json("vision", group_by="day", **window)
    assert {row["idle_device_seconds"] for row in (*theirs["data"], theirs["total"])} == {None}
    table = world.table(format="csv", group_by="day", **window)
    assert [row["idle_device_seconds"] for row in table] == ["1799.750000", "5400.250000"]
    assert world.table(format="csv", group_by="team", **window)[0]["idle_device_seconds"] == ""


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"group_by": "team,colour"}, "group_by"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-13-01"}, "since"),
        ({"until": "2026-11-01T08:00:00"}, "until"),
        ({"since": "2026-11-02", "until": "2026-11-01"}, "until"),
        ({"format": "xml"}, "format"),
    ],
)
def test_what_is_asked_wrongly_is_said_with_its_name(world: World, params: dict[str, str], param: str) -> None:
    answer = world.get(**params)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_csv_holds_the_groups_exactly_and_no_formula(world: World) -> None:
    rows = world.table(format="csv", group_by="team,user,model")
    first = next(row for row in rows if row["team"] == "vision")
    assert first["user_name"] == "'" + FORMULA
    assert first["model"] == "'@tiny"
    assert Decimal(first["billed_usd"]) * 1_000_000 == int(first["billed_usd_micros"]) == billed(world.entries[:3])
    assert first["failed_device_seconds"] == f"{Decimal(3_600_000_001 * 7) / 24 / 1_000_000:.6f}"
    assert sum(int(row["billed_usd_micros"]) for row in rows) == billed(world.entries)


def test_focus_has_each_entry_with_every_mandatory_column(world: World) -> None:
    rows = world.table(format="focus")
    assert len(rows) == len(world.entries)
    assert set(MANDATORY) <= set(rows[0])
    assert all(row[name] for row in rows for name, may_be_null in MANDATORY.items() if not may_be_null)
    assert sum(Decimal(row["BilledCost"]) for row in rows) * 1_000_000 == billed(world.entries)
    assert sum(Decimal(row["ListCost"]) for row in rows) * 1_000_000 == sum(e.amount_usd_micros for e in world.entries)
    by_place = {(row["x_AttemptId"], row["x_AttemptInterval"]): row for row in rows}
    for entry in world.entries:
        row = by_place[entry.attempt_id, str(entry.interval)]
        product = Decimal(row["ListUnitPrice"]) * Decimal(row["PricingQuantity"])
        assert product.quantize(Decimal("0.000001"), ROUND_HALF_UP) == Decimal(row["ListCost"])
        assert row["ContractedCost"] == row["ListCost"]
        assert row["EffectiveCost"] == row["BilledCost"] == (row["ListCost"] if entry.billed else "0.000000")
        assert row["x_DeviceId"] == (entry.device_id or "")
        assert row["x_Use"] == ("useful" if entry.billed else "failed")
        assert (
            Decimal(row["x_Seconds"])
            == Decimal((entry.ended_at - entry.started_at) / timedelta(microseconds=1)) / 10**6
        )
        assert (row["SubAccountId"], row["ResourceId"]) == (entry.team_id, entry.job_id)
        assert json.loads(row["Tags"]) == {"cost": "=1+1"}
        for name in ("BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row[name])
        assert (
            row["BillingPeriodStart"] <= row["ChargePeriodStart"] < min(row["ChargePeriodEnd"], row["BillingPeriodEnd"])
        )
    assert {row["BillingPeriodStart"] for row in rows} == {"2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"}
    assert {row["x_BaseModel"] for row in rows} == {"'@tiny"}
    assert world.table(format="focus", since="2027-01-01") == []


def test_a_slow_reader_holds_neither_a_connection_nor_the_whole_ledger(sqlite_url: str) -> None:
    store = Store(sqlite_url, connections=1)
    caller = make_caller(store, Role.ADMIN)
    with store.write() as tx:
        team = add_team(tx)
    entries = add_entries(store, team.team_id, caller.key_id, [True] * (2 * LINES_PER_READ + 1))
    pages = UsageReader(store).pages(caller, Period())
    first = next(pages)
    assert len(first.lines) == LINES_PER_READ
    with store.read() as tx:  # would wait for ever if the walk held the only connection
        assert ledger.sum_for_team(tx, None) == (billed(entries), 0)
    lines = [*first.lines, *(line for page in pages for line in page.lines)]
    assert [line.entry for line in lines] == entries
    store.close()
