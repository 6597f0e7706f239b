"""A real browser, driven by Playwright: Chromium of the system, or the one that Playwright brought."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from api.dashboard.session import COOKIE

SYSTEM_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
SERIOUS = {"serious", "critical"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """`make test` installs one where there is none."""
    found = next(filter(None, map(shutil.which, SYSTEM_BROWSERS)), None)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield started
        started.close()


@dataclass
class Visit:
    """A page in a window of its own, and all that went wrong in it: script errors, what the policy refused, and
    answers that were errors."""

    page: Page
    url: str
    problems: list[str] = field(default_factory=list)

    def open(self, path: str) -> Page:
        self.page.goto(self.url + path, wait_until="load")
        return self.page


@contextmanager
def visit(browser: Browser, url: str, key: str | None, **options: Any) -> Iterator[Visit]:
    """Logged in with the key; nothing may have gone wrong when the window is closed."""
    context = browser.new_context(**{"viewport": DESKTOP, **options})
    context.set_default_timeout(10_000)
    if key is not None:
        context.add_cookies([{"name": COOKIE, "value": key, "url": url, "httpOnly": True}])
    found = Visit(page=context.new_page(), url=url)
    found.page.on("pageerror", lambda error: found.problems.append(f"script: {error}"))
    found.page.on("console", lambda said: said.type == "error" and found.problems.append(f"console: {said.text}"))
    try:
        yield found
        assert found.page.evaluate("window.hacked") is None
        assert not found.problems
    finally:
        context.close()


def find_serious(page: Page) -> list[str]:
    """What axe finds in the page that keeps people from using it: rule and element."""
    answer = Axe().run(page, options={"resultTypes": ["violations"]})
    return [
        f"{found['id']}: {node['html'][:160]}"
        for found in answer.response["violations"]
        if found["impact"] in SERIOUS
        for node in found["nodes"]
    ]
