"""Two schedulers on one PostgreSQL database: the one that leads is frozen while jobs run, and wakes up a follower.

A frozen process is the worst kind of dead leader: it goes on in the middle of whatever it did.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from api.client import Tunepool
from api.client.results import Job
from orchestrator.store import leader
from orchestrator.store.engines import IDLE_SECONDS
from orchestrator.store.session import Store
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.stack import RunningStack, run_stack, training_processes, wait_final, wait_for, wait_step

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]
JOBS = 4
STEPS = 300
TAKEOVER_SECONDS = 3 + IDLE_SECONDS + 30
"""The lease; a transaction that froze with its process keeps its locks for IDLE_SECONDS; and machines may be slow."""
STEPS_UNDER_A_LEADER = 20
"""So many steps, of all jobs together, are stored before the next change."""


@dataclass(frozen=True)
class Planes:
    """`health_files` are the schedulers' own, by their process."""

    stack: RunningStack
    store: Store
    health_files: dict[int, Path]

    def leader_pid(self) -> int:
        with self.store.read() as tx:
            found = leader.find_leader(tx)
        assert found is not None
        return int(found.owner.split(":")[1])

    @contextmanager
    def frozen(self, pid: int) -> Iterator[None]:
        """The scheduler stands still while the block runs, which begins when another has taken its lease."""
        process = psutil.Process(pid)
        process.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: True if self.leader_pid() != pid else None, "another leader", seconds=TAKEOVER_SECONDS)
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def wait_following(self, pid: int) -> None:
        """Until the scheduler runs again and knows that it does not lead."""
        before = json.loads(self.health_files[pid].read_text())["written_at_unix"]

        def follows() -> bool | None:
            health = json.loads(self.health_files[pid].read_text())
            return True if health["written_at_unix"] > before and not health["leading"] else None

        wait_for(follows, "the frozen scheduler to go on", seconds=60)


@pytest.fixture
def planes(postgres_url: str, tmp_path: Path) -> Iterator[Planes]:
    """A stack, whose scheduler leads, and a second scheduler that waits for its turn."""
    with run_stack(tmp_path / "stack", database_url=postgres_url) as stack:
        first = stack.pid_of("scheduler")
        with _run_scheduler(psutil.Process(first).environ(), tmp_path / "second") as second:
            health_files = {first: stack.folder / "scheduler-health.json", second: _health_file(tmp_path / "second")}
            wait_for(lambda: health_files[second].exists() or None, "the second scheduler")
            store = Store(postgres_url, connections=1)
            yield Planes(stack=stack, store=store, health_files=health_files)
            store.close()


def _health_file(folder: Path) -> Path:
    return folder / "scheduler-health.json"


@contextmanager
def _run_scheduler(environment: dict[str, str], folder: Path) -> Iterator[int]:
    """Another one with the same settings, but for a data folder of its own, as on another machine."""
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestrator"],
            env={**environment, "TUNEPOOL_DATA_DIR": str(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        yield process.pid
        process.terminate()
        assert process.wait(60) == 0, (folder / "log").read_text()[-3000:]
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def client(planes: Planes, tiny_model: Path) -> Iterator[Tunepool]:
    with planes.stack.connect() as connected:
        connected.base_models.create(name=MODEL, location=str(tiny_model))
        yield connected


def _steps_done(client: Tunepool, jobs: Sequence[Job]) -> int:
    found = [client.jobs.get(job.id).progress for job in jobs]
    return sum(progress.step for progress in found if progress is not None)


def _wait_for_steps(client: Tunepool, jobs: Sequence[Job]) -> None:
    """Until more steps are stored, and not because all jobs are over."""
    goal = _steps_done(client, jobs) + STEPS_UNDER_A_LEADER
    wait_for(lambda: True if _steps_done(client, jobs) >= goal else None, "steps", seconds=120)
    assert not all(client.jobs.get(job.id).is_final for job in jobs)


def _running_workers(client: Tunepool, jobs: Sequence[Job]) -> dict[str, set[tuple[int, float]]]:
    """Attempt → its processes, of attempts that report steps."""
    active = [a for job in jobs for a in client.jobs.attempts(job.id) if a.state == "running"]
    return {a.id: {(p.pid, p.create_time()) for p in training_processes(a.id)} for a in active}


def _assert_ran_once(client: Tunepool, job: Job) -> None:
    """Each step stored once, each event told once, one bill, and no two attempts side by side."""
    assert [p.step for p in client.jobs.metrics(job.id) if "train_loss" in p.values] == list(range(1, STEPS + 1))
    attempts = client.jobs.attempts(job.id)
    assert [a.state for a in attempts] == ["lost"] * (len(attempts) - 1) + ["succeeded"]
    for earlier, later in pairwise(attempts):
        assert earlier.ended_at is not None
        assert later.started_at is not None
        assert earlier.ended_at <= later.started_at
    messages = [event.message for event in client.jobs.events(job.id)]
    assert len(messages) == len(set(messages)), messages
    cost = client.jobs.cost(job.id)
    assert cost.final
    assert [entry.attempt_id for entry in cost.entries if entry.billed] == [attempts[-1].id]


def test_a_leader_that_freezes_wakes_up_and_no_job_runs_twice(planes: Planes, client: Tunepool, tmp_path: Path) -> None:
    file_id = client.files.create(write_rows(tmp_path / "train.jsonl")).id
    jobs = [client.jobs.create(**make_spec(client, file_id, steps=STEPS)) for _ in range(JOBS)]
    wait_step(client, jobs[0].id, 5)
    adopted: set[str] = set()
    for _ in range(2):
        leading = planes.leader_pid()
        with planes.frozen(leading):
            before = _running_workers(client, jobs)
            _wait_for_steps(client, jobs)
        planes.wait_following(leading)
        assert planes.leader_pid() != leading
        after = _running_workers(client, jobs)
        assert all(after[attempt] <= before[attempt] for attempt in before.keys() & after.keys())
        adopted |= before.keys()

    assert [wait_final(client, job.id).status for job in jobs] == ["succeeded"] * JOBS
    for job in jobs:
        _assert_ran_once(client, job)
    done = {attempt.id: attempt.state for job in jobs for attempt in client.jobs.attempts(job.id)}
    assert adopted
    assert {done[attempt] for attempt in adopted} == {"succeeded"}
    healths = [json.loads(file.read_text()) for file in planes.health_files.values()]
    assert [health["programming_errors"] for health in healths] == [0, 0]
