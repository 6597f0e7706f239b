"""500 readers follow the log of one job on one server: how late lines come, and what it costs the server.

`python -m tests.bench.followers [--followers 500]`
"""

import argparse
import asyncio
import json
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from api.client import Tunepool
from orchestrator.domain.attempts import Attempt
from orchestrator.domain.outcomes import cancelled
from orchestrator.domain.protocol import Entry, LogLine
from orchestrator.domain.states import JobState
from orchestrator.store import attempts, jobs, logs
from orchestrator.store.session import Store
from tests.bench.machine import percentile, print_table
from tests.e2e.jobs import MODEL, write_rows
from tests.support.api_process import ApiProcess, run_api
from tests.support.models import build_tiny_model
from tests.support.rows import add_attempt
from tests.support.storage import StorageServer

LINES = 200
LINES_PER_SECOND = 20


@dataclass
class Seen:
    """`late_seconds` over all readers; `lines` is how many each reader got."""

    late_seconds: list[float] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    joined: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--followers", type=int, default=500)
    followers = parser.parse_args().followers
    with tempfile.TemporaryDirectory(prefix="tp") as name, ExitStack() as ends:
        folder = Path(name)
        storage = StorageServer()
        ends.callback(storage.remove)
        storage.start()
        api = ends.enter_context(run_api(folder / "data", storage))
        store = Store(f"sqlite:///{folder}/data/tunepool.db")
        ends.callback(store.close)
        attempt = _start_attempt(api, store, folder)
        process = psutil.Process(api.pid)
        before, cpu_before = process.memory_info().rss, sum(process.cpu_times()[:2])
        seen, seconds = _measure(api, store, attempt, followers)
        cpu = (sum(process.cpu_times()[:2]) - cpu_before) / seconds
        late = [f"{1000 * percentile(seen.late_seconds, share):.0f} ms" for share in (0.5, 0.95, 0.99, 1.0)]
        grown = (process.memory_info().rss - before) / 1024**2
    complete = sum(1 for lines in seen.lines if lines == LINES)
    header = ["readers", "complete", "p50", "p95", "p99", "max", "server's CPU", "server grew by"]
    row = [str(followers), str(complete), *late, f"{cpu:.2f} cores", f"{grown:.0f} MiB"]
    print_table(f"Followers of one job's log, {LINES_PER_SECOND} lines/s, {LINES} lines", header, [row])


def _start_attempt(api: ApiProcess, store: Store, folder: Path) -> Attempt:
    with Tunepool(api.url, api.api_key) as client:
        model = build_tiny_model(folder / "model")
        client.base_models.create(name=MODEL, location=str(model))
        file_id = client.files.create(write_rows(folder / "train.jsonl")).id
        job_id = client.jobs.create(model=MODEL, training_file=file_id).id
    with store.write() as tx:
        job = jobs.apply_job_transition(tx, job_id, JobState.QUEUED, message="Queued for the benchmark.")
        return add_attempt(tx, job)


def _measure(api: ApiProcess, store: Store, attempt: Attempt, followers: int) -> tuple[Seen, float]:
    seen = Seen()
    readers = threading.Thread(target=lambda: asyncio.run(_read_all(api, attempt.job_id, followers, seen)))
    readers.start()
    for _ in range(followers):
        seen.joined.acquire()
    started = time.time()
    for seq in range(1, LINES + 1):
        time.sleep(max(0.0, started + seq / LINES_PER_SECOND - time.time()))
        entry = Entry(seq=seq, at_unix=time.time(), report=LogLine(stream="stdout", text=f"line {seq} of a bench"))
        with store.write() as tx:
            logs.append_logs(tx, attempt.job_id, attempt.attempt_id, attempt.number, [entry])
    with store.write() as tx:
        attempts.end_attempt(tx, attempt.attempt_id, attempt.lease_token, cancelled(), ended_at=tx.now())
    readers.join()
    return seen, time.time() - started


async def _read_all(api: ApiProcess, job_id: str, followers: int, seen: Seen) -> None:
    await asyncio.gather(*(_read(api, job_id, seen) for _ in range(followers)))


async def _read(api: ApiProcess, job_id: str, seen: Seen) -> None:
    """A connection of its own, read as text, so that the readers cost as little as they can."""
    parts = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"GET /v1/fine_tuning/jobs/{job_id}/logs?stream=true HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    writer.write(f"{head}Authorization: Bearer {api.api_key}\r\nConnection: close\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    seen.joined.release()
    lines = 0
    while line := await reader.readline():
        if line.startswith(b"data: ") and b'"text"' in line:
            lines += 1
            seen.late_seconds.append(time.time() - json.loads(line[6:])["at"])
    seen.lines.append(lines)
    writer.close()


if __name__ == "__main__":
    main()
