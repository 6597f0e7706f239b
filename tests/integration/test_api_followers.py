"""Followers of a running job over real HTTP: every row once and in order, whatever breaks in between."""

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from orchestrator.domain.protocol import LogLine
from tests.support.openai_clients import tickets
from tests.support.servers import STOP_SECONDS, ApiServer
from tests.support.trainers import Trainer

JOBS = "/v1/fine_tuning/jobs"
KINDS = {"logs": "log", "metrics": "metric", "events": "event"}


@pytest.fixture
def trainer(api_server: ApiServer) -> Trainer:
    """The worker of a job that has begun to run."""
    with api_server.http() as http:
        files = {"file": ("t.jsonl", tickets())}
        file_id = http.post("/v1/files", data={"purpose": "fine-tune"}, files=files).json()["id"]
        job = http.post(JOBS, json={"model": "tiny", "training_file": file_id}).json()
    found = Trainer(api_server, job["id"])
    found.begin()
    return found


class Follower:
    """Reads a stream event by event: (event, id, data)."""

    def __init__(self, http: httpx2.Client, path: str, **headers: str) -> None:
        self._http, self._path, self._headers = http, path, headers

    def __iter__(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        with self._http.sse(self._path, headers=self._headers) as source:
            assert source.response.status_code == 200
            assert source.response.headers["content-type"].startswith("text/event-stream")
            for event in source:
                if event.data:
                    yield event.event, event.id, json.loads(event.data)


def _path(trainer: Trainer, kind: str, **query: str) -> str:
    asked = "&".join(f"{name}={value}" for name, value in {"stream": "true", **query}.items())
    return f"{JOBS}/{trainer.job_id}/{kind}?{asked}"


def test_lines_arrive_while_the_job_runs_and_the_end_is_said(api_server: ApiServer, trainer: Trainer) -> None:
    with api_server.http() as http:
        stream = iter(Follower(http, _path(trainer, "logs")))
        for step in (1, 2, 3):
            trainer.train(step, step)
            event, row_id, data = next(stream)
            assert (event, data["text"], data["id"]) == ("log", f"step {step}", row_id)
        trainer.succeed()
        rest = list(stream)
    assert [data["text"] for _, _, data in rest[:-1]] == [f"step {n}" for n in range(4, 16)]
    assert rest[-1] == (
        "done",
        rest[-2][1],
        {"id": trainer.job_id, "object": "fine_tuning.job", "status": "succeeded"},
    )


@pytest.mark.parametrize("kind", list(KINDS))
def test_any_pattern_of_cuts_gives_the_rows_of_the_pages(api_server: ApiServer, trainer: Trainer, kind: str) -> None:
    trainer.train(1, 9)
    trainer.save(9)
    trainer.succeed()
    with api_server.http() as http:
        pages = _read_pages(http, f"{JOBS}/{trainer.job_id}/{kind}")
        assert len(pages) >= 8
        for seed in range(8):
            assert _read_with_cuts(http, trainer, kind, random.Random(seed)) == pages


def _read_pages(http: httpx2.Client, path: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    query = {"order": "asc", "limit": "4"}
    while True:
        page = http.get(path, params=query).json()
        rows += page["data"]
        if not page["has_more"]:
            return rows
        query["after"] = page["last_id"]


def _read_with_cuts(http: httpx2.Client, trainer: Trainer, kind: str, chance: random.Random) -> list[dict[str, Any]]:
    """A reader that loses its connection at random, and comes back by header or by query."""
    rows: list[dict[str, Any]] = []
    while True:
        last_id = rows[-1]["id"] if rows else None
        by_header = {"last-event-id": last_id} if last_id and chance.random() < 0.5 else {}
        by_query = {"after": last_id} if last_id and not by_header else {}
        stream = Follower(http, _path(trainer, kind, **by_query), **by_header)
        for left, (event, row_id, data) in zip(iter(lambda: chance.randrange(6), 0), stream, strict=False):
            assert left
            if event == "done":
                return rows
            assert (event, row_id) == (KINDS[kind], data["id"])
            rows.append(data)


def test_a_stream_is_asked_for_by_the_accept_header_too(api_server: ApiServer, trainer: Trainer) -> None:
    trainer.succeed()
    with api_server.http() as http:
        answer = http.get(f"{JOBS}/{trainer.job_id}/metrics", headers={"accept": "text/event-stream"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("event: metric") == 15


def test_lines_can_be_chosen(api_server: ApiServer, trainer: Trainer) -> None:
    trainer.report(LogLine(stream="stderr", level="warn", text="watch out"))
    trainer.succeed()
    with api_server.http() as http:
        path = f"{JOBS}/{trainer.job_id}/logs"
        page = http.get(path, params={"level": "warn"}).json()["data"]
        streamed = [data for event, _, data in Follower(http, _path(trainer, "logs", level="warn")) if event == "log"]
        assert [line["text"] for line in page] == ["watch out"]
        assert streamed == page
        assert http.get(path, params={"attempt": "2"}).json()["data"] == []
        assert len(http.get(path, params={"attempt": "1"}).json()["data"]) == 16


@pytest.mark.parametrize(
    ("kind", "after"), [("logs", "ftlog-x"), ("logs", "7"), ("metrics", "ftlog-1"), ("events", "ftevent-nope")]
)
@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_cursor_that_is_none_is_refused(
    api_server: ApiServer, trainer: Trainer, kind: str, after: str, stream: str
) -> None:
    with api_server.http() as http:
        answer = http.get(f"{JOBS}/{trainer.job_id}/{kind}", params={"after": after, "stream": stream})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "after")


def test_a_server_that_stops_ends_its_streams_and_readers_lose_nothing(api_server: ApiServer, trainer: Trainer) -> None:
    trainer.train(1, 5)
    rows: list[dict[str, Any]] = []
    five = threading.Event()

    def follow(http: httpx2.Client, **headers: str) -> str:
        last = ""
        for event, _, data in Follower(http, _path(trainer, "logs"), **headers):
            last = event
            if event == "log":
                rows.append(data)
                if len(rows) == 5:
                    five.set()
        return last

    with api_server.http() as http, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(follow, http)
        assert five.wait(20)
        began = time.monotonic()
        api_server.stop()
        assert time.monotonic() - began < STOP_SECONDS
        assert reading.result(20) == "log", "it ended without saying that the job is over"
    api_server.restart()
    trainer.succeed()
    with api_server.http() as http:
        assert follow(http, **{"last-event-id": rows[-1]["id"]}) == "done"
    assert [row["text"] for row in rows] == [f"step {n}" for n in range(1, 16)]


def test_many_followers_of_one_job_all_see_all(api_server: ApiServer, trainer: Trainer) -> None:
    followers, begun = 40, threading.Semaphore(0)

    def follow() -> list[str]:
        with api_server.http() as http:
            texts: list[str] = []
            for event, _, data in Follower(http, _path(trainer, "logs")):
                if event == "log":
                    texts.append(data["text"])
                    if len(texts) == 1:
                        begun.release()
            return texts

    trainer.train(1, 1)
    with ThreadPoolExecutor(followers) as pool:
        reading = [pool.submit(follow) for _ in range(followers)]
        for _ in range(followers):
            assert begun.acquire(timeout=60)
        trainer.succeed()
        assert all(each.result(60) == [f"step {n}" for n in range(1, 16)] for each in reading)
