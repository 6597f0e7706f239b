"""The limit of a key over HTTP: what the stock openai client sees and does."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.support.openai_clients import open_client
from tests.support.servers import ApiServer, run_server
from tests.support.storage import StorageServer

PER_MINUTE = 3


@pytest.fixture
def server(storage_server: StorageServer, sqlite_url: str, tmp_path: Path) -> Iterator[ApiServer]:
    with run_server(storage_server, sqlite_url, tmp_path, rate_limit_per_minute=PER_MINUTE) as running:
        yield running


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_the_openai_client_raises_its_own_error(server: ApiServer, kind: str) -> None:
    with open_client(server, kind) as client:
        models = client.openai.with_options(max_retries=0).models
        for left in (2, 1, 0):
            raw = client.do(models.with_raw_response.list())
            assert raw.headers["x-ratelimit-limit-requests"] == str(PER_MINUTE)
            assert raw.headers["x-ratelimit-remaining-requests"] == str(left)
        with pytest.raises(openai.RateLimitError) as caught:
            client.do(models.list())
    headers = caught.value.response.headers
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(headers["retry-after"]) <= 20
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 40_000 < int(headers["x-ratelimit-reset-requests"].removesuffix("ms")) <= 60_000
    assert "x-should-retry" not in headers, "repeating helps here"


def test_other_keys_and_public_addresses_go_on(server: ApiServer) -> None:
    with server.http() as spent, server.http(server.make_key()) as other, server.http("") as nobody:
        assert [spent.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert other.get("/v1/models").status_code == 200
        assert {nobody.get("/health").status_code for _ in range(5)} == {200}
        assert "x-ratelimit-limit-requests" not in nobody.get("/health").headers
