"""The documentation in a real browser: both themes, two widths, by keyboard, and without scripts."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.support.browsers import DESKTOP, PHONE, find_serious, visit
from tests.support.servers import ApiServer

pytestmark = pytest.mark.e2e
ARTIFACTS = Path(os.environ.get("TUNEPOOL_TEST_ARTIFACTS", "artifacts")) / "docs"
LOOKED_AT = (
    "/docs",
    "/docs/data-formats",
    "/docs/benchmarks",
    "/docs/examples/ranks.py",
    "/docs?q=learning+rate",
)
"""One page of each kind: lists, code, wide tables, a file, a search."""


@pytest.mark.parametrize(("theme", "size"), [("light", DESKTOP), ("dark", PHONE)], ids=["light desktop", "dark phone"])
def test_pages_of_each_kind_read_well(
    browser: Browser, bare_server: ApiServer, theme: str, size: dict[str, int]
) -> None:
    """Nothing that the policy refuses, nothing wider than the window, nothing serious for axe."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"viewport": size, "color_scheme": theme, "reduced_motion": "reduce"}
    with visit(browser, bare_server.url, None, **options) as found:
        for path in LOOKED_AT:
            page = found.open(path)
            assert find_serious(page) == [], path
            name = re.sub(r"\W+", "-", path.strip("/"))
            page.screenshot(path=ARTIFACTS / f"{name}-{theme}-{size['width']}.png", full_page=True)


def test_no_page_is_wider_than_a_phone(browser: Browser, bare_server: ApiServer) -> None:
    """Tables and code scroll by themselves."""
    with visit(browser, bare_server.url, None, viewport=PHONE) as found:
        for entry in bare_server.app.state.library.contents:
            page = found.open(entry.address)
            too_wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert too_wide <= 0, entry.address


def test_a_stranger_reads_searches_and_copies_by_keyboard(browser: Browser, bare_server: ApiServer) -> None:
    with visit(browser, bare_server.url, None, permissions=["clipboard-read", "clipboard-write"]) as found:
        page = found.open("/docs/quickstart")
        page.keyboard.press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        block = page.locator(".block", has_text="tunepool submit job.yaml")
        block.get_by_role("button", name="Copy").focus()
        page.keyboard.press("Enter")
        expect(block.get_by_role("button")).to_have_text("Copied")
        assert "tunepool submit job.yaml --follow" in page.evaluate("navigator.clipboard.readText()")
        page.keyboard.press("/")
        page.keyboard.type("cannot_fit")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="cannot_fit").first.click()
        expect(page).to_have_url(re.compile(r"/docs/troubleshooting#cannot_fit$"))
        expect(page.locator("#cannot_fit")).to_be_in_viewport()


def test_reading_needs_no_scripts(browser: Browser, bare_server: ApiServer) -> None:
    with visit(browser, bare_server.url, None, java_script_enabled=False, viewport=PHONE) as found:
        page = found.open("/docs")
        page.locator("summary", has_text="pages and search").click()
        page.get_by_role("navigation", name="Documentation").get_by_role("link", name="Costs", exact=True).click()
        expect(page.get_by_role("heading", name="Costs", level=1)).to_be_visible()
        expect(page.get_by_role("button", name="Copy")).to_have_count(0)
