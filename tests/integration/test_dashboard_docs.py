"""The documentation over HTTP: open to everybody, every link leads somewhere, hostile questions are text."""

import json
import re
from collections.abc import Iterator
from html import unescape
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest

from api.dashboard.session import COOKIE, THEME_COOKIE
from tests.support.servers import ApiServer

HTML = {"accept": "text/html"}
LINK = re.compile(r'<a\b[^>]*?\shref="([^"]*)"')
ID = re.compile(r'\sid="([^"]*)"')


@pytest.fixture
def stranger(bare_server: ApiServer) -> Iterator[httpx2.Client]:
    with bare_server.http("", **HTML) as client:
        yield client


def test_every_link_of_every_page_leads_somewhere(stranger: httpx2.Client) -> None:
    """A walk from /docs, as a stranger: pages, files and anchors. No link leads elsewhere but
    to the API's document, the login and the overview."""
    texts: dict[str, str] = {}
    waiting, dead = ["/docs"], []
    while waiting:
        page = waiting.pop()
        answer = stranger.get(page)
        assert answer.status_code == 200, page
        texts[page] = answer.text
        for target in _links(page, answer.text):
            path = urlsplit(target).path
            if path.startswith("/docs") and path not in texts and path not in waiting:
                waiting.append(path)
    for page, text in texts.items():
        for target in _links(page, text):
            path, anchor = urlsplit(target).path, urlsplit(target).fragment
            if path in texts:
                dead += [(page, target)] if anchor and anchor not in ID.findall(texts[path]) else []
            elif path not in {"/openapi.json", "/login", "/"}:
                dead.append((page, target))
    assert dead == []
    assert len(texts) > 30
    assert {"/docs/reference/api", "/docs/examples/qlora.yaml", "/docs/decisions/0007-what-is-billed"} <= set(texts)


def _links(page: str, text: str) -> list[str]:
    """Addresses of this server, as a browser would follow them."""
    return [urljoin(page, found) for found in map(unescape, LINK.findall(text)) if "://" not in found]


def test_pages_need_no_key_and_hold_nothing_inline(stranger: httpx2.Client) -> None:
    for page in ("/docs", "/docs/data-formats", "/docs/reference/api", "/docs?q=rank"):
        answer = stranger.get(page)
        assert answer.status_code == 200
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.text.count("<h1") == 1
        assert not re.search(r"<[^>]*\s(on\w+|style)=|<style", answer.text)
        assert not re.search(r"""<(?:script|link|img|form)[^>]*(?:src|href|action)="https?:""", answer.text)
        assert "not-run" not in re.sub(r"<code>not-run[^<]*</code>", "", answer.text)
        assert "Log in" in answer.text
        assert "Log out" not in answer.text


def test_the_document_of_the_api_is_open_too_and_its_framework_has_no_pages_here(stranger: httpx2.Client) -> None:
    assert "/v1/files" in json.loads(stranger.get("/openapi.json").text)["paths"]
    assert stranger.get("/redoc").status_code == 303
    assert "cdn" not in stranger.get("/docs").text


def test_whoever_is_logged_in_stays_so(bare_server: ApiServer, stranger: httpx2.Client) -> None:
    stranger.cookies.set(COOKIE, bare_server.make_key())
    known = stranger.get("/docs/choosing").text
    assert "Log out" in known
    assert "New job" in known
    assert stranger.post("/theme", data={"theme": "dark"}).status_code == 403, "it has a token to prove"
    stranger.cookies.set(COOKIE, "tp_revoked")
    assert "Log in" in stranger.get("/docs/choosing").text


def test_a_stranger_may_choose_a_theme(stranger: httpx2.Client) -> None:
    answer = stranger.post("/theme", data={"theme": "dark", "next": "/docs/costs"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/docs/costs")
    stranger.cookies.set(THEME_COOKIE, "dark")
    assert 'data-theme="dark"' in stranger.get("/docs/costs").text


def test_a_search_shows_what_was_asked_as_text(stranger: httpx2.Client) -> None:
    found = stranger.get("/docs", params={"q": "cannot_fit"})
    assert 'href="/docs/troubleshooting#cannot_fit"' in found.text
    hostile = stranger.get("/docs", params={"q": '"><script>hacked</script>'})
    assert hostile.status_code == 200
    assert "<script>hacked" not in hostile.text
    assert "&lt;script&gt;hacked" in hostile.text
    assert stranger.get("/docs", params={"q": "x" * 201}).status_code == 400


def test_what_is_no_page_is_not_there(stranger: httpx2.Client) -> None:
    """A path that leads out of the documentation leads a stranger to the login."""
    said = {
        "/docs/no-such-page": 404,
        "/docs/examples/nothing.py": 404,
        "/docs/%2e%2e/pyproject.toml": 303,
        "/docs/quickstart.md": 404,
    }
    assert {path: stranger.get(path).status_code for path in said} == said
