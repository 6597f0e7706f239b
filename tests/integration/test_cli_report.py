"""Usage and cost at the command line and in the Python client, against a scripted server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stamina

from tests.support.commands import Tunepool
from tests.support.stub_api import Answer, StubApi, as_error, as_json

USAGE = "/v1/usage"
FIGURES = {
    "billed_usd_micros": 1_234_567,
    "billed_usd": "1.234567",
    "lost_usd_micros": 5,
    "lost_usd": "0.000005",
    "useful_device_seconds": 3725.0,
    "failed_device_seconds": 42.0,
    "preempted_device_seconds": 0.0,
    "entries": 3,
}
TABLE = b"team,billed_usd\r\nvision,1.234567\r\n"


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubApi]:
    with StubApi() as stub, stamina.set_testing(True, attempts=2, cap=True):
        monkeypatch.setenv("TUNEPOOL_URL", stub.url)
        monkeypatch.setenv("TUNEPOOL_API_KEY", "tp-key")
        yield stub


def usage(*groups: dict[str, Any], by: list[str]) -> dict[str, Any]:
    return {"group_by": by, "data": [{**FIGURES, **group} for group in groups], "total": FIGURES}


def test_a_report_is_a_table_with_the_wasted_apart(api: StubApi, tunepool: Tunepool) -> None:
    group = {"team": "vision", "user": "key-1", "user_name": "laptop", "day": "2026-11-01"}
    api.on("GET", USAGE, as_json(usage(group, by=["team", "user", "day"])))
    done = tunepool("report", "--by", "team, user,day", "--since", "2026-11-01", "--until", "2026-12-01")
    assert api.asked[0].query == {"group_by": "team,user,day", "since": "2026-11-01", "until": "2026-12-01"}
    head, row, total = done.out.splitlines()
    assert head.split() == ["TEAM", "USER", "DAY", "BILLED", "LOST", "USEFUL", "FAILED", "PREEMPTED"]
    assert row.split() == [
        *("vision", "laptop", "2026-11-01", "$1.234567", "$0.000005"),
        *("1h", "02m", "05s", "42s", "0.0s"),
    ]
    assert total == "billed: $1.234567; lost, charged to nobody: $0.000005"


def test_a_report_of_the_pool_has_what_idled(api: StubApi, tunepool: Tunepool) -> None:
    answer = usage({"day": "2026-11-01", "idle_device_seconds": 90.0}, by=["day"])
    api.on("GET", USAGE, as_json({**answer, "total": {**FIGURES, "idle_device_seconds": 90.0}}))
    head, row, total = tunepool("report", "--by", "day").out.splitlines()
    assert head.split()[-1] == "IDLE"
    assert row.split()[-2:] == ["1m", "30s"]
    assert total.endswith("charged to nobody: $0.000005; idle: 1m 30s")


def test_a_report_as_json_has_the_fields_of_the_api(api: StubApi, tunepool: Tunepool) -> None:
    api.on("GET", USAGE, as_json(usage({"team": "vision"}, by=["team"])))
    found = json.loads(tunepool("report", "--json").out)
    assert found["total"] == {**FIGURES, "idle_device_seconds": None}
    assert found["data"][0]["team"] == "vision"


def test_files_are_written_as_they_come(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    api.on("GET", USAGE, Answer(TABLE), Answer(b"BilledCost\r\n1.234567\r\n"))
    groups, focus = tmp_path / "groups.csv", tmp_path / "focus.csv"
    done = tunepool("report", "--by", "team", "--csv", str(groups), "--focus", str(focus), "--since", "2026-11-01")
    assert (done.code, done.out) == (0, "")
    assert groups.read_bytes() == TABLE
    assert focus.read_bytes() == b"BilledCost\r\n1.234567\r\n"
    assert [asked.query["format"] for asked in api.asked] == ["csv", "focus"]
    assert {asked.query["since"] for asked in api.asked} == {"2026-11-01"}


def test_a_file_that_breaks_off_leaves_what_was_there(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    path.write_bytes(b"before")
    api.on("GET", USAGE, Answer(TABLE, cut_after=10))
    assert tunepool("report", "--csv", str(path)).code == 5
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["groups.csv"]


def test_what_cannot_be_asked_or_written_is_said(api: StubApi, tunepool: Tunepool, tmp_path: Path) -> None:
    api.on("GET", USAGE, as_error(400, "group_by: there is no 'colour'", "invalid_value", param="group_by"))
    assert "no 'colour'" in tunepool("report", "--by", "colour").err
    done = tunepool("report", "--csv", str(tmp_path / "nowhere" / "a.csv"))
    assert (done.code, len(api.asked)) == (2, 1)
