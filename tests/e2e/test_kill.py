"""kill -9 of each part while a job runs: it goes on, nothing is lost or doubled, and the loss curve is the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.client import Tunepool
from api.client.results import Attempt, Job
from tests.e2e.jobs import MODEL, make_spec, write_rows
from tests.support.stack import RunningStack, training_processes, wait_final, wait_for, wait_step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
STEPS = 400
CHECKPOINT_STEPS = 50
LOSS_TOLERANCE = 1e-4
"""The same arithmetic on the same machine; what differs is printing a float to JSON and back."""


@pytest.fixture(scope="module")
def client(stack: RunningStack, tiny_model: Path) -> Iterator[Tunepool]:
    with stack.connect() as connected:
        connected.base_models.create(name=MODEL, location=str(tiny_model))
        yield connected


@pytest.fixture(scope="module")
def file_id(client: Tunepool, tmp_path_factory: pytest.TempPathFactory) -> str:
    return client.files.create(write_rows(tmp_path_factory.mktemp("data") / "train.jsonl")).id


@pytest.fixture(scope="module")
def undisturbed(client: Tunepool, file_id: str) -> dict[int, float]:
    """The loss of each step of a run that nobody disturbs."""
    job = _submit(client, file_id)
    assert wait_final(client, job.id).status == "succeeded"
    return _losses(client, job)


def _submit(client: Tunepool, file_id: str) -> Job:
    return client.jobs.create(**make_spec(client, file_id, steps=STEPS, checkpoint_steps=CHECKPOINT_STEPS))


def _losses(client: Tunepool, job: Job) -> dict[int, float]:
    """Step → train loss; a step that two attempts ran counts as the later one left it."""
    return {p.step: p.values["train_loss"] for p in client.jobs.metrics(job.id) if "train_loss" in p.values}


def _running_attempt(client: Tunepool, job_id: str, number: int) -> Attempt:
    def find() -> Attempt | None:
        return next((a for a in client.jobs.attempts(job_id) if a.number == number), None)

    return wait_for(find, f"attempt {number} of {job_id}")


def _assert_same_curve(found: dict[int, float], expected: dict[int, float]) -> None:
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    worst = max(abs(found[step] - expected[step]) for step in expected)
    assert worst <= LOSS_TOLERANCE


def _assert_bill_is_ledger(client: Tunepool, job_id: str) -> None:
    cost = client.jobs.cost(job_id)
    assert cost.billed_usd_micros == sum(entry.amount_usd_micros for entry in cost.entries if entry.billed)
    assert cost.lost_usd_micros == sum(entry.amount_usd_micros for entry in cost.entries if not entry.billed)
    assert cost.final


def test_control_plane_killed_while_a_job_runs(
    stack: RunningStack, client: Tunepool, file_id: str, undisturbed: dict[int, float]
) -> None:
    job = _submit(client, file_id)
    wait_step(client, job.id, 20)
    attempt = _running_attempt(client, job.id, 1)
    workers_before = {(p.pid, p.create_time()) for p in training_processes(attempt.id)}
    assert workers_before
    restarts = stack.restarts_of("scheduler")

    stack.kill("api", "scheduler")
    stack.wait_restarted("scheduler", before=restarts)
    workers_after = {(p.pid, p.create_time()) for p in training_processes(attempt.id)}
    done = wait_final(client, job.id)

    assert done.status == "succeeded"
    assert workers_after <= workers_before
    assert [a.number for a in client.jobs.attempts(job.id)] == [1]
    steps = [p.step for p in client.jobs.metrics(job.id) if "train_loss" in p.values]
    assert steps == list(range(1, STEPS + 1))
    texts = [line.id for line in client.jobs.logs(job.id)]
    assert len(texts) == len(set(texts)) > 0
    _assert_same_curve(_losses(client, job), undisturbed)
    _assert_bill_is_ledger(client, job.id)


def test_worker_killed_resumes_from_its_checkpoint(
    client: Tunepool, file_id: str, undisturbed: dict[int, float]
) -> None:
    job = _submit(client, file_id)
    wait_for(lambda: client.jobs.checkpoints(job.id) or None, "a checkpoint")
    attempt = _running_attempt(client, job.id, 1)
    for process in training_processes(attempt.id):
        process.kill()
    done = wait_final(client, job.id)

    assert done.status == "succeeded"
    first, second = client.jobs.attempts(job.id)
    assert first.state == "lost"
    assert second.state == "succeeded"
    assert second.resumed_from_step is not None
    assert second.resumed_from_step >= CHECKPOINT_STEPS
    _assert_same_curve(_losses(client, job), undisturbed)
    _assert_bill_is_ledger(client, job.id)
    lost = [entry for entry in client.jobs.cost(job.id).entries if not entry.billed]
    assert [entry.attempt_id for entry in lost] == [first.id]


def test_ray_killed_is_requeued_and_resumed(
    stack: RunningStack, client: Tunepool, file_id: str, undisturbed: dict[int, float]
) -> None:
    job = _submit(client, file_id)
    wait_for(lambda: client.jobs.checkpoints(job.id) or None, "a checkpoint")
    attempt = _running_attempt(client, job.id, 1)
    restarts = stack.restarts_of("ray")

    stack.kill("ray")
    stack.wait_restarted("ray", before=restarts)
    done = wait_final(client, job.id, seconds=240)

    assert done.status == "succeeded"
    assert training_processes(attempt.id) == []
    attempts = client.jobs.attempts(job.id)
    assert len(attempts) >= 2
    assert attempts[-1].resumed_from_step is not None
    _assert_same_curve(_losses(client, job), undisturbed)
    _assert_bill_is_ledger(client, job.id)


@pytest.mark.slow
def test_pause_gives_the_device_back_and_resume_goes_on(
    client: Tunepool, file_id: str, undisturbed: dict[int, float]
) -> None:
    job = _submit(client, file_id)
    wait_step(client, job.id, 30)
    client.jobs.pause(job.id)
    wait_for(lambda: True if client.jobs.get(job.id).status == "paused" else None, "the pause")
    wait_for(lambda: True if not any(d.uses for d in client.pool.get().devices) else None, "the device")
    client.jobs.resume(job.id)

    assert wait_final(client, job.id).status == "succeeded"
    first, second = client.jobs.attempts(job.id)
    assert (first.state, second.state) == ("interrupted", "succeeded")
    _assert_same_curve(_losses(client, job), undisturbed)


@pytest.mark.slow
def test_cancel_stops_within_one_step(client: Tunepool, file_id: str) -> None:
    job = client.jobs.create(**make_spec(client, file_id, steps=20_000))
    wait_step(client, job.id, 5)
    client.jobs.cancel(job.id)

    done = wait_final(client, job.id)
    assert done.status == "cancelled"
    assert done.finished_at is not None
    assert client.jobs.cancel(job.id).status == "cancelled"
    _assert_bill_is_ledger(client, job.id)


@pytest.mark.slow
def test_a_job_stops_before_its_limit_is_exceeded(client: Tunepool, tmp_path: Path) -> None:
    """Enough rows for half an hour, and money for about half a minute of a twentieth of the machine."""
    client.prices.create(device_type="cpu", usd_per_hour="120")
    file_id = client.files.create(write_rows(tmp_path / "many.jsonl", rows=2_000)).id
    job = client.jobs.create(**make_spec(client, file_id, steps=50_000), max_cost_usd="0.05")

    done = wait_final(client, job.id)
    cost = client.jobs.cost(job.id)
    client.prices.create(device_type="cpu", usd_per_hour="0.10")

    assert done.status == "failed"
    assert done.error is not None
    assert done.error.code == "budget_exceeded"
    assert 0 < cost.billed_usd_micros <= 50_000
    assert client.jobs.checkpoints(job.id)
