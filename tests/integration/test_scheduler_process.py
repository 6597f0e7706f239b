"""`python -m orchestrator` as a process: first start, checks, signals, kill -9 and the next one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.scheduler.health import LoopHealth
from orchestrator.store import leader
from orchestrator.store.session import Store
from tests.support.storage import StorageServer

PATIENCE_SECONDS = 60.0
LOOPS = {"lead", "survey", "measure", "validate", "place", "launch", "watch", "publish", "reap", "clean"}


@pytest.fixture
def environment(storage_server: StorageServer, tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TUNEPOOL_")}
    return {
        **kept,
        "TUNEPOOL_DATA_DIR": str(tmp_path / "data"),
        "TUNEPOOL_S3_ENDPOINT": storage_server.endpoint,
        "TUNEPOOL_S3_BUCKET": f"process-{tmp_path.name.replace('_', '-')[-30:].lower()}{os.getpid()}",
        "TUNEPOOL_S3_ACCESS_KEY": storage_server.access_key,
        "TUNEPOOL_S3_SECRET_KEY": storage_server.secret_key,
        "TUNEPOOL_LEADER_LEASE_SECONDS": "2",
        "TUNEPOOL_LOG_FORMAT": "json",
    }


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "orchestrator", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


class Process:
    """The scheduler in the background; its log is read line by line, so waiting is waiting for what it says."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator"], env=environment, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[dict[str, object]] = []

    def wait_for(self, event: str) -> dict[str, object]:
        assert self._process.stderr is not None
        for text in self._process.stderr:
            line = json.loads(text)
            self.lines.append(line)
            if line["event"] == event:
                return line
        raise AssertionError(f"it ended without saying {event!r}: {self.lines}")

    def end(self, number: int = signal.SIGTERM) -> int:
        self._process.send_signal(number)
        return self._process.wait(PATIENCE_SECONDS)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def make() -> Process:
        started.append(Process(environment))
        return started[-1]

    yield make
    for process in started:
        process.close()


def test_bootstrap_shows_the_first_key_once(environment: dict[str, str]) -> None:
    first, second = (_run(environment, "bootstrap") for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    made = json.loads(first.stdout)
    assert made["created"] is True
    assert made["api_key"].startswith("tp_")
    assert json.loads(second.stdout) == {"created": False, "api_key": None}


def test_a_check_tells_what_is_missing(environment: dict[str, str]) -> None:
    before = _run(environment, "--check")
    assert before.returncode == 1
    assert [json.loads(line)["ok"] for line in before.stdout.splitlines()] == [False, False, True]
    _run(environment, "bootstrap")
    after = _run(environment, "--check")
    assert after.returncode == 0, after.stdout
    assert {json.loads(line)["part"] for line in after.stdout.splitlines()} == {"database", "objects", "cluster"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("TUNEPOOL_POLL_SECOND", "1", "TUNEPOOL_POLL_SECOND"), ("TUNEPOOL_POLL_SECONDS", "soon", "poll_seconds")],
)
def test_settings_that_are_wrong_stop_it_at_once(
    environment: dict[str, str], name: str, value: str, words: str
) -> None:
    done = _run({**environment, name: value})
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_it_leads_and_gives_leadership_back_when_it_is_told_to_stop(
    environment: dict[str, str], start: Callable[[], Process]
) -> None:
    process = start()
    process.wait_for("leading")
    assert process.end() == 0
    store = Store(f"sqlite:///{environment['TUNEPOOL_DATA_DIR']}/tunepool.db")
    with store.read() as tx:
        assert leader.find_leader(tx) is None
    store.close()
    health = json.loads((Path(environment["TUNEPOOL_DATA_DIR"]) / "scheduler-health.json").read_text())
    assert set(health["loops"]) <= LOOPS
    assert health["programming_errors"] == 0
    assert set(health["loops"]["lead"]) == set(LoopHealth.__dataclass_fields__)


def test_after_a_kill_the_next_one_leads_within_the_lease(
    environment: dict[str, str], start: Callable[[], Process]
) -> None:
    first = start()
    first.wait_for("leading")
    first.end(signal.SIGKILL)
    killed_at = time.monotonic()
    second = start()
    second.wait_for("leading")
    assert time.monotonic() - killed_at < PATIENCE_SECONDS
    assert second.end() == 0


def test_it_waits_for_storage_and_can_be_stopped_meanwhile(
    environment: dict[str, str], start: Callable[[], Process]
) -> None:
    environment["TUNEPOOL_S3_ENDPOINT"] = "http://127.0.0.1:9"
    process = start()
    assert process.wait_for("waiting")["code"] == "storage_unavailable"
    assert process.end(signal.SIGINT) == 0
