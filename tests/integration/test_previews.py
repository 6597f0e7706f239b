"""The page of a file shows it as a model sees it: over HTTP, by a real worker's process, for its own team only."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx2
import pytest

from api.dashboard.session import COOKIE, make_token
from orchestrator.domain.errors import InvalidRequestError, NotFoundError, UnavailableError
from orchestrator.domain.previews import PreviewResult, PreviewSpec
from orchestrator.services import previews
from orchestrator.services.previews import Previews
from tests.support.dashboards import HOSTILE_NAME, chats, upload
from tests.support.databases import copy_template
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer

HOSTILE_ROW = {
    "messages": [
        {"role": "user", "content": "<img src=x onerror=alert(1)> \u202e"},
        {"role": "assistant", "content": "</pre><script>hacked</script>"},
    ]
}


EMPTY = PreviewResult()


@pytest.fixture(scope="module")
def server(
    storage_server: StorageServer, sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("previews")
    url = copy_template(sqlite_template, folder)
    with run_server(storage_server, url, folder, model_roots=(tiny_model.parent,)) as started:
        started.services.models.add(started.admin, "tiny", str(tiny_model))
        started.make_team("support")
        started.make_team("vision")
        yield started


@pytest.fixture(scope="module")
def key(server: ApiServer) -> str:
    return server.make_key(team="support")


def browse(server: ApiServer, key: str) -> httpx2.Client:
    http = server.http("", accept="text/html")
    http.cookies.set(COOKIE, key)
    return http


def bring(server: ApiServer, key: str, content: bytes, name: str = "rows.jsonl") -> str:
    with server.http(key) as http:
        return upload(http, name, content)


def test_a_file_is_shown_as_the_model_sees_it(server: ApiServer, key: str) -> None:
    """Without scripts: the whole page. Asked again it is there at once, also on the page that asks for nothing."""
    file_id = bring(server, key, json.dumps(HOSTILE_ROW).encode() + b"\n" + chats(11), HOSTILE_NAME)
    with browse(server, key) as http:
        before = http.get(f"/data/{file_id}").text
        assert "Count tokens" in before
        assert "Longest row" not in before
        page = http.get(f"/data/{file_id}", params={"model": "tiny"}, timeout=120).text
        assert "12 rows, as tiny counts them." in page
        assert page.count('class="rendered"') == previews.MOST_ROWS
        assert "<mark>Tighten the bulb first, then try socket 0.&lt;|im_end|&gt;" in page
        assert "My lamp 0 flickers" in page.replace("<mark>", "")
        assert "<script>" not in page.replace('<script src="/static', "")
        assert "&lt;/pre&gt;&lt;script&gt;hacked" in page
        assert "\u202e" not in page.partition('id="tokens"')[2].partition('aria-labelledby="samples"')[0]
        assert "Longest row" in http.get(f"/data/{file_id}").text
        form = {"model": "tiny", "training_file": file_id, "csrf": make_token(key)}
        assert "tokens, a guess" not in http.post("/new/preview", data=form).text
        form["training_file"] = bring(server, key, chats(13))
        assert "tokens, a guess" in http.post("/new/preview", data=form).text


def test_another_teams_file_and_what_is_not_there_are_the_same(server: ApiServer, key: str) -> None:
    file_id = bring(server, key, chats(10))
    with browse(server, server.make_key(team="vision")) as stranger, browse(server, key) as http:
        for client, path in ((stranger, f"/data/{file_id}"), (http, "/data/file-unknown")):
            answer = client.get(f"{path}/tokens", params={"model": "tiny"}, headers={"hx-request": "true"})
            assert answer.status_code == 404
        unknown = http.get(f"/data/{file_id}", params={"model": "<b>none</b>"})
        assert unknown.status_code == 404
        assert "<b>none" not in unknown.text


class Renderer:
    """Counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[PreviewSpec] = []

    def __call__(self, spec: PreviewSpec) -> PreviewResult:
        self.asked.append(spec)
        return EMPTY


def make_previews(server: ApiServer, render: Renderer) -> Previews:
    services = server.services
    source = services.models.source
    return Previews(services.store, services.files, source=source, render=render, cache_dir="/nowhere")


def test_only_whole_lines_of_the_beginning_are_rendered(
    server: ApiServer, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = chats(12)
    monkeypatch.setattr(previews, "MOST_BYTES", len(content) - 5)
    render = Renderer()
    service, file_id = make_previews(server, render), bring(server, key, content)
    assert not service.show(server.admin, file_id, "tiny").is_whole
    (spec,) = render.asked
    assert spec.content.encode() == content[: content.rstrip().rfind(b"\n") + 1]
    assert service.find(server.admin, file_id, "tiny") is service.show(server.admin, file_id, "tiny")
    assert len(render.asked) == 1


def test_whoever_comes_while_one_waits_is_told_so(server: ApiServer, key: str) -> None:
    """What is at hand is shown all the same."""
    service = make_previews(server, Renderer())
    first, second = (bring(server, key, chats(10 + n)) for n in range(2))
    made = service.show(server.admin, first, "tiny")
    seats = cast(threading.Semaphore, service._seats)
    for _ in range(previews.SEATS):
        assert seats.acquire(blocking=False)
    with pytest.raises(UnavailableError) as refused:
        service.show(server.admin, second, "tiny")
    assert refused.value.code == "preview_busy"
    assert service.show(server.admin, first, "tiny") is made
    seats.release()
    assert service.show(server.admin, second, "tiny").result is EMPTY


def test_a_file_that_is_not_valid_and_a_model_that_is_not_there(server: ApiServer, key: str) -> None:
    service = make_previews(server, Renderer())
    broken, fine = bring(server, key, b"{}\n"), bring(server, key, chats(10))
    with pytest.raises(InvalidRequestError):
        service.show(server.admin, broken, "tiny")
    with pytest.raises(NotFoundError):
        service.find(server.admin, fine, "absent")
