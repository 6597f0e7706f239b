"""What the pool is run with in the dashboard: terms, budgets, shares, changes, the last day, nodes, places of jobs."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import httpx2
import pytest
from sqlalchemy import update

from orchestrator.store.audit import append_automatic
from orchestrator.store.nodes import record_node
from orchestrator.store.tables.attempts import attempts
from tests.support.commands import Tunepool
from tests.support.dashboards import JOBS, PAGES, Pool, surf, token
from tests.support.rows import add_key, add_team
from tests.support.servers import run_server
from tests.support.storage import StorageServer


@pytest.fixture
def member(dashboard: Pool) -> Iterator[httpx2.Client]:
    with surf(dashboard, "support") as client:
        yield client


@pytest.fixture
def admin(dashboard: Pool) -> Iterator[httpx2.Client]:
    with surf(dashboard, "admin") as client:
        yield client


def test_an_admin_changes_terms_and_sets_and_removes_a_budget(dashboard: Pool, admin: httpx2.Client) -> None:
    vision = dashboard.server.make_team("budgeted")
    csrf = {"csrf": token(dashboard, "admin")}
    terms = {"guarantee_devices": "1.5", "ceiling_devices": "3", "weight": "2"}
    answer = admin.post(f"/teams/{vision}/terms", data=terms | csrf)
    assert (answer.status_code, answer.headers["location"]) == (303, f"/teams/{vision}")
    budget = {"budget_usd": "12.50", "budget_period": "week", "when_exhausted": "idle"}
    assert admin.post(f"/teams/{vision}/budget", data=budget | csrf).status_code == 303
    shown = admin.get(f"/v1/teams/{vision}").json()
    assert (shown["guarantee_devices"], shown["ceiling_devices"], shown["weight"]) == (1.5, 3, 2)
    assert (shown["budget_usd"], shown["budget_period"], shown["when_exhausted"]) == ("12.500000", "week", "idle")
    page = admin.get(f"/teams/{vision}").text
    assert ">$12.50</data> a week" in page
    assert "12,500,000 µ$" in page
    assert "jobs run as idle" in page
    assert "guarantee <span" in page, "the change is in the log, with what was before"
    admin.post(f"/teams/{vision}/terms", data=terms | {"ceiling_devices": ""} | csrf)
    assert admin.get(f"/v1/teams/{vision}").json()["ceiling_devices"] is None
    admin.post(f"/teams/{vision}/budget", data=budget | {"remove": "yes"} | csrf)
    assert admin.get(f"/v1/teams/{vision}").json()["budget_usd"] is None
    assert "No budget" in admin.get(f"/teams/{vision}").text


@pytest.mark.parametrize(
    ("form", "change", "param"),
    [
        ("terms", {"guarantee_devices": "many"}, "guarantee_devices"),
        ("terms", {"guarantee_devices": "4", "ceiling_devices": "3"}, "ceiling_devices"),
        ("terms", {"weight": "0"}, "weight"),
        ("terms", {"weight": ""}, "weight"),
        ("terms", {"weight": "nan"}, "weight"),
        ("budget", {"budget_usd": "-1"}, "budget_usd"),
        ("budget", {"budget_usd": ""}, "budget_usd"),
        ("budget", {"budget_usd": "1.1234567"}, "budget_usd"),
        ("budget", {"budget_period": "year"}, "budget_period"),
    ],
)
def test_a_wrong_term_is_named_and_what_was_typed_stays(
    dashboard: Pool, admin: httpx2.Client, form: str, change: dict[str, str], param: str
) -> None:
    whole = {
        "terms": {"guarantee_devices": "1", "ceiling_devices": "3", "weight": "2"},
        "budget": {"budget_usd": "5", "budget_period": "day", "when_exhausted": "wait"},
    }[form]
    team = dashboard.ids["team"]
    before = admin.get(f"/v1/teams/{team}").json()
    answer = admin.post(f"/teams/{team}/{form}", data=whole | change | {"csrf": token(dashboard, "admin")})
    assert answer.status_code == 400
    assert f"<code>{param}</code>" in answer.text
    assert all(f'value="{text}"' in answer.text for text in change.values() if text and param != "budget_period")
    after = admin.get(f"/v1/teams/{team}").json()
    assert after["budget_usd"] == before["budget_usd"]
    assert after["weight"] == before["weight"]


def test_a_member_sees_terms_and_changes_none(dashboard: Pool, member: httpx2.Client) -> None:
    team = dashboard.ids["team"]
    page = member.get(f"/teams/{team}").text
    assert "1.5 devices whenever it asks" in page
    assert "An admin of the pool changes" in page
    for form in ("terms", "budget"):
        refused = member.post(f"/teams/{team}/{form}", data={"csrf": token(dashboard, "support"), "weight": "9"})
        assert refused.status_code == 403
    vision = dashboard.server.services.teams.list(dashboard.server.admin)[-1].team_id
    assert member.get(f"/teams/{vision}").status_code == 404
    assert vision not in member.get("/teams").text


def test_a_team_near_its_budget_is_warned_everywhere(dashboard: Pool, admin: httpx2.Client) -> None:
    vision = next(t for t in dashboard.server.services.teams.list(dashboard.server.admin) if t.name == "vision")
    set_terms = dashboard.server.services.teams.set_terms
    set_terms(dashboard.server.admin, "vision", {"budget_usd_micros": 0})
    for page in ("/teams", f"/teams/{vision.team_id}"):
        assert "100 % of this period" in admin.get(page).text, page
    assert "budget used up" in admin.get("/").text
    set_terms(dashboard.server.admin, "vision", {"budget_usd_micros": None})


def test_the_log_of_changes_is_filtered_and_paged_and_ones_own(dashboard: Pool, admin: httpx2.Client) -> None:
    def verbs(http: httpx2.Client, query: str = "") -> list[str]:
        text = http.get(f"/teams/audit?{query}").text
        return re.findall(r'<span title="([a-z.]+)">', text)

    everything = verbs(admin)
    assert {"team.create", "team.terms", "key.create", "price.set"} <= set(everything)
    assert set(verbs(admin, "action=team")) == {"team.create", "team.terms"}
    assert set(verbs(admin, "action=price.set&actor=")) == {"price.set"}
    assert verbs(admin, f"actor={dashboard.server.admin.key_id}") == everything
    assert verbs(admin, "actor=key-unknown") == verbs(admin, "until=2020-01-01") == []
    assert "Nothing matches" in admin.get("/teams/audit?until=2020-01-01").text
    assert admin.get("/teams/audit?since=yesterday").status_code == 400
    assert admin.get("/teams/audit?after=x").status_code == 400
    with surf(dashboard, "vision") as http:
        assert "support" not in http.get("/teams/audit").text
        assert verbs(http, f"team={dashboard.ids['team']}") == []
        assert "price.set" not in verbs(http)
    ids = [entry["id"] for entry in admin.get("/v1/audit?limit=100").json()["data"]]
    older = verbs(admin, f"after={ids[2]}")
    assert older == everything[3:]


def test_the_api_tells_who_held_what_and_shares(dashboard: Pool, member: httpx2.Client, admin: httpx2.Client) -> None:
    mine, all_of_it = (http.get("/v1/pool/history").json() for http in (member, admin))
    assert len(mine["data"]) == len(all_of_it["data"]) >= 4
    assert {hold["team"] for hold in all_of_it["data"]} == {"support", "vision"}
    assert {hold["team"] for hold in mine["data"]} == {"support", None}
    assert dashboard.ids["foreign"] not in str(mine)
    assert member.get("/v1/pool/history?hours=1000").status_code == 400
    shares = member.get("/v1/teams/shares?days=1").json()
    assert [share["name"] for share in shares["data"]] == ["support"]
    assert shares["data"][0]["guarantees"][-1] == 1.5
    assert max(shares["data"][0]["devices"]) > 0
    assert member.get("/v1/teams/shares?days=0").status_code == 400


def test_the_pools_last_day_is_drawn_and_told(dashboard: Pool, member: httpx2.Client) -> None:
    for path in ("/pool", "/pool/history"):
        text = member.get(path).text
        assert text.count('<rect class="hold hue-0"') >= 3
        assert '<rect class="hold other"' in text
        assert "device-hours" in text
        assert f'href="/jobs/{dashboard.ids["succeeded"]}"' in text
        assert "vision" not in text


def test_an_admin_cordons_drains_and_lets_a_node_go_on(dashboard: Pool, admin: httpx2.Client) -> None:
    csrf = {"csrf": token(dashboard, "admin")}
    for wish, shown, offered in (
        ("cordon", "cordoned", ["uncordon", "drain"]),
        ("drain", "drains", ["uncordon"]),
        ("uncordon", "takes jobs", ["cordon", "drain"]),
    ):
        assert admin.post(f"/pool/nodes/node-b/{wish}", data=csrf).headers["location"] == "/pool"
        text = admin.get("/pool").text
        assert shown in text
        assert re.findall(r'action="/pool/nodes/node-b/(\w+)"', text) == offered
    assert admin.post("/pool/nodes/node-z/drain", data=csrf).status_code == 404
    with surf(dashboard, "support") as http:
        assert "/pool/nodes/" not in http.get("/pool").text
        assert http.post("/pool/nodes/node-b/drain", data={"csrf": token(dashboard, "support")}).status_code == 403


def test_a_node_that_rests_is_told_from_one_that_an_admin_cordoned(dashboard: Pool, admin: httpx2.Client) -> None:
    """The pool's own changes are in an admin's log, who may ask for them alone."""
    with dashboard.server.services.store.write() as tx:
        record_node(tx, "node-b", cordoned=True, automatic=True)
        append_automatic(tx, "node.rest", "node-b")
    text = admin.get("/pool").text
    assert "rests</span>" in text
    assert "comes back when a job needs it" in text
    assert "cordoned" not in text
    changes = admin.get("/teams/audit?actor=scheduler").text
    assert '<option value="scheduler" selected>the pool itself</option>' in changes
    assert changes.count("put to rest") == 1
    with surf(dashboard, "support") as http:
        assert "the pool itself" not in http.get("/teams/audit").text
    admin.post("/pool/nodes/node-b/uncordon", data={"csrf": token(dashboard, "admin")})


def test_a_waiting_job_is_held_released_and_moved_and_a_failed_one_tried_again(
    dashboard: Pool, member: httpx2.Client
) -> None:
    csrf = {"csrf": token(dashboard, "support")}
    once = csrf | {"once": "again"}
    answers = [member.post(f"/jobs/{dashboard.ids['failed']}/retry", data=once) for _ in range(2)]
    assert answers[0].headers["location"] == answers[1].headers["location"]
    path = answers[0].headers["location"]
    wire = f"{JOBS}/{path.rpartition('/')[2]}"
    assert member.get(wire).json()["training"] == member.get(f"{JOBS}/{dashboard.ids['failed']}").json()["training"]
    assert member.post(f"{path}/hold", data=csrf).status_code == 303
    assert member.get(wire).json()["held"]
    assert "held back" in member.get(path).text
    assert member.post(f"{path}/queue", data=csrf | {"priority": "7", "priority_class": "idle"}).status_code == 303
    moved = member.get(wire).json()
    assert (moved["priority"], moved["priority_class"]) == (7, "idle")
    for wrong in ({"priority": "700"}, {"priority": "x"}, {"priority_class": "royal"}):
        refused = member.post(f"{path}/queue", data=csrf | wrong)
        assert refused.status_code == 400
        assert next(iter(wrong)) in refused.text
    assert member.post(f"{path}/release", data=csrf, headers={"hx-request": "true"}).text.count("held back<") == 0
    assert not member.get(wire).json()["held"]
    text = member.get("/teams/audit?action=job").text
    assert text.count(path) == 3, "held, moved and released, each by an entry"
    member.post(f"{path}/cancel", data=csrf)
    assert member.post(f"{path}/hold", data=csrf).status_code == 409
    with surf(dashboard, "vision") as http:
        assert http.post(f"{path}/hold", data={"csrf": token(dashboard, "vision")}).status_code == 404


def test_a_job_shows_its_cost_over_time_its_attempts_and_events(dashboard: Pool, member: httpx2.Client) -> None:
    text = member.get(dashboard.path("running")).text
    assert 'class="burn-line" d="M0 ' in text
    assert "of at most" in text
    assert "predicted <b>" in text
    assert "<b>Attempt 1</b>" in text
    assert text.count('<line class="event ') >= 3
    assert "burn-line" not in member.get(dashboard.path("paused")).text
    failed = member.get(dashboard.path("failed")).text
    assert "not a finite number" in failed
    assert ">Retry</button>" in failed


def test_an_attempt_on_several_devices_names_them_all(dashboard: Pool, member: httpx2.Client) -> None:
    (attempt,) = dashboard.server.services.jobs.attempts(dashboard.server.admin, dashboard.ids["succeeded"])
    mine = update(attempts).where(attempts.c.attempt_id == attempt.attempt_id)
    second = asdict(replace(attempt.devices[0], device_id="node-a/cpu:1"))
    assert "reserved on each" not in member.get(dashboard.path("succeeded")).text
    with dashboard.server.services.store.write() as tx:
        tx.execute(mine.values(more_devices=[second]))
    text = member.get(dashboard.path("succeeded")).text
    assert f"{attempt.device_id}, node-a/cpu:1" in text
    assert "reserved on each" in text
    with dashboard.server.services.store.write() as tx:
        tx.execute(mine.values(more_devices=None))


def test_a_pool_with_nothing_in_it_has_all_its_pages(
    storage_server: StorageServer, sqlite_url: str, tmp_path: Path
) -> None:
    with run_server(storage_server, sqlite_url, tmp_path) as server:
        empty = Pool(server=server, ids={}, keys={"admin": server.admin_key}, trainers={})
        team = server.make_team("lonely")
        with surf(empty, "admin") as http:
            for path in [*(path for path in PAGES.values() if "{" not in path), "/new", "/compare", f"/teams/{team}"]:
                answer = http.get(path)
                assert answer.status_code == 200, path
                assert answer.text.count("<h1>") == 1
            said = {
                "/data": "No files yet",
                "/jobs": "No jobs yet",
                "/models": "No base model yet",
                "/pool": "No node has joined yet",
                f"/teams/{team}": "No key speaks for this team",
            }
            assert [path for path, words in said.items() if words not in http.get(path).text] == []


def test_a_thousand_teams_and_keys_are_a_page_that_says_what_it_leaves_out(
    storage_server: StorageServer, sqlite_url: str, tmp_path: Path
) -> None:
    with run_server(storage_server, sqlite_url, tmp_path) as server:
        with server.services.store.write() as tx:
            for number in range(1000):
                add_key(tx, add_team(tx, f"team-{number:04}").team_id)
        many = Pool(server=server, ids={}, keys={"admin": server.admin_key}, trainers={})
        with surf(many, "admin") as http:
            text = http.get("/teams").text
            assert "1,001, 100 shown" in text
            assert text.count('<svg class="share-chart"') == 20
            assert len(text) < 600_000
            found = http.get("/teams?search=team-0777").text
            assert "team-0777" in found
            assert found.count('<th scope="row"') == 2
            assert "No team matches" in http.get("/teams?search=nobody").text


def test_the_command_line_tells_the_same(dashboard: Pool, tunepool: Tunepool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEPOOL_URL", dashboard.url)
    monkeypatch.setenv("TUNEPOOL_API_KEY", dashboard.keys["support"])

    def said(*arguments: str) -> str:
        """Without the lines that the server, in the same process, logs."""
        lines = tunepool(*arguments).out.splitlines()
        return "\n".join(line for line in lines if "[info" not in line and "[debug" not in line)

    assert "another team's job" in said("history")
    held = json.loads(said("history", "--hours", "24", "--json"))["data"]
    assert dashboard.ids["succeeded"] in {hold["job_id"] for hold in held}
    assert "support" in said("teams", "shares")
    shares = json.loads(said("teams", "shares", "--days", "1", "--json"))
    assert [share["name"] for share in shares["data"]] == ["support"]
    changes = said("audit", "--action", "team.terms")
    assert "guarantee_micros: 0 -> 1500000" in changes
    assert "team.create" not in changes
    assert len(json.loads(said("audit", "--limit", "1", "--json"))) == 1
