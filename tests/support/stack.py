"""The whole product as real processes, for end-to-end tests: started, killed part by part, ended without a trace."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

from api.client import Tunepool
from api.client.results import Job
from api.stack import control, processes
from api.stack.folder import load_secrets, open_folder
from api.stack.state import find_status
from api.stack.up import Options

T = TypeVar("T")
POOL_GIB = 8.0


@dataclass(frozen=True)
class RunningStack:
    """`folder` is the stack's data folder."""

    folder: Path
    url: str
    api_key: str

    def connect(self) -> Tunepool:
        return Tunepool(self.url, self.api_key)

    def pid_of(self, part: str) -> int:
        """The process of a part that runs now."""
        status = find_status(open_folder(self.folder))
        assert status is not None, "the stack does not run"
        pid = next(p.pid for p in status.parts if p.name == part)
        assert pid is not None, f"{part} does not run"
        return pid

    def kill(self, *parts: str) -> None:
        """kill -9 of the parts and of everything below them, at once."""
        victims: list[psutil.Process] = []
        for part in parts:
            process = psutil.Process(self.pid_of(part))
            victims += [process, *process.children(recursive=True)]
        for victim in victims:
            try:
                victim.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue

    def restarts_of(self, part: str) -> int:
        status = find_status(open_folder(self.folder))
        return next(p.restarts for p in status.parts if p.name == part) if status else -1

    def wait_restarted(self, part: str, *, before: int) -> None:
        """Until the part was restarted more than `before` times and the whole stack is ready again."""

        def restarted() -> bool | None:
            status = find_status(open_folder(self.folder))
            return True if status and status.phase == "ready" and self.restarts_of(part) > before else None

        wait_for(restarted, f"{part} to be restarted", seconds=120)

    def leftovers(self) -> list[int]:
        folder = open_folder(self.folder)
        return processes.find_marked(processes.mark_of(load_secrets(folder).stack_id, folder.root))


def wait_for(probe: Callable[[], T | None], what: str, *, seconds: float = 60) -> T:
    """The probe's first answer that is not None. Other processes give no signal that could be waited on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = probe()
        if found is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds:g} s for {what}")


def wait_final(client: Tunepool, job_id: str, *, seconds: float = 180) -> Job:
    return client.jobs.wait(job_id, timeout_seconds=seconds, poll_seconds=0.3)


def wait_step(client: Tunepool, job_id: str, step: int, *, seconds: float = 120) -> Job:
    """Until the job has reported this optimizer step."""

    def reached() -> Job | None:
        job = client.jobs.get(job_id)
        assert job.status not in {"failed", "cancelled"}, job.error
        return job if job.progress is not None and job.progress.step >= step else None

    return wait_for(reached, f"step {step} of {job_id}", seconds=seconds)


def training_processes(attempt_id: str) -> list[psutil.Process]:
    """Living processes that carry the attempt's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TUNEPOOL_ATTEMPT_ID") == attempt_id and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@contextmanager
def run_stack(
    folder: Path, *, lease_seconds: int = 60, torch_threads: int | None = 1, database_url: str = ""
) -> Iterator[RunningStack]:
    """A stack on the folder. At the end nothing of it may be left running.

    Tiny models train fastest on one thread, above all beside other tests; None leaves torch its default.
    `database_url` is empty for SQLite in the folder.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEPOOL_LEADER_LEASE_SECONDS", "3")
        patch.setenv("TUNEPOOL_ATTEMPT_LEASE_SECONDS", str(lease_seconds))
        patch.setenv("TUNEPOOL_DATABASE_URL", database_url)
        if torch_threads is not None:
            patch.setenv("OMP_NUM_THREADS", str(torch_threads))
        status = control.start_detached(Options(data_dir=folder, cpu_memory_gib=POOL_GIB), lambda _status: None)
    key = json.loads((folder / "client.json").read_text())["api_key"]
    running = RunningStack(folder=folder, url=status.url, api_key=key)
    try:
        yield running
    finally:
        control.stop(open_folder(folder))
    assert running.leftovers() == []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    """One stack for a test module."""
    with run_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running
