"""The dashboard without a browser: sessions and their limits, forms that are ours, and pages that need no scripts."""

import re
import time
from collections.abc import Iterator

import httpx2
import pytest

from api.dashboard.session import make_token
from api.dashboard.views.job_form import FIELDS
from tests.support.dashboards import HOSTILE_LINES, HOSTILE_NAME, HTML, JOBS, PAGES, Pool, chats, surf, token, upload

FORM = {**HTML, "content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def member(dashboard: Pool) -> Iterator[httpx2.Client]:
    with surf(dashboard, "support") as client:
        yield client


def test_a_stranger_is_led_to_the_login_and_back(dashboard: Pool) -> None:
    with surf(dashboard, None) as http:
        led = http.get("/reports")
        assert (led.status_code, led.headers["location"]) == (303, "/login?next=/reports")
        shown = http.get(led.headers["location"])
        assert shown.status_code == 200
        assert 'name="next" value="/reports"' in shown.text
        wrong = http.post("/login", data={"key": "tp_wrong", "next": "/reports"})
        assert wrong.status_code == 401
        assert "not an API key" in wrong.text
        assert "set-cookie" not in wrong.headers
        right = http.post("/login", data={"key": dashboard.keys["support"], "next": "/reports"})
        assert (right.status_code, right.headers["location"]) == (303, "/reports")
        said = right.headers["set-cookie"].lower()
        assert "httponly" in said
        assert "samesite=lax" in said
        assert "secure" not in said
        assert "max-age" not in said, "the session ends with the browser"


def test_behind_tls_the_cookie_is_secure(dashboard: Pool) -> None:
    with surf(dashboard, None) as http:
        headers = {"x-forwarded-proto": "https"}
        answer = http.post("/login", data={"key": dashboard.keys["support"]}, headers=headers)
    assert "; secure" in answer.headers["set-cookie"].lower()


@pytest.mark.parametrize("target", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\nb", ""])
def test_the_login_leads_nowhere_else(dashboard: Pool, target: str) -> None:
    with surf(dashboard, None) as http:
        answer = http.post("/login", data={"key": dashboard.keys["support"], "next": target})
    assert answer.headers["location"] == "/"


def test_logging_out_ends_the_session(dashboard: Pool, member: httpx2.Client) -> None:
    answer = member.post("/logout", data={"csrf": token(dashboard, "support")})
    assert answer.headers["location"] == "/login"
    assert "max-age=0" in answer.headers["set-cookie"].lower()


def test_a_revoked_key_ends_its_sessions_at_once(dashboard: Pool) -> None:
    made = dashboard.server.services.keys.create(dashboard.server.admin, name="short", role="member")  # type: ignore[arg-type]
    dashboard.keys["short"] = made.secret
    with surf(dashboard, "short") as http:
        assert http.get("/").status_code == 200
        dashboard.server.services.keys.revoke(dashboard.server.admin, made.key.key_id)
        assert http.get("/").headers["location"] == "/login"


def test_a_session_reads_the_api_and_never_changes_it(dashboard: Pool, member: httpx2.Client) -> None:
    assert member.get(f"{JOBS}/{dashboard.ids['running']}").json()["status"] == "running"
    refused = member.post(f"{JOBS}/{dashboard.ids['running']}/cancel")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "session_reads")
    assert member.delete(f"/v1/files/{dashboard.ids['file']}").status_code == 403


@pytest.mark.parametrize("given", ["", "00" * 64, "not hex", "other"])
def test_a_form_without_our_token_is_refused(dashboard: Pool, member: httpx2.Client, given: str) -> None:
    forged = make_token(dashboard.keys["vision"]) if given == "other" else given
    for path in (f"/jobs/{dashboard.ids['running']}/cancel", "/new", "/logout", "/jobs/cancel", "/theme"):
        answer = member.post(path, data={"csrf": forged, "theme": "dark"})
        assert answer.status_code == 403, path
        assert "bad_csrf_token" in answer.text
    upload = member.post(f"/data?csrf={forged}", files={"file": ("a.jsonl", chats(12))})
    assert upload.status_code == 403


def test_a_form_of_another_site_is_refused_even_with_a_token(dashboard: Pool, member: httpx2.Client) -> None:
    for site in ("cross-site", "same-site"):
        headers = {"sec-fetch-site": site}
        assert (
            member.post(
                "/theme", data={"csrf": token(dashboard, "support"), "theme": "dark"}, headers=headers
            ).status_code
            == 403
        )
        assert member.post("/login", data={"key": dashboard.keys["vision"]}, headers=headers).status_code == 403


@pytest.mark.parametrize("page", list(PAGES))
def test_every_page_reads_without_scripts_under_the_policy(dashboard: Pool, member: httpx2.Client, page: str) -> None:
    answer = member.get(dashboard.path(page))
    assert answer.status_code == 200
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.count("<h1>") == 1
    assert not re.search(r"<[^>]*\s(on\w+|style)=|<style", answer.text)
    assert not re.search(r"""(src|href|action)="https?:""", answer.text)
    assert dashboard.keys["support"] not in answer.text


def test_what_users_wrote_is_shown_as_text(dashboard: Pool, member: httpx2.Client) -> None:
    for path in (
        "/data",
        f"/data/{dashboard.ids['hostile_file']}",
        dashboard.path("running"),
        dashboard.path("paused"),
    ):
        text = member.get(path).text
        assert "<script>window" not in text
        assert "<img src=x" not in text
        assert "window.hacked" in text or path.startswith("/data/")
    assert HOSTILE_LINES[5] in member.get(dashboard.path("running")).text


@pytest.mark.parametrize("page", [page for page, path in PAGES.items() if "{" in path and page != "compare"])
def test_another_teams_pages_are_as_if_they_were_not_there(dashboard: Pool, page: str) -> None:
    with surf(dashboard, "vision") as http:
        answer = http.get(dashboard.path(page))
    assert answer.status_code == 404
    assert "Not found" in answer.text


def test_two_teams_do_not_see_each_other_anywhere(dashboard: Pool, member: httpx2.Client) -> None:
    for page in PAGES:
        assert "secret-captions" not in member.get(dashboard.path(page)).text, page
    foreign = dashboard.ids["foreign"]
    assert member.get(f"/compare?job={foreign}").status_code == 404
    assert member.get("/pool").text.count(foreign[-8:]) == 0
    assert "another team" in member.get("/pool").text
    answer = member.post(f"/jobs/{foreign}/cancel", data={"csrf": token(dashboard, "support")})
    assert answer.status_code == 404
    assert "vision" not in member.get("/reports").text
    assert "vision" not in member.get("/teams").text


def test_a_viewer_is_offered_nothing_that_changes_something(dashboard: Pool) -> None:
    with surf(dashboard, "viewer") as http:
        for page in PAGES:
            text = http.get(dashboard.path(page)).text
            forms = set(re.findall(r'<form[^>]*method="post"[^>]*action="([^"]+)"', text))
            assert not forms - {"/theme", "/logout", "/jobs", "/jobs/compare", "/new"}, page
            assert "Cancel</button>" not in text
            assert "Submit job" not in text
        refused = http.post(f"/jobs/{dashboard.ids['running']}/cancel", data={"csrf": token(dashboard, "viewer")})
        assert refused.status_code == 403
        bulk = {"csrf": token(dashboard, "viewer"), "job": dashboard.ids["running"]}
        assert http.post("/jobs/cancel", data=bulk).status_code == 403


def test_jobs_are_filtered_searched_sorted_and_paged(dashboard: Pool, member: httpx2.Client) -> None:
    def names(query: str) -> list[str]:
        return re.findall(r'<th scope="row" class="name"><a [^>]*>([^<]+)</a>', member.get(f"/jobs?{query}").text)

    assert names("status=failed") == ["lamps-hot"]
    assert names("status=failed&status=cancelled") == ["mistake", "lamps-hot"]
    assert names("search=WINDOW.HACKED") == ["tiny"]
    assert names("search=100%25") == []
    assert names("order=asc")[0] == "lamps-v1"
    by_tokens = names("sort=tokens")
    assert by_tokens[0] == "lamps-v2"
    assert sorted(by_tokens) == sorted(names(""))
    assert member.get("/jobs?sort=nonsense").status_code == 400


def test_the_api_takes_the_same_queries(dashboard: Pool, member: httpx2.Client) -> None:
    def suffixes(query: str) -> list[str]:
        return [job["suffix"] for job in member.get(f"{JOBS}?{query}").json()["data"]]

    assert suffixes("status=failed") == ["lamps-hot"]
    first = member.get(f"{JOBS}?sort=tokens&limit=2").json()
    rest = member.get(f"{JOBS}?sort=tokens&limit=100&after={first['last_id']}").json()
    everything = [job["id"] for job in member.get(f"{JOBS}?sort=tokens&limit=100").json()["data"]]
    assert [job["id"] for job in first["data"] + rest["data"]] == everything
    lines = f"{JOBS}/{dashboard.ids['running']}/logs"
    texts = [line["text"] for line in member.get(lines).json()["data"]]
    backwards = member.get(f"{lines}?order=desc&limit=3").json()
    assert [line["text"] for line in backwards["data"]] == texts[::-1][:3]
    older = member.get(f"{lines}?order=desc&limit=1000&after={backwards['last_id']}").json()
    assert [line["text"] for line in older["data"]] == texts[::-1][3:]
    assert [line["text"] for line in member.get(f"{lines}?search=ONERROR").json()["data"]] == [HOSTILE_LINES[1]]
    assert member.get(f"{lines}?search=_").json()["data"] == []


def test_a_new_job_is_submitted_once_however_often_the_form_is_sent(dashboard: Pool, member: httpx2.Client) -> None:
    form = {"model": "tiny", "training_file": dashboard.ids["file"], "epochs": "2", "suffix": "from-the-form"}
    form |= {"csrf": token(dashboard, "support"), "once": "the-same-form"}
    answers = [member.post("/new", data=form) for _ in range(2)]
    assert {answer.status_code for answer in answers} == {303}
    assert answers[0].headers["location"] == answers[1].headers["location"]
    job = member.get("/v1/fine_tuning/jobs/" + answers[0].headers["location"].rpartition("/")[2]).json()
    assert job["suffix"] == "from-the-form"
    assert job["hyperparameters"]["n_epochs"] == 2
    member.post(answers[0].headers["location"] + "/cancel", data={"csrf": token(dashboard, "support")})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": "many"}, "n_epochs should be a number"),
        ({"epochs": "-1"}, "n_epochs"),
        ({"learning_rate": "7"}, "training.learning_rate"),
        ({"model": "no-such-model"}, "not registered"),
        ({"training_file": "file-unknown"}, "there is no file"),
        ({"device_type": "abacus"}, "no device of type"),
    ],
)
def test_a_wrong_field_is_named_and_the_form_is_kept(
    dashboard: Pool, member: httpx2.Client, change: dict[str, str], said: str
) -> None:
    form = {
        "model": "tiny",
        "training_file": dashboard.ids["file"],
        "suffix": "kept",
        "csrf": token(dashboard, "support"),
    }
    answer = member.post("/new", data=form | change)
    assert answer.status_code == 400
    assert said in answer.text
    assert 'value="kept"' in answer.text
    preview = member.post("/new/preview", data=form | change)
    assert preview.status_code == 200
    assert said in preview.text


def test_the_form_says_what_is_wrong_with_a_file_line_by_line(dashboard: Pool, member: httpx2.Client) -> None:
    """Before a model is chosen, and whatever the file is called."""
    with dashboard.server.http(dashboard.keys["support"]) as http:
        broken = upload(http, HOSTILE_NAME, chats(3) + b'{"messages": [}\n' + chats(1))
    form = {"training_file": broken, "csrf": token(dashboard, "support")}
    text = member.post("/new/preview", data=form, headers={"hx-request": "true"}).text
    assert "1 problem" in text
    assert "Line 4: " in text
    assert "json.dumps writes one" in text
    assert "Line 5: " in text, "a row that is there twice is a warning"
    assert "<script>" not in text
    assert f'href="/data/{broken}"' in text
    strange = {"training_file": dashboard.ids["foreign_file"], "model": "tiny", "csrf": token(dashboard, "support")}
    text = member.post("/new/preview", data=strange).text
    assert "there is no file" in text
    assert "secret-captions" not in text


def test_the_form_says_when_the_job_would_start(dashboard: Pool, member: httpx2.Client) -> None:
    form = {"model": "tiny", "training_file": dashboard.ids["file"], "csrf": token(dashboard, "support")}
    text = member.post("/new/preview", data=form).text
    assert "at once, when its files are checked" in text
    with dashboard.server.http(dashboard.keys["support"]) as http:
        said = http.post("/v1/estimates", json={"model": "tiny", "training_file": dashboard.ids["file"]}).json()
    assert abs(said["expected_start_at"] - time.time()) < 60


def test_every_field_of_the_form_can_be_filled_in(dashboard: Pool, member: httpx2.Client) -> None:
    form = {"model": "tiny", "count": "2", "csrf": token(dashboard, "support")}
    text = member.post("/new/preview", data=form).text
    assert 'name="count" value="2"' in text
    assert [field.name for field in FIELDS if f' name="{field.name}"' not in text] == []


def test_a_preset_fills_its_fields_and_leaves_the_others(dashboard: Pool, member: httpx2.Client) -> None:
    form = {"model": "tiny", "epochs": "3", "preset": "trial", "csrf": token(dashboard, "support")}
    text = member.post("/new/preview", data=form).text
    assert re.search(r'name="max_steps" value="20"', text)
    assert re.search(r'name="epochs" value="3"', text)
    assert '<option value="nf4" selected>' in text


def test_a_file_is_brought_looked_at_and_deleted(dashboard: Pool, member: httpx2.Client) -> None:
    csrf = token(dashboard, "support")
    answer = member.post(f"/data?csrf={csrf}", files={"file": ("mine.jsonl", chats(12))})
    assert answer.status_code == 303
    page = member.get(answer.headers["location"])
    assert "mine.jsonl" in page.text
    assert page.text.count("trained on") >= 5
    assert member.post(answer.headers["location"] + "/delete", data={"csrf": csrf}).headers["location"] == "/data"
    assert member.get(answer.headers["location"]).status_code == 404
    assert member.post(f"/data?csrf={csrf}", data={"x": "y"}, files={"other": ("a", b"b")}).status_code == 400


def test_an_oversized_form_is_refused(dashboard: Pool, member: httpx2.Client) -> None:
    answer = member.post("/new", content=b"x=" + b"y" * 2_000_000, headers=FORM)
    assert answer.status_code == 413


def test_pages_are_light(dashboard: Pool, member: httpx2.Client) -> None:
    """What the heaviest page and all that it needs weigh on the wire: under 150 kB, compressed."""
    for page in ("running", "overview", "new"):
        answer = member.get(dashboard.path(page))
        text = answer.text
        names = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', text))
        names |= {
            re.sub(r"[^/]+$", name, first)
            for first in names
            if first.endswith(".js")
            for name in _imports(member, first)
        }
        weights = [_weight(member, path) for path in (dashboard.path(page), *names)]
        assert sum(weights) < 150_000, (page, sum(weights))
        assert len(names) >= 4


def _imports(http: httpx2.Client, path: str) -> set[str]:
    return {"live.js", "logs.js", "charts.js", "words.js"} if "/js/" in path else set()


def _weight(http: httpx2.Client, path: str) -> int:
    with http.stream("GET", path, headers={"accept-encoding": "gzip"}) as answer:
        assert answer.status_code == 200, path
        return sum(map(len, answer.iter_raw()))


def test_assets_are_kept_for_ever_and_old_ones_are_gone(dashboard: Pool) -> None:
    with surf(dashboard, None) as http:
        found = re.search(r'href="(/static/[^"]+\.css)"', http.get("/login").text)
        assert found is not None
        style = http.get(found[1])
        assert "immutable" in style.headers["cache-control"]
        assert style.headers["content-type"].startswith("text/css")
        parts = found[1].split("/")
        assert http.get("/".join([*parts[:2], "0" * 12, *parts[3:]])).status_code == 404
        assert http.get("/".join([*parts[:3], "..%2f..%2fformats.py"])).status_code in {401, 404, 303}


def test_a_job_that_waits_says_why(dashboard: Pool, member: httpx2.Client) -> None:
    """At the end of this file, because it adds a job to those that other tests count."""
    ask = {"model": "tiny", "training_file": dashboard.ids["file"], "suffix": "patient"}
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = http.post("/v1/fine_tuning/jobs", json=ask).json()["id"]
        http.patch(f"/v1/fine_tuning/jobs/{job_id}", json={"held": True})
        dashboard.server.step()  # every loop, because the lease on the lead may have run out meanwhile
        held = http.get(f"/v1/fine_tuning/jobs/{job_id}").json()
    assert (held["status"], held["held"]) == ("queued", True)
    for page in (f"/jobs/{job_id}", f"/jobs/{job_id}/head"):
        shown = member.get(page).text
        assert "It is held until somebody releases it." in shown
        assert "Not in the queue while it is held back" in shown
