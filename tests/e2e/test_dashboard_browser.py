"""The dashboard in a real browser over a real server: each page and action, live within a second, by keyboard alone."""

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from orchestrator.domain.protocol import LogLine
from orchestrator.domain.queries import LineQuery
from tests.support.browsers import DESKTOP, PHONE, Visit, visit
from tests.support.browsers import find_serious as _serious
from tests.support.dashboards import HOSTILE_LINES, JOBS, PAGES, Pool, begin, chats, figures, submit, train
from tests.support.trainers import Trainer

pytestmark = pytest.mark.e2e
ARTIFACTS = Path(os.environ.get("TUNEPOOL_TEST_ARTIFACTS", "artifacts")) / "dashboard"
LIVE_SECONDS = 1.0


@pytest.fixture
def member(browser: Browser, dashboard: Pool) -> Iterator[Visit]:
    with visit(browser, dashboard.url, dashboard.keys["support"]) as found:
        yield found


@pytest.fixture
def fresh(dashboard: Pool) -> Iterator[Trainer]:
    """A job of its own that has just begun to train, cancelled afterwards."""
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = submit(http, dashboard.ids["file"], suffix="fresh")
        trainer = Trainer(dashboard.server, job_id)
        begin(trainer, dashboard.server)
        yield trainer
        http.post(f"{JOBS}/{job_id}/cancel")
        dashboard.server.launcher.workers.pop(trainer.attempt.attempt_id, None)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_every_page_in_both_themes_and_widths(
    browser: Browser, dashboard: Pool, theme: str, size: dict[str, int]
) -> None:
    """No script error, nothing that the policy refuses, nothing wider than the window, nothing serious for axe, which
    looks at each theme once."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"viewport": size, "color_scheme": theme, "reduced_motion": "reduce"}
    with visit(browser, dashboard.url, dashboard.keys["support"], **options) as found:
        for page in PAGES:
            shown = found.open(dashboard.path(page))
            if page in {"running", "succeeded", "failed", "compare"}:
                expect(shown.locator(".u-wrap canvas").first).to_be_visible()
            too_wide = shown.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert too_wide <= 0, (page, too_wide)
            if (size is DESKTOP) == (theme == "light"):
                assert _serious(shown) == [], page
            shown.screenshot(path=ARTIFACTS / f"{page}-{theme}-{size['width']}.png", full_page=True)


def test_login_and_logout(browser: Browser, dashboard: Pool) -> None:
    with visit(browser, dashboard.url, None) as found:
        page = found.open("/jobs")
        expect(page).to_have_url(re.compile("/login"))
        assert _serious(page) == []
        page.get_by_label("API key").fill("tp_nonsense")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("not an API key")
        found.problems.clear()  # the 401 that was asked for
        page.get_by_label("API key").fill(dashboard.keys["support"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Jobs", level=1)).to_be_visible()
        assert dashboard.keys["support"] not in page.evaluate("document.cookie")
        page.get_by_role("button", name="Log out").first.click()
        expect(page).to_have_url(re.compile("/login"))
        page.goto(dashboard.url + "/")
        expect(page).to_have_url(re.compile("/login"))


def test_the_theme_is_chosen_and_kept(member: Visit) -> None:
    page = member.open("/")
    for theme in ("light", "dark", "auto"):
        page.locator(".side [data-theme-button]").click()
        expect(page.locator("html")).to_have_attribute("data-theme", theme)
    page.locator(".side [data-theme-button]").click()
    page.locator(".side [data-theme-button]").click()
    member.open("/pool")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 16, 20)"


def test_a_step_is_on_the_page_within_a_second(member: Visit, dashboard: Pool, fresh: Trainer) -> None:
    """Counted from when it is in the database; the loops that bring it there are stepped by hand."""
    page = member.open(f"/jobs/{fresh.job_id}")
    expect(page.locator("[data-log-state]")).to_contain_text("live")
    train(fresh, dashboard.server, 1, 2)
    expect(page.locator("[data-chart=loss] [data-last]")).to_have_text(re.compile(r"^\d"))
    train(fresh, dashboard.server, 3, 3)
    began = time.monotonic()
    loss = f"{figures(3, 12)['train_loss']:.4g}"[:4]
    expect(page.locator("[data-chart=loss] [data-last]")).to_contain_text(loss[:2], timeout=LIVE_SECONDS * 1000)
    expect(page.locator("[data-log]")).to_contain_text("step 3/", timeout=LIVE_SECONDS * 1000)
    expect(page.locator("#head")).to_contain_text("step 3 of", timeout=LIVE_SECONDS * 1000)
    assert time.monotonic() - began < 2 * LIVE_SECONDS


def test_a_job_is_paused_resumed_and_cancelled(member: Visit, dashboard: Pool) -> None:
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = submit(http, dashboard.ids["file"], suffix="moved")
    page = member.open(f"/jobs/{job_id}")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#head .chip")).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#head .chip")).to_have_text("validating")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#head .chip")).to_have_text("validating")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    _expect_end(page, "cancelled")
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)


def test_hostile_lines_are_text_and_can_be_searched(member: Visit, dashboard: Pool) -> None:
    page = member.open(dashboard.path("running"))
    log = page.locator("[data-log]")
    expect(log).to_contain_text("2000 more characters")
    text = log.inner_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "red and  plain" in text
    assert log.locator("script, img").count() == 0
    page.get_by_label("Search the log").fill("ONERROR")
    expect(page.locator("[data-log-state]")).to_contain_text("1 lines match")
    expect(log.locator("mark")).to_have_text("onerror")
    page.get_by_label("Search the log").fill("")
    page.get_by_label("Level", exact=True).select_option("warn")
    expect(page.locator("[data-log-state]")).to_contain_text(f"{len(HOSTILE_LINES)} lines match")


def test_a_long_log_opens_at_its_end_and_stays_small(member: Visit, dashboard: Pool, fresh: Trainer) -> None:
    """20,000 lines: a few dozen elements, older ones as one scrolls, the beginning at once."""
    count = 20_000
    fresh.report(*(LogLine(stream="stdout", text=f"line {number}") for number in range(1, count + 1)))
    while dashboard.server.services.jobs.logs(dashboard.server.admin, fresh.job_id, after=0, limit=1).items and (
        _last_line(dashboard, fresh.job_id) != f"line {count}"
    ):
        dashboard.server.step("watch")
    page = member.open(f"/jobs/{fresh.job_id}")
    log = page.locator("[data-log]")
    expect(page.locator("[data-log-state]")).to_contain_text("1,000 lines")
    expect(log).to_contain_text(f"line {count}")
    assert log.locator(".line").count() < 120
    log.evaluate("box => { box.scrollTop = 0 }")
    expect(page.locator("[data-log-state]")).to_contain_text("2,000 lines")
    expect(page.get_by_role("button", name="Follow")).to_have_attribute("aria-pressed", "false")
    page.get_by_role("button", name="Beginning").click()
    expect(log).to_contain_text("The model is loaded")
    assert log.evaluate("box => box.scrollTop") == 0
    page.get_by_role("button", name="Follow").click()
    expect(log).to_contain_text(f"line {count}")
    assert log.locator(".line").count() < 120


def _last_line(dashboard: Pool, job_id: str) -> str:
    which = LineQuery(descending=True)
    page = dashboard.server.services.jobs.logs(dashboard.server.admin, job_id, limit=1, which=which)
    return page.items[0].text


def test_the_form_shows_what_a_job_would_take_and_submits_it(member: Visit, dashboard: Pool) -> None:
    page = member.open("/new")
    preview = page.locator("#preview")
    expect(preview).to_contain_text("as you type")
    page.get_by_label("Training file").select_option(dashboard.ids["broken_file"])
    expect(preview).to_contain_text("Line 4: ")
    assert _serious(page) == []
    page.get_by_label("Model", exact=True).fill("tiny")
    page.get_by_label("Training file").select_option(dashboard.ids["file"])
    expect(preview).to_contain_text("MiB of 14.0 GiB")
    expect(preview.locator("svg.bar rect").first).to_be_attached()
    page.get_by_label("Epochs").fill("nine")
    expect(preview.get_by_role("alert")).to_contain_text("n_epochs should be a number")
    page.get_by_label("Epochs").fill("2")
    expect(preview).to_contain_text("n_epochs: 2")
    preview.get_by_text("Python", exact=True).click()
    expect(preview).to_contain_text("client.fine_tuning.jobs.create(")
    page.get_by_role("button", name="QLoRA").click()
    expect(page.get_by_label("Base weights")).to_have_value("nf4")
    expect(page.get_by_label("Epochs")).to_have_value("2")
    page.get_by_label("Suffix").fill("by-form")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("heading", name="by-form", level=1)).to_be_visible()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    _expect_end(page, "cancelled")


def _expect_end(page: Page, word: str) -> None:
    """The page of a job that has just ended loads itself again, for what is there only now."""
    expect(page.locator("#job")).to_have_attribute("data-final", "yes")
    expect(page.locator("#head .chip")).to_have_text(word)


def test_jobs_are_searched_ticked_compared_and_cancelled(member: Visit, dashboard: Pool) -> None:
    with dashboard.server.http(dashboard.keys["support"]) as http:
        mine = [submit(http, dashboard.ids["file"], suffix="bulk", metadata={"batch": "seven"}) for _ in range(2)]
    page = member.open("/jobs")
    page.keyboard.press("/")
    page.keyboard.type("seven")
    rows = page.locator("#list tbody tr")
    expect(rows).to_have_count(2)
    expect(page).to_have_url(re.compile("search=seven"))
    page.get_by_label("Tick all jobs of this page").check()
    expect(page.locator("[data-ticked]")).to_have_text("2 ticked")
    page.get_by_role("button", name="Compare").click()
    expect(page).to_have_url(re.compile(f"/compare.job={mine[1]}&job={mine[0]}"))
    page.go_back()
    page.reload()
    page.get_by_label("Tick all jobs of this page").check()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status").first).to_contain_text("2 cancelled")
    page.goto(f"{dashboard.url}/jobs?search=nothing-has-this")
    expect(page.locator("#list")).to_contain_text("No job matches")


def test_a_file_goes_from_the_disk_to_the_form(member: Visit, dashboard: Pool) -> None:
    page = member.open("/data")
    page.locator("#file").set_input_files({"name": "disk.jsonl", "mimeType": "application/jsonl", "buffer": chats(12)})
    page.get_by_role("button", name="Upload", exact=True).click()
    expect(page.get_by_role("heading", name="disk.jsonl", level=1)).to_be_visible()
    expect(page.locator(".message.trained").first).to_contain_text("Tighten the bulb")
    page.get_by_role("button", name="Count tokens").click()
    expect(page.locator("#tokens")).to_contain_text("12 rows, as tiny counts them", timeout=60_000)
    expect(page.locator(".rendered mark").first).to_contain_text("Tighten the bulb")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert _serious(page) == []
        page.screenshot(path=ARTIFACTS / f"tokens-{theme}-{DESKTOP['width']}.png", full_page=True)
    page.get_by_role("link", name="Train on it").click()
    expect(page.get_by_label("Training file")).not_to_have_value("")
    page.go_back()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Data", level=1)).to_be_visible()
    expect(page.get_by_text("disk.jsonl")).to_have_count(0)


def test_an_admin_makes_a_team_and_a_key_that_is_shown_once_and_revoked(browser: Browser, dashboard: Pool) -> None:
    with visit(browser, dashboard.url, dashboard.keys["admin"]) as found:
        page = found.open("/teams")
        page.get_by_label("New team").fill("audio")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_role("heading", name="audio", level=1)).to_be_visible()
        found.open("/teams")
        page.get_by_label("What it is for").fill("nightly")
        page.get_by_label("Team", exact=True).select_option(label="audio")
        page.get_by_role("button", name="Make a key").click()
        secret = page.locator("#secret").inner_text()
        assert dashboard.server.services.keys.authenticate(secret).team_name == "audio"
        found.open("/teams")
        assert secret not in page.content()
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("row", name="nightly").get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("row", name="nightly")).to_contain_text("revoked")


def test_an_admin_sets_terms_and_a_budget_and_cordons_a_node(browser: Browser, dashboard: Pool) -> None:
    with visit(browser, dashboard.url, dashboard.keys["admin"]) as found:
        team = dashboard.server.make_team("terms")
        page = found.open(f"/teams/{team}")
        assert _serious(page) == []
        page.get_by_label("Guarantee, devices").fill("2")
        page.get_by_label("Ceiling, devices").fill("1")
        page.get_by_role("button", name="Change terms").click()
        expect(page.get_by_role("alert")).to_contain_text("ceiling_devices")
        expect(page.get_by_label("Ceiling, devices")).to_have_attribute("aria-invalid", "true")
        found.problems.clear()  # the 400 that was asked for
        page.get_by_label("Ceiling, devices").fill("")
        page.keyboard.press("Enter")
        expect(page.locator(".tile", has_text="Guarantee")).to_contain_text("2")
        page.get_by_label("Dollars").fill("20")
        page.get_by_role("button", name="Set budget").click()
        expect(page.locator("#budget ~ .end")).to_contain_text("this month")
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_text("No budget:")).to_be_visible()
        page.get_by_role("link", name="all", exact=True).click()
        expect(page.locator("tbody tr").first).to_contain_text("budget")
        assert _serious(page) == []
        found.open("/pool")
        page.get_by_role("button", name="Cordon node-b").click()
        expect(page.get_by_role("listitem").filter(has_text="node-b")).to_contain_text("cordoned")
        assert _serious(page) == []
        page.get_by_role("button", name="Uncordon node-b").click()
        expect(page.get_by_role("listitem").filter(has_text="node-b")).to_contain_text("takes jobs")


def test_a_waiting_job_is_held_moved_and_released(member: Visit, dashboard: Pool) -> None:
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = submit(http, dashboard.ids["file"], suffix="moved-about")
        page = member.open(f"/jobs/{job_id}")
        page.get_by_role("button", name="Hold").click()
        expect(page.locator("#head")).to_contain_text("held back")
        page.get_by_label("Class").select_option("idle")
        page.get_by_label("Priority").fill("9")
        page.keyboard.press("Enter")
        expect(page.locator("[data-events]")).to_contain_text("priority = 9, priority_class = idle")
        page.get_by_role("button", name="Release").click()
        expect(page.get_by_role("button", name="Hold")).to_be_visible()
        http.post(f"{JOBS}/{job_id}/cancel")
        _expect_end(page, "cancelled")
        page.get_by_role("button", name="Retry").click()
        expect(page).not_to_have_url(re.compile(job_id))
        expect(page.locator("#head .chip")).to_have_text("validating")
        http.post(f"{JOBS}/{page.url.rpartition('/')[2]}/cancel")
        _expect_end(page, "cancelled")


def test_the_overview_moves_by_itself(member: Visit, dashboard: Pool) -> None:
    page = member.open("/")
    before = int(page.locator(".tile", has_text="Validating").locator(".value").inner_text())
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = submit(http, dashboard.ids["file"], suffix="seen-at-once")
        expect(page.locator(".tile", has_text="Validating").locator(".value")).to_have_text(str(before + 1))
        expect(page.get_by_role("link", name="seen-at-once")).to_be_visible()
        http.post(f"{JOBS}/{job_id}/cancel")


def test_the_list_of_jobs_moves_by_itself_but_not_under_somebodys_ticks(member: Visit, dashboard: Pool) -> None:
    page = member.open("/jobs")
    with dashboard.server.http(dashboard.keys["support"]) as http:
        job_id = submit(http, dashboard.ids["file"], suffix="new-in-the-list")
        row = page.get_by_role("row", name="new-in-the-list")
        expect(row).to_be_visible()
        row.get_by_role("checkbox").check()
        http.post(f"{JOBS}/{job_id}/cancel")
        refused = page.evaluate(
            "() => new Promise(done => document.addEventListener('htmx:beforeRequest', e => done(e.defaultPrevented)))"
        )
        assert refused
        expect(row.get_by_role("checkbox")).to_be_checked()
        row.get_by_role("checkbox").uncheck()
        page.locator("h1").click()
        expect(row).to_contain_text("cancelled")


def test_by_keyboard_alone(browser: Browser, dashboard: Pool) -> None:
    """From the login to a job, its log and back, with nothing but Tab, Enter, Space and letters."""
    with visit(browser, dashboard.url, None) as found:
        page = found.open("/login")
        expect(page.get_by_label("API key")).to_be_focused()
        page.keyboard.type(dashboard.keys["support"])
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Overview", level=1)).to_be_visible()
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        expect(page.locator(".skip")).to_be_in_viewport()
        page.keyboard.press("Enter")
        expect(page.locator("#content")).to_be_focused()
        _tab_to(page, "lamps-v2")
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="lamps-v2", level=1)).to_be_visible()
        _tab_to(page, "Log", exact=True)
        page.keyboard.press("Enter")
        _tab_to(page, "Log lines")
        page.keyboard.press("Home")
        expect(page.locator("[data-log]")).to_be_focused()


def _tab_to(page: Page, name: str, *, exact: bool = False, most: int = 60) -> None:
    """Press Tab until what has the focus is called so."""
    script = "() => (document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText).trim()"
    for _ in range(most):
        page.keyboard.press("Tab")
        said = page.evaluate(script)
        if said == name or (not exact and name in said):
            outline = page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", "what has the focus must be seen to have it"
            return
    raise AssertionError(f"{name} was not reached in {most} steps")


def test_reading_needs_no_scripts(browser: Browser, dashboard: Pool) -> None:
    with visit(browser, dashboard.url, dashboard.keys["support"], java_script_enabled=False) as found:
        page = found.open(dashboard.path("running"))
        expect(page.locator("[data-log]")).to_contain_text("step 7/")
        expect(page.locator("#head")).to_contain_text("step 7 of")
        expect(page.locator("noscript .note")).to_contain_text("Charts need JavaScript")
        page.get_by_text("CLI", exact=True).first.click()
        expect(page.get_by_text("tunepool submit job.yaml")).to_be_visible()
